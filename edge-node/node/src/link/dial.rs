//! Dialling: one task per peer with a higher NodeId, for as long as the node wants a link to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meridian_cascade::link::hello::{HELLO_BYTES_MAX, Hello, Purpose};
use meridian_room::ids::NodeId;
use prost::Message;
use quinn::{ClientConfig, ConnectionError, VarInt};
use rand::Rng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::congestion::SharedController;
use super::control_stream;
use super::endpoint::{Shared, close};
use super::session::{self, Channel};
use super::settings::{
    self, CONTROL_CEILING_BPS, HELLO_WAIT, IDLE_TIMEOUT, MtuProfile, PROFILE_WAIT, SMALL_PATH_MEMORY,
};
use super::types::{LinkError, LinkEvent};

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A link that lived this long earns a fresh backoff.
const STABLE: Duration = Duration::from_secs(5);
/// After this long under suspicion a second link is tried beside the silent one.
const SUSPECT_REDIAL: Duration = Duration::from_millis(750);
const LOOK: Duration = Duration::from_millis(100);

/// Handle on a dialling task; dropping it ends the task once its link is down.
pub(super) struct Dialler {
    addr: watch::Sender<SocketAddr>,
}

impl Dialler {
    pub(super) fn redirect(&self, addr: SocketAddr) {
        self.addr
            .send_if_modified(|current| std::mem::replace(current, addr) != addr);
    }
}

pub(super) fn start(shared: Arc<Shared>, node: NodeId, addr: SocketAddr) -> Dialler {
    let (sender, addr) = watch::channel(addr);
    tokio::spawn(
        Dialling {
            shared,
            node,
            addr,
            failures: 0,
            small_until: None,
        }
        .run(),
    );
    Dialler { addr: sender }
}

struct Dialling {
    shared: Arc<Shared>,
    node: NodeId,
    addr: watch::Receiver<SocketAddr>,
    failures: u32,
    /// Until when the path to this peer counts as small.
    small_until: Option<Instant>,
}

/// The two connections of a link, hellos exchanged.
pub(super) struct Established {
    pub(super) control: Channel,
    pub(super) media: Channel,
}

impl Dialling {
    async fn run(mut self) {
        while let Some(established) = self.next_link().await {
            let mut up = tokio::spawn(session::run(self.shared.clone(), self.node.clone(), established));
            let began = Instant::now();
            while !up.is_finished() {
                tokio::select! {
                    _ = &mut up => break,
                    () = sleep(LOOK) => {}
                }
                if !self.long_suspect() || self.addr.has_changed().is_err() {
                    continue;
                }
                // A restarted or moved peer answers a new dial long before the old connection times out.
                let Ok(established) = self.establish().await else {
                    continue;
                };
                if up.is_finished() || self.long_suspect() {
                    up = tokio::spawn(session::run(self.shared.clone(), self.node.clone(), established));
                } else {
                    established
                        .control
                        .connection
                        .close(VarInt::from_u32(close::DISCONNECTED), b"the older link recovered");
                    established
                        .media
                        .connection
                        .close(VarInt::from_u32(close::DISCONNECTED), b"the older link recovered");
                }
            }
            self.failures = if began.elapsed() > STABLE { 0 } else { self.failures + 1 };
            if self.failures > 0 && self.pause(self.backoff()).await.is_none() {
                return;
            }
        }
    }

    fn long_suspect(&self) -> bool {
        self.shared
            .link(&self.node)
            .is_some_and(|link| link.media.suspect_for() > SUSPECT_REDIAL)
    }

    /// Dials until a link stands; `None` when nobody wants it any more.
    async fn next_link(&mut self) -> Option<Established> {
        loop {
            if self.addr.has_changed().is_err() || *self.shared.stopping.borrow() {
                return None;
            }
            let error = match self.establish().await {
                Ok(established) => return Some(established),
                Err(error) => error,
            };
            self.failures += 1;
            let retry_in = self.backoff();
            tracing::debug!(peer = %self.node, %error, ?retry_in, "link not established");
            self.shared.mention(LinkEvent::DialFailed {
                node: self.node.clone(),
                error,
                retry_in,
            });
            self.pause(retry_in).await?;
        }
    }

    /// 100 ms doubling to 5 s, ± 50 %, so that a mesh does not redial in step.
    fn backoff(&self) -> Duration {
        let exponent = self.failures.saturating_sub(1).min(8);
        (BACKOFF_FIRST * 2u32.pow(exponent))
            .min(BACKOFF_MAX)
            .mul_f64(rand::rng().random_range(0.5..1.5))
    }

    /// Waits, less if the peer's address changes; `None` when nobody wants the link any more.
    async fn pause(&mut self, time: Duration) -> Option<()> {
        let mut stopping = self.shared.stopping.subscribe();
        tokio::select! {
            () = sleep(time) => Some(()),
            changed = self.addr.changed() => changed.ok(),
            _ = stopping.wait_for(|stop| *stop) => None,
        }
    }

