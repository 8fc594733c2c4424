//! `meridian pop`: the PoPs of a mesh, as its operators see and change them.

use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::operator::{Operator, Shown};
use crate::table::Table;

#[derive(Args)]
pub(crate) struct PopArgs {
    #[command(subcommand)]
    command: PopCommand,
}

#[derive(Subcommand)]
enum PopCommand {
    /// All PoPs: state, people, load, and how far drains are.
    List(ListArgs),
    /// One PoP.
    Show(ShowArgs),
    /// Sends nobody new there: no joins, no DNS answers, no alternates. Who is there stays, and the PoP stays so until `uncordon`.
    Cordon(ActArgs),
    /// Sends people there again.
    Uncordon(ActArgs),
    /// Moves everybody to other PoPs in small steps, without an interruption where the client allows it; nobody new comes. At the deadline
    /// whoever is left is sent away at once. The PoP stays empty until `undrain`.
    Drain(DrainArgs),
    /// Stops a drain: who is still there stays, and people are sent there again.
    Undrain(ActArgs),
}

#[derive(Args)]
struct ListArgs {
    #[command(flatten)]
    operator: Operator,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Args)]
struct ShowArgs {
    /// The PoP: fra-1.
    pop: String,
    #[command(flatten)]
    operator: Operator,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Args)]
struct ActArgs {
    /// The PoP: fra-1.
    pop: String,
    #[command(flatten)]
    operator: Operator,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct DrainArgs {
    /// The PoP: fra-1.
    pop: String,
    /// How long it may take: 90s, 10m, 2h.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    deadline: Duration,
    /// Also the last PoP of its region that takes people.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    operator: Operator,
    #[command(flatten)]
    shown: Shown,
}

pub(crate) async fn run(args: PopArgs) -> anyhow::Result<()> {
    match args.command {
        PopCommand::List(args) => args.operator.show("pops", args.shown, list, |_| false).await,
        PopCommand::Show(args) => {
            let path = format!("pops/{}", name(&args.pop)?);
            args.operator.show(&path, args.shown, one, |_| false).await
        }
        PopCommand::Cordon(args) => act(args, "cordon").await,
        PopCommand::Uncordon(args) => act(args, "uncordon").await,
        PopCommand::Undrain(args) => act(args, "undrain").await,
        PopCommand::Drain(args) => drain(args).await,
    }
}

/// A name is part of a URL's path.
fn name(pop: &str) -> anyhow::Result<&str> {
    let good = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    if pop.is_empty() || !pop.chars().all(good) {
        bail!("`{pop}` is no PoP's name: those have a-z, 0-9 and - only");
    }
    Ok(pop)
}

async fn act(args: ActArgs, action: &str) -> anyhow::Result<()> {
    let url = args.operator.url(&format!("pops/{}/{action}", name(&args.pop)?))?;
    let pop = args.operator.post(&url, &json!({})).await?;
    match args.json {
        true => println!("{pop:#}"),
        false => print!("{}", one(&pop)),
    }
    Ok(())
}

async fn drain(args: DrainArgs) -> anyhow::Result<()> {
    let path = format!("pops/{}", name(&args.pop)?);
    let body = json!({ "deadline_s": args.deadline.as_secs(), "force": args.force });
    let pop = args
        .operator
        .post(&args.operator.url(&format!("{path}/drain"))?, &body)
        .await?;
    if args.shown.watch {
        // Until it is empty, or somebody has called it off.
        let done = |pop: &Value| pop["drain"].is_null() || pop["participants"] == 0;
        return args.operator.show(&path, args.shown, one, done).await;
    }
    match args.shown.json {
        true => println!("{pop:#}"),
        false => print!("{}", one(&pop)),
    }
    Ok(())
}

/// `90s`, `10m`, `2h`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit_s) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3_600),
        _ => (text, 1),
    };
    let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_s));
    seconds
        .filter(|seconds| (1..=86_400).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| "a time from 1s to 24h, such as 90s, 10m or 2h".to_owned())
}

fn list(answer: &Value) -> String {
    let mut table = Table::new(&[
        "pop", "region", "state", "people", "coming", "load", "software", "drain",
    ]);
    for pop in answer["pops"].as_array().into_iter().flatten() {
        table.row(cells(pop));
    }
    table.to_string()
}

fn one(pop: &Value) -> String {
    let mut table = Table::new(&[
        "pop", "region", "state", "people", "coming", "load", "software", "drain",
    ]);
    table.row(cells(pop));
    table.to_string()
}

/// Whatever is missing in the answer of another version is left out.
fn cells(pop: &Value) -> Vec<String> {
    let text = |key: &str| pop[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| pop[key].as_u64().unwrap_or_default();
    let mut state = text("state");
    if pop["healthy"] == false {
        state.push_str(", not heard");
    } else if pop["settled"] == false {
        state.push_str(" …");
    }
    let drain = &pop["drain"];
    let progress = match (drain["people_left"].as_u64(), drain["people_at_start"].as_u64()) {
        (Some(0), _) => "done".to_owned(),
        (Some(left), Some(start)) => {
            let eta = drain["eta_s"].as_u64().unwrap_or_default();
            format!("{left} of {} left, {eta} s", start.max(left))
        }
        _ => String::new(),
    };
    let load = pop["load"].as_f64().unwrap_or_default() * 100.0;
    vec![
        text("id"),
        text("region"),
        state,
        format!("{}/{}", number("participants"), number("capacity")),
        number("coming").to_string(),
        format!("{load:.0} %"),
        text("software"),
        progress,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_units() {
        for (text, seconds) in [("30s", 30), ("10m", 600), ("2h", 7_200), ("45", 45)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "0s", "-1m", "25h", "1d", "99999999999999999999h", "m"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_drain_shows_how_far_it_is_and_an_answer_of_another_version_is_no_trouble() {
        let pop = json!({
            "id": "fra-1", "region": "fra", "state": "draining", "settled": true, "healthy": true, "participants": 30,
            "capacity": 2000, "load": 0.015, "drain": { "people_left": 30, "people_at_start": 40, "eta_s": 15 },
        });
        let shown = list(&json!({ "pops": [pop, {}] }));
        let lines: Vec<&str> = shown.lines().collect();
        assert!(
            lines[1].contains("draining") && lines[1].contains("30 of 40 left, 15 s"),
            "{shown}"
        );
        assert_eq!(lines.len(), 3);
        assert!(!shown.contains('\x1b'), "no colour where nobody looks");
    }

    #[test]
    fn a_name_cannot_leave_its_place_in_the_url() {
        assert!(name("fra-1").is_ok());
        for bad in ["", "../x", "fra/1", "fra%2f", "FRA"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
