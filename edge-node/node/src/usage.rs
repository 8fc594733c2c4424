//! What a load report says of this process: how busy it is, and what it sends.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use meridian_shard::Shards;

/// Processor time is counted in ticks of 10 ms: over a shorter interval it would be little more than chance.
const SHORTEST: Duration = Duration::from_millis(200);

/// Turns counters that only grow into rates, each over the interval since the last.
pub(crate) struct UsageMeter(Mutex<(Sample, Rates)>);

#[derive(Clone, Copy, Default)]
pub(crate) struct Rates {
    /// Share of all cores, 0..1.
    pub(crate) cpu: f32,
    pub(crate) tx_mbps: f32,
    pub(crate) rx_mbps: f32,
    pub(crate) tx_packets_per_s: u64,
}

struct Sample {
    at: Instant,
    cpu_s: f64,
    bytes_out: u64,
    bytes_in: u64,
    packets_out: u64,
}

impl UsageMeter {
    pub(crate) fn new() -> UsageMeter {
        let nothing_yet = Sample {
            at: Instant::now(),
            cpu_s: process_cpu_s(),
            bytes_out: 0,
            bytes_in: 0,
            packets_out: 0,
        };
        UsageMeter(Mutex::new((nothing_yet, Rates::default())))
    }

    /// Since the last call; asked again within 200 ms: as before.
    pub(crate) fn sample(&self, shards: &Shards) -> Rates {
        let metrics = shards.metrics();
        let now = Sample {
            at: Instant::now(),
            cpu_s: process_cpu_s(),
            bytes_out: metrics.bytes_out,
            bytes_in: metrics.bytes_in,
            packets_out: metrics.packets_out,
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.at.duration_since(known.0.at) >= SHORTEST {
            let rates = now.rates_since(&known.0);
            *known = (now, rates);
        }
        known.1
    }
}

impl Sample {
    fn rates_since(&self, before: &Sample) -> Rates {
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let mbps = |now: u64, before: u64| (now.saturating_sub(before) as f64 * 8.0 / seconds / 1e6) as f32;
        Rates {
            cpu: ((self.cpu_s - before.cpu_s) / seconds / cores).clamp(0.0, 1.0) as f32,
            tx_mbps: mbps(self.bytes_out, before.bytes_out),
            rx_mbps: mbps(self.bytes_in, before.bytes_in),
            tx_packets_per_s: (self.packets_out.saturating_sub(before.packets_out) as f64 / seconds) as u64,
        }
    }
}

/// User and system time of this process in seconds, from `/proc/self/stat` (fields 14 and 15, in ticks of 10 ms).
fn process_cpu_s() -> f64 {
    const TICKS_PER_S: f64 = 100.0;
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else {
        return 0.0;
    };
    // The second field is the program's name in parentheses and may hold spaces.
    let Some((_, fields)) = stat.rsplit_once(')') else {
        return 0.0;
    };
    let ticks = |index: usize| {
        fields
            .split_whitespace()
            .nth(index)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / TICKS_PER_S
}
