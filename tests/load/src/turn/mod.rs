//! The same load through our TURN server and through coturn, in turns, and what each spends on a relayed packet.
//!
//! Three processes, so that the CPU time of each means one thing: this one makes the load and judges; coturn and `meridian turn`, the
//! programs as they are installed, stand beside each other with one relay thread each, and only one of them has work at a time.
//!
//! - `place` gives everybody an address and a core;
//! - `server` starts, describes and measures the two processes;
//! - `client` gets allocations and channels from either, as any TURN client would;
//! - `traffic` sends and counts: every packet sent must arrive, at the right socket, from the right address.

mod client;
mod place;
mod server;
mod traffic;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};

use place::Cores;
use server::Process;
use traffic::{Direction, Load, Paced, Round, Site};

/// Loss above this share means that the load was not carried, and the numbers mean nothing.
const LOSS_MAX: f64 = 0.001;
/// A turn with losses is repeated; the last of so many counts.
const ATTEMPTS: u32 = 6;
/// 100 allocations then carry 80,000 packets a second: see `describe`.
const BURST_INTERVAL_MS: f64 = 10.0;
/// Of the load that was to be made, so much must have been made.
const REACHED_MIN: f64 = 0.95;

#[derive(Args)]
pub(crate) struct Options {
    /// Allocations, each with a client and a peer of its own. An even number up to 200.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(2..=200))]
    allocations: u8,
    /// Seconds measured per row and server.
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
    /// Turns the two servers take at each row.
    #[arg(long, default_value_t = 8)]
    rounds: u32,
    #[arg(long, value_delimiter = ',', default_value = "burst,audio")]
    loads: Vec<Load>,
    #[arg(long, value_delimiter = ',', default_value = "up,down,pair")]
    directions: Vec<Direction>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Receivers take every datagram by itself instead of coalesced ones (UDP_GRO). On loopback the kernel charges the
    /// sending server with splitting and queueing them.
    #[arg(long)]
    plain_receivers: bool,
    /// Leave coturn without work, and so without figures: for a profiler.
    #[arg(long)]
    only_ours: bool,
    /// How long our server lets packets gather, in microseconds (turn.gather_us); its default if not given.
    #[arg(long)]
    gather_us: Option<u64>,
    /// Milliseconds from one burst of a sender to its next.
    #[arg(long, default_value_t = BURST_INTERVAL_MS)]
    burst_interval_ms: f64,
    /// Let the scheduler place the load and both servers, instead of giving the servers a core and the load another.
    #[arg(long)]
    unpinned: bool,
    /// Our program; the `meridian` beside this one if not given.
    #[arg(long, value_name = "FILE")]
    meridian: Option<PathBuf>,
}

impl Options {
    fn paced(&self, load: Load) -> Paced {
        load.paced(Duration::from_secs_f64(self.burst_interval_ms.clamp(0.1, 1e3) / 1e3))
    }
}

/// Everything measured of one server in one row.
#[derive(Default)]
struct Sums {
    cpu: Duration,
    round: Round,
}

impl Sums {
    fn ns_per_packet(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.round.received.max(1) as f64
    }

    fn loss(&self) -> f64 {
        1.0 - self.round.received as f64 / self.round.sent.max(1) as f64
    }

    fn pps(&self) -> f64 {
        self.round.received as f64 / self.round.seconds
    }

    /// Why its figures do not count.
    fn objection(&self, planned_pps: f64) -> Option<String> {
        let (loss, reached) = (self.loss(), self.round.sent as f64 / self.round.seconds / planned_pps);
        if loss >= LOSS_MAX {
            Some(format!("lost {:.3} %", loss * 100.0))
        } else if self.round.wrong > 0 {
            Some(format!("{} packets came wrong or twice", self.round.wrong))
        } else if reached < REACHED_MIN {
            Some(format!("only {:.0} % of the load was made", reached * 100.0))
        } else {
            None
        }
    }
}

/// A server and its clients.
struct Candidate {
    process: Process,
    site: Site,
    kib_per_allocation: f64,
}

impl Candidate {
    fn prepare(process: Process, options: &Options) -> anyhow::Result<Candidate> {
        let mut site = Site::new(
            process.address,
            usize::from(options.allocations),
            !options.plain_receivers,
        )?;
        // One allocation first: what a server sets up once is not the price of an allocation.
        site.allocate(0)?;
        let before = process.resident_bytes()?;
        for index in 1..usize::from(options.allocations) {
            site.allocate(index)?;
        }
        site.bind_channels()?;
        let grown = process.resident_bytes()?.saturating_sub(before);
        let kib_per_allocation = grown as f64 / 1024.0 / f64::from(options.allocations - 1);
        Ok(Candidate {
            process,
            site,
            kib_per_allocation,
        })
    }

    /// One turn. If something was lost, which a busy machine can do to anybody, it is taken again, a few times, and
    /// said.
    fn measure(&mut self, paced: Paced, direction: Direction, seconds: f64, sums: &mut Sums) -> anyhow::Result<()> {
        for attempt in 1..=ATTEMPTS {
            self.site.run(paced, direction, 0.2)?;
            let before = self.process.cpu_time()?;
            let round = self.site.run(paced, direction, seconds)?;
            let cpu = self.process.cpu_time()? - before;
            if round.is_whole() || attempt == ATTEMPTS {
                sums.cpu += cpu;
                sums.round.add(&round);
                break;
            }
            println!(
                "a turn of {} {direction} at {} lost packets and is taken again",
                paced.load, self.process.name
            );
        }
        Ok(())
    }
}

