//! What this edge is, as it tells the registry and the control plane. Set when it starts.

use std::net::{IpAddr, SocketAddr};

use meridian_registry::nodes::{NODE_RECORD_VERSION, NodeRecord, NodeState};
use meridian_room::NodeId;
use meridian_shard::Shards;
use meridian_wire::v1;

use crate::address::public_addresses;
use crate::clock::unix_now_ms;
use crate::config::{EdgeConfig, NodeSettings};

pub(crate) struct Profile {
    pub(crate) node: NodeId,
    pub(crate) region: String,
    /// What clients connect to.
    pub(crate) url: String,
    /// Sockets in ICE candidates.
    pub(crate) media: Vec<SocketAddr>,
    /// What other edges connect to.
    pub(crate) link: SocketAddr,
    settings: NodeSettings,
    /// When this process started, milliseconds since 1970.
    incarnation: u64,
    /// What GeoDNS answers with.
    addresses: Vec<IpAddr>,
    turn: Vec<String>,
}

impl Profile {
    /// `http` is the bound address, `link` the one to tell, `turn` what clients call this edge's TURN server.
    pub(crate) fn new(
        config: &EdgeConfig,
        http: SocketAddr,
        link: SocketAddr,
        shards: &Shards,
        turn: &[String],
    ) -> Profile {
        Profile {
            node: NodeId::new(config.node.id.clone()),
            region: config.node.region.clone(),
            url: client_url(config, http),
            media: (0..shards.len() as u16)
                .flat_map(|shard| shards.candidates(meridian_shard::PeerId { shard, index: 0 }))
                .collect(),
            link,
            settings: config.node.clone(),
            incarnation: unix_now_ms(),
            addresses: public_addresses(config, http),
            turn: turn.to_vec(),
        }
    }

    /// The first report to the control plane.
    pub(crate) fn hello(&self) -> v1::Hello {
        v1::Hello {
            protocol: 2,
            node: self.node.to_string(),
            region: self.region.clone(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            client_url: self.url.clone(),
            media: self.media.iter().map(ToString::to_string).collect(),
            link: self.link.to_string(),
            capacity: self.settings.capacity,
            incarnation: self.incarnation,
        }
    }

    /// What stands in the registry.
    pub(crate) fn record(&self, state: NodeState) -> NodeRecord {
        NodeRecord {
            version: NODE_RECORD_VERSION,
            id: self.node.to_string(),
            region: self.region.clone(),
            lat: self.settings.latitude,
            lon: self.settings.longitude,
            client_url: self.url.clone(),
            addresses: self.addresses.clone(),
            media: self.media.clone(),
            link: Some(self.link),
            turn: self.turn.clone(),
            state,
            capacity: self.settings.capacity,
            software: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: self.incarnation,
        }
    }
}

fn client_url(config: &EdgeConfig, bound: SocketAddr) -> String {
    if !config.http.public_url.is_empty() {
        return config.http.public_url.clone();
    }
    let scheme = if config.http.certificate.is_some() { "wss" } else { "ws" };
    // `localhost`, not 127.0.0.1: the page is served from there, and cameras are given to it.
    let host = if bound.ip().is_loopback() {
        "localhost".to_owned()
    } else {
        bound.ip().to_string()
    };
    format!("{scheme}://{host}:{}", bound.port())
}
