//! The shapes that settings may have. Every error completes "it must be …".

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use init::log::Format;
use init::settings::Environment;

/// A path from the root.
#[derive(Debug)]
pub(crate) struct AbsolutePath(pub(crate) PathBuf);

impl FromStr for AbsolutePath {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = PathBuf::from(text);
        if path.is_absolute() && path.parent().is_some() {
            Ok(Self(path))
        } else {
            Err("an absolute path other than /")
        }
    }
}

/// A yes or no.
#[derive(Debug)]
pub(crate) struct Switch(pub(crate) bool);

impl FromStr for Switch {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "1" | "true" | "on" | "yes" => Ok(Self(true)),
            "0" | "false" | "off" | "no" => Ok(Self(false)),
            _ => Err("0 or 1"),
        }
    }
}

/// Something that is left off, or on.
#[derive(Debug)]
pub(crate) struct OffOn(pub(crate) bool);

impl FromStr for OffOn {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self(false)),
            "on" => Ok(Self(true)),
            _ => Err("off or on"),
        }
    }
}

/// What the TCP address gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tcp {
    /// dindd's health endpoints.
    Health,
    /// dockerd's whole API.
    Full,
}

impl FromStr for Tcp {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "health" => Ok(Self::Health),
            "full" => Ok(Self::Full),
            _ => Err("health or full"),
        }
    }
}

/// A span of time, in seconds.
#[derive(Debug)]
pub(crate) struct Seconds(pub(crate) Duration);

impl FromStr for Seconds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let span = text.parse().ok().map(Duration::try_from_secs_f64);
        match span {
            Some(Ok(span)) if !span.is_zero() && span <= Duration::from_hours(24) => Ok(Self(span)),
            _ => Err("a number of seconds above 0, at most a day"),
        }
    }
}

/// A number of bytes.
#[derive(Debug)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str =
            "a number of bytes above 0 like 60G, with K, M, G or T for 1024 each";
        let (digits, power) = match text.trim_end_matches(['b', 'B', 'i']) {
            "" => return Err(EXPECTED),
            short => match short.as_bytes()[short.len() - 1].to_ascii_uppercase() {
                b'K' => (&short[..short.len() - 1], 1),
                b'M' => (&short[..short.len() - 1], 2),
                b'G' => (&short[..short.len() - 1], 3),
                b'T' => (&short[..short.len() - 1], 4),
                _ => (short, 0),
            },
        };
        let number: u64 = digits.parse().map_err(|_| EXPECTED)?;
        let bytes = number.checked_mul(1 << (10 * power)).ok_or(EXPECTED)?;
        if bytes == 0 {
            Err(EXPECTED)
        } else {
            Ok(Self(bytes))
        }
    }
}

/// A mirror of Docker Hub. dockerd takes http and https, without user, query and fragment
/// (moby `registry/config.go`, `ValidateMirror`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirror {
    pub(crate) url: String,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl FromStr for Mirror {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str =
            "URLs like http://mirror:5000 or https://mirror, without user, query and fragment";
        let (port, rest) = match text.split_once("://") {
            Some(("http", rest)) => (80, rest),
            Some(("https", rest)) => (443, rest),
            _ => return Err(EXPECTED),
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let odd = |c: char| "@?#".contains(c) || c.is_whitespace();
        if authority.is_empty() || rest.contains(odd) {
            return Err(EXPECTED);
        }
        let (host, port) = match authority.rsplit_once(':') {
            // A colon inside brackets belongs to an IPv6 address.
            Some((host, digits)) if !digits.ends_with(']') => {
                (host, digits.parse().map_err(|_| EXPECTED)?)
            }
            _ => (authority, port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(EXPECTED);
        }
        Ok(Self {
            url: text.to_owned(),
            host: host.to_owned(),
            port,
        })
    }
}

#[derive(Debug)]
pub(crate) struct Mirrors(pub(crate) Vec<Mirror>);

impl FromStr for Mirrors {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parts(text, ',')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// The name of a log driver.
#[derive(Debug)]
pub(crate) struct Driver(pub(crate) String);

impl FromStr for Driver {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
        if text.chars().all(known) {
            Ok(Self(text.to_owned()))
        } else {
            Err("the name of a log driver, like json-file or syslog")
        }
    }
}

#[derive(Debug)]
pub(crate) struct LogOptions(pub(crate) Vec<(String, String)>);

impl FromStr for LogOptions {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pair = |part: &str| {
            let (key, value) = part.split_once('=')?;
            (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
        };
        let pairs: Option<_> = parts(text, ',').map(pair).collect();
        pairs.map(Self).ok_or("pairs like max-size=10m,max-file=3")
    }
}

/// The size of the largest packet, in bytes.
#[derive(Debug)]
pub(crate) struct Mtu(pub(crate) u32);

impl FromStr for Mtu {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            // The bounds of an Ethernet device's MTU (linux/if_ether.h ETH_MIN_MTU, ETH_MAX_MTU).
            Ok(bytes @ 68..=65535) => Ok(Self(bytes)),
            _ => Err("a number of bytes from 68 to 65535"),
        }
    }
}

