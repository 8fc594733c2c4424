//! The two servers as processes: started, described, measured through /proc, and stopped.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use meridian_turn::stun::{Class, MessageWriter, Method, TransactionId};

use super::place::{COTURN, Cores, NETWORK, OURS};

pub(super) const REALM: &str = "bench.test";
pub(super) const SECRET: &str = "north-north-west";
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A running server.
pub(super) struct Process {
    child: Child,
    /// Its configuration, and what it said.
    folder: PathBuf,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) address: SocketAddr,
    pub(super) is_ours: bool,
}

impl Process {
    pub(super) fn coturn(cores: Cores) -> anyhow::Result<Process> {
        let version = version_of(Path::new("turnserver"))
            .context("coturn is missing: apt-get install coturn (`./run bench turn` does)")?;
        let folder = folder("coturn")?;
        let address = free_address(COTURN)?;
        let at = |name: &str| folder.join(name).display().to_string();
        let settings = [
            format!("listening-ip={COTURN}"),
            format!("relay-ip={COTURN}"),
            format!("listening-port={}", address.port()),
            "relay-threads=1".to_owned(),
            "use-auth-secret".to_owned(),
            format!("static-auth-secret={SECRET}"),
            format!("realm={REALM}"),
            "allow-loopback-peers".to_owned(),
            "no-tcp".to_owned(),
            "no-tls".to_owned(),
            "no-dtls".to_owned(),
            "no-cli".to_owned(),
            "no-software-attribute".to_owned(),
            format!("userdb={}", at("db")),
            format!("pidfile={}", at("pid")),
            format!("log-file={}", at("log")),
            "simple-log".to_owned(),
        ];
        let file = folder.join("turnserver.conf");
        fs::write(&file, settings.join("\n") + "\n")?;
        let mut command = cores.command(Path::new("turnserver"));
        command.arg("-c").arg(&file);
        Process::start(command, folder, format!("coturn {version}"), &settings, address, false)
    }

    /// `meridian turn`, configured as coturn is.
    pub(super) fn ours(cores: Cores, program: Option<PathBuf>, gather_us: Option<u64>) -> anyhow::Result<Process> {
        let program = match program {
            Some(program) => program,
            None => std::env::current_exe()?.with_file_name("meridian"),
        };
        let version = version_of(&program).with_context(|| {
            format!(
                "{} is missing: cargo build --release --bin meridian (`./run bench turn` does)",
                program.display()
            )
        })?;
        let folder = folder("meridian")?;
        let address = free_address(OURS)?;
        let mut settings = vec![
            format!("turn.udp=[\"{address}\"]"),
            "turn.threads=1".to_owned(),
            format!("turn.secrets=[\"{SECRET}\"]"),
            format!("turn.realm=\"{REALM}\""),
            format!("turn.allowed_peers=[\"{NETWORK}\"]"),
            format!("http.bind=\"{}\"", SocketAddr::from((OURS, 0))),
        ];
        settings.extend(gather_us.map(|us| format!("turn.gather_us={us}")));
        let file = folder.join("turn.toml");
        fs::write(&file, settings.join("\n") + "\n")?;
        let mut command = cores.command(&program);
        command.arg("turn").arg("--config").arg(&file);
        Process::start(command, folder, version, &settings, address, true)
    }

    fn start(
        mut command: Command,
        folder: PathBuf,
        name: String,
        settings: &[String],
        address: SocketAddr,
        is_ours: bool,
    ) -> anyhow::Result<Process> {
        let log = fs::File::create(folder.join("output"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut process = Process {
            child: command.spawn()?,
            folder,
            name,
            description: settings.join(", "),
            address,
            is_ours,
        };
        process.await_answer()?;
        Ok(process)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn await_answer(&mut self) -> anyhow::Result<()> {
        let probe = UdpSocket::bind(("0.0.0.0", 0))?;
        probe.set_read_timeout(Some(Duration::from_millis(50)))?;
        let request = MessageWriter::new(Class::Request, Method::BINDING, TransactionId([7; 12])).finish();
        let end = Instant::now() + START_TIMEOUT;
        loop {
            probe.send_to(&request, self.address)?;
            if probe.recv(&mut [0; 512]).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                let output = fs::read_to_string(self.folder.join("output")).unwrap_or_default();
                bail!("{} ended ({status}): {output}", self.name);
            }
            if Instant::now() > end {
                bail!("{} does not answer at {}", self.name, self.address);
            }
        }
    }

    /// User and system time of all its threads, to the nanosecond (proc_pid_schedstat); neither server ends threads.
    pub(super) fn cpu_time(&self) -> anyhow::Result<Duration> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            sum += text.split(' ').next().context("schedstat")?.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(sum))
    }

    pub(super) fn resident_bytes(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The last line of what a program answers to `--version`.
fn version_of(program: &Path) -> anyhow::Result<String> {
    let output = Command::new(program).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().last().unwrap_or_default().trim().to_owned())
}

fn folder(name: &str) -> anyhow::Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("meridian-load-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// A port that is free now: coturn cannot choose one itself, and so ours does not either.
fn free_address(ip: Ipv4Addr) -> anyhow::Result<SocketAddr> {
    Ok(UdpSocket::bind((ip, 0))?.local_addr()?)
}
