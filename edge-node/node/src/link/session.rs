//! One link from `Up` to `Down`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use meridian_room::ids::NodeId;
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use tokio::sync::mpsc;

use super::congestion::SharedController;
use super::control_stream::{self, StreamError};
use super::dial::Established;
use super::endpoint::{Shared, close, lock};
use super::media_session::MediaSession;
use super::settings;
use super::types::{CONTROL_MESSAGE_MAX, DownReason, LinkEvent, SendControlError};

/// Control messages and bytes that wait for a slow peer.
const CONTROL_QUEUE_MAX: usize = 4096;
const CONTROL_QUEUE_BYTES_MAX: usize = 16 << 20;

/// One of a link's two connections with its first stream, hellos exchanged.
pub(super) struct Channel {
    pub(super) connection: Connection,
    pub(super) send: SendStream,
    pub(super) receive: RecvStream,
    pub(super) controller: SharedController,
    /// Of the other side's process.
    pub(super) incarnation: u64,
}

/// A link that is up, as the node's calls reach it.
pub(super) struct Session {
    control: Connection,
    /// Why this side closed the link, if it did: its two connections end one after the other, and the first to end must not
    /// be taken for the reason.
    closing: Mutex<Option<(u32, String)>>,
    queue: mpsc::Sender<Bytes>,
    queued_bytes: AtomicUsize,
    media_connection: Connection,
    pub(super) media: MediaSession,
}

impl Session {
    pub(super) fn send_control(&self, message: Bytes) -> Result<(), SendControlError> {
        let len = message.len();
        if self.queued_bytes.fetch_add(len, Ordering::Relaxed) + len > CONTROL_QUEUE_BYTES_MAX {
            self.queued_bytes.fetch_sub(len, Ordering::Relaxed);
            return Err(SendControlError::Full);
        }
        self.queue.try_send(message).map_err(|error| {
            self.queued_bytes.fetch_sub(len, Ordering::Relaxed);
            match error {
                mpsc::error::TrySendError::Full(_) => SendControlError::Full,
                mpsc::error::TrySendError::Closed(_) => SendControlError::NotConnected,
            }
        })
    }

    pub(super) fn control_backlog(&self) -> usize {
        self.queued_bytes.load(Ordering::Relaxed)
    }

    /// Closes both connections; the first reason given stays.
    pub(super) fn close(&self, code: u32, reason: &str) {
        let (code, reason) = lock(&self.closing)
            .get_or_insert_with(|| (code, reason.to_owned()))
            .clone();
        self.control.close(VarInt::from_u32(code), reason.as_bytes());
        self.media_connection.close(VarInt::from_u32(code), reason.as_bytes());
    }

    async fn write_control(&self, mut send: SendStream, mut queue: mpsc::Receiver<Bytes>) -> Result<(), StreamError> {
        while let Some(message) = queue.recv().await {
            let len = message.len();
            control_stream::write(&mut send, message).await?;
            self.queued_bytes.fetch_sub(len, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Takes the place of an older link to the same node, announces `Up`, runs, announces `Down`.
pub(super) async fn run(shared: Arc<Shared>, node: NodeId, established: Established) {
    if let Some(older) = shared.link(&node) {
        older.close(close::REPLACED, "a newer link of the same pair took its place");
    }
    let turn = lock(&shared.turns).entry(node.clone()).or_default().clone();
    let _turn = turn.lock().await;
    let Established { control, media } = established;
    let (queue, queued) = mpsc::channel(CONTROL_QUEUE_MAX);
    let session = Arc::new(Session {
        control: control.connection.clone(),
        closing: Mutex::new(None),
        queue,
        queued_bytes: AtomicUsize::new(0),
        media_connection: media.connection.clone(),
        media: MediaSession::new(
            node.clone(),
            media.connection.clone(),
            media.controller,
            settings::datagram_send_buffer(shared.config.ceiling_bps),
            shared.events.clone(),
        ),
    });
    shared
        .links
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(node.clone(), session.clone());
    tracing::info!(peer = %node, addr = %control.connection.remote_address(), "link up");
    let reason = if shared.events.send(LinkEvent::Up { node: node.clone() }).await.is_err() {
        DownReason::Disconnected
    } else {
        tokio::select! {
            error = session.media.drive() => down_reason(error),
            ended = session.write_control(control.send, queued) => stream_reason(&control.connection, ended),
            ended = read_control(&shared, &node, control.receive) => stream_reason(&control.connection, ended),
            error = control.connection.closed() => down_reason(error),
        }
    };
    let reason = match *lock(&session.closing) {
        Some((close::REPLACED, _)) => DownReason::Replaced,
        Some(_) => DownReason::Disconnected,
        None => reason,
    };
    // The media stream stays open as long as the link: its end would say nothing the connection does not.
    drop((media.send, media.receive));
    let code = if matches!(reason, DownReason::Failed(_)) {
        close::PROTOCOL
    } else {
        close::DISCONNECTED
    };
    session.close(code, &reason.to_string());
    shared
        .links
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .retain(|_, link| !Arc::ptr_eq(link, &session));
    tracing::info!(peer = %node, %reason, "link down");
    let _ = shared.events.send(LinkEvent::Down { node, reason }).await;
}

/// Reads control messages; a node that does not take them slows the peer down by QUIC's flow control.
async fn read_control(shared: &Shared, node: &NodeId, mut receive: RecvStream) -> Result<(), StreamError> {
    loop {
        let message = control_stream::read(&mut receive, CONTROL_MESSAGE_MAX).await?;
        if shared
            .events
            .send(LinkEvent::Control {
                node: node.clone(),
                message,
            })
            .await
            .is_err()
        {
            return Ok(());
        }
    }
}

fn stream_reason(connection: &Connection, ended: Result<(), StreamError>) -> DownReason {
    match (connection.close_reason(), ended) {
        (Some(error), _) => down_reason(error),
        (None, Err(error)) => DownReason::Failed(error.to_string()),
        (None, Ok(())) => DownReason::Disconnected,
    }
}

fn down_reason(error: ConnectionError) -> DownReason {
    match error {
        ConnectionError::LocallyClosed => DownReason::Disconnected,
        ConnectionError::TimedOut => DownReason::TimedOut,
        ConnectionError::Reset => DownReason::PeerRestarted,
        ConnectionError::ApplicationClosed(close) if close.error_code == VarInt::from_u32(close::REPLACED) => {
            DownReason::Replaced
        }
        ConnectionError::ApplicationClosed(close) => {
            DownReason::PeerClosed(String::from_utf8_lossy(&close.reason).into_owned())
        }
        other => DownReason::Failed(other.to_string()),
    }
}
