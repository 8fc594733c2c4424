//! What edges measure between each other, for operators.

use super::Fleet;
use serde::Serialize;

/// One direction of one pair, as `from` sees it. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(crate) struct Link {
    pub(crate) from: String,
    pub(crate) to: String,
    /// Of the last minute.
    rtt_p50_ms: f32,
    rtt_p95_ms: f32,
    /// Share of packets lost on the way to `from`, and to `to`, before repair: 0..1.
    loss_in: f32,
    loss_out: f32,
    /// Media, now.
    sent_bps: u64,
    received_bps: u64,
    tracks_in: u32,
    tracks_out: u32,
}

impl Fleet {
    /// Every link that any edge of the view has told of, in order.
    pub(crate) fn links(&self) -> Vec<Link> {
        let view = self.view();
        let state = self.lock();
        let edges = state.edges.iter().filter(|(id, _)| view.get(id).is_some());
        let links = edges.flat_map(|(from, edge)| {
            edge.links.iter().map(|link| Link {
                from: from.clone(),
                to: link.peer.clone(),
                rtt_p50_ms: link.rtt_p50_ms,
                rtt_p95_ms: link.rtt_p95_ms,
                loss_in: link.loss_in,
                loss_out: link.loss_out,
                sent_bps: link.sent_bps,
                received_bps: link.received_bps,
                tracks_in: link.tracks_in,
                tracks_out: link.tracks_out,
            })
        });
        let mut links: Vec<Link> = links.collect();
        links.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
        links
    }
}
