//! What the process has spent so far: for benchmarks that compare the cost of packets, which this crate's calls dominate.

use std::time::Duration;

/// User and system CPU time of the whole process, all threads (getrusage(2), RUSAGE_SELF).
pub fn process_cpu_time() -> Duration {
    // SAFETY: `rusage` is plain data; the call only writes into the local it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let time = |t: libc::timeval| Duration::new(t.tv_sec.max(0) as u64, t.tv_usec.max(0) as u32 * 1_000);
    time(usage.ru_utime) + time(usage.ru_stime)
}

#[cfg(test)]
mod tests {
    #[test]
    fn work_shows_in_the_cpu_time() {
        let before = super::process_cpu_time();
        let start = std::time::Instant::now();
        while start.elapsed().as_millis() < 30 {
            std::hint::spin_loop();
        }
        assert!(super::process_cpu_time() > before);
    }
}