/// A range of addresses that is cut into networks of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddressPool {
    pub(crate) base: String,
    pub(crate) size: u8,
}

#[derive(Debug)]
pub(crate) struct AddressPools(pub(crate) Vec<AddressPool>);

impl FromStr for AddressPools {
    type Err = &'static str;

    /// `10.200.0.0/16:24,…`, or dockerd's own `base=10.200.0.0/16,size=24,…`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let short = text
            .replace(",size=", ":")
            .replace("base=", "")
            .replace(';', ",");
        let pools: Option<_> = parts(&short, ',').map(pool).collect();
        pools
            .map(Self)
            .ok_or("pools like 10.200.0.0/16:24, a base and the networks' prefix length")
    }
}

fn pool(text: &str) -> Option<AddressPool> {
    let (base, size) = text.rsplit_once(':')?;
    let (address, length) = base.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let (length, size): (u8, u8) = (length.parse().ok()?, size.parse().ok()?);
    let longest = if address.is_ipv4() {
        Ipv4Addr::BITS
    } else {
        128
    };
    (length <= size && u32::from(size) <= longest).then(|| AddressPool {
        base: base.to_owned(),
        size,
    })
}

/// How much is logged.
#[derive(Debug)]
pub(crate) struct Level(pub(crate) String);

impl FromStr for Level {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "error" | "warn" | "info" | "debug" | "trace" => Ok(Self(text.to_owned())),
            _ => Err("error, warn, info, debug or trace"),
        }
    }
}

/// How dindd's own log is written.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// Nothing said means what fits standard error.
    pub(crate) format: Option<Format>,
    pub(crate) level: String,
}

impl Log {
    /// What can be had when the settings are wrong, for the message that says so.
    pub(crate) fn fallback(environment: &Environment) -> Self {
        let format = environment
            .get("LOG_FORMAT")
            .and_then(|text| text.parse().ok());
        let level = "info".to_owned();
        Self { format, level }
    }

    pub(crate) fn format(&self) -> Format {
        self.format.unwrap_or_else(Format::fitting_stderr)
    }

    pub(crate) fn start(&self) -> anyhow::Result<()> {
        init::log::start(self.format(), &self.level)
    }
}

fn parts(text: &str, separator: char) -> impl Iterator<Item = &str> {
    text.split(separator)
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_what_dockerd_takes_as_one() {
        for (text, expected) in [
            ("http://mirror:5000", Some(("mirror", 5000))),
            ("https://mirror/", Some(("mirror", 443))),
            ("http://10.0.0.1", Some(("10.0.0.1", 80))),
            ("http://[::1]:5000", Some(("::1", 5000))),
            ("http://[::1]", Some(("::1", 80))),
            ("mirror:5000", None),
            ("ftp://mirror", None),
            ("http://", None),
            ("http://:5000", None),
            ("http://user@mirror", None),
            ("http://mirror/?a", None),
            ("http://mirror:port", None),
        ] {
            let mirror = text.parse::<Mirror>().ok();
            let found = mirror
                .as_ref()
                .map(|mirror| (mirror.host.as_str(), mirror.port));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn address_pools_are_read_in_both_notations() {
        let pool = |base: &str, size| AddressPool {
            base: base.into(),
            size,
        };
        for (text, expected) in [
            ("10.1.0.0/16:24", Some(vec![pool("10.1.0.0/16", 24)])),
            (
                "base=10.1.0.0/16,size=24;base=10.2.0.0/16,size=20",
                Some(vec![pool("10.1.0.0/16", 24), pool("10.2.0.0/16", 20)]),
            ),
            (
                "base=10.1.0.0/16,size=24,base=10.2.0.0/16,size=20",
                Some(vec![pool("10.1.0.0/16", 24), pool("10.2.0.0/16", 20)]),
            ),
            ("10.1.0.0/16", None),
            ("10.1.0.0/16:8", None),
            ("10.1.0.0/16:33", None),
        ] {
            let pools = text.parse::<AddressPools>().ok().map(|pools| pools.0);
            assert_eq!(pools, expected, "{text}");
        }
    }

    #[test]
    fn sizes_are_counted_in_powers_of_1024() {
        for (text, expected) in [
            ("60G", Some(60 << 30)),
            ("60g", Some(60 << 30)),
            ("512MiB", Some(512 << 20)),
            ("1048576", Some(1 << 20)),
            ("10kB", Some(10 << 10)),
            ("0", None),
            ("G", None),
            ("60X", None),
            ("-1G", None),
            ("1.5G", None),
            ("99999999999T", None),
            ("", None),
        ] {
            let size = text.parse::<Size>().ok().map(|size| size.0);
            assert_eq!(size, expected, "{text}");
        }
    }

    #[test]
    fn seconds_may_have_fractions_and_must_be_a_span() {
        for (text, expected) in [
            ("30", Some(30_000)),
            ("0.25", Some(250)),
            ("0", None),
            ("-1", None),
            ("inf", None),
            ("1e9", None),
            ("soon", None),
        ] {
            let span = text.parse::<Seconds>().ok().map(|span| span.0.as_millis());
            assert_eq!(span, expected, "{text}");
        }
    }
}
