//! What was measured on one link in the last minute.

use std::collections::VecDeque;

use meridian_cascade::carriage::Carried;
use meridian_room::NodeId;
use meridian_wire::v1;

use crate::link::LinkStats;

/// One a second.
const SAMPLES: usize = 60;

#[derive(Default)]
pub(super) struct Link {
    pub(super) stats: LinkStats,
    pub(super) carried: Carried,
    /// Round trip, losses in and out.
    samples: VecDeque<(f32, f32, f32)>,
}

impl Link {
    pub(super) fn measured(&mut self, stats: LinkStats, carried: Carried) {
        (self.stats, self.carried) = (stats, carried);
        // A link that has just come up has measured nothing yet.
        if stats.rtt_ms <= 0.0 {
            return;
        }
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((stats.rtt_ms, stats.loss_in, stats.loss_out));
    }

    pub(super) fn report(&self, peer: &NodeId) -> v1::LinkReport {
        let mut rtts: Vec<f32> = self.samples.iter().map(|(rtt, ..)| *rtt).collect();
        rtts.sort_by(f32::total_cmp);
        // The smallest that so many of a hundred do not exceed.
        let quantile = |percent: usize| {
            let rank = (rtts.len() * percent).div_ceil(100).saturating_sub(1);
            rtts.get(rank).copied().unwrap_or(0.0)
        };
        let count = self.samples.len().max(1) as f32;
        let mean = |of: fn(&(f32, f32, f32)) -> f32| self.samples.iter().map(of).sum::<f32>() / count;
        let tracks = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        v1::LinkReport {
            peer: peer.to_string(),
            rtt_p50_ms: quantile(50),
            rtt_p95_ms: quantile(95),
            loss_in: mean(|(_, loss, _)| *loss),
            loss_out: mean(|(.., loss)| *loss),
            sent_bps: self.stats.sent_bps,
            received_bps: self.stats.received_bps,
            tracks_in: tracks(self.carried.tracks_in),
            tracks_out: tracks(self.carried.tracks_out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_remembered_and_told_by_its_quantiles() {
        let mut link = Link::default();
        let peer = NodeId::new("iad");
        assert_eq!(link.report(&peer).rtt_p95_ms, 0.0, "nothing measured yet");
        for second in 1..=160 {
            let stats = LinkStats {
                rtt_ms: second as f32,
                loss_in: if second > 130 { 0.1 } else { 0.0 },
                loss_out: 0.02,
                ..LinkStats::default()
            };
            link.measured(stats, Carried::default());
        }
        let report = link.report(&peer);
        assert_eq!((report.rtt_p50_ms, report.rtt_p95_ms), (130.0, 157.0), "of 101 to 160");
        assert!((report.loss_in - 0.05).abs() < 1e-4 && (report.loss_out - 0.02).abs() < 1e-4);
    }
}
