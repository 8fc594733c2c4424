//! `assign`: how many joins a second one core can place among 1,000 PoPs.
//!
//! One assignment is what the join path does for one client: look the address up in a (made-up) MMDB file, ask the table of learned
//! round trips, rank. While it runs, 1 % of the PoPs change their load every 10 ms. Every hundredth answer is compared, off the clock, with the
//! plain scorer's, which looks at every PoP; a difference, or a load that did not arrive, fails the run.
//!
//! Three rows: addresses from everywhere (the mark is for these); addresses with earlier sessions, of which one in twenty is not where the
//! database says; and addresses from everywhere while all PoPs are in a burst, when every PoP near the best has to be weighed.

mod database;

use anyhow::{Context, ensure};
use clap::Args;
use meridian_geo::{
    Assignment, Candidate, Candidates, Client, EXACT, GeoDatabase, LearnConfig, Learned, Location, Policy, Session,
    assign, predicted_rtt_ms, regions,
};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

const LOADS_EVERY: Duration = Duration::from_millis(10);
const SAMPLE: u64 = 100;
/// Assignments between two looks at the clock.
const STRIDE: u64 = 32;
const NOW_S: u32 = 1_800_000_000;
/// What the design asks for.
const MARK_PER_S: f64 = 200_000.0;

#[derive(Args)]
pub(crate) struct Options {
    /// PoPs, each a region of its own.
    #[arg(long, default_value_t = 1_000)]
    pops: usize,
    /// How long each row runs.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Prefixes with earlier sessions.
    #[arg(long, default_value_t = 20_000)]
    learned: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(
        options.pops > 0 && options.seconds > 0,
        "--pops and --seconds must be 1 or more"
    );
    let mut bench = Bench::new(options)?;
    println!(
        "{} PoPs, {} learned rows, 1 % of the loads changing every {} ms, one thread",
        options.pops,
        bench.learned.len(),
        LOADS_EVERY.as_millis()
    );
    println!(
        "{:<10} {:>14} {:>14} {:>9} {:>12} {:>10}",
        "row", "per second", "per CPU second", "sampled", "disagreeing", "loads set"
    );
    let length = Duration::from_secs(options.seconds);
    let uniform = bench.row("uniform", length, Bench::anybody)?;
    let learned = bench.row("learned", length, Bench::somebody_known)?;
    bench.crowd();
    let burst = bench.row("burst", length, Bench::anybody)?;
    let json = serde_json::json!({
        "bench": "assign",
        "assignments_per_s": uniform.per_s.round(),
        "assignments_per_cpu_s": uniform.per_cpu_s.round(),
        "learned_assignments_per_s": learned.per_s.round(),
        "burst_assignments_per_s": burst.per_s.round(),
        "pops": options.pops,
        "sampled": uniform.sampled + learned.sampled + burst.sampled,
        "disagreements": uniform.disagreements + learned.disagreements + burst.disagreements,
        "loads_set": uniform.loads_set + learned.loads_set + burst.loads_set,
    });
    for row in [&uniform, &learned, &burst] {
        ensure!(
            row.disagreements == 0,
            "{} sampled answers differ from the plain scorer's",
            row.disagreements
        );
        ensure!(row.sampled > 0, "nothing was sampled");
        ensure!(
            row.loads_set >= row.loads_due * 9 / 10,
            "only {} of {} changes of load were made",
            row.loads_set,
            row.loads_due
        );
    }
    ensure!(bench.loads_stand(), "a load that was set is not in the candidates");
    if uniform.per_s < MARK_PER_S {
        println!("below the mark of {MARK_PER_S} a second");
    }
    println!("{json}");
    Ok(())
}

struct Bench {
    rng: SmallRng,
    candidates: Candidates,
    /// What every PoP's load was last set to.
    loads: Vec<u32>,
    policy: Policy,
    geo: GeoDatabase,
    learned: Learned,
    known: Vec<u32>,
}

struct Row {
    per_s: f64,
    per_cpu_s: f64,
    sampled: u64,
    disagreements: u64,
    loads_set: u64,
    loads_due: u64,
}

