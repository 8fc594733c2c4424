//! `GET /api/v1/probes` as JSON, the same on the control plane and on every edge: which regions a client may measure before it joins.

use crate::v1;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Regions that a client is asked to measure.
pub const TARGETS_MAX: usize = 3;
/// Seconds for which a client may keep the list. Not for shared caches: it depends on the client's address.
pub const CACHE_CONTROL: &str = "private, max-age=60";

/// The query string.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbesQuery {
    /// A region that stands in for the client's place; the demo only.
    pub from: String,
}

/// The answer. Empty: there is nothing to choose between.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProbesReply {
    pub regions: Vec<ProbeTarget>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProbeTarget {
    pub region: String,
    /// Answers a GET with as little as there can be.
    pub url: String,
}

impl From<v1::ProbesAnswer> for ProbesReply {
    fn from(answer: v1::ProbesAnswer) -> Self {
        let target = |one: v1::ProbeTarget| ProbeTarget {
            region: one.region,
            url: one.url,
        };
        ProbesReply {
            regions: answer.regions.into_iter().map(target).collect(),
        }
    }
}

/// Where the edge with this client URL (`wss://…`) is measured; `None` for what is no such URL.
pub fn probe_url(client_url: &str) -> Option<String> {
    let rest = client_url.strip_prefix("ws")?;
    (rest.starts_with("://") || rest.starts_with("s://")).then(|| format!("http{}/probe", rest.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::probe_url;

    #[test]
    fn an_edge_is_measured_where_clients_connect_to_it() {
        assert_eq!(
            probe_url("wss://fra-1.example.org/").as_deref(),
            Some("https://fra-1.example.org/probe")
        );
        assert_eq!(
            probe_url("ws://localhost:7880").as_deref(),
            Some("http://localhost:7880/probe")
        );
        assert_eq!(probe_url("javascript:alert(1)"), None);
        assert_eq!(probe_url("wsx://a"), None);
    }
}
