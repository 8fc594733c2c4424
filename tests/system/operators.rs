//! What operators do to a role that runs, and what their machines do to it.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::mesh::process::{Folder, eventually, free_port, get};
use crate::mesh::{MERIDIAN, SECRET, SOON};

/// A role with its own standard error; killed by its id when dropped.
struct Role {
    child: Child,
    /// Where it tells operators how it is.
    http: SocketAddr,
}

impl Role {
    fn start(arguments: &[String], http: SocketAddr, log: &str, stderr: Stdio) -> Role {
        let child = Command::new(MERIDIAN)
            .args(arguments)
            .env_clear()
            .env("MERIDIAN_LOG", log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        Role { child, http }
    }

    async fn is_ready(&self) {
        eventually("ready", SOON, async || {
            get(self.http, "/readyz").await.filter(|ready| ready.status == 200)
        })
        .await;
    }

    async fn metric(&self, name: &str) -> Option<f64> {
        let text = get(self.http, "/metrics").await?.text;
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    async fn drops_lines(&self) {
        eventually("lines are dropped and counted", Duration::from_secs(60), async || {
            let dropped = self.metric("meridian_log_lines_dropped_total").await;
            dropped.filter(|dropped| *dropped > 0.0)
        })
        .await;
        self.is_ready().await;
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn turn(folder: &Folder, http: SocketAddr) -> Vec<String> {
    let file = folder.path("turn.toml");
    std::fs::write(&file, "[turn.users]\nana = 'a-secret'\n").unwrap();
    words(&format!(
        "turn -c {} --udp 127.0.0.1:0 --relay 127.0.0.1 --http-bind {http}",
        file.display()
    ))
}

fn control_plane(folder: &Folder, http: SocketAddr) -> Vec<String> {
    let data = folder.path("data");
    words(&format!(
        "control-plane --data {} --http-bind {http} --grpc-bind 127.0.0.1:0",
        data.display()
    ))
}

/// An edge that needs nobody else.
fn edge(folder: &Folder, http: SocketAddr) -> Vec<String> {
    let (authority, pki) = (folder.path("authority"), folder.path("pki"));
    let (authority, pki) = (authority.display(), pki.display());
    for issue in [
        format!("pki create --out {authority}"),
        format!("pki node fra --authority {authority} --out {pki}"),
    ] {
        let issued = Command::new(MERIDIAN).args(words(&issue)).output().unwrap();
        assert!(issued.status.success(), "{issued:?}");
    }
    let file = folder.path("edge.toml");
    std::fs::write(&file, format!("[api_keys]\ndevkey = '{SECRET}'\n")).unwrap();
    words(&format!(
        "edge -c {} --node-id fra --region fra --http-bind {http} --media-bind 127.0.0.1:0 --link-bind 127.0.0.1:0 \
         --pki {pki}",
        file.display()
    ))
}

#[tokio::test]
async fn a_role_whose_log_has_no_room_left_goes_on_and_counts_what_it_could_not_say() {
    let folder = Folder::new();
    let (at_turn, at_control, at_edge) = (loopback(), loopback(), loopback());
    for (arguments, http) in [
        (turn(&folder, at_turn), at_turn),
        (control_plane(&folder, at_control), at_control),
        (edge(&folder, at_edge), at_edge),
    ] {
        // Every write to it fails as to a full disk.
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let role = Role::start(&arguments, http, "info", full.into());
        role.is_ready().await;
        role.drops_lines().await;
    }
}

#[tokio::test]
async fn a_collector_that_has_gone_or_reads_no_more_stops_no_role() {
    let folder = Folder::new();
    let http = loopback();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let role = Role::start(&turn(&folder, http), http, "info", writer.into());
    role.is_ready().await;
    role.drops_lines().await;
    drop(role);
    let (unread, mut writer) = std::io::pipe().unwrap();
    // All that a pipe takes: the next byte would wait for a reader.
    writer.write_all(&[b'.'; 65_536]).unwrap();
    let role = Role::start(&turn(&folder, http), http, "info", writer.into());
    role.is_ready().await;
    drop((role, unread));
}
