//! Who may call: every token that the service knows, what it is for and until when.
//!
//! Owns issuing tokens and answering "may this caller do that". Does not read headers (see
//! `http::caller`) and does not check an App's JWT (see `jwt`).

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::World;
use super::refusal::Refusal;
use super::scope::Scope;
use crate::events::{Event, Kind};

/// What a person's or an App's token may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grant {
    /// `None`: everything that exists.
    pub scopes: Option<Vec<Scope>>,
    /// "Administration" or "Self-hosted runners": write.
    pub runners: bool,
    /// "Actions": write, which cancelling a run needs.
    pub actions: bool,
}

impl Default for Grant {
    fn default() -> Self {
        Self {
            scopes: None,
            runners: true,
            actions: true,
        }
    }
}

/// Whose token it is. The runner's own tokens name the runner's or the job's id.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    Person(Grant),
    /// Reaches only the account it is installed on, whatever the grant says.
    Installation {
        account: String,
        grant: Grant,
    },
    Registration(Scope),
    Removal(Scope),
    Runner(u64),
    Job(String),
}

struct Credential {
    token: String,
    holder: Holder,
    expires_at: Option<Timestamp>,
}

#[derive(Default)]
pub(crate) struct Credentials(Vec<Credential>);

/// What a REST call is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Registration tokens and JIT configurations, reading and deleting runners.
    ManageRunners,
    /// What a runner that registers itself may do with its registration token.
    ReadForRegistration,
    /// What `config.sh remove` may do with its remove token. A registration token is accepted
    /// too; runner images rely on that.
    DeleteRunner,
    CancelRun,
}

impl Credentials {
    pub(crate) fn add(&mut self, token: String, holder: Holder, expires_at: Option<Timestamp>) {
        self.0.push(Credential {
            token,
            holder,
            expires_at,
        });
    }

    /// `None` for an unknown and for an expired token alike: GitHub tells them apart to nobody.
    pub(crate) fn holder(&self, token: &str, now: Timestamp) -> Option<&Holder> {
        self.0
            .iter()
            .find(|known| known.token == token)
            .filter(|known| known.expires_at.is_none_or(|end| now < end))
            .map(|known| &known.holder)
    }
}

impl World {
    /// Makes a token of `prefix` and random letters, valid for `seconds` of the double's clock;
    /// a negative number makes one that has expired already.
    pub(crate) fn issue(&mut self, prefix: &str, holder: Holder, seconds: i64) -> Issued {
        let expires_at = self
            .now()
            .saturating_add(SignedDuration::from_secs(seconds))
            .unwrap_or(Timestamp::MAX);
        let token = format!("{prefix}{}", super::random_letters(36));
        let what = match &holder {
            Holder::Person(_) => Some("personal"),
            Holder::Installation { .. } => Some("installation"),
            Holder::Registration(_) => Some("registration"),
            Holder::Removal(_) => Some("remove"),
            Holder::Runner(_) | Holder::Job(_) => None,
        };
        if let Some(what) = what {
            self.events
                .append(Event::new(Kind::TokenIssued).detail(what));
        }
        self.credentials
            .add(token.clone(), holder, Some(expires_at));
        Issued { token, expires_at }
    }

    /// Whether the holder of `token` may do `deed` in `scope`. A scope that does not exist and
    /// one that the caller must not see look the same: 404.
    pub(crate) fn authorize(&self, token: &str, deed: Deed, scope: &Scope) -> Result<(), Refusal> {
        let Some(holder) = self.credentials.holder(token, self.now()) else {
            return Err(Refusal::bad_credentials());
        };
        if !self.scopes.contains_key(scope) {
            return Err(Refusal::not_found());
        }
        match holder {
            Holder::Person(grant) => granted(grant, deed, scope, "personal access token"),
            Holder::Installation { account, grant } if account == scope.account() => {
                granted(grant, deed, scope, "integration")
            }
            Holder::Installation { .. } => Err(Refusal::not_found()),
            Holder::Registration(own) | Holder::Removal(own) => {
                let fits = match deed {
                    Deed::ReadForRegistration => matches!(holder, Holder::Registration(_)),
                    Deed::DeleteRunner => true,
                    Deed::ManageRunners | Deed::CancelRun => false,
                };
                if fits && own == scope {
                    Ok(())
                } else {
                    Err(Refusal::not_found())
                }
            }
            Holder::Runner(_) | Holder::Job(_) => Err(Refusal::bad_credentials()),
        }
    }
}

fn granted(grant: &Grant, deed: Deed, scope: &Scope, caller: &str) -> Result<(), Refusal> {
    let visible = grant
        .scopes
        .as_ref()
        .is_none_or(|scopes| scopes.contains(scope));
    if !visible {
        return Err(Refusal::not_found());
    }
    let permitted = match deed {
        Deed::ManageRunners | Deed::ReadForRegistration | Deed::DeleteRunner => grant.runners,
        Deed::CancelRun => grant.actions,
    };
    if permitted {
        Ok(())
    } else {
        Err(Refusal::rest(
            403,
            format!("Resource not accessible by {caller}"),
        ))
    }
}

/// A token that was just made.
pub(crate) struct Issued {
    pub(crate) token: String,
    pub(crate) expires_at: Timestamp,
}
