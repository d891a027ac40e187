//! A virtual machine: its start, its console, commands in it, its end. What is on its disks is not
//! its business.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use tempfile::TempDir;

use crate::tell;

/// From power on until commands are taken; emulation on a busy machine is slow.
const BOOT_LIMIT: Duration = Duration::from_secs(900);
/// How long a script may take.
const SCRIPT_LIMIT: Duration = Duration::from_secs(900);

/// Time limits are for a machine that is not emulated.
const KERNEL: &str = "console=ttyS0 quiet loglevel=3 systemd.show_status=1 panic=-1 mitigations=off audit=0 TERM=dumb \
    systemd.default_timeout_start_sec=600 systemd.default_device_timeout_sec=600";

/// Docker takes most of a boot's time.
const WITHOUT_DOCKER: &str =
    "systemd.mask=docker.service systemd.mask=docker.socket systemd.mask=containerd.service";

/// What a machine is started with.
#[derive(Debug)]
pub(crate) struct Hardware<'a> {
    /// Folder with `vmlinuz` and `initial.gz`.
    pub(crate) boot: &'a Path,
    pub(crate) root: &'a Path,
    /// The storage volume, `/dev/disk/by-id/virtio-storage`.
    pub(crate) storage: Option<&'a Path>,
    /// Whether the host's own Docker is started.
    pub(crate) docker: bool,
}

/// A machine that takes commands. Dropping it is a power loss.
#[derive(Debug)]
pub(crate) struct Machine {
    qemu: Child,
    agent: BufReader<UnixStream>,
    _folder: TempDir,
}

impl Machine {
    pub(crate) fn boot(hardware: &Hardware<'_>) -> Result<Self> {
        let begin = Instant::now();
        let folder = tempfile::tempdir().context("make a folder for the machine's socket")?;
        let socket = folder.path().join("agent");
        let mut qemu = start_qemu(hardware, &socket)?;
        let console = qemu.stdout.take().context("no console")?;
        std::thread::spawn(move || show(console));
        let agent = connect(&socket, &mut qemu);
        let mut machine = match agent {
            Ok(agent) => Self {
                qemu,
                agent: BufReader::new(agent),
                _folder: folder,
            },
            Err(error) => {
                end(&mut qemu);
                return Err(error);
            }
        };
        // What the line carried before the agent had it is not for us.
        while machine.answer(BOOT_LIMIT).context("boot")? != "ready" {}
        tell(&format!("booted in {} s", begin.elapsed().as_secs()));
        Ok(machine)
    }

    /// Runs a shell script that begins with `guest/script.sh`; its output, errors included.
    pub(crate) fn run(&mut self, script: &str) -> Result<String> {
        let script = format!(". /usr/local/lib/script.sh\n{script}");
        let line = format!("{}\n", BASE64.encode(&script));
        self.agent.get_mut().write_all(line.as_bytes())?;
        let answer = self
            .answer(SCRIPT_LIMIT)
            .with_context(|| format!("run:{script}"))?;
        let (code, output) = answer.split_once(' ').unwrap_or((answer.as_str(), ""));
        let output = BASE64.decode(output).context("the agent's answer")?;
        let output = String::from_utf8_lossy(&output).trim().to_owned();
        ensure!(code == "0", "ended with {code}:\n{script}\n{output}");
        Ok(output)
    }

    /// Ends it in order.
    pub(crate) fn power_off(mut self) -> Result<()> {
        // After the answer: the agent is one of the first things that end.
        self.run("systemd-run --quiet --on-active=1s systemctl poweroff")?;
        let begin = Instant::now();
        while self.qemu.try_wait()?.is_none() {
            ensure!(
                begin.elapsed() < BOOT_LIMIT,
                "the machine does not power off"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn answer(&mut self, limit: Duration) -> Result<String> {
        self.agent.get_ref().set_read_timeout(Some(limit))?;
        let mut line = String::new();
        let length = self
            .agent
            .read_line(&mut line)
            .context("no answer from the machine")?;
        ensure!(length > 0, "the machine has ended");
        Ok(line.trim().to_owned())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        end(&mut self.qemu);
    }
}

fn end(qemu: &mut Child) {
    drop(qemu.kill());
    drop(qemu.wait());
}

fn start_qemu(hardware: &Hardware<'_>, socket: &Path) -> Result<Child> {
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get().min(2));
    let mut words = vec![
        // It must not outlive a test that is killed.
        "--pdeathsig=KILL".to_owned(),
        "qemu-system-x86_64".into(),
        "-nodefaults -no-reboot -nographic -accel tcg,thread=multi,tb-size=512".into(),
        format!("-cpu Nehalem -smp {cpus} -m 3072"),
        format!("-kernel {}", hardware.boot.join("vmlinuz").display()),
        format!("-initrd {}", hardware.boot.join("initial.gz").display()),
        "-chardev stdio,id=console,signal=off -serial chardev:console".into(),
        format!(
            "-chardev socket,id=agent,path={},server=on,wait=off -serial chardev:agent",
            socket.display()
        ),
        drive("root", hardware.root),
    ];
    words.extend(hardware.storage.map(|path| drive("storage", path)));
    let words = words.iter().flat_map(|words| words.split(' '));
    Command::new("setpriv")
        .args(words)
        .arg("-append")
        .arg(if hardware.docker {
            KERNEL.into()
        } else {
            format!("{KERNEL} {WITHOUT_DOCKER}")
        })
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start qemu-system-x86_64")
}

/// What the guest has written is on the machine that runs us at once, whatever happens to the guest.
fn drive(serial: &str, path: &Path) -> String {
    format!(
        "-drive id={serial},if=none,format=raw,cache=unsafe,file={} -device virtio-blk-pci,drive={serial},serial={serial}",
        path.display()
    )
}

fn connect(socket: &Path, qemu: &mut Child) -> Result<UnixStream> {
    let begin = Instant::now();
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(error) if begin.elapsed() > BOOT_LIMIT => {
                return Err(error).context("the machine's agent line");
            }
            Err(_) => {}
        }
        if let Some(status) = qemu.try_wait()? {
            bail!("qemu-system-x86_64 ended: {status}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Shows the console as it is written.
fn show(console: impl Read) {
    let mut console = BufReader::new(console);
    let mut line = Vec::new();
    while console
        .read_until(b'\n', &mut line)
        .is_ok_and(|length| length > 0)
    {
        let text = String::from_utf8_lossy(&line);
        tell(&format!("vm| {}", text.trim_end()));
        line.clear();
    }
}
