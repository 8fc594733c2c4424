//! What the kernel grants this machine's processes: socket buffers, descriptors, AF_XDP.

use std::io;

use meridian_turn::settings::LimitSettings;
use socket2::{Domain, Socket, Type};

use super::report::Finding;

/// Bits of `CapEff` in /proc/self/status (capabilities(7)).
const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_NET_RAW: u64 = 1 << 13;
const CAP_BPF: u64 = 1 << 39;
/// What a role has open without anybody there: files, threads' sockets, links.
const OWN_DESCRIPTORS: u64 = 1_024;
/// The address family of XDP sockets (include/linux/socket.h).
const AF_XDP: i32 = 44;
const EAFNOSUPPORT: i32 = 97;

/// What a role asks of the machine.
pub(super) struct Needs {
    /// Bytes that its sockets ask for: `net.core.rmem_max` and `wmem_max` cap it.
    buffer_bytes: Option<u64>,
    descriptors: u64,
    xdp: bool,
}

impl Needs {
    /// Media sockets ask for 8 MiB. A person is a connection, one who is relayed also a connection and a socket.
    pub(super) fn edge(capacity: u32) -> Needs {
        Needs {
            buffer_bytes: Some(8 << 20),
            descriptors: OWN_DESCRIPTORS + 3 * u64::from(capacity),
            xdp: true,
        }
    }

    /// An allocation is a socket, beside its client's connection if that is one.
    pub(super) fn turn(limits: &LimitSettings) -> Needs {
        let each = [limits.allocations, limits.connections];
        Needs {
            buffer_bytes: Some(4 << 20),
            descriptors: each
                .iter()
                .fold(OWN_DESCRIPTORS, |sum, count| sum.saturating_add(*count as u64)),
            xdp: false,
        }
    }

    pub(super) fn control_plane(answers_dns: bool) -> Needs {
        Needs {
            buffer_bytes: answers_dns.then_some(1 << 20),
            descriptors: 8_192,
            xdp: false,
        }
    }
}

/// What is so on this machine.
pub(super) struct Host {
    /// `net.core.rmem_max`, bytes; `None`: it could not be read.
    receive_bytes_max: Option<u64>,
    send_bytes_max: Option<u64>,
    /// The hard limit of descriptors: a role raises the soft one to it.
    descriptors: Option<u64>,
    capabilities: u64,
    /// What the kernel said to a socket of AF_XDP.
    xdp: Result<(), io::Error>,
}

impl Host {
    pub(super) fn read() -> Host {
        let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse().ok();
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Host {
            receive_bytes_max: number("/proc/sys/net/core/rmem_max"),
            send_bytes_max: number("/proc/sys/net/core/wmem_max"),
            descriptors: descriptors(&limits),
            capabilities: capabilities(&status),
            xdp: Socket::new(Domain::from(AF_XDP), Type::RAW, None).map(drop),
        }
    }

    fn may(&self, capability: u64) -> bool {
        self.capabilities & capability != 0
    }
}

/// The hard limit in a text like /proc/self/limits.
fn descriptors(limits: &str) -> Option<u64> {
    let line = limits.lines().find(|line| line.starts_with("Max open files"))?;
    match line.split_whitespace().nth(4)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// The effective capabilities in a text like /proc/self/status.
fn capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}

pub(super) fn findings(host: &Host, needs: &Needs) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(wanted) = needs.buffer_bytes {
        found.push(buffers(host, wanted));
    }
    found.push(descriptor_limit(host, needs.descriptors));
    if needs.xdp {
        found.push(xdp(host));
    }
    found
}

fn buffers(host: &Host, wanted: u64) -> Finding {
    const CHECK: &str = "socket buffers";
    if host.may(CAP_NET_ADMIN) {
        let says = format!(
            "this user may have {} MiB whatever net.core says (CAP_NET_ADMIN)",
            wanted >> 20
        );
        return Finding::good(CHECK, says);
    }
    let caps = [
        ("net.core.rmem_max", host.receive_bytes_max),
        ("net.core.wmem_max", host.send_bytes_max),
    ];
    let short: Vec<_> = caps
        .into_iter()
        .filter_map(|(name, bytes)| bytes.filter(|bytes| *bytes < wanted).map(|bytes| (name, bytes)))
        .collect();
    if short.is_empty() {
        return Finding::good(CHECK, format!("{} MiB are granted to a socket", wanted >> 20));
    }
    let says: Vec<_> = short.iter().map(|(name, bytes)| format!("{name} is {bytes}")).collect();
    let remedy: Vec<_> = short
        .iter()
        .map(|(name, _)| format!("sysctl -w {name}={wanted}"))
        .collect();
    Finding::warning(
        CHECK,
        format!(
            "{}, and sockets ask for {wanted} bytes: a burst longer than that is lost in the kernel",
            says.join(", ")
        ),
        format!(
            "{} (deploy/systemd/meridian-sysctl.conf keeps it over a restart)",
            remedy.join(" && ")
        ),
    )
}

