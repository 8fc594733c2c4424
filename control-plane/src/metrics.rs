//! Counters and gauges in Prometheus' text format. Small on purpose: a control plane counts events of people, not packets.

use meridian_serving::metrics::head;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the latency buckets, seconds.
const BUCKETS_S: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

/// What each metric of this process means.
const HELP: [(&str, &str); 15] = [
    (
        "meridian_assignments_total",
        "People sent to an edge, by how it was chosen.",
    ),
    ("meridian_edge_healthy", "1 if people may be sent to an edge."),
    ("meridian_edge_load", "How full an edge is; 1 = at capacity."),
    (
        "meridian_edge_participants",
        "People on an edge, with those on their way.",
    ),
    ("meridian_edges_attached", "Edges with a stream to this control plane."),
    (
        "meridian_entries_total",
        "Entries of edges' outboxes by kind; `repeated` had come before.",
    ),
    ("meridian_join_seconds", "How long joins took, refused ones included."),
    ("meridian_joins_total", "Joins, by what came of them."),
    (
        "meridian_learned_rows",
        "Networks of whose round trips something is known.",
    ),
    ("meridian_meetings_created_total", "Meetings made."),
    ("meridian_nodes", "Edges in the registry."),
    ("meridian_replicas", "Other control planes that are heard."),
    (
        "meridian_session_rtt_seconds",
        "Round trips of sessions that have ended, as their edges measured them.",
    ),
    (
        "meridian_sessions_ended_total",
        "Sessions that edges reported the end of.",
    ),
    (
        "meridian_sessions_learned_total",
        "Sessions whose round trip was learned from.",
    ),
];

/// What this process counts. Names and labels come from this crate only, so the number of series is bounded.
#[derive(Default)]
pub(crate) struct Metrics {
    counters: Mutex<BTreeMap<(&'static str, String), u64>>,
    latencies: Mutex<BTreeMap<&'static str, Histogram>>,
}

#[derive(Default, Clone)]
struct Histogram {
    buckets: [u64; BUCKETS_S.len()],
    count: u64,
    sum_s: f64,
}

impl Metrics {
    /// Adds one. `labels` as they appear between the braces: `outcome="granted"`.
    pub(crate) fn count(&self, name: &'static str, labels: &str) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        *counters.entry((name, labels.to_owned())).or_default() += 1;
    }

    /// Records how long something took.
    pub(crate) fn took(&self, name: &'static str, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        let histogram = latencies.entry(name).or_default();
        for (bucket, bound) in histogram.buckets.iter_mut().zip(BUCKETS_S) {
            *bucket += u64::from(seconds <= bound);
        }
        histogram.count += 1;
        histogram.sum_s += seconds;
    }

    /// The text, with `gauges` (name, labels, value) read at this moment.
    pub(crate) fn render(&self, gauges: &[(&str, String, f64)]) -> String {
        let mut out = String::new();
        let mut last = "";
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        for ((name, labels), value) in counters.iter() {
            if *name != last {
                head(&mut out, name, "counter", help(name));
                last = name;
            }
            let _ = writeln!(out, "{name}{} {value}", braces(labels));
        }
        drop(counters);
        let latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, histogram) in latencies.iter() {
            head(&mut out, name, "histogram", help(name));
            for (count, bound) in histogram.buckets.iter().zip(BUCKETS_S) {
                let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {count}");
            }
            let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {}", histogram.count);
            let _ = writeln!(out, "{name}_sum {}\n{name}_count {}", histogram.sum_s, histogram.count);
        }
        let mut last = "";
        for (name, labels, value) in gauges {
            if *name != last {
                head(&mut out, name, "gauge", help(name));
                last = name;
            }
            let _ = writeln!(out, "{name}{} {value}", braces(labels));
        }
        out
    }
}

fn help(name: &str) -> &'static str {
    let known = HELP.iter().find(|(known, _)| *known == name);
    known.map_or("", |(_, help)| help)
}

fn braces(labels: &str) -> String {
    if labels.is_empty() {
        String::new()
    } else {
        format!("{{{labels}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let metrics = Metrics::default();
        metrics.count("meridian_joins_total", "outcome=\"granted\"");
        metrics.count("meridian_joins_total", "outcome=\"granted\"");
        metrics.count("meridian_joins_total", "outcome=\"full\"");
        metrics.took("meridian_join_seconds", Duration::from_millis(3));
        let text = metrics.render(&[("meridian_nodes", String::new(), 3.0)]);
        assert!(text.contains(
            "# HELP meridian_joins_total Joins, by what came of them.\n# TYPE meridian_joins_total counter\n\
             meridian_joins_total{outcome=\"full\"} 1\nmeridian_joins_total{outcome=\"granted\"} 2\n"
        ));
        assert!(
            text.contains(
                "meridian_join_seconds_bucket{le=\"0.0025\"} 0\nmeridian_join_seconds_bucket{le=\"0.005\"} 1\n"
            )
        );
        assert!(
            text.contains("meridian_join_seconds_count 1\n# HELP meridian_nodes Edges in the registry.\n# TYPE meridian_nodes gauge\nmeridian_nodes 3\n"),
            "{text}"
        );
    }
}
