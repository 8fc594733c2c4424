//! Counters and gauges in Prometheus' text format. Small on purpose: a control plane counts events of people, not packets.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the latency buckets, seconds.
const BUCKETS_S: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

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
                let _ = writeln!(out, "# TYPE {name} counter");
                last = name;
            }
            let _ = writeln!(out, "{name}{} {value}", braces(labels));
        }
        drop(counters);
        let latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, histogram) in latencies.iter() {
            let _ = writeln!(out, "# TYPE {name} histogram");
            for (count, bound) in histogram.buckets.iter().zip(BUCKETS_S) {
                let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {count}");
            }
            let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {}", histogram.count);
            let _ = writeln!(out, "{name}_sum {}\n{name}_count {}", histogram.sum_s, histogram.count);
        }
        let mut last = "";
        for (name, labels, value) in gauges {
            if *name != last {
                let _ = writeln!(out, "# TYPE {name} gauge");
                last = name;
            }
            let _ = writeln!(out, "{name}{} {value}", braces(labels));
        }
        out
    }
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
        metrics.count("joins_total", "outcome=\"granted\"");
        metrics.count("joins_total", "outcome=\"granted\"");
        metrics.count("joins_total", "outcome=\"full\"");
        metrics.took("join_seconds", Duration::from_millis(3));
        let text = metrics.render(&[("edges", String::new(), 3.0)]);
        assert!(text.contains(
            "# TYPE joins_total counter\njoins_total{outcome=\"full\"} 1\njoins_total{outcome=\"granted\"} 2\n"
        ));
        assert!(text.contains("join_seconds_bucket{le=\"0.0025\"} 0\njoin_seconds_bucket{le=\"0.005\"} 1\n"));
        assert!(
            text.contains("join_seconds_count 1\n# TYPE edges gauge\nedges 3\n"),
            "{text}"
        );
    }
}
