//! `./run sim --seed N`: hours of a mesh on this planet in virtual time. The report is the same to the byte for the same arguments; what
//! this machine took goes to standard output only.
#![forbid(unsafe_code)]

mod day;
mod report;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use day::{Day, Plan};

const USAGE: &str = "usage: ./run sim [--seed N] [--pops N] [--people N] [--minutes N] [--report FOLDER]

  --seed N         what decides everything (default 1)
  --pops N         edges, spread over the cities that Meridian knows (default 100)
  --people N       people who come to meetings again and again (default 1000)
  --minutes N      of virtual time (default 60)
  --report FOLDER  writes report.md and its plots there (default .work/sim)";

fn main() {
    match arguments() {
        Ok((plan, folder)) => run(plan, &folder),
        Err(problem) => {
            println!("{problem}\n\n{USAGE}");
            std::process::exit(2);
        }
    }
}

fn arguments() -> Result<(Plan, PathBuf), String> {
    let mut plan = Plan::default();
    let mut folder = PathBuf::from(".work/sim");
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--help" {
            return Err(String::new());
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{word} needs a number, not {value:?}"))
        };
        match word.as_str() {
            "--seed" => plan.seed = number()?,
            "--pops" => plan.pops = number()?.clamp(2, 2_000) as usize,
            "--people" => plan.people = number()?.clamp(2, 100_000) as usize,
            "--minutes" => plan.minutes = number()?.clamp(1, 1_440),
            "--report" => folder = PathBuf::from(value),
            _ => return Err(format!("{word} is not known")),
        }
    }
    Ok((plan, folder))
}

fn run(plan: Plan, folder: &std::path::Path) {
    let began = cpu_s();
    let minutes = plan.minutes;
    let mut day = Day::new(plan);
    let mut out = std::io::stdout();
    for minute in 0..minutes {
        day.minute(minute);
        let done = ((minute + 1) * 40 / minutes) as usize;
        let spent = cpu_s() - began;
        let _ = write!(
            out,
            "\r[{}{}] {} of {minutes} min, {spent:.0} CPU s, {} in meetings ",
            "#".repeat(done),
            ".".repeat(40 - done),
            minute + 1,
            day.present(),
        );
        let _ = out.flush();
    }
    println!();
    let found = day.finish();
    let spent = cpu_s() - began;
    match report::write(folder, &found) {
        Ok(()) => println!("{}", folder.join("report.md").display()),
        Err(error) => println!("{}: {error}", folder.display()),
    }
    let hours = (Duration::from_secs(60 * minutes).as_secs_f64()) / 3_600.0;
    println!(
        "{hours:.2} h in {spent:.1} CPU s: {:.4} h simulated per CPU second; {} events",
        hours / spent.max(0.01),
        found.happenings
    );
}

/// Of this process, in seconds; 0 where the system does not tell.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after.split_whitespace().skip(11).take(2);
    ticks.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}
