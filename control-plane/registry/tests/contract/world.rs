//! The two worlds the contract runs in. Each has a connection that can be cut and one that cannot.

use meridian_registry::{EtcdOptions, EtcdRegistry, MemoryRegistry, SharedRegistry};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

pub(crate) enum World {
    Memory {
        cuttable: MemoryRegistry,
        direct: MemoryRegistry,
    },
    Etcd(Box<Etcd>),
}

pub(crate) struct Etcd {
    child: Child,
    arguments: Vec<String>,
    directory: PathBuf,
    endpoint: String,
    cuttable: SharedRegistry,
    direct: SharedRegistry,
    down: watch::Sender<bool>,
}

impl World {
    pub(crate) fn memory() -> Self {
        let direct = MemoryRegistry::new();
        World::Memory {
            cuttable: direct.connection(),
            direct,
        }
    }

    pub(crate) async fn etcd() -> Self {
        let (client, peer) = (free_port(), free_port());
        let directory = std::env::temp_dir().join(format!("meridian-etcd-{}-{client}", std::process::id()));
        let (client_url, peer_url) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let mut arguments: Vec<String> = ["--name", "one", "--listen-client-urls", &client_url]
            .map(String::from)
            .into();
        arguments.extend(["--data-dir".to_owned(), directory.display().to_string()]);
        arguments.extend(["--advertise-client-urls", &client_url, "--listen-peer-urls", &peer_url].map(String::from));
        arguments.extend(["--initial-advertise-peer-urls", &peer_url].map(String::from));
        arguments.extend(["--initial-cluster".to_owned(), format!("one={peer_url}")]);
        // One member on one machine may elect itself quickly; its shortest lease follows from these too (1 s).
        arguments.extend(["--heartbeat-interval", "20", "--election-timeout", "200"].map(String::from));
        let child = spawn(&arguments);
        let (down, down_out) = watch::channel(false);
        let proxy = proxy(format!("127.0.0.1:{client}").parse().unwrap(), down_out).await;
        let connect = |endpoint: String| async move {
            Arc::new(EtcdRegistry::connect(EtcdOptions::new([endpoint])).await.unwrap()) as SharedRegistry
        };
        let cuttable = connect(format!("http://{proxy}")).await;
        let direct = connect(client_url.clone()).await;
        let world = Etcd {
            child,
            arguments,
            directory,
            endpoint: client_url,
            cuttable,
            direct,
            down,
        };
        world.answers().await;
        World::Etcd(Box::new(world))
    }

    /// Kills etcd as a crash would and starts it again on what it had written. Nothing to do in memory.
    pub(crate) async fn crash_and_restart(&mut self) {
        if let World::Etcd(etcd) = self {
            etcd.child.kill().unwrap();
            etcd.child.wait().unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            etcd.child = spawn(&etcd.arguments);
            etcd.answers().await;
        }
    }

    /// The connection that [`Self::set_down`] cuts.
    pub(crate) fn registry(&self) -> SharedRegistry {
        match self {
            World::Memory { cuttable, .. } => Arc::new(cuttable.clone()),
            World::Etcd(etcd) => etcd.cuttable.clone(),
        }
    }

    pub(crate) fn direct(&self) -> SharedRegistry {
        match self {
            World::Memory { direct, .. } => Arc::new(direct.clone()),
            World::Etcd(etcd) => etcd.direct.clone(),
        }
    }

    pub(crate) fn set_down(&self, down: bool) {
        match self {
            World::Memory { cuttable, .. } => cuttable.set_down(down),
            World::Etcd(etcd) => {
                etcd.down.send_replace(down);
            }
        }
    }

    pub(crate) async fn compact(&self) {
        match self {
            World::Memory { direct, .. } => direct.compact(),
            World::Etcd(etcd) => {
                let revision = etcd.direct.list("").await.unwrap().revision;
                let mut client = etcd_client::Client::connect([&etcd.endpoint], None).await.unwrap();
                client.compact(i64::try_from(revision).unwrap(), None).await.unwrap();
            }
        }
    }

    pub(crate) async fn wait_until_absent(&self, key: &str) {
        let direct = self.direct();
        while direct.get(key).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Etcd {
    async fn answers(&self) {
        for _ in 0..400 {
            if self.direct.get("x").await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("etcd did not start");
    }
}

fn spawn(arguments: &[String]) -> Child {
    Command::new("/usr/bin/etcd")
        .args(arguments)
        .env("ETCD_LOG_LEVEL", "error")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("/usr/bin/etcd is installed by ./run")
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Below the ports that the kernel hands out by itself, or another test may be given it before it is used.
fn free_port() -> u16 {
    loop {
        let port = rand::random_range(10_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A TCP relay whose connections all break while `down` is true.
async fn proxy(to: SocketAddr, down: watch::Receiver<bool>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let Ok((mut client, _)) = listener.accept().await else {
                return;
            };
            let mut down = down.clone();
            if *down.borrow() {
                continue;
            }
            tokio::spawn(async move {
                let Ok(mut server) = tokio::net::TcpStream::connect(to).await else {
                    return;
                };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    _ = down.wait_for(|down| *down) => {}
                }
            });
        }
    });
    address
}