/// Runs every row and prints the table.
///
/// # Errors
/// When coturn is missing, or a row's load was not carried by both.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if options.allocations % 2 == 1 {
        bail!("--allocations must be even: in direction pair they come in pairs");
    }
    let cores = Cores::find(options.unpinned);
    let coturn = Process::coturn(cores)?;
    let ours = Process::ours(cores, options.meridian.clone(), options.gather_us)?;
    cores.take_ours()?;
    describe(options, cores, &coturn, &ours);
    let mut candidates = [Candidate::prepare(ours, options)?, Candidate::prepare(coturn, options)?];
    println!(
        "{:>6} {:>6} {:>8} {:>8} {:>10} {:>10} {:>9} {:>9} {:>9} {:>10} {:>10}",
        "load", "dir", "pps", "packets", "ns/pkt", "coturn", "vs coturn", "loss", "coturn's", "KiB/alloc", "coturn's"
    );
    let (mut rows, mut objections) = (Vec::new(), Vec::new());
    for &load in &options.loads {
        for &direction in &options.directions {
            let row = run_row(options, load, direction, &mut candidates, &mut objections)?;
            print_row(&row);
            rows.push(row);
        }
    }
    for objection in &objections {
        eprintln!("the load was not carried: {objection}");
    }
    println!("{}", json!({ "bench": "turn", "rows": rows }));
    if !objections.is_empty() {
        bail!("a row's load was not carried");
    }
    Ok(())
}

fn run_row(
    options: &Options,
    load: Load,
    direction: Direction,
    candidates: &mut [Candidate; 2],
    objections: &mut Vec<String>,
) -> anyhow::Result<Value> {
    let mut sums = [Sums::default(), Sums::default()];
    for round in 0..options.rounds {
        candidates
            .iter_mut()
            .for_each(|c| c.site.seed(options.seed + u64::from(round)));
        for (candidate, sums) in candidates.iter_mut().zip(&mut sums) {
            if options.only_ours && !candidate.process.is_ours {
                continue;
            }
            let seconds = options.seconds / f64::from(options.rounds);
            candidate.measure(options.paced(load), direction, seconds, sums)?;
        }
    }
    let planned = options.paced(load).packets_per_second(usize::from(options.allocations));
    for (candidate, sums) in candidates.iter().zip(&sums) {
        if let Some(reason) = sums.objection(planned) {
            objections.push(format!("{} {load} {direction}: {reason}", candidate.process.name));
        }
    }
    let [ours, coturn] = &sums;
    let round3 = |x: f64| (x * 1_000.0).round() / 1_000.0;
    Ok(json!({
        "load": load.to_string(),
        "proto": "udp",
        "mode": "channel",
        "dir": direction.to_string(),
        "ns_per_packet": ours.ns_per_packet().round(),
        "coturn_ns_per_packet": coturn.ns_per_packet().round(),
        "vs_coturn": round3(coturn.ns_per_packet() / ours.ns_per_packet()),
        "loss": ours.loss(),
        "coturn_loss": coturn.loss(),
        "pps": ours.pps().round(),
        "coturn_pps": coturn.pps().round(),
        "packets": ours.round.received,
        "kib_per_allocation": round3(candidates[0].kib_per_allocation),
        "coturn_kib_per_allocation": round3(candidates[1].kib_per_allocation),
    }))
}

fn describe(options: &Options, cores: Cores, coturn: &Process, ours: &Process) {
    let n = usize::from(options.allocations);
    println!(
        "turn: {n} allocations at each server, over UDP, ChannelData; loads (seed {}):",
        options.seed
    );
    for &load in &options.loads {
        println!("  {load}: {}", options.paced(load).describe(n));
    }
    println!(
        "  100 allocations with bursts every {BURST_INTERVAL_MS} ms, the default, send 80,000 packets/s: one thread of coturn is then two \
         fifths busy (seven tenths in direction pair); at 100,000 it loses packets whenever the machine is shared. What a packet costs \
         matters where packets are many: with --burst-interval-ms 20, at 40,000 packets/s, both mostly sleep, and waking up takes more of \
         what either spends"
    );
    println!(
        "  up: client to peer; down: peer to client; pair: client to client through both their relayed addresses. Every \
         client and peer has a loopback address of its own; datagrams are sent one by one, without segmentation offload; \
         receivers {}",
        if options.plain_receivers {
            "take every datagram by itself"
        } else {
            "take coalesced datagrams (UDP_GRO) where a server sends such"
        },
    );
    println!(
        "{}; measured: CPU time (user and system) of the whole server process per delivered packet; {} turns of {:.2} s per row \
         and server",
        cores.describe(),
        options.rounds,
        options.seconds / f64::from(options.rounds)
    );
    for process in [coturn, ours] {
        println!("{} (pid {}): {}", process.name, process.pid(), process.description);
    }
}

fn print_row(row: &Value) {
    let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    println!(
        "{:>6} {:>6} {:>8.0} {:>8.0} {:>10.0} {:>10.0} {:>9.2} {:>8.3}% {:>8.3}% {:>10.1} {:>10.1}",
        row["load"].as_str().unwrap_or_default(),
        row["dir"].as_str().unwrap_or_default(),
        number("pps"),
        number("packets"),
        number("ns_per_packet"),
        number("coturn_ns_per_packet"),
        number("vs_coturn"),
        number("loss") * 100.0,
        number("coturn_loss") * 100.0,
        number("kib_per_allocation"),
        number("coturn_kib_per_allocation"),
    );
}
