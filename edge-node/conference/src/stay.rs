//! A member's stay: who it is, what it may do, how long it belongs to the room, and what its session is like.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use meridian_access::token::Claims;
use meridian_room::{Identity, ParticipantSid};
use meridian_shard_api::PeerStats;

use crate::io::SessionReport;
use crate::voice::Belongs;

/// Round trips kept per member: at one every 2 s, the last two minutes.
const RTTS_MAX: usize = 60;
/// How often a session that goes on is reported.
const REPORT_EVERY: Duration = Duration::from_secs(60);

pub(crate) struct Stay {
    pub(crate) identity: Identity,
    pub(crate) sid: ParticipantSid,
    /// What it was let in with.
    pub(crate) claims: Claims,
    pub(crate) belongs: Belongs,
    pub(crate) joined_at: Instant,
    /// When a report of this session was last due.
    reported_at: Instant,
    pub(crate) stats: Option<PeerStats>,
    address: IpAddr,
    /// Round trips measured by this edge, the last ones, milliseconds.
    rtts_ms: VecDeque<f32>,
}

impl Stay {
    pub(crate) fn new(sid: ParticipantSid, claims: Claims, address: IpAddr, belongs: Belongs, now: Instant) -> Stay {
        Stay {
            identity: Identity::from(claims.sub.as_str()),
            sid,
            claims,
            belongs,
            joined_at: now,
            reported_at: now,
            stats: None,
            address,
            rtts_ms: VecDeque::new(),
        }
    }

    /// As this edge and its trusted proxies know it.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// Takes measurements in; whether it is time to report a session that goes on.
    pub(crate) fn observe(&mut self, stats: PeerStats, now: Instant) -> bool {
        if let Some(rtt_ms) = stats.rtt_ms {
            if self.rtts_ms.len() == RTTS_MAX {
                self.rtts_ms.pop_front();
            }
            self.rtts_ms.push_back(rtt_ms);
        }
        self.stats = Some(stats);
        let due = now.saturating_duration_since(self.reported_at) >= REPORT_EVERY;
        if due {
            self.reported_at = now;
        }
        due
    }

    /// What assignment learns from, when the session ends and while a long one lasts.
    pub(crate) fn session_report(&self, ended: bool, now: Instant) -> SessionReport {
        let mut rtts_ms: Vec<f32> = self.rtts_ms.iter().copied().collect();
        rtts_ms.sort_by(f32::total_cmp);
        SessionReport {
            participant: self.sid.clone(),
            address: self.address,
            rtt_ms: rtts_ms.get(rtts_ms.len() / 2).copied().unwrap_or(0.0),
            samples: rtts_ms.len() as u32,
            duration: now.saturating_duration_since(self.joined_at),
            ended,
        }
    }
}
