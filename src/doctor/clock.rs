//! Whether this machine's clock is right, by the `Date` of what it talks to anyway: tokens, certificates and TURN credentials all end at a time.

use std::time::{Duration, SystemTime};

use super::report::Finding;

/// A second of `Date`'s own grain, and the way there and back.
const UNNOTICED: Duration = Duration::from_secs(3);
/// Tokens are accepted for so long beyond their time (`meridian-access`).
const LEEWAY: Duration = Duration::from_secs(60);

/// What another machine's clock showed when ours showed `here`.
pub(super) struct Reading {
    pub(super) whose: String,
    pub(super) there: SystemTime,
    pub(super) here: SystemTime,
}

impl Reading {
    /// From an HTTP answer's `Date`; `None` without a good one.
    pub(super) fn of(whose: &str, date: &str) -> Option<Reading> {
        Some(Reading {
            whose: whose.to_owned(),
            there: httpdate::parse_http_date(date).ok()?,
            here: SystemTime::now(),
        })
    }

    /// How far apart the clocks are, and whether ours is the later one.
    fn difference(&self) -> (Duration, bool) {
        match self.here.duration_since(self.there) {
            Ok(ahead) => (ahead, true),
            Err(error) => (error.duration(), false),
        }
    }
}

pub(super) fn finding(readings: &[Reading]) -> Finding {
    const CHECK: &str = "clock";
    let Some(worst) = readings.iter().max_by_key(|reading| reading.difference().0) else {
        return Finding::skipped(CHECK, "neither etcd nor the control plane told the time");
    };
    let (apart, ahead) = worst.difference();
    if apart <= UNNOTICED {
        return Finding::good(CHECK, format!("within {} s of {}", UNNOTICED.as_secs(), worst.whose));
    }
    let says = format!(
        "{} s {} {}",
        apart.as_secs(),
        if ahead { "ahead of" } else { "behind" },
        worst.whose
    );
    let remedy = "install chrony or switch systemd-timesyncd on (`timedatectl set-ntp true`), here and there";
    if apart < LEEWAY {
        return Finding::warning(CHECK, says, remedy);
    }
    Finding::problem(
        CHECK,
        format!("{says}: tokens and certificates are refused that are good"),
        remedy,
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    fn told(here_s: u64, there_s: u64) -> Finding {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        finding(&[Reading {
            whose: "etcd".to_owned(),
            there: at(there_s),
            here: at(here_s),
        }])
    }

    #[test]
    fn a_wrong_clock_is_told_with_its_direction() {
        assert_eq!(told(1_000, 1_001).verdict, Verdict::Good);
        assert_eq!(told(1_000, 1_020).verdict, Verdict::Warning);
        let ahead = told(1_090, 1_000);
        assert_eq!(ahead.verdict, Verdict::Problem);
        assert!(ahead.says.starts_with("90 s ahead of etcd: tokens"), "{}", ahead.says);
        assert!(told(1_000, 1_090).says.starts_with("90 s behind etcd"));
        assert_eq!(finding(&[]).verdict, Verdict::Skipped);
    }
}
