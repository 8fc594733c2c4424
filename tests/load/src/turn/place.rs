//! Where everybody stands: addresses of their own on loopback, and cores.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::bail;

/// Both servers have this core to themselves.
const SERVER_CORE: usize = 1;
const LOAD_CORE: usize = 0;
/// Each server has an address, so that both find all relay ports free.
pub(super) const COTURN: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
pub(super) const OURS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// Holds all of them.
pub(super) const NETWORK: &str = "127.0.0.0/8";

pub(super) fn client(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 16, 0, 1 + index as u8)
}

pub(super) fn peer(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 17, 0, 1 + index as u8)
}

/// Which part has which core, if there are enough and it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cores {
    Apart,
    Shared,
}

impl Cores {
    /// As this process finds them; ask before [`Cores::take_ours`].
    pub(super) fn find(unpinned: bool) -> Cores {
        let enough = std::thread::available_parallelism().is_ok_and(|n| n.get() > SERVER_CORE);
        if enough && !unpinned {
            Cores::Apart
        } else {
            Cores::Shared
        }
    }

    /// A command that runs where the servers do.
    pub(super) fn command(self, program: &Path) -> Command {
        if self == Cores::Shared {
            return Command::new(program);
        }
        let mut command = Command::new("taskset");
        command.args(["-c", &SERVER_CORE.to_string()]).arg(program);
        command
    }

    /// Keeps this process off the servers' core.
    pub(super) fn take_ours(self) -> anyhow::Result<()> {
        let own = std::process::id().to_string();
        let arguments = ["-a", "-c", "-p", &LOAD_CORE.to_string(), &own];
        if self == Cores::Apart {
            let status = Command::new("taskset").args(arguments).stdout(Stdio::null()).status()?;
            if !status.success() {
                bail!("taskset cannot keep this process to core {LOAD_CORE}");
            }
        }
        Ok(())
    }

    pub(super) fn describe(self) -> String {
        match self {
            Cores::Apart => format!(
                "the load on core {LOAD_CORE}, both servers on core {SERVER_CORE} (taskset): otherwise the scheduler decides which of \
                 them the load disturbs, turn by turn"
            ),
            Cores::Shared => "load and servers where the scheduler puts them".to_owned(),
        }
    }
}
