//! What this edge tells the control plane of itself: how loaded it is, and what sessions were like.

use std::sync::Arc;

use meridian_conference::SessionReport;
use meridian_room::RoomName;
use meridian_shard::Shards;
use meridian_wire::v1;
use tokio::sync::mpsc;

use crate::admission::Admission;
use crate::handles::LiveRooms;
use crate::usage::UsageMeter;

/// Ends of sessions that may wait for the control plane.
const SESSION_REPORTS: usize = 4_096;

pub(crate) struct Reports {
    /// Ends of sessions; dropped when the control plane is away for long.
    sessions: mpsc::Sender<v1::SessionReport>,
    usage: UsageMeter,
    admission: Arc<Admission>,
    live: Arc<LiveRooms>,
    shards: Arc<Shards>,
}

impl Reports {
    pub(crate) fn new(
        admission: Arc<Admission>,
        live: Arc<LiveRooms>,
        shards: Arc<Shards>,
    ) -> (Reports, mpsc::Receiver<v1::SessionReport>) {
        let (sessions, ended) = mpsc::channel(SESSION_REPORTS);
        let reports = Reports {
            sessions,
            usage: UsageMeter::new(),
            admission,
            live,
            shards,
        };
        (reports, ended)
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
        v1::LoadReport {
            participants: rooms.iter().map(|room| room.participants).sum(),
            cpu: rates.cpu,
            tx_mbps: rates.tx_mbps,
            rx_mbps: rates.rx_mbps,
            tx_packets_per_s: rates.tx_packets_per_s,
            rooms,
            accepting: self.admission.accepts(),
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
        // The map learns from many: one that finds the queue full is no loss.
        let _ = self.sessions.try_send(report);
    }
}
