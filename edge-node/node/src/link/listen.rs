//! Accepting: who dials us, whether it may, and which two connections belong together.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meridian_cascade::link::hello::{HELLO_BYTES_MAX, Hello, Purpose};
use meridian_room::ids::NodeId;
use prost::Message;
use quinn::{Connection, Incoming, ServerConfig, VarInt};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::congestion::SharedController;
use super::control_stream;
use super::dial::{Established, connection_error};
use super::endpoint::{Shared, close, lock};
use super::session::{self, Channel};
use super::settings::{self, CONTROL_CEILING_BPS, HELLO_WAIT, MtuProfile};
use super::types::{LinkError, LinkEvent};

/// Handshakes at a time. A mesh of a few hundred edges reconnecting at once passes through in seconds.
const HANDSHAKES_MAX: usize = 64;
const HANDSHAKE_WAIT: Duration = Duration::from_secs(5);
/// How long one connection of a link waits for the other.
const HALF_WAIT: Duration = Duration::from_secs(10);
/// Refusals reported in a second.
const REFUSALS_TOLD_MAX: u32 = 10;
const HALVES_MAX: usize = 1024;

/// Connections whose other half has not come yet.
#[derive(Default)]
pub(super) struct Halves {
    waiting: HashMap<(NodeId, u64), (Purpose, Channel, Instant)>,
}

impl Halves {
    /// Gives the whole link once both halves are here.
    fn join(&mut self, node: &NodeId, link_id: u64, purpose: Purpose, channel: Channel) -> Option<Established> {
        self.waiting
            .retain(|_, (_, half, since)| since.elapsed() < HALF_WAIT && half.connection.close_reason().is_none());
        let key = (node.clone(), link_id);
        match self.waiting.remove(&key) {
            Some((other, half, _)) if other != purpose && half.incarnation == channel.incarnation => {
                let (control, media) = if purpose == Purpose::Control {
                    (channel, half)
                } else {
                    (half, channel)
                };
                return Some(Established { control, media });
            }
            _ if self.waiting.len() < HALVES_MAX => {
                self.waiting.insert(key, (purpose, channel, Instant::now()));
            }
            _ => channel
                .connection
                .close(VarInt::from_u32(close::REFUSED), b"too many half-open links"),
        }
        None
    }
}

pub(super) async fn run(shared: Arc<Shared>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    while let Some(incoming) = shared.endpoint.accept().await {
        let from = incoming.remote_address();
        if handshakes.available_permits() < HANDSHAKES_MAX / 2 && incoming.may_retry() {
            // Under pressure only addresses that answer get a handshake: invented ones cannot take the places.
            let _ = incoming.retry();
            continue;
        }
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            incoming.refuse();
            shared.mention(LinkEvent::Refused {
                from,
                error: LinkError::Busy,
            });
            continue;
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            let accepted = timeout(HANDSHAKE_WAIT, accept(&shared, incoming)).await;
            drop(permit);
            match accepted.unwrap_or(Err(LinkError::Timeout(HANDSHAKE_WAIT))) {
                Ok(Some((node, established))) => session::run(shared, node, established).await,
                Ok(None) => {}
                Err(error) => refused(&shared, from, error),
            }
        });
    }
}

/// Tells of a refusal, at most ten a second: strangers cause them, and the node's channel is for media.
fn refused(shared: &Shared, from: SocketAddr, error: LinkError) {
    {
        let mut told = lock(&shared.refusals_told);
        if told.0.elapsed() >= Duration::from_secs(1) {
            *told = (Instant::now(), 0);
        }
        if told.1 == REFUSALS_TOLD_MAX {
            return;
        }
        told.1 += 1;
    }
    tracing::info!(%from, %error, "link refused");
    shared.mention(LinkEvent::Refused { from, error });
}

/// One incoming connection up to its hello. Gives a link when this was its second half.
async fn accept(shared: &Shared, incoming: Incoming) -> Result<Option<(NodeId, Established)>, LinkError> {
    let profile = MtuProfile::of_first_id(&incoming.orig_dst_cid());
    let controller = SharedController::new(shared.config.ceiling_bps);
    let mut config = ServerConfig::with_crypto(shared.server_tls.clone());
    config.transport_config(settings::transport(
        None,
        profile,
        shared.config.ceiling_bps,
        controller.factory(),
    ));
    // A dialling edge that changes its address keeps its links.
    config.migration(true);
    let connecting = incoming.accept_with(Arc::new(config)).map_err(connection_error)?;
    let connection = connecting.await.map_err(connection_error)?;
    let greeted = timeout(HELLO_WAIT, greet(shared, &connection))
        .await
        .unwrap_or(Err(LinkError::Timeout(HELLO_WAIT)));
    let (node, hello, purpose, send, receive) = greeted.inspect_err(|error| {
        connection.close(VarInt::from_u32(close::REFUSED), error.to_string().as_bytes());
    })?;
    if purpose == Purpose::Control {
        controller.lock().set_ceiling(CONTROL_CEILING_BPS);
    }
    let channel = Channel {
        connection,
        send,
        receive,
        controller,
        incarnation: hello.incarnation,
    };
    let whole = lock(&shared.halves).join(&node, hello.link_id, purpose, channel);
    Ok(whole.map(|established| (node, established)))
}

type Greeted = (NodeId, Hello, Purpose, quinn::SendStream, quinn::RecvStream);

async fn greet(shared: &Shared, connection: &Connection) -> Result<Greeted, LinkError> {
    let node = certified_node(connection).ok_or(LinkError::NotAnEdge)?;
    if node >= shared.config.node {
        return Err(LinkError::WrongDirection { dialler: node });
    }
    let (mut send, mut receive) = connection.accept_bi().await.map_err(connection_error)?;
    let stream_error = |e| {
        connection
            .close_reason()
            .map_or(LinkError::Connection(format!("{e}")), connection_error)
    };
    let hello = control_stream::read(&mut receive, HELLO_BYTES_MAX)
        .await
        .map_err(stream_error)?;
    let (hello, purpose) = Hello::read(&hello, node.as_str())?;
    let answer = Hello::new(shared.config.node.as_str(), purpose, hello.link_id, shared.incarnation);
    control_stream::write(&mut send, answer.encode_to_vec().into())
        .await
        .map_err(stream_error)?;
    Ok((node, hello, purpose, send, receive))
}

/// The edge whose certificate the peer showed; rustls has checked that our CA signed it.
fn certified_node(connection: &Connection) -> Option<NodeId> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast_ref::<Vec<rustls::pki_types::CertificateDer<'static>>>()?;
    meridian_pki::node_id_of(chain.first()?).map(NodeId::new)
}