fn descriptor_limit(host: &Host, wanted: u64) -> Finding {
    const CHECK: &str = "descriptors";
    match host.descriptors {
        None => Finding::skipped(CHECK, "/proc/self/limits could not be read"),
        Some(limit) if limit >= wanted => Finding::good(CHECK, format!("a process may have {limit} open")),
        Some(limit) => Finding::problem(
            CHECK,
            format!(
                "a process may have {limit} files and sockets open; full as configured it has {wanted}, and refuses people beyond the limit"
            ),
            format!("LimitNOFILE={wanted} in the systemd unit, or `ulimit -Hn {wanted}` in the shell that starts it"),
        ),
    }
}

/// Nothing in this version sends by AF_XDP: whether it could is said so that machines can be chosen now.
fn xdp(host: &Host) -> Finding {
    const CHECK: &str = "AF_XDP";
    let why = match &host.xdp {
        Ok(()) if host.may(CAP_NET_ADMIN) && host.may(CAP_BPF) => {
            return Finding::good(
                CHECK,
                "this machine offers it to this user; this version does not use it",
            );
        }
        Ok(()) => "the kernel has it, but binding it to a queue needs CAP_NET_ADMIN and CAP_BPF",
        Err(error) if error.raw_os_error() == Some(EAFNOSUPPORT) => "the kernel was built without CONFIG_XDP_SOCKETS",
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !host.may(CAP_NET_RAW) => {
            "this user lacks CAP_NET_RAW"
        }
        Err(error) => return Finding::skipped(CHECK, format!("not available: the kernel says {error}")),
    };
    Finding::skipped(
        CHECK,
        format!("not available: {why}. Nothing is lost: this version does not use it"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    fn healthy() -> Host {
        Host {
            receive_bytes_max: Some(8 << 20),
            send_bytes_max: Some(8 << 20),
            descriptors: Some(1 << 20),
            capabilities: 0,
            xdp: Err(io::Error::from_raw_os_error(EAFNOSUPPORT)),
        }
    }

    fn told(host: &Host, check: &str) -> Finding {
        let all = findings(host, &Needs::edge(2_000));
        all.into_iter().find(|finding| finding.check == check).unwrap()
    }

    #[test]
    fn small_socket_buffers_are_named_with_the_command_that_makes_them_larger() {
        assert_eq!(told(&healthy(), "socket buffers").verdict, Verdict::Good);
        let mut host = healthy();
        host.receive_bytes_max = Some(212_992);
        let finding = told(&host, "socket buffers");
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(
            finding.says.starts_with("net.core.rmem_max is 212992"),
            "{}",
            finding.says
        );
        assert!(
            finding.remedy.starts_with("sysctl -w net.core.rmem_max=8388608 ("),
            "{}",
            finding.remedy
        );
        // Whoever may force them does not depend on the limit.
        host.capabilities = CAP_NET_ADMIN;
        assert_eq!(told(&host, "socket buffers").verdict, Verdict::Good);
    }

    #[test]
    fn too_few_descriptors_are_a_problem() {
        let mut host = healthy();
        host.descriptors = Some(4_096);
        let finding = told(&host, "descriptors");
        assert_eq!(finding.verdict, Verdict::Problem);
        assert!(
            finding.says.starts_with("a process may have 4096 files"),
            "{}",
            finding.says
        );
        assert_eq!(
            descriptors("Max open files            1024                 524288               files"),
            Some(524_288)
        );
        assert_eq!(
            descriptors("Max open files            1024                 unlimited            files"),
            Some(u64::MAX)
        );
    }

    #[test]
    fn why_there_is_no_af_xdp_is_said() {
        let mut host = healthy();
        assert!(told(&host, "AF_XDP").says.contains("CONFIG_XDP_SOCKETS"));
        host.xdp = Err(io::ErrorKind::PermissionDenied.into());
        assert!(told(&host, "AF_XDP").says.contains("CAP_NET_RAW"));
        host.xdp = Ok(());
        assert!(told(&host, "AF_XDP").says.contains("CAP_BPF"));
        host.capabilities = capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n");
        assert_eq!(told(&host, "AF_XDP").verdict, Verdict::Good);
    }
}
