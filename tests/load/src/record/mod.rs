//! What recording costs: how many tracks one core takes, and a recorded packet's CPU time beside GStreamer's.
//!
//! - `media` makes the packets;
//! - `ours` records them as an edge does, files included;
//! - `peer` is `rtpvp8depay ! matroskamux` in a process of its own, on the same packets.

mod media;
mod ours;
mod peer;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use serde_json::json;

use crate::report::{Goal, Mark, finish};

#[derive(Args)]
pub(crate) struct Options {
    /// Tracks recorded in real time, half of them cameras, half microphones.
    #[arg(long, default_value_t = 500)]
    tracks: usize,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Packets of one camera that both sides record; the peer's start is taken off by a run with a fifth of them.
    #[arg(long, default_value_t = 150_000)]
    packets: u64,
    /// Pairs of runs; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where files are written; a folder is made in it and removed.
    #[arg(long, default_value = "/tmp")]
    folder: PathBuf,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(
        options.rounds > 0 && options.packets >= 15_000,
        "at least one round of 15,000 packets"
    );
    let folder = options.folder.join(format!("meridian-record-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let measured = measure(options, &folder);
    std::fs::remove_dir_all(&folder)?;
    measured
}

fn measure(options: &Options, folder: &std::path::Path) -> anyhow::Result<()> {
    println!(
        "{} tracks for {} s in real time (half VP8 of 25 frames of 3 x 1,100 bytes a second, half Opus of 50 x 80 bytes), one writer thread",
        options.tracks, options.seconds
    );
    let live = ours::live(
        &folder.join("live"),
        options.tracks,
        Duration::from_secs_f64(options.seconds),
    )?;
    let share = live.cpu.as_secs_f64() / live.elapsed.as_secs_f64();
    let per_core = options.tracks as f64 / share;
    println!(
        "{} packets, {} dropped, {:.1} % of a core: {per_core:.0} tracks a core, {:.2} us a packet\n",
        live.packets,
        live.dropped,
        100.0 * share,
        micros(live.cpu, live.packets)
    );
    ensure!(
        live.dropped == 0,
        "the writer did not keep up: {} packets dropped",
        live.dropped
    );

    println!(
        "{} packets of one camera, {} rounds, whole process of GStreamer less its start",
        options.packets, options.rounds
    );
    println!(
        "{:>6} {:>14} {:>14} {:>8}",
        "round", "ours us/packet", "peer us/packet", "ratio"
    );
    let mut ratios = Vec::new();
    let mut rows =
        vec![json!({ "row": "live", "tracks": options.tracks, "packets": live.packets, "core_share": share })];
    for round in 0..options.rounds {
        let few = options.packets / 5;
        let ours = micros(
            ours::copy(&folder.join(format!("ours-{round}")), options.packets)?,
            options.packets,
        );
        let start = peer::copy(folder, few)?;
        let whole = peer::copy(folder, options.packets)?;
        let peer = micros(whole.saturating_sub(start), options.packets - few);
        ratios.push(ours / peer);
        println!("{round:>6} {ours:>14.3} {peer:>14.3} {:>8.3}", ours / peer);
        rows.push(json!({ "row": "copy", "round": round, "ours_us": ours, "peer_us": peer }));
        std::fs::remove_dir_all(folder.join(format!("ours-{round}")))?;
    }
    ratios.sort_by(f64::total_cmp);
    let marks = [
        Mark::new("tracks", per_core, Goal::AtLeast(500.0)),
        Mark::new("vs_copy", ratios[ratios.len() / 2], Goal::AtMost(0.1)),
    ];
    finish("record", &rows, &marks);
    Ok(())
}

fn micros(cpu: Duration, packets: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / packets as f64
}
