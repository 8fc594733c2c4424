//! RTCP: what clients report and ask for, and what we report to them.

use std::time::{Duration, Instant};

use meridian_sfu::rtcp::{ReportBlock, Rtcp, Writer, parse};

use super::Shard;
use super::tracks::{Origin, Track};
use crate::metrics::add;

/// A sender report per stream and second, the first as soon as there is something to report.
const SENDER_REPORT_EVERY: Duration = Duration::from_secs(1);
/// The first few come faster: receivers need two of audio and two of video before they relate one to the other.
const FIRST_SENDER_REPORTS: u32 = 3;
const FIRST_SENDER_REPORTS_EVERY: Duration = Duration::from_millis(200);
/// Compounds are sent before they grow beyond this.
const COMPOUND_BYTES: usize = 1_000;
/// The one name all our streams have (RFC 3550 §6.5.1): they share the publisher's clock, which is what it says.
const CNAME: &str = "meridian";
/// Blocks in one report (RFC 3550 §6.4.1: five bits).
const BLOCKS_MAX: usize = 31;
/// Lost packets answered per NACK packet: a client that asks for more is better served by a keyframe.
const NACKS_MAX: usize = 256;

impl Shard {
    pub(super) fn handle_rtcp(&mut self, slot: u32, data: &[u8], now: Instant) {
        for packet in parse(data) {
            match packet {
                Rtcp::SenderReport { report, blocks } => {
                    let route = self.peers.get(slot).and_then(|p| p.receiver.route(report.ssrc));
                    if let Some((track, encoding)) = route {
                        self.sender_report(track, encoding, report.info, now);
                    }
                    self.handle_blocks(slot, blocks, now);
                }
                Rtcp::ReceiverReport { blocks, .. } => self.handle_blocks(slot, blocks, now),
                Rtcp::Nack { media_ssrc, sequences } => {
                    let Some(index) = self.subscription_by_ssrc(slot, media_ssrc) else {
                        continue;
                    };
                    add(&self.shared.counters.nacks_received, 1);
                    for sequence in sequences.take(NACKS_MAX) {
                        self.retransmit(index, sequence, now);
                    }
                }
                Rtcp::Pli { media_ssrc } => self.handle_pli(slot, media_ssrc, now),
                Rtcp::Fir { targets } => {
                    for ssrc in targets.take(32) {
                        self.handle_pli(slot, ssrc, now);
                    }
                }
                Rtcp::TransportFeedback(feedback) => self.transport_feedback(slot, &feedback, now),
                Rtcp::Remb { bitrate_bps } => self.remb(slot, bitrate_bps, now),
                Rtcp::Bye { .. } | Rtcp::Other => {}
            }
        }
    }

    fn handle_pli(&mut self, slot: u32, ssrc: u32, now: Instant) {
        let Some(index) = self.subscription_by_ssrc(slot, ssrc) else {
            return;
        };
        if let Some(subscription) = self.subscriptions.get_mut(index) {
            subscription.downlink.handle_pli(now);
        }
        self.pull_keyframe(index, now);
    }

    fn handle_blocks(&mut self, slot: u32, blocks: impl Iterator<Item = ReportBlock>, now: Instant) {
        let mut told = [(0, ReportBlock::default()); BLOCKS_MAX];
        let mut count = 0;
        for block in blocks.take(BLOCKS_MAX) {
            if let Some(index) = self.subscription_by_ssrc(slot, block.ssrc)
                && let Some(subscription) = self.subscriptions.get_mut(index)
            {
                subscription.downlink.handle_report(now, &block);
                told[count] = (index, block);
                count += 1;
            }
        }
        if count > 0 {
            self.report_loss(slot, &told[..count], now);
        }
    }

    fn subscription_by_ssrc(&self, slot: u32, ssrc: u32) -> Option<u32> {
        let peer = self.peers.get(slot)?;
        peer.subscriptions.iter().copied().find(|&i| {
            self.subscriptions
                .get(i)
                .is_some_and(|s| s.downlink.ssrc() == ssrc || s.downlink.rtx_ssrc() == Some(ssrc))
        })
    }