impl Bench {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let mut rng = SmallRng::seed_from_u64(options.seed);
        let policy = Policy::default();
        let list: Vec<Candidate> = (0..options.pops).map(|n| pop(n, &mut rng)).collect();
        let loads = list.iter().map(|one| one.participants).collect();
        let geo = database::made_up(&mut rng)?;
        let config = LearnConfig {
            rows_max: options.learned.max(16) * 3,
            ..LearnConfig::default()
        };
        let mut bench = Bench {
            candidates: Candidates::new(list, &policy),
            loads,
            policy,
            geo,
            learned: Learned::new(&config),
            known: Vec::new(),
            rng,
        };
        for _ in 0..options.learned {
            bench.learn();
        }
        ensure!(!bench.known.is_empty() || options.learned == 0, "nothing was learned");
        Ok(bench)
    }

    /// Two sessions of one prefix; every twentieth is not where the database says.
    fn learn(&mut self) {
        let address = self.anybody();
        let Some(here) = self.geo.lookup(address.into()).and_then(|place| place.location) else {
            return;
        };
        let truth = if self.rng.random_bool(0.05) {
            anywhere(&mut self.rng)
        } else {
            here
        };
        let client = self.client(address);
        let nearest = self.candidates.assign(&client, &[]);
        for ranked in nearest.ranked.iter().take(2) {
            let edge = &self.candidates.list()[ranked.index];
            let Some(there) = edge.location else { continue };
            let session = Session {
                address: address.into(),
                source: address.into(),
                asn: None,
                region: &edge.region,
                rtt_ms: predicted_rtt_ms(truth, there) * self.rng.random_range(0.9..1.3),
                expected_ms: Some(predicted_rtt_ms(here, there)),
            };
            self.learned.record(&session, NOW_S);
        }
        self.known.push(address.into());
    }

    fn anybody(&mut self) -> Ipv4Addr {
        Ipv4Addr::from(self.rng.random::<u32>())
    }

    fn somebody_known(&mut self) -> Ipv4Addr {
        let nth = self.rng.random_range(0..self.known.len());
        Ipv4Addr::from(self.known[nth])
    }

    fn client(&mut self, address: Ipv4Addr) -> Client {
        let address = IpAddr::from(address);
        Client {
            location: self.geo.lookup(address).and_then(|place| place.location),
            measured: self.learned.measured(address, None, None, NOW_S),
            draw: Some(self.rng.random()),
            ..Client::default()
        }
    }

    fn row(&mut self, name: &str, length: Duration, address: fn(&mut Self) -> Ipv4Addr) -> anyhow::Result<Row> {
        let (mut done, mut sampled, mut disagreements, mut loads_set) = (0u64, 0, 0, 0);
        let (mut off_clock, mut off_cpu) = (Duration::ZERO, Duration::ZERO);
        let (started, started_cpu) = (Instant::now(), cpu()?);
        let mut next_loads = LOADS_EVERY;
        loop {
            if done.is_multiple_of(STRIDE) {
                let elapsed = started.elapsed().saturating_sub(off_clock);
                if elapsed >= length {
                    break;
                }
                while next_loads <= elapsed {
                    next_loads += LOADS_EVERY;
                    loads_set += self.change_loads();
                }
            }
            let address = address(self);
            let client = self.client(address);
            let answer = self.candidates.assign(&client, &[]);
            done += 1;
            if done.is_multiple_of(SAMPLE) {
                let (pause, pause_cpu) = (Instant::now(), cpu()?);
                sampled += 1;
                disagreements += u64::from(!self.agrees(&client, &answer));
                off_clock += pause.elapsed();
                off_cpu += cpu()?.saturating_sub(pause_cpu);
            }
            std::hint::black_box(answer);
        }
        let elapsed = started.elapsed().saturating_sub(off_clock);
        let on_cpu = cpu()?.saturating_sub(started_cpu).saturating_sub(off_cpu);
        let row = Row {
            per_s: done as f64 / elapsed.as_secs_f64(),
            per_cpu_s: done as f64 / on_cpu.as_secs_f64(),
            sampled,
            disagreements,
            loads_set,
            loads_due: (elapsed.as_millis() / LOADS_EVERY.as_millis()) as u64 * self.changed_at_once() as u64,
        };
        println!(
            "{name:<10} {:>14.0} {:>14.0} {:>9} {:>12} {:>10}",
            row.per_s, row.per_cpu_s, row.sampled, row.disagreements, row.loads_set
        );
        Ok(row)
    }

    /// From now on every PoP has had so many joins lately that they are spread.
    fn crowd(&mut self) {
        for at in 0..self.loads.len() {
            let lately = self.rng.random_range(0..200);
            self.candidates.update(at, |one| one.lately = lately);
        }
    }

    fn agrees(&self, client: &Client, answer: &Assignment) -> bool {
        let plain = assign(client, self.candidates.list(), &self.policy);
        let first = EXACT.min(plain.ranked.len());
        plain.choice == answer.choice && plain.ranked[..first] == answer.ranked[..first.min(answer.ranked.len())]
    }

    fn changed_at_once(&self) -> usize {
        self.loads.len().div_ceil(100)
    }

    fn change_loads(&mut self) -> u64 {
        for _ in 0..self.changed_at_once() {
            let at = self.rng.random_range(0..self.loads.len());
            let people = self.rng.random_range(0..1_050);
            self.loads[at] = people;
            self.candidates.update(at, |one| one.participants = people);
        }
        self.changed_at_once() as u64
    }

    fn loads_stand(&self) -> bool {
        let held = self.candidates.list().iter().map(|one| one.participants);
        held.eq(self.loads.iter().copied())
    }
}

/// A PoP near one of the known cities: people live there, and PoPs stand there.
fn pop(n: usize, rng: &mut SmallRng) -> Candidate {
    let city = &regions::REGIONS[n % regions::REGIONS.len()];
    let near = |at: f64, rng: &mut SmallRng| at + rng.random_range(-3.0..3.0);
    Candidate {
        id: format!("pop-{n:04}"),
        region: format!("{}-{n}", city.name),
        location: Location::new(near(city.location.lat, rng), near(city.location.lon, rng)).or(Some(city.location)),
        healthy: true,
        accepting: true,
        capacity: 1_000,
        participants: rng.random_range(0..1_050),
        ..Candidate::default()
    }
}

/// Near a known city, more or less.
fn anywhere(rng: &mut SmallRng) -> Location {
    let city = regions::REGIONS[rng.random_range(0..regions::REGIONS.len())].location;
    let off = |at: f64, rng: &mut SmallRng| at + rng.random_range(-8.0..8.0);
    Location::new(off(city.lat, rng), off(city.lon, rng)).unwrap_or(city)
}

/// What this thread has spent on a CPU.
fn cpu() -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").context("/proc/thread-self/schedstat")?;
    let first = text.split(' ').next().and_then(|text| text.parse().ok());
    first.map(Duration::from_nanos).context("/proc/thread-self/schedstat")
}
