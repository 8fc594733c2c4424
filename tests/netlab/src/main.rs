//! A relay as a process, for tests that are not in Rust: `meridian-netlab --target 127.0.0.1:7900 --delay-ms 75`. It prints
//! `listening on ADDRESS` and relays until it is stopped. A line `rate-kbps N` on its standard input makes it a bottleneck of
//! that rate each way, 0 none any more; it answers with the same line.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use meridian_netlab::{Impairment, Relay};

const USAGE: &str =
    "usage: meridian-netlab --target ADDRESS:PORT [--delay-ms ONE_WAY] [--jitter-ms MOST] [--loss SHARE] [--seed N]";

struct Options {
    target: SocketAddr,
    impairment: Impairment,
    seed: u64,
}

fn main() -> ExitCode {
    let Some(options) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let Options {
        target,
        impairment,
        seed,
    } = options;
    match Relay::start(target, impairment.clone(), impairment.clone(), seed) {
        Ok(relay) => {
            println!("listening on {}", relay.addr());
            obey(&relay, &impairment);
            loop {
                std::thread::park();
            }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Until the end of standard input.
fn obey(relay: &Relay, impairment: &Impairment) {
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let rate = line.strip_prefix("rate-kbps ").and_then(|rate| rate.parse().ok());
        let Some(kbps) = rate.filter(|kbps: &u64| *kbps <= 10_000_000) else {
            eprintln!("not understood: {line}");
            continue;
        };
        let narrow = Impairment {
            rate_bps: (kbps > 0).then_some(kbps * 1_000),
            ..impairment.clone()
        };
        relay.set(narrow.clone(), narrow);
        println!("{line}");
    }
}

/// The same impairment in both directions.
fn parse(mut words: impl Iterator<Item = String>) -> Option<Options> {
    let mut target = None;
    let mut impairment = Impairment::default();
    let mut seed = 1;
    while let Some(key) = words.next() {
        let value = words.next()?;
        match key.as_str() {
            "--target" => target = Some(value.parse().ok()?),
            "--delay-ms" => impairment.delay = Duration::from_millis(value.parse().ok()?),
            "--jitter-ms" => impairment.jitter = Duration::from_millis(value.parse().ok()?),
            "--loss" => impairment.loss = value.parse().ok().filter(|loss| (0.0..=1.0).contains(loss))?,
            "--seed" => seed = value.parse().ok()?,
            _ => return None,
        }
    }
    Some(Options {
        target: target?,
        impairment,
        seed,
    })
}
