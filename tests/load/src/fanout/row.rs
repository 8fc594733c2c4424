//! One row: the SFU's process. It starts the shards, has the clients join, and then sleeps while they talk; its CPU time
//! in between is what forwarding cost.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use meridian_shard::{Command as ShardCommand, Event, Shards, ShardsConfig, TapSenders};
use meridian_transport::{DtlsIdentity, DtlsRole, Fingerprint, SrtpProfile};
use meridian_udp::process_cpu_time;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::RowOptions;
use super::clients::viewer_address;
use super::floor::Floor;
use super::media::{self, FRAMES_PER_SECOND, PACKETS_PER_FRAME};

/// SFU and floor take turns this often: whatever else the machine does meets both.
const ROUNDS: u32 = 3;
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);

/// The clients' process and the conversation with it: one line there, one line back.
struct Clients {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Clients {
    fn start(options: &RowOptions, servers: &[SocketAddr], fingerprint: Fingerprint) -> anyhow::Result<Clients> {
        let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let mut child = Command::new(std::env::current_exe()?)
            .arg("fanout-clients")
            .args([
                "--viewers",
                &options.viewers.to_string(),
                "--seed",
                &options.seed.to_string(),
            ])
            .args([
                "--servers",
                &servers.join(","),
                "--fingerprint",
                &fingerprint.to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().context("piped")?;
        let output = BufReader::new(child.stdout.take().context("piped")?);
        Ok(Clients { child, input, output })
    }

    fn hear(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).context("the clients' process ended early")
    }

    fn ask(&mut self, question: &str) -> anyhow::Result<Value> {
        writeln!(self.input, "{question}")?;
        self.input.flush()?;
        self.hear()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Default)]
struct Sums {
    cpu: Duration,
    received: u64,
    expected: u64,
    floor_cpu: Duration,
    floor_packets: u64,
    checked: u64,
    wrong: u64,
    seconds: f64,
}

/// Measures one row and prints it as one line of JSON.
pub(crate) fn run_row(options: &RowOptions) -> anyhow::Result<()> {
    let identity = Arc::new(DtlsIdentity::generate()?);
    let fingerprint = identity.fingerprint();
    let (events_tx, mut events) = mpsc::channel(8 * options.viewers + 1_024);
    let (mesh, _mesh) = mpsc::channel(1);
    let (recorder, _recorder) = mpsc::channel(1);
    let taps = TapSenders { mesh, recorder };
    let config = ShardsConfig {
        bind: vec![([127, 0, 0, 1], 0).into()],
        shards: options.shards,
        socket_buffer_bytes: 32 << 20,
        ..ShardsConfig::default()
    };
    let shards = Shards::start(config, identity, events_tx, taps)?;
    let servers: Vec<SocketAddr> = (0..options.shards)
        .flat_map(|i| shards.candidates(shards.allocate_peer_on(i as u16)))
        .collect();
    let mut clients = Clients::start(options, &servers, fingerprint)?;
    let hello = clients.hear()?;
    let theirs: Fingerprint = hello["fingerprint"].as_str().context("fingerprint")?.parse()?;

    let empty = resident_bytes()?;
    let joined = Instant::now();
    let profile = join(options, &shards, &mut events, &mut clients, theirs)?;
    eprintln!(
        "{} viewers joined in {:.1} s ({profile:?})",
        options.viewers,
        joined.elapsed().as_secs_f64()
    );

    let (interval, pace) = choose_pace(&mut clients)?;
    let per_viewer = resident_bytes()?.saturating_sub(empty) as f64 / options.viewers as f64;
    let destinations = (0..options.viewers)
        .map(|i| viewer_address(&hello, i))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut floor = Floor::new(profile, destinations)?;
    let before = shards.metrics();
    let mut sums = Sums::default();
    let frames = (options.seconds * FRAMES_PER_SECOND).div_ceil(ROUNDS);
    floor.run(options.seed, 30, interval)?;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let cpu = process_cpu_time();
        let told = clients.ask(&format!("send {frames} {}", interval.as_micros()))?;
        sums.cpu += process_cpu_time() - cpu;
        sums.seconds += start.elapsed().as_secs_f64();
        sums.expected += u64::from(frames) * (PACKETS_PER_FRAME * options.viewers) as u64;
        for (sum, key) in [
            (&mut sums.received, "received"),
            (&mut sums.checked, "checked"),
            (&mut sums.wrong, "wrong"),
        ] {
            *sum += told[key].as_u64().context("count")?;
        }
        let (cpu, packets) = floor.run(options.seed, frames / 2, interval)?;
        sums.floor_cpu += cpu;
        sums.floor_packets += packets;
    }
    // The same without pauses between frames, everything warm: how low the floor can lie, for comparison.
    let (hot_cpu, hot_packets) = floor.run(
        options.seed,
        frames.min(200_000 / options.viewers as u32),
        Duration::ZERO,
    )?;
    let after = shards.metrics();
    if sums.received == 0 {
        bail!("nothing arrived: {after:?}");
    }
    let ns = sums.cpu.as_nanos() as f64 / sums.received as f64;
    let floor_ns = sums.floor_cpu.as_nanos() as f64 / sums.floor_packets.max(1) as f64;
    let messages = (after.send_messages - before.send_messages) as f64;
    let row = json!({
        "viewers": options.viewers,
        "pace": pace,
        "pps": (sums.received as f64 / sums.seconds).round(),
        "packets": sums.received,
        "ns_per_packet": ns.round(),
        "floor_ns": floor_ns.round(),
        "floor_without_pauses_ns": (hot_cpu.as_nanos() as f64 / hot_packets.max(1) as f64).round(),
        "ratio": (ns / floor_ns * 1_000.0).round() / 1_000.0,
        "bytes_per_viewer": per_viewer.round(),
        "loss": 1.0 - sums.received as f64 / sums.expected as f64,
        "checked": sums.checked,
        "wrong": sums.wrong,
        "segments_per_message": (after.packets_out - before.packets_out) as f64 / messages,
        "messages_per_call": messages / (after.send_calls - before.send_calls) as f64,
        "profile": format!("{profile:?}"),
    });
    println!("{row}");
    drop(clients);
    shards.shutdown();
    Ok(())
}

fn join(
    options: &RowOptions,
    shards: &Shards,
    events: &mut mpsc::Receiver<Event>,
    clients: &mut Clients,
    theirs: Fingerprint,
) -> anyhow::Result<SrtpProfile> {
    for index in 0..=options.viewers {
        let peer = shards.allocate_peer_on((index % options.shards) as u16);
        let (local, remote) = media::credentials(options.seed, index);
        shards.send(ShardCommand::AddPeer {
            peer,
            local,
            remote,
            remote_fingerprint: theirs,
            role: DtlsRole::Server,
        });
        if index == 0 {
            shards.send(ShardCommand::Publish {
                peer,
                track: media::TRACK,
                publication: media::publication(),
            });
        } else {
            shards.send(ShardCommand::Subscribe {
                peer,
                track: media::TRACK,
                media: media::subscription(),
            });
        }
    }
    clients.ask("join")?;
    let deadline = Instant::now() + JOIN_TIMEOUT;
    let (mut connected, mut profile) = (0, None);
    while connected <= options.viewers {
        match events.try_recv() {
            Ok(Event::PeerConnected { profile: p, .. }) => {
                connected += 1;
                profile = Some(p);
            }
            Ok(Event::PeerClosed { peer, reason }) => bail!("{peer} closed: {reason:?}"),
            Ok(_) => {}
            Err(_) if Instant::now() > deadline => bail!("only {connected} peers connected"),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    profile.context("somebody connected")
}

/// Warms up, and finds how much of real time this machine can carry with the receivers beside the SFU: a frame must have
/// reached everybody in two thirds of its interval.
fn choose_pace(clients: &mut Clients) -> anyhow::Result<(Duration, f64)> {
    let real = Duration::from_secs(1) / FRAMES_PER_SECOND;
    clients.ask(&format!("send 15 {}", (real * 4).as_micros()))?;
    let told = clients.ask(&format!("send 20 {}", (real * 4).as_micros()))?;
    let spread = Duration::from_micros(told["frame_us"].as_u64().context("frame_us")?);
    let slower = [1, 2, 4].into_iter().find(|&n| spread < real * n * 2 / 3).unwrap_or(8);
    Ok((real * slower, 1.0 / f64::from(slower)))
}

fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024)
}