    async fn establish(&mut self) -> Result<Established, LinkError> {
        let addr = *self.addr.borrow_and_update();
        let link_id = rand::rng().random();
        let dial = Dial {
            shared: &self.shared,
            node: &self.node,
            addr,
            link_id,
        };
        let full_first = self.small_until.is_none_or(|until| until < Instant::now());
        let media = async {
            if full_first {
                match timeout(PROFILE_WAIT, dial.channel(Purpose::Media, MtuProfile::Full)).await {
                    Ok(Ok(channel)) => return Ok((channel, MtuProfile::Full)),
                    Ok(Err(error)) if !matches!(error, LinkError::Timeout(_)) => return Err(error),
                    _ => tracing::info!(peer = %self.node, "no answer at 1,350 bytes, trying 1,200"),
                }
            }
            Ok((
                dial.channel(Purpose::Media, MtuProfile::Small).await?,
                MtuProfile::Small,
            ))
        };
        let (control, (media, profile)) = tokio::try_join!(dial.channel(Purpose::Control, MtuProfile::Small), media)?;
        if full_first {
            self.small_until = (profile == MtuProfile::Small).then(|| Instant::now() + SMALL_PATH_MEMORY);
        }
        if control.incarnation != media.incarnation {
            return Err(LinkError::SplitBrain);
        }
        Ok(Established { control, media })
    }
}

/// One attempt at one link.
struct Dial<'a> {
    shared: &'a Shared,
    node: &'a NodeId,
    addr: SocketAddr,
    link_id: u64,
}

impl Dial<'_> {
    /// Connects, says hello and waits for the answer.
    async fn channel(&self, purpose: Purpose, profile: MtuProfile) -> Result<Channel, LinkError> {
        let controller = SharedController::new(self.shared.config.ceiling_bps);
        if purpose == Purpose::Control {
            controller.lock().set_ceiling(CONTROL_CEILING_BPS);
        }
        let mut config = ClientConfig::new(self.shared.client_tls.clone());
        config.initial_dst_cid_provider(Arc::new(move || profile.first_id()));
        config.transport_config(settings::transport(
            Some(purpose),
            profile,
            self.shared.config.ceiling_bps,
            controller.factory(),
        ));
        let name = meridian_pki::node_dns_name(self.node.as_str());
        let connecting = self.shared.endpoint.connect_with(config, self.addr, &name);
        let connection = connecting
            .map_err(|e| LinkError::Connection(e.to_string()))?
            .await
            .map_err(connection_error)?;
        let hello = async {
            let (mut send, mut receive) = connection.open_bi().await.map_err(connection_error)?;
            let hello = Hello::new(
                self.shared.config.node.as_str(),
                purpose,
                self.link_id,
                self.shared.incarnation,
            );
            let stream_error = |e| {
                connection
                    .close_reason()
                    .map_or(LinkError::Connection(format!("{e}")), connection_error)
            };
            control_stream::write(&mut send, hello.encode_to_vec().into())
                .await
                .map_err(stream_error)?;
            let answer = control_stream::read(&mut receive, HELLO_BYTES_MAX)
                .await
                .map_err(stream_error)?;
            let (answer, _) = Hello::read(&answer, self.node.as_str())?;
            Ok::<_, LinkError>((send, receive, answer.incarnation))
        };
        let hello = timeout(HELLO_WAIT, hello)
            .await
            .unwrap_or(Err(LinkError::Timeout(HELLO_WAIT)));
        let (send, receive, incarnation) = hello.inspect_err(|error| {
            connection.close(VarInt::from_u32(close::REFUSED), error.to_string().as_bytes());
        })?;
        Ok(Channel {
            connection,
            send,
            receive,
            controller,
            incarnation,
        })
    }
}

/// A connection's failure in the operator's words: whose certificate it was matters most.
pub(super) fn connection_error(error: ConnectionError) -> LinkError {
    const CRYPTO: std::ops::Range<u64> = 0x100..0x200;
    match &error {
        ConnectionError::TimedOut => LinkError::Timeout(IDLE_TIMEOUT),
        ConnectionError::TransportError(e) if CRYPTO.contains(&u64::from(e.code)) => {
            LinkError::PeerCertificate(e.reason.clone())
        }
        ConnectionError::ConnectionClosed(e) if CRYPTO.contains(&u64::from(e.error_code)) => {
            LinkError::OurCertificate(format!("{} {}", e.error_code, String::from_utf8_lossy(&e.reason)))
        }
        ConnectionError::ApplicationClosed(e) => LinkError::Connection(String::from_utf8_lossy(&e.reason).into_owned()),
        _ => LinkError::Connection(error.to_string()),
    }
}