    /// Encrypts and queues `compound`, and leaves it empty.
    fn send_rtcp(&mut self, slot: u32, compound: &mut Vec<u8>) {
        if !compound.is_empty()
            && let Some(peer) = self.peers.get_mut(slot)
            && let Some(path) = peer.path
            && let Some(srtp) = peer.transport.srtp()
        {
            match srtp.protect_rtcp(compound) {
                Ok(()) => self.egress.push(&self.sockets, path, compound),
                Err(_) => add(&self.shared.counters.drop_protect, 1),
            }
        }
        compound.clear();
    }

    /// NACKs, PLIs and TWCC that are due towards a publisher.
    pub(super) fn poll_feedback(&mut self, slot: u32, now: Instant) {
        let mut out = std::mem::take(&mut self.scratch.rtcp);
        out.clear();
        let mut due = None::<Instant>;
        if let Some(peer) = self.peers.get_mut(slot) {
            let ssrc = peer.receiver.feedback_ssrc();
            while out.len() < COMPOUND_BYTES && peer.receiver.poll_twcc(now, &mut out) {}
            due = peer.receiver.poll_timeout();
            for id in &peer.published {
                if let Some(Track {
                    origin: Origin::Local { uplink, .. },
                    ..
                }) = self.tracks.get_mut(id)
                {
                    uplink.poll_feedback(now, ssrc, &mut out);
                    due = [due, uplink.poll_timeout()].into_iter().flatten().min();
                }
            }
        }
        self.send_rtcp(slot, &mut out);
        self.scratch.rtcp = out;
        if let Some(at) = due {
            self.peers.arm_at(slot, at.max(now + Duration::from_millis(1)));
        }
    }

    /// Receiver reports about everything this peer publishes.
    pub(super) fn send_receiver_report(&mut self, slot: u32, now: Instant) {
        let mut blocks = std::mem::take(&mut self.scratch.blocks);
        let mut out = std::mem::take(&mut self.scratch.rtcp);
        blocks.clear();
        out.clear();
        if let Some(peer) = self.peers.get(slot) {
            for id in &peer.published {
                if let Some(Track {
                    origin: Origin::Local { uplink, .. },
                    ..
                }) = self.tracks.get_mut(id)
                {
                    uplink.report_blocks(now, &mut blocks);
                }
            }
            let ssrc = peer.receiver.feedback_ssrc();
            for blocks in blocks.chunks(31) {
                Writer::new(&mut out).receiver_report(ssrc, blocks).cname(ssrc, CNAME);
            }
        }
        self.send_rtcp(slot, &mut out);
        self.scratch.rtcp = out;
        self.scratch.blocks = blocks;
    }

    /// Sender reports of this peer's subscriptions that are due.
    pub(super) fn send_sender_reports(&mut self, slot: u32, now: Instant) {
        let mut out = std::mem::take(&mut self.scratch.rtcp);
        out.clear();
        let count = self.peers.get(slot).map_or(0, |p| p.subscriptions.len());
        for i in 0..count {
            let Some(&index) = self.peers.get(slot).and_then(|p| p.subscriptions.get(i)) else {
                break;
            };
            let Some(subscription) = self.subscriptions.get_mut(index) else {
                continue;
            };
            let every = if subscription.reports < FIRST_SENDER_REPORTS {
                FIRST_SENDER_REPORTS_EVERY
            } else {
                SENDER_REPORT_EVERY
            };
            if subscription
                .reported
                .is_some_and(|at| now.saturating_duration_since(at) < every)
            {
                continue;
            }
            let Some(track) = self.tracks.get(&subscription.track) else {
                continue;
            };
            if let Some(report) = subscription.downlink.sender_report(now, track.origin.source()) {
                subscription.reported = Some(now);
                subscription.reports = subscription.reports.saturating_add(1);
                Writer::new(&mut out)
                    .sender_report(&report, &[])
                    .cname(report.ssrc, CNAME);
                if out.len() > COMPOUND_BYTES {
                    self.send_rtcp(slot, &mut out);
                }
            }
        }
        self.send_rtcp(slot, &mut out);
        self.scratch.rtcp = out;
    }
}
