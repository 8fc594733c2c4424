//! What signalling sockets cost and lose, for `/metrics`.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use meridian_serving::metrics::head;

/// Why a room gave up a client's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slowness {
    /// The socket's queue of frames was full.
    QueueFull,
    /// The session had more to say than it may hold back.
    SessionOverflow,
    /// A write made no progress.
    WriteTimeout,
}

/// Why a frame was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameLoss {
    /// The queue to its socket was full: with it goes the socket.
    QueueFull,
    /// The socket closed before it was written.
    SocketClosed,
    /// It waited for a socket that another has replaced: the resume says it anew.
    Resumed,
}

/// Counters of all rooms of this edge.
#[derive(Default)]
pub(crate) struct SignalCounters {
    slow: [AtomicU64; 3],
    lost: [AtomicU64; 3],
    resumes: AtomicU64,
    violations: AtomicU64,
    replayed: AtomicU64,
    data_receivers_dropped: AtomicU64,
    queue_max: AtomicU64,
}

impl SignalCounters {
    pub(crate) fn socket_dropped(&self, why: Slowness) {
        self.slow[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn frames_lost(&self, why: FrameLoss, frames: usize) {
        self.lost[why as usize].fetch_add(frames as u64, Ordering::Relaxed);
    }

    pub(crate) fn resumed(&self) {
        self.resumes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn violated(&self) {
        self.violations.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn replayed(&self, packets: usize) {
        self.replayed.fetch_add(packets as u64, Ordering::Relaxed);
    }

    pub(crate) fn data_receiver_dropped(&self) {
        self.data_receivers_dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// A socket's queue holds this many frames now.
    pub(crate) fn queued(&self, frames: usize) {
        self.queue_max.fetch_max(frames as u64, Ordering::Relaxed);
    }

    pub(crate) fn render(&self, text: &mut String) {
        head(
            text,
            "meridian_signal_sockets_dropped_total",
            "counter",
            "Signalling sockets closed because the client read too slowly.",
        );
        for (reason, count) in ["queue_full", "session_overflow", "write_timeout"]
            .iter()
            .zip(&self.slow)
        {
            labelled(text, "meridian_signal_sockets_dropped_total", reason, count);
        }
        head(
            text,
            "meridian_signal_frames_dropped_total",
            "counter",
            "Signalling frames that were never written to their client.",
        );
        for (reason, count) in ["queue_full", "socket_closed", "resumed"].iter().zip(&self.lost) {
            labelled(text, "meridian_signal_frames_dropped_total", reason, count);
        }
        let singles = [
            (
                "meridian_signal_queue_frames_max",
                "gauge",
                "Most frames that have waited for one client's socket since the edge started.",
                &self.queue_max,
            ),
            (
                "meridian_signal_resumes_total",
                "counter",
                "Sessions that went on over another socket.",
                &self.resumes,
            ),
            (
                "meridian_signal_violations_total",
                "counter",
                "Sessions ended because the client broke the protocol.",
                &self.violations,
            ),
            (
                "meridian_data_replayed_total",
                "counter",
                "Reliable data packets sent to a client once more, or late because its channel was not open.",
                &self.replayed,
            ),
            (
                "meridian_data_receivers_dropped_total",
                "counter",
                "Clients disconnected because they did not take their reliable data, for which everybody else had to wait.",
                &self.data_receivers_dropped,
            ),
        ];
        for (name, kind, help, value) in singles {
            head(text, name, kind, help);
            let _ = writeln!(text, "{name} {}", value.load(Ordering::Relaxed));
        }
    }
}

fn labelled(text: &mut String, name: &str, reason: &str, count: &AtomicU64) {
    let _ = writeln!(text, "{name}{{reason=\"{reason}\"}} {}", count.load(Ordering::Relaxed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_says_what_it_is_and_every_reason_has_a_line() {
        let counters = SignalCounters::default();
        counters.socket_dropped(Slowness::SessionOverflow);
        counters.frames_lost(FrameLoss::Resumed, 3);
        counters.queued(17);
        counters.queued(4);
        let mut text = String::new();
        counters.render(&mut text);
        for line in [
            "# TYPE meridian_signal_sockets_dropped_total counter",
            "meridian_signal_sockets_dropped_total{reason=\"queue_full\"} 0",
            "meridian_signal_sockets_dropped_total{reason=\"session_overflow\"} 1",
            "meridian_signal_frames_dropped_total{reason=\"resumed\"} 3",
            "# TYPE meridian_signal_queue_frames_max gauge",
            "meridian_signal_queue_frames_max 17",
        ] {
            assert!(text.lines().any(|held| held == line), "{line} is not in\n{text}");
        }
        let families = text.lines().filter(|line| line.starts_with("# TYPE")).count();
        assert_eq!(families, text.lines().filter(|line| line.starts_with("# HELP")).count());
    }
}
