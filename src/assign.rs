//! `meridian assign explain`: asks a running control plane where it would send somebody, and why.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::operator::Operator;

/// Left-out edges that are printed one by one.
const EXCLUDED_SHOWN: usize = 20;

#[derive(Args)]
pub(crate) struct AssignArgs {
    #[command(subcommand)]
    command: AssignCommand,
}

#[derive(Subcommand)]
enum AssignCommand {
    /// Prints where somebody at an address would be sent now, with the whole reckoning. Sends nobody anywhere.
    Explain(ExplainArgs),
}

#[derive(Args)]
struct ExplainArgs {
    /// The client's IP address.
    address: IpAddr,
    /// A meeting's code: who is there already, and where it may be held, count.
    #[arg(long, value_name = "CODE")]
    meeting: Option<String>,
    /// A region that stands in for the client's place: fra.
    #[arg(long, value_name = "REGION")]
    from: Option<String>,
    #[command(flatten)]
    operator: Operator,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: AssignArgs) -> anyhow::Result<()> {
    let AssignCommand::Explain(args) = args.command;
    let mut url = args.operator.url("assign")?;
    url.query_pairs_mut()
        .append_pair("address", &args.address.to_string())
        .append_pair("meeting", args.meeting.as_deref().unwrap_or_default())
        .append_pair("from", args.from.as_deref().unwrap_or_default());
    let answer = args.operator.get(&url).await?;
    if args.json {
        println!("{answer:#}");
    } else {
        print(&answer);
    }
    Ok(())
}

/// For people. Whatever is missing in the answer of another version is left out.
fn print(answer: &Value) {
    print_client(answer);
    print_learned(answer);
    let rules = |key: &str| {
        let rules = answer["residency"][key].as_array().into_iter().flatten();
        rules.filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    };
    for (key, whose) in [("policy", "the operator's"), ("meeting", "the meeting's")] {
        if !rules(key).is_empty() {
            println!("residency   {} ({whose} rule)", rules(key));
        }
    }
    let ranked: Vec<&Value> = answer["ranked"].as_array().into_iter().flatten().collect();
    if ranked.is_empty() {
        println!("\nThere is no edge for this client now.");
    } else {
        println!(
            "\n{:<4}{:<18}{:<10}{:>9}{:>9}  {:<22}{:>7}{:>8}{:>8}{:>8}",
            "", "edge", "region", "score", "rtt", "from", "load", "penalty", "room", "weight"
        );
    }
    for (rank, edge) in ranked.iter().enumerate() {
        print_edge(rank + 1, edge);
    }
    match answer["choice"].as_str() {
        Some("spread") => println!(
            "\nMany are joining at once: the first has the most free capacity of those about as near as the best."
        ),
        Some("known") => println!("\nThe first was measured; an edge that was not promises little more."),
        _ => {}
    }
    let excluded: Vec<&Value> = answer["excluded"].as_array().into_iter().flatten().collect();
    if !excluded.is_empty() {
        println!("\nLeft out:");
    }
    for one in excluded.iter().take(EXCLUDED_SHOWN) {
        println!("    {}", one["text"].as_str().unwrap_or_default());
    }
    if excluded.len() > EXCLUDED_SHOWN {
        println!("    and {} more (--json names them)", excluded.len() - EXCLUDED_SHOWN);
    }
}

fn print_client(answer: &Value) {
    let client = &answer["client"];
    println!("address     {}", answer["address"].as_str().unwrap_or_default());
    let database = &client["database"];
    let words: Vec<&str> = ["city", "country"]
        .iter()
        .filter_map(|key| database[key].as_str())
        .collect();
    match database["location"]["lat"]
        .as_f64()
        .zip(database["location"]["lon"].as_f64())
    {
        Some((lat, lon)) => println!("database    {} {lat:.2}, {lon:.2}", words.join(", ")),
        None => println!("database    does not know the place"),
    }
    if let Some(asn) = client["asn"].as_u64() {
        println!("system      AS{asn}");
    }
    let near = client["near"].as_str().unwrap_or("nowhere known");
    let place = match client["source"].as_str() {
        Some("inferred") => {
            let likely = client["likelihood"].as_f64().unwrap_or_default() * 100.0;
            format!("near {near}, inferred from earlier sessions ({likely:.0} % likely)")
        }
        Some("database") => format!("near {near}"),
        Some("told") => format!("near {near}, as told"),
        _ => "unknown: distance plays no part".to_owned(),
    };
    println!("taken to be {place}");
    let access_ms = client["access_ms"].as_f64().unwrap_or_default();
    if access_ms.abs() >= 0.5 {
        println!("access      {access_ms:+.0} ms over what distance suggests");
    }
    if let Some(code) = answer["meeting"].as_str() {
        println!("meeting     {code}");
    }
}

fn print_learned(answer: &Value) {
    for region in answer["learned"].as_array().into_iter().flatten() {
        let of = [
            ("prefix", "its prefix"),
            ("wide", "its wider prefix"),
            ("asn", "its system"),
        ];
        let stat = |(key, whose): &(&str, &str)| {
            let (median, sessions) = (region[key]["median_ms"].as_f64()?, region[key]["sessions"].as_u64()?);
            Some(format!("{median:.0} ms in {sessions} sessions of {whose}"))
        };
        let stats: Vec<String> = of.iter().filter_map(stat).collect();
        println!(
            "measured    {}: {}",
            region["region"].as_str().unwrap_or_default(),
            stats.join("; ")
        );
    }
}

fn print_edge(rank: usize, edge: &Value) {
    let text = |key: &str| edge[key].as_str().unwrap_or_default();
    let number = |key: &str| edge[key].as_f64().unwrap_or_default();
    let source = match edge["sessions"].as_u64() {
        Some(sessions) if text("source") == "learned" => format!("learned, {sessions} sessions"),
        _ => text("source").to_owned(),
    };
    println!(
        "{rank:<4}{:<18}{:<10}{:>6.1} ms{:>6.1} ms  {source:<22}{:>5.0} %{:>+8.1}{:>+8.1}{:>+8.1}",
        text("edge"),
        text("region"),
        number("score_ms"),
        number("rtt_ms"),
        number("load") * 100.0,
        number("load_penalty_ms"),
        0.0 - number("room_bonus_ms"),
        number("weight_ms"),
    );
}
