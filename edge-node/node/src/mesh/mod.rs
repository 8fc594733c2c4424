//! Rooms on one side, links to other edges on the other. This file is the rooms' side: what a room may ask of the mesh.
//! `driver` runs `meridian-cascade`'s state machine between the two.

mod driver;
mod measured;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use meridian_cascade::carriage::Carried;
use meridian_conference::Birth;
use meridian_room::{NodeId, RoomName, RoomSid};
use meridian_serving::metrics::head;
use meridian_sfu::{Encoding, LayerSet, SenderReportInfo, TrackId};
use meridian_wire::v1;
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::unix_now_ms;
use crate::handles::RoomHandle;
use crate::link::LinkStats;
use measured::Link;

pub(crate) use driver::{Inputs, Uses, run};

/// Requests of rooms that may wait. State that is dropped here is repaired by the next digest.
const QUEUE: usize = 16_384;

/// Links in one report: more than a full mesh has.
const LINKS_REPORTED_MAX: usize = 1_024;

/// What rooms and media threads ask of the mesh.
pub(crate) enum ToMesh {
    Enter {
        room: RoomName,
        home_region: Option<String>,
        handle: RoomHandle,
        birth: oneshot::Sender<Birth>,
    },
    Leave {
        room: RoomName,
    },
    Room {
        room: RoomName,
        request: meridian_conference::ToMesh,
    },
    SenderReport {
        track: TrackId,
        encoding: Encoding,
        layers: LayerSet,
        report: SenderReportInfo,
    },
}

pub(crate) struct MeshHandle {
    queue: mpsc::Sender<ToMesh>,
    dropped: AtomicU64,
    /// Every link's last second, for `/metrics`, and its last minute, for the control plane.
    links: Mutex<BTreeMap<NodeId, Link>>,
    audible: watch::Sender<BTreeSet<NodeId>>,
}

impl MeshHandle {
    pub(crate) fn new() -> (MeshHandle, mpsc::Receiver<ToMesh>) {
        let (queue, requests) = mpsc::channel(QUEUE);
        (
            MeshHandle {
                queue,
                dropped: AtomicU64::new(0),
                links: Mutex::default(),
                audible: watch::Sender::default(),
            },
            requests,
        )
    }

    /// The room has people here now: announces it, and learns which life of the room this is. Waits for the home edge, but
    /// not long: a room can live without it.
    pub(crate) async fn enter(&self, room: &RoomName, home_region: Option<String>, handle: &RoomHandle) -> Birth {
        let (birth, born) = oneshot::channel();
        let enter = ToMesh::Enter {
            room: room.clone(),
            home_region,
            handle: handle.clone(),
            birth,
        };
        if self.queue.send(enter).await.is_ok()
            && let Ok(birth) = born.await
        {
            return birth;
        }
        let now_ms = unix_now_ms();
        Birth {
            sid: RoomSid::generate(&mut rand::rng()),
            incarnation: now_ms,
            created_at_ms: now_ms as i64,
            others: BTreeSet::new(),
        }
    }

    pub(crate) fn leave(&self, room: &RoomName) {
        self.send(ToMesh::Leave { room: room.clone() });
    }

    pub(crate) fn room(&self, room: &RoomName, request: meridian_conference::ToMesh) {
        self.send(ToMesh::Room {
            room: room.clone(),
            request,
        });
    }

    pub(crate) fn sender_report(&self, track: TrackId, encoding: Encoding, layers: LayerSet, report: SenderReportInfo) {
        self.send(ToMesh::SenderReport {
            track,
            encoding,
            layers,
            report,
        });
    }

    pub(crate) fn render_metrics(&self, text: &mut String) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        let name = "meridian_mesh_requests_dropped_total";
        head(
            text,
            name,
            "counter",
            "Requests of rooms and media threads that the mesh was too busy to take.",
        );
        let _ = writeln!(text, "{name} {dropped}");
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        type Read = fn(&LinkStats, &Carried) -> f64;
        let gauges: [(&str, &str, Read); 9] = [
            ("tracks_in", "Tracks that come from the other edge.", |_, carried| {
                carried.tracks_in as f64
            }),
            ("tracks_out", "Tracks that go to the other edge.", |_, carried| {
                carried.tracks_out as f64
            }),
            ("rtt_seconds", "Round trip to the other edge.", |stats, _| {
                f64::from(stats.rtt_ms) / 1_000.0
            }),
            ("jitter_seconds", "How much that varies.", |stats, _| {
                f64::from(stats.jitter_ms) / 1_000.0
            }),
            (
                "loss_in_ratio",
                "Share of packets lost on the way here, 0 to 1.",
                |stats, _| f64::from(stats.loss_in),
            ),
            (
                "loss_out_ratio",
                "Share of packets lost on the way there, 0 to 1.",
                |stats, _| f64::from(stats.loss_out),
            ),
            ("sent_bps", "Media sent, bit/s.", |stats, _| stats.sent_bps as f64),
            ("received_bps", "Media received, bit/s.", |stats, _| {
                stats.received_bps as f64
            }),
            ("target_bps", "What congestion control allows, bit/s.", |stats, _| {
                stats.target_bps as f64
            }),
        ];
        for (name, help, read) in gauges {
            let name = format!("meridian_link_{name}");
            head(text, &name, "gauge", help);
            for (node, link) in links.iter() {
                let _ = writeln!(text, "{name}{{peer=\"{node}\"}} {}", read(&link.stats, &link.carried));
            }
        }
    }

    /// Edges whose link is up and not silent. One that was killed leaves this long before its link or its lease ends.
    pub(crate) fn audible(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.audible.subscribe()
    }

    fn set_audible(&self, audible: BTreeSet<NodeId>) {
        self.audible.send_if_modified(|held| {
            let changed = *held != audible;
            *held = audible;
            changed
        });
    }

    fn link_stats(&self, node: &NodeId, stats: LinkStats, carried: Carried) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.entry(node.clone()).or_default().measured(stats, carried);
    }

    /// What operators are shown of the links.
    pub(crate) fn link_reports(&self) -> Vec<v1::LinkReport> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let reports = links.iter().map(|(peer, link)| link.report(peer));
        reports.take(LINKS_REPORTED_MAX).collect()
    }

    pub(crate) fn link_gone(&self, node: &NodeId) {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    fn send(&self, message: ToMesh) {
        if self.queue.try_send(message).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
