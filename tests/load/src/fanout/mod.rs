//! One publisher, N viewers. Three processes per row, so that the CPU time of each means one thing:
//!
//! - `fanout` prints and judges;
//! - `fanout-row` is the SFU: real shards, real DTLS joins, nothing else but the floor measured beside it;
//! - `fanout-clients` is the publisher and all viewers, each with its own loopback address, counting every packet and
//!   decrypting and comparing one in a hundred. They send no feedback: after three seconds they are served without an estimate.

mod clients;
mod floor;
mod media;
mod row;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};

pub(crate) use clients::run_clients;
pub(crate) use row::run_row;

/// Loss above this share means that the load was not carried, and the numbers mean nothing.
const LOSS_MAX: f64 = 0.001;

#[derive(Args)]
pub(crate) struct Options {
    /// Numbers of viewers, one row each.
    #[arg(long, value_delimiter = ',', default_value = "50,500,2000,5000")]
    viewers: Vec<usize>,
    /// Seconds of media measured per row, without warming up.
    #[arg(long, default_value_t = 6)]
    seconds: u32,
    /// Media threads; the publisher and all viewers are on the first if 1, else spread.
    #[arg(long, default_value_t = 1)]
    shards: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
pub(crate) struct RowOptions {
    #[arg(long)]
    viewers: usize,
    #[arg(long)]
    seconds: u32,
    #[arg(long)]
    shards: usize,
    #[arg(long)]
    seed: u64,
}

#[derive(Args)]
pub(crate) struct ClientOptions {
    #[arg(long)]
    viewers: usize,
    #[arg(long)]
    seed: u64,
    /// Addresses of the shards' sockets; client `i` uses the one at `i` modulo their number.
    #[arg(long, value_delimiter = ',')]
    servers: Vec<std::net::SocketAddr>,
    /// The server's certificate fingerprint.
    #[arg(long)]
    fingerprint: String,
}

/// Runs every row and prints the table.
///
/// # Errors
/// When a row did not carry its load.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    println!(
        "fanout: one publisher, {} frames/s of {} packets of about {} bytes (seed {}), {} media thread(s); viewers joined \
         by ICE and DTLS, each at its own loopback address; 1 % of the output decrypted and compared",
        media::FRAMES_PER_SECOND,
        media::PACKETS_PER_FRAME,
        media::PACKET_BYTES,
        options.seed,
        options.shards,
    );
    println!(
        "floor: the same segments encrypted and sent without an SFU, at the same pace; hot floor: without pauses. Where \
         receivers and SFU together cannot keep real time on this machine, the publisher runs at the fraction in `pace`"
    );
    println!(
        "{:>7} {:>5} {:>9} {:>9} {:>8} {:>8} {:>6} {:>9} {:>8} {:>8} {:>10} {:>8} {:>8}",
        "viewers",
        "pace",
        "pps",
        "packets",
        "ns/pkt",
        "floor",
        "ratio",
        "hot floor",
        "seg/msg",
        "msg/call",
        "B/viewer",
        "loss",
        "checked"
    );
    let mut rows = Vec::new();
    for &viewers in &options.viewers {
        let row = run_in_process(options, viewers).with_context(|| format!("row of {viewers} viewers"))?;
        print_row(&row);
        rows.push(row);
    }
    let bad = rows.iter().find(|row| {
        row["loss"].as_f64().unwrap_or(1.0) > LOSS_MAX || row["wrong"].as_u64() != Some(0) || row["checked"] == json!(0)
    });
    if let Some(row) = bad {
        eprintln!("the load was not carried: {row}");
    }
    let failed = bad.is_some();
    println!("{}", json!({ "bench": "fanout", "rows": rows, "marks": marks(&rows) }));
    if failed {
        bail!("a row lost packets, or delivered wrong ones");
    }
    Ok(())
}

/// What must hold: cost beside the floor, and nothing lost.
fn marks(rows: &[Value]) -> Vec<Value> {
    let mark = |name: String, value: f64, goal: f64| json!({ "name": name, "value": value, "goal": goal, "holds": value <= goal });
    let of_row = |(viewers, goal): (u64, f64)| {
        let row = rows.iter().find(|row| row["viewers"].as_u64() == Some(viewers))?;
        Some(mark(format!("vs_floor_{viewers}"), row["ratio"].as_f64()?, goal))
    };
    let loss = rows.iter().filter_map(|row| row["loss"].as_f64()).fold(0.0, f64::max);
    let ratios = [(500, 1.25), (2_000, 1.25), (5_000, 1.35)]
        .into_iter()
        .filter_map(of_row);
    ratios.chain([mark("loss".to_owned(), loss, LOSS_MAX)]).collect()
}

/// A process per row: memory of one row does not hide in the next one's.
fn run_in_process(options: &Options, viewers: usize) -> anyhow::Result<Value> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("fanout-row")
        .args([
            "--viewers",
            &viewers.to_string(),
            "--seconds",
            &options.seconds.to_string(),
        ])
        .args([
            "--shards",
            &options.shards.to_string(),
            "--seed",
            &options.seed.to_string(),
        ])
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().context("piped")?;
    let mut last = None;
    for line in BufReader::new(stdout).lines() {
        last = Some(line?);
    }
    if !child.wait()?.success() {
        bail!("the SFU process failed");
    }
    Ok(serde_json::from_str(&last.context("the SFU process said nothing")?)?)
}

fn print_row(row: &Value) {
    let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    println!(
        "{:>7} {:>5} {:>9.0} {:>9.0} {:>8.0} {:>8.0} {:>6.2} {:>9.0} {:>8.2} {:>8.1} {:>10.0} {:>7.3}% {:>8.0}",
        number("viewers"),
        if number("pace") == 1.0 {
            "real".to_owned()
        } else {
            format!("1/{:.0}", 1.0 / number("pace"))
        },
        number("pps"),
        number("packets"),
        number("ns_per_packet"),
        number("floor_ns"),
        number("ratio"),
        number("floor_without_pauses_ns"),
        number("segments_per_message"),
        number("messages_per_call"),
        number("bytes_per_viewer"),
        number("loss") * 100.0,
        number("checked"),
    );
}
