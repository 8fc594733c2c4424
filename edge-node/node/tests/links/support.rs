//! Two edges, a relay between them, and what tests ask of them.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use meridian_netlab::{Impairment, Relay};
use meridian_node::link::{
    DownReason, LinkConfig, LinkEndpoint, LinkError, LinkEvent, LinkStats, MediaPacket, Priority, Received,
};
use meridian_pki::{CertificateAuthority, NodeIdentity};
use meridian_room::ids::NodeId;
use meridian_sfu::media::{Encoding, Layer};
use tokio::sync::mpsc;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn near_id() -> NodeId {
    "fra-1".into()
}
pub(crate) fn far_id() -> NodeId {
    "sin-1".into()
}
pub(crate) fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

pub(crate) struct Node {
    pub(crate) link: LinkEndpoint,
    pub(crate) events: mpsc::Receiver<LinkEvent>,
    pub(crate) ups: u32,
    pub(crate) downs: u32,
}

/// Two nodes of one CA, linked through a relay that impairs both directions alike.
pub(crate) async fn linked(impairment: Impairment, seed: u64) -> (Node, Node, Relay) {
    let ca = CertificateAuthority::create().unwrap();
    let mut near = Node::start(near_id().as_str(), ca.issue_node(near_id().as_str(), &[]).unwrap()).await;
    let mut far = Node::start(far_id().as_str(), ca.issue_node(far_id().as_str(), &[]).unwrap()).await;
    let relay = Relay::start(far.addr(), impairment.clone(), impairment, seed).unwrap();
    near.link.connect(far_id(), relay.addr());
    near.up().await;
    far.up().await;
    (near, far, relay)
}

impl Node {
    pub(crate) async fn start(name: &str, identity: NodeIdentity) -> Node {
        let (sender, events) = mpsc::channel(4096);
        let mut config = LinkConfig::new(name.into(), loopback(), identity);
        config.ceiling_bps = 100_000_000;
        let link = LinkEndpoint::start(config, sender).await.expect("starts");
        Node {
            link,
            events,
            ups: 0,
            downs: 0,
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.link.local_addr().expect("bound")
    }

    pub(crate) async fn until(&mut self, wanted: impl Fn(&LinkEvent) -> bool) -> LinkEvent {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let event = tokio::time::timeout_at(deadline, self.events.recv())
                .await
                .expect("in time")
                .expect("open");
            self.ups += u32::from(matches!(event, LinkEvent::Up { .. }));
            self.downs += u32::from(matches!(event, LinkEvent::Down { .. }));
            if wanted(&event) {
                return event;
            }
        }
    }

    pub(crate) async fn up(&mut self) {
        self.until(|e| matches!(e, LinkEvent::Up { .. })).await;
    }

    pub(crate) async fn down(&mut self) -> DownReason {
        match self.until(|e| matches!(e, LinkEvent::Down { .. })).await {
            LinkEvent::Down { reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn control(&mut self) -> Bytes {
        match self.until(|e| matches!(e, LinkEvent::Control { .. })).await {
            LinkEvent::Control { message, .. } => message,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn stats(&mut self) -> LinkStats {
        while self.events.try_recv().is_ok() {}
        match self.until(|e| matches!(e, LinkEvent::Stats { .. })).await {
            LinkEvent::Stats { stats, .. } => stats,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn media(&mut self, count: usize) -> Vec<Received> {
        let mut received = Vec::new();
        while received.len() < count {
            if let LinkEvent::Media { packets, .. } = self.until(|e| matches!(e, LinkEvent::Media { .. })).await {
                received.extend(packets);
            }
        }
        received
    }

    /// Dials a peer that will not have us; gives the reason. A fresh node each, so that errors do not mix.
    pub(crate) async fn dial_error(mut self, node: &str, addr: SocketAddr) -> LinkError {
        self.link.connect(node.into(), addr);
        match self.until(|e| matches!(e, LinkEvent::DialFailed { .. })).await {
            LinkEvent::DialFailed { error, .. } => error,
            other => panic!("{other:?}"),
        }
    }
}

/// A packet that says its number and when it was sent.
pub(crate) fn packet(track: u32, priority: Priority, number: u64, at: Duration, len: usize) -> MediaPacket {
    let mut payload = vec![0; len];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    payload[8..16].copy_from_slice(&(at.as_micros() as u64).to_be_bytes());
    let layer = if priority == Priority::Audio {
        Layer(0)
    } else {
        Layer(2)
    };
    MediaPacket {
        track,
        encoding: Encoding(layer.0),
        layer,
        priority,
        keyframe: number.is_multiple_of(64),
        payload: payload.into(),
    }
}

pub(crate) fn field(packet: &Received, at: usize) -> u64 {
    u64::from_be_bytes(packet.payload[at..at + 8].try_into().expect("8 bytes"))
}
pub(crate) fn number(packet: &Received) -> u64 {
    field(packet, 0)
}
pub(crate) fn sent_at(packet: &Received) -> Duration {
    Duration::from_micros(field(packet, 8))
}
