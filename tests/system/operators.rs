//! What operators do to a role that runs, and what their machines do to it.

use std::fs::{OpenOptions, Permissions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use meridian_access::token::{Claims, mint};

use crate::mesh::process::{Folder, eventually, free_port, get, send};
use crate::mesh::{Etcd, MERIDIAN, SECRET, SOON};

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

    /// The answer of `/readyz`, once it answers.
    async fn readiness(&self) -> (u16, String) {
        let answer = eventually("an answer", SOON, async || get(self.http, "/readyz").await)
            .await
            .0;
        (answer.status, answer.text)
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([format!("-{signal}"), self.child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
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
    let (data, file) = (folder.path("data"), folder.path("control.toml"));
    std::fs::write(&file, "").unwrap();
    words(&format!(
        "control-plane -c {} --data {} --http-bind {http} --grpc-bind 127.0.0.1:0",
        file.display(),
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

#[tokio::test]
async fn a_hangup_has_the_configuration_read_again_and_ends_no_role() {
    let folder = Folder::new();
    let (at_turn, at_control, at_edge) = (loopback(), loopback(), loopback());
    let token = |key: &str| mint(&Claims::join("ana", "Ana", "a"), key, SECRET).unwrap();
    let operator = async |token: &str| {
        let authorization = format!("Authorization: Bearer {token}\r\n");
        let path = "/api/v1/operator/assign?address=203.0.113.9";
        send(at_control, "GET", path, &authorization, "")
            .await
            .map(|answer| answer.status)
    };
    let admitted = async |key: &str| {
        let path = format!("/rtc/v1/validate?access_token={}&join_request=", token(key));
        get(at_edge, &path).await.map(|answer| answer.status == 200)
    };
    let (first, second) = ("an-operators-token-of-24-letters", "another-operators-token-of-24");
    for (name, text, arguments, http) in [
        (
            "turn.toml",
            "[turn.users]\nana = 'another'\n".to_owned(),
            turn(&folder, at_turn),
            at_turn,
        ),
        (
            "control.toml",
            format!("operator_tokens = ['{second}']\n"),
            control_plane(&folder, at_control),
            at_control,
        ),
        (
            "edge.toml",
            format!("[api_keys]\nnewkey = '{SECRET}'\n"),
            edge(&folder, at_edge),
            at_edge,
        ),
    ] {
        let file = folder.path(name);
        if name == "control.toml" {
            std::fs::write(&file, format!("operator_tokens = ['{first}']\n")).unwrap();
        }
        let log = folder.path(&format!("{name}.log"));
        let mut role = Role::start(&arguments, http, "info", std::fs::File::create(&log).unwrap().into());
        role.is_ready().await;
        let said = async |what: &str| {
            eventually(what, SOON, async || {
                std::fs::read_to_string(&log).unwrap().contains(what).then_some(())
            })
            .await;
        };
        let before = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, "nonsense = ").unwrap();
        role.signal("HUP");
        said("the configuration is not good").await;
        std::fs::write(&file, before).unwrap();
        match name {
            "control.toml" => assert_eq!((operator(first).await, operator(second).await), (Some(200), Some(401))),
            "edge.toml" => assert_eq!(
                (admitted("devkey").await, admitted("newkey").await),
                (Some(true), Some(false))
            ),
            _ => {}
        }
        std::fs::write(&file, text).unwrap();
        role.signal("HUP");
        said("the configuration was read again").await;
        match name {
            "control.toml" => assert_eq!((operator(first).await, operator(second).await), (Some(401), Some(200))),
            "edge.toml" => assert_eq!(
                (admitted("devkey").await, admitted("newkey").await),
                (Some(false), Some(true))
            ),
            _ => {}
        }
        role.is_ready().await;
        assert!(role.child.try_wait().unwrap().is_none(), "{name}: it runs");
    }
}

#[tokio::test]
async fn an_edge_is_ready_once_it_is_registered_and_says_why_it_is_not() {
    let folder = Folder::new();
    let mut etcd = Etcd::start(&folder);
    etcd.stop();
    let at = loopback();
    let mut arguments = edge(&folder, at);
    arguments.extend(words(&format!("--etcd {} --set registry.lease_s=2", etcd.url)));
    let log = folder.path("edge.log");
    let role = Role::start(&arguments, at, "info", std::fs::File::create(&log).unwrap().into());
    let (status, why) = role.readiness().await;
    assert!(status == 503 && why.contains("not registered yet"), "{status} {why}");
    eventually("a warning", SOON, async || {
        let said = std::fs::read_to_string(&log).unwrap();
        said.lines()
            .any(|line| line.contains("WARN") && line.contains("cannot register"))
            .then_some(())
    })
    .await;
    etcd.run();
    role.is_ready().await;
    etcd.stop();
    // Longer than its lease: whoever runs the registry has the problem, not this edge's people.
    eventually("the loss is noticed", SOON, async || {
        std::fs::read_to_string(&log)
            .unwrap()
            .contains("registration was lost")
            .then_some(())
    })
    .await;
    assert_eq!(role.readiness().await.0, 200);
}

#[tokio::test]
async fn what_a_control_plane_keeps_is_for_nobody_else_on_the_machine() {
    let folder = Folder::new();
    let data = folder.path("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    let at = loopback();
    let role = Role::start(&control_plane(&folder, at), at, "info", Stdio::null());
    role.is_ready().await;
    let mode = |name: &str| std::fs::metadata(data.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(""), 0o700);
    for file in [
        "meridian.db",
        "meridian.db-wal",
        "meridian.db-shm",
        "pki/token.key",
        "pki/ca.key",
    ] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
}

#[tokio::test]
async fn a_role_takes_all_descriptors_it_may_have_and_allocates_no_more_than_they_allow() {
    let folder = Folder::new();
    let at = loopback();
    let log = folder.path("turn.log");
    let limited = format!(
        "ulimit -Sn 200; ulimit -Hn 512; exec {MERIDIAN} {}",
        turn(&folder, at).join(" ")
    );
    let stderr = std::fs::File::create(&log).unwrap();
    let child = Command::new("sh")
        .args(["-c", &limited])
        .env_clear()
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .unwrap();
    let role = Role { child, http: at };
    role.is_ready().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", role.child.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert!(line.contains(" 512 ") && !line.contains(" 200 "), "{line}");
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(
        said.contains("fewer TURN allocations than configured") && said.contains("affordable=192"),
        "{said}"
    );
}
