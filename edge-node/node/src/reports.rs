//! What this edge tells the control plane of itself: how loaded it is, and what sessions were like.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use meridian_conference::SessionReport;
use meridian_outbox::Worth;
use meridian_room::RoomName;
use meridian_shard::Shards;
use meridian_wire::v1;
use meridian_wire::v1::entry::Kind;

use crate::admission::Admission;
use crate::clock::unix_now_ms;
use crate::handles::LiveRooms;
use crate::mesh::MeshHandle;
use crate::outgoing::Outgoing;
use crate::usage::UsageMeter;

/// One load report of so many tells of the links: they are many, and change slowly.
const LINKS_EVERY: u32 = 10;

pub(crate) struct Reports {
    /// `None`: there is no control plane to tell.
    outgoing: Option<Arc<Outgoing>>,
    usage: UsageMeter,
    admission: Arc<Admission>,
    live: Arc<LiveRooms>,
    shards: Arc<Shards>,
    mesh: Arc<MeshHandle>,
    loads: AtomicU32,
}

impl Reports {
    pub(crate) fn new(
        outgoing: Option<Arc<Outgoing>>,
        admission: Arc<Admission>,
        live: Arc<LiveRooms>,
        shards: Arc<Shards>,
        mesh: Arc<MeshHandle>,
    ) -> Reports {
        Reports {
            outgoing,
            usage: UsageMeter::new(),
            admission,
            live,
            shards,
            mesh,
            loads: AtomicU32::new(0),
        }
    }

    /// Rates are those since the last call.
    pub(crate) fn load(&self) -> v1::LoadReport {
        let people = self.live.people().into_iter();
        let rooms: Vec<v1::RoomLoad> = people
            .map(|(room, participants)| v1::RoomLoad {
                room: room.to_string(),
                participants,
            })
            .collect();
        let rates = self.usage.sample(&self.shards);
        let number = self.loads.fetch_add(1, Ordering::Relaxed);
        v1::LoadReport {
            participants: rooms.iter().map(|room| room.participants).sum(),
            cpu: rates.cpu,
            tx_mbps: rates.tx_mbps,
            rx_mbps: rates.rx_mbps,
            tx_packets_per_s: rates.tx_packets_per_s,
            rooms,
            accepting: self.admission.accepts(),
            links: match number % LINKS_EVERY {
                0 => self.mesh.link_reports(),
                _ => Vec::new(),
            },
        }
    }

    /// What a session was like, once it has ended and while a long one lasts.
    pub(crate) fn session(&self, room: &RoomName, report: SessionReport) {
        let report = v1::SessionReport {
            room: room.to_string(),
            participant: report.participant.to_string(),
            client_address: report.address.to_string(),
            rtt_ms: report.rtt_ms,
            samples: report.samples,
            duration_ms: report.duration.as_millis() as u64,
            ended: report.ended,
        };
        // An end is told once; of the reports of a long session another will come.
        let worth = if report.ended { Worth::Much } else { Worth::Little };
        self.tell(Kind::Session(report), worth);
    }

    pub(crate) fn room_emptied(&self, room: &RoomName) {
        let fact = v1::RoomEmptied {
            room: room.to_string(),
            at_ms: unix_now_ms(),
        };
        self.tell(Kind::RoomEmptied(fact), Worth::Much);
    }

    /// `recording`: the id it is recorded under from now on; `None`: it is recorded no more.
    pub(crate) fn recording(&self, room: &RoomName, recording: Option<String>) {
        let fact = v1::RecordingFact {
            room: room.to_string(),
            recording: recording.unwrap_or_default(),
            at_ms: unix_now_ms(),
        };
        self.tell(Kind::Recording(fact), Worth::Much);
    }

    fn tell(&self, kind: Kind, worth: Worth) {
        if let Some(outgoing) = &self.outgoing {
            outgoing.push(kind, worth);
        }
    }
}
