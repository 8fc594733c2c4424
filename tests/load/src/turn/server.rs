//! The two servers as processes: started, described, measured through /proc, and stopped.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use meridian_turn::ServerConfig;
use meridian_turn::credentials::Credentials;
use meridian_turn::io::{TurnConfig, TurnServer};
use meridian_turn::stun::{Class, MessageWriter, Method, TransactionId};

use super::place::{COTURN, Cores, NETWORK, OURS};

pub(super) const REALM: &str = "bench.test";
pub(super) const SECRET: &str = "north";
const START_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(crate) struct ServerOptions {
    #[arg(long, default_value_t = 1)]
    workers: usize,
    #[arg(long)]
    gather_us: Option<u64>,
}

/// A running server.
pub(super) struct Process {
    child: Child,
    folder: Option<PathBuf>,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) address: SocketAddr,
    pub(super) is_ours: bool,
}

impl Process {
    pub(super) fn coturn(cores: Cores) -> anyhow::Result<Process> {
        let output = Command::new("turnserver").arg("--version").output();
        let output = output.context("coturn is missing: apt-get install coturn (`./run bench turn` does)")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.lines().last().unwrap_or_default().trim().to_owned();
        // A port that is free now; the program cannot choose one itself.
        let address = UdpSocket::bind((COTURN, 0))?.local_addr()?;
        let folder = std::env::temp_dir().join(format!("meridian-load-coturn-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
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
        fs::write(folder.join("turnserver.conf"), settings.join("\n") + "\n")?;
        let child = cores
            .command(Path::new("turnserver"))
            .args(["-c", &at("turnserver.conf")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut process = Process {
            child,
            folder: Some(folder),
            name: format!("coturn {version}"),
            description: settings.join(", "),
            address,
            is_ours: false,
        };
        process.await_answer()?;
        Ok(process)
    }

    pub(super) fn ours(cores: Cores, gather_us: Option<u64>) -> anyhow::Result<Process> {
        let gather = gather_us.map(|us| format!("--gather-us={us}"));
        let mut child = cores
            .command(&std::env::current_exe()?)
            .args(["turn-server", "--workers", "1"])
            .args(gather)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
        let mut process = Process {
            child,
            folder: None,
            name: "meridian".to_owned(),
            description: format!("one worker, relay address {OURS}, default limits, peers in {NETWORK} allowed"),
            address: line.trim().parse().context("our server did not say its address")?,
            is_ours: true,
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
                bail!("{} ended: {status}", self.name);
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
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// Our server alone, until its standard input ends.
pub(crate) fn serve(options: &ServerOptions) -> anyhow::Result<()> {
    let mut server = ServerConfig::new(REALM, Credentials::default().with_secret(SECRET));
    server.relay_v4 = Some(IpAddr::V4(OURS).into());
    server.policy.allowed = vec![NETWORK.parse().map_err(|_| anyhow::anyhow!("{NETWORK} is a network"))?];
    let mut config = TurnConfig::new(server);
    config.udp = vec![SocketAddr::from((OURS, 0))];
    config.workers = options.workers;
    if let Some(us) = options.gather_us {
        config.gather = Duration::from_micros(us);
    }
    let server = TurnServer::start(config)?;
    println!("{}", server.udp()[0]);
    std::io::stdin().read_to_end(&mut Vec::new())?;
    eprintln!("{:?}", server.metrics());
    Ok(())
}
