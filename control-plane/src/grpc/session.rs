//! One edge's stream, from Hello to its end.

use crate::fleet::{Attachment, Fleet};
use crate::learning::Learning;
use crate::metrics::Metrics;
use meridian_outbox::Taken;
use meridian_wire::v1::entry::Kind;
use meridian_wire::v1::{self, edge_command, edge_report};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt as _;
use tonic::Streaming;

/// Entries that come within this time are acknowledged together.
const ACKNOWLEDGE_AFTER: Duration = Duration::from_millis(20);

/// One edge's stream, from Hello to its end.
pub(super) struct Session {
    pub(super) node: String,
    pub(super) region: String,
    pub(super) fleet: Arc<Fleet>,
    pub(super) learning: Arc<Learning>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) attachment: Attachment,
    pub(super) commands: mpsc::Sender<v1::EdgeCommand>,
    pub(super) policy: watch::Receiver<v1::Policy>,
    pub(super) shutdown: watch::Receiver<bool>,
}

impl Session {
    pub(super) async fn run(mut self, mut reports: Streaming<v1::EdgeReport>) {
        self.policy.mark_unchanged();
        let mut unacknowledged: Option<Instant> = None;
        let why = loop {
            if self.fleet.is_behind(&self.attachment) {
                break "it does not take commands".to_owned();
            }
            tokio::select! {
                report = reports.next() => match report {
                    Some(Ok(v1::EdgeReport { report: Some(edge_report::Report::Entry(entry)) })) => {
                        self.entry(entry);
                        unacknowledged.get_or_insert_with(|| Instant::now() + ACKNOWLEDGE_AFTER);
                    }
                    Some(Ok(report)) => self.report(report),
                    Some(Err(status)) => break status.message().to_owned(),
                    None => break "the edge closed it".to_owned(),
                },
                Ok(()) = self.policy.changed() => {
                    let policy = self.policy.borrow_and_update().clone();
                    let command = v1::EdgeCommand { command: Some(edge_command::Command::Policy(policy)) };
                    if self.commands.try_send(command).is_err() {
                        break "it does not take commands".to_owned();
                    }
                }
                () = at(unacknowledged) => unacknowledged = self.acknowledge(),
                _ = self.shutdown.changed() => break "this control plane stops".to_owned(),
            }
        };
        tracing::info!(node = %self.node, %why, "edge detached");
        self.fleet.detach(&self.attachment);
    }

    fn report(&self, report: v1::EdgeReport) {
        match report.report {
            Some(edge_report::Report::Load(load)) => self.fleet.report(&self.attachment, load, Instant::now()),
            // Of an edge that has no outbox.
            Some(edge_report::Report::Session(session)) => self.session(&session),
            Some(edge_report::Report::Leaving(_)) => {
                self.fleet.leaves(&self.attachment, Instant::now());
                let noted = edge_command::Command::LeavingNoted(v1::LeavingNoted {});
                // An edge that does not read its commands does not wait for this one for long either.
                let _ = self.commands.try_send(v1::EdgeCommand { command: Some(noted) });
            }
            // A second Hello says nothing new; an unknown report is a newer edge's.
            Some(edge_report::Report::Hello(_) | edge_report::Report::Entry(_)) | None => {}
        }
    }

    /// Acts on an entry of the edge's outbox unless it has come before.
    fn entry(&self, entry: v1::Entry) {
        if self.fleet.take_entry(&self.attachment, entry.number) == Taken::Known {
            self.metrics.count("meridian_entries_total", "kind=\"repeated\"");
            return;
        }
        let kind = match entry.kind {
            Some(Kind::Session(session)) => {
                self.session(&session);
                "session"
            }
            Some(Kind::RoomEmptied(emptied)) => {
                tracing::debug!(node = %self.node, room = %emptied.room, "nobody is left in a room there");
                "room_emptied"
            }
            Some(Kind::Recording(fact)) => {
                tracing::info!(node = %self.node, room = %fact.room, recording = %fact.recording, "recording");
                "recording"
            }
            // A newer edge's.
            None => "unknown",
        };
        self.metrics
            .count("meridian_entries_total", &format!("kind=\"{kind}\""));
    }

    /// Says through which number all has come; returns when to try again if there was no place for it.
    fn acknowledge(&self) -> Option<Instant> {
        let through = self.fleet.entries_through(&self.attachment);
        let received = edge_command::Command::Received(v1::Received { through });
        let command = v1::EdgeCommand {
            command: Some(received),
        };
        let said = self.commands.try_send(command).is_ok();
        (!said).then(|| Instant::now() + ACKNOWLEDGE_AFTER)
    }

    fn session(&self, session: &v1::SessionReport) {
        if session.ended {
            self.metrics.count("meridian_sessions_ended_total", "");
        }
        if session.samples > 0 && session.rtt_ms.is_finite() {
            let rtt = Duration::from_secs_f32((session.rtt_ms / 1000.0).clamp(0.0, 60.0));
            self.metrics.took("meridian_session_rtt_seconds", rtt);
            self.learn(session);
        }
        tracing::debug!(node = %self.node, rtt_ms = session.rtt_ms, room = %session.room, "session report");
    }

    /// Round trips that we measured ourselves are what the map learns from; clients' own probes never come this way.
    fn learn(&self, session: &v1::SessionReport) {
        let Ok(address) = session.client_address.parse::<IpAddr>() else {
            return;
        };
        let there = self.fleet.place_of(&self.region, Instant::now());
        if self
            .learning
            .observe(address, &self.region, there, f64::from(session.rtt_ms))
        {
            self.metrics.count("meridian_sessions_learned_total", "");
        }
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
