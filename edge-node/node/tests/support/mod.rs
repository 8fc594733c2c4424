//! What every edge of these tests has in common.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use meridian_node::config::{EdgeConfig, HttpSettings, LinkSettings, MediaSettings, NodeSettings};
use meridian_registry::nodes::NodeRecord;
use meridian_registry::{Change, Watch, WatchEvent};

pub(crate) const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
pub(crate) const KEY: &str = "devkey";
pub(crate) const SECRET: &str = "a secret of at least thirty-two characters";

/// `fra-1`, on free ports of loopback, with an API key of its own.
pub(crate) fn edge_config() -> EdgeConfig {
    EdgeConfig {
        node: NodeSettings {
            id: "fra-1".into(),
            region: "fra".into(),
            ..NodeSettings::default()
        },
        http: HttpSettings {
            bind: ANY,
            ..HttpSettings::default()
        },
        media: MediaSettings {
            bind: vec![ANY],
            threads: 1,
            ..MediaSettings::default()
        },
        link: LinkSettings {
            bind: ANY,
            advertise: None,
        },
        api_keys: BTreeMap::from([(KEY.to_owned(), SECRET.to_owned())]),
        ..EdgeConfig::default()
    }
}

/// The first edge's record as it is first seen: whoever is sent to that edge is let in from now on.
pub(crate) async fn announced(nodes: &mut Watch) -> NodeRecord {
    loop {
        let entries = match nodes.next().await.unwrap() {
            WatchEvent::Snapshot(entries) | WatchEvent::Rewound(entries) => entries,
            WatchEvent::Changes(changes) => changes
                .into_iter()
                .filter_map(|change| match change {
                    Change::Put(entry) => Some(entry),
                    Change::Delete { .. } => None,
                })
                .collect(),
        };
        if let Some(entry) = entries.first() {
            return NodeRecord::from_json(&entry.key, &entry.value).unwrap();
        }
    }
}
