//! Load generators and benchmarks, of the packet path and of placement. `./run bench NAME` runs `meridian-load NAME` in release.
//! Each benchmark prints what load it made, a table, and as its last line one JSON object.
#![forbid(unsafe_code)]

mod assign;
mod fanout;
mod record;
mod report;
mod turn;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "meridian-load", about = "Benchmarks of Meridian")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Placing joins among 1,000 PoPs: assignments a second on one core, checked against the plain scorer.
    Assign(assign::Options),
    /// One publisher, N viewers, through a real media thread: CPU per forwarded packet beside the floor.
    Fanout(fanout::Options),
    /// One row of `fanout` in a process of its own (started by it).
    #[command(hide = true)]
    FanoutRow(fanout::RowOptions),
    /// The publisher and the viewers of one row (started by it).
    #[command(hide = true)]
    FanoutClients(fanout::ClientOptions),
    /// Recording: tracks one core takes, and CPU per packet beside GStreamer muxing the same.
    Record(record::Options),
    /// The same load through our TURN server and through coturn: CPU per relayed packet.
    Turn(turn::Options),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().bench {
        Bench::Assign(options) => assign::run(&options),
        Bench::Fanout(options) => fanout::run(&options),
        Bench::FanoutRow(options) => fanout::run_row(&options),
        Bench::FanoutClients(options) => fanout::run_clients(&options),
        Bench::Record(options) => record::run(&options),
        Bench::Turn(options) => turn::run(&options),
    }
}
