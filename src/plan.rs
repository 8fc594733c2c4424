//! `meridian plan`: how many edges an event takes, by the costs that README.md measured. Says which figures it used, so that they can be
//! measured again on the machines in question.

use std::fmt::Write as _;

use anyhow::{bail, ensure};
use clap::Args;
use serde_json::{Value, json};

/// README.md, "What it costs" (`./run bench fanout`): nanoseconds of one core for a forwarded packet at 2,000 viewers, GSO messages of 4.
const VIDEO_PACKET_NS: f64 = 1_445.0;
/// The same table at 50 viewers, where the fewest packets share a system call: stands in for audio, which leaves alone.
const AUDIO_PACKET_NS: f64 = 2_050.0;
/// The same table: bytes of media state for one of 2,000 viewers.
const VIEWER_BYTES: f64 = 18_530.0;
/// README.md (`./run bench turn`): nanoseconds for a relayed packet, client → peer, bursts.
const RELAYED_PACKET_NS: f64 = 1_158.0;
/// Signalling and TLS of a viewer are not measured yet: the design's limit for all of a viewer stands in.
const VIEWER_BYTES_MARK: f64 = 65_536.0;
/// RTP, SRTP's tag, UDP and IPv4 around 1,172 bytes of payload: what a 1,200-byte packet has.
const PACKET_BYTES: f64 = 1_200.0;
const IP_UDP_BYTES: f64 = 28.0;
/// A 20 ms Opus packet at 32 kbit/s with its headers, and how many a second.
const AUDIO_PACKET_BYTES: f64 = 80.0 + 12.0 + 16.0 + IP_UDP_BYTES;
const AUDIO_PACKETS_PER_S: f64 = 50.0;

#[derive(Args)]
pub(crate) struct PlanArgs {
    /// People who watch, at most at once.
    #[arg(long)]
    viewers: u32,
    /// Where they are: a number of regions that share them evenly, or shares by name: fra=5000,iad=3000,sin=2000.
    #[arg(long, default_value = "1")]
    regions: String,
    /// Cameras that each viewer sees.
    #[arg(long, default_value_t = 1)]
    cameras: u32,
    /// Video for one viewer of one camera, kbit/s.
    #[arg(long, default_value_t = 1_150)]
    video_kbps: u32,
    /// People who speak at once.
    #[arg(long, default_value_t = 2)]
    speakers: u32,
    /// Share of viewers behind firewalls, whose media goes through TURN, 0 to 1.
    #[arg(long, default_value_t = 0.1)]
    relayed: f64,
    /// Cores of one edge.
    #[arg(long, default_value_t = 8)]
    cores: u32,
    /// Egress of one edge, Gbit/s.
    #[arg(long, default_value_t = 10.0)]
    egress_gbps: f64,
    /// Memory of one edge for media and signalling, GiB.
    #[arg(long, default_value_t = 8.0)]
    memory_gib: f64,
    /// How much of an edge's cores, egress and memory may be used, 0 to 1.
    #[arg(long, default_value_t = 0.6)]
    busy: f64,
    /// Edges of each region that may fail without anybody missing them.
    #[arg(long, default_value_t = 1)]
    spare: u32,
    /// Nanoseconds for a forwarded packet of video on these machines, by `./run bench fanout` there.
    #[arg(long, default_value_t = VIDEO_PACKET_NS)]
    packet_ns: f64,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// One viewer, per second.
struct Viewer {
    packets: f64,
    core_s: f64,
    bits: f64,
}

/// What one region takes.
#[derive(Debug, PartialEq)]
struct Region {
    name: String,
    viewers: u32,
    edges: u32,
    spare: u32,
    /// Which of cores, egress and memory ends first.
    bottleneck: &'static str,
    /// Of the region, Gbit/s, to viewers.
    egress_gbps: f64,
}

pub(crate) fn run(args: &PlanArgs) -> anyhow::Result<()> {
    args.check()?;
    let regions = args.plan()?;
    if args.json {
        println!("{:#}", args.as_json(&regions));
    } else {
        print!("{}", args.text(&regions));
    }
    Ok(())
}

impl PlanArgs {
    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.viewers > 0, "--viewers: at least 1");
        ensure!(
            (0.0..=1.0).contains(&self.relayed),
            "--relayed: a share from 0 to 1, for example 0.1"
        );
        ensure!(
            self.busy > 0.0 && self.busy <= 1.0,
            "--busy: more than 0, at most 1, for example 0.6"
        );
        ensure!(self.cores > 0, "--cores: at least 1");
        for (flag, value) in [
            ("--egress-gbps", self.egress_gbps),
            ("--memory-gib", self.memory_gib),
            ("--packet-ns", self.packet_ns),
        ] {
            ensure!(value > 0.0 && value.is_finite(), "{flag}: more than 0");
        }
        Ok(())
    }

    /// Viewers by region.
    fn shares(&self) -> anyhow::Result<Vec<(String, u32)>> {
        if let Ok(count) = self.regions.parse::<u32>() {
            ensure!((1..=1_000).contains(&count), "--regions: 1 to 1000");
            let share = |index: u32| self.viewers / count + u32::from(index < self.viewers % count);
            return Ok((0..count)
                .map(|index| (format!("region {}", index + 1), share(index)))
                .collect());
        }
        let mut shares = Vec::new();
        for part in self.regions.split(',') {
            let Some((name, viewers)) = part.split_once('=') else {
                bail!("--regions: `{part}` is neither a number of regions nor NAME=VIEWERS");
            };
            let Ok(viewers) = viewers.parse() else {
                bail!("--regions: `{viewers}` in `{part}` is no number of viewers");
            };
            shares.push((name.to_owned(), viewers));
        }
        let sum: u64 = shares.iter().map(|(_, viewers)| u64::from(*viewers)).sum();
        ensure!(
            sum == u64::from(self.viewers),
            "--regions names {sum} viewers, --viewers {}: they must be the same",
            self.viewers
        );
        Ok(shares)
    }

    fn viewer(&self) -> Viewer {
        let video_bits = f64::from(self.video_kbps) * 1_000.0 * f64::from(self.cameras);
        let video = video_bits / 8.0 / PACKET_BYTES;
        let audio = AUDIO_PACKETS_PER_S * f64::from(self.speakers);
        let relayed = self.relayed * (video + audio);
        Viewer {
            packets: video + audio,
            core_s: (video * self.packet_ns + audio * AUDIO_PACKET_NS + relayed * RELAYED_PACKET_NS) / 1e9,
            bits: video_bits + 8.0 * (video * IP_UDP_BYTES + audio * AUDIO_PACKET_BYTES),
        }
    }

    fn plan(&self) -> anyhow::Result<Vec<Region>> {
        let viewer = self.viewer();
        let limits = [
            ("cores", viewer.core_s / f64::from(self.cores)),
            ("egress", viewer.bits / (self.egress_gbps * 1e9)),
            ("memory", VIEWER_BYTES_MARK / (self.memory_gib * f64::from(1 << 30))),
        ];
        let share_of = |(name, one): (&'static str, f64)| (name, one / self.busy);
        let (bottleneck, share) = limits
            .into_iter()
            .map(share_of)
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .unwrap_or_default();
        let region = |(name, viewers): (String, u32)| {
            // The first edge of a region is there for anybody at all.
            let edges = (f64::from(viewers) * share).ceil().max(1.0) as u32;
            Region {
                name,
                viewers,
                edges,
                spare: self.spare,
                bottleneck,
                egress_gbps: f64::from(viewers) * viewer.bits / 1e9,
            }
        };
        Ok(self.shares()?.into_iter().map(region).collect())
    }

    /// A copy of what is published goes to each other edge that has viewers.
    fn links_mbps(&self, regions: &[Region]) -> f64 {
        let edges: u32 = regions.iter().map(|region| region.edges).sum();
        let published = f64::from(self.video_kbps * self.cameras) * 1_000.0
            + 8.0 * AUDIO_PACKET_BYTES * AUDIO_PACKETS_PER_S * f64::from(self.speakers);
        published * f64::from(edges.saturating_sub(1)) / 1e6
    }

    fn text(&self, regions: &[Region]) -> String {
        let viewer = self.viewer();
        let mut text = format!(
            "{:<16}{:>9}{:>8}{:>8}{:>16}  {}\n",
            "region", "viewers", "edges", "spare", "egress Gbit/s", "what ends first"
        );
        for region in regions {
            let _ = writeln!(
                text,
                "{:<16}{:>9}{:>8}{:>8}{:>16.2}  {}",
                region.name, region.viewers, region.edges, region.spare, region.egress_gbps, region.bottleneck
            );
        }
        let edges: u32 = regions.iter().map(|region| region.edges + region.spare).sum();
        let _ = writeln!(
            text,
            "\n{edges} edges of {} cores and {} Gbit/s, of which {:.0} % may be busy. From the stage's edge to the others: {:.1} Mbit/s.",
            self.cores,
            self.egress_gbps,
            100.0 * self.busy,
            self.links_mbps(regions)
        );
        let _ = writeln!(
            text,
            "A viewer: {:.0} packets/s, {:.2} Mbit/s, {:.3} ms of a core a second.\n\nFigures used:",
            viewer.packets,
            viewer.bits / 1e6,
            1_000.0 * viewer.core_s
        );
        for (figure, source) in self.figures() {
            let _ = writeln!(text, "  {figure:<34} {source}");
        }
        text
    }

    fn figures(&self) -> Vec<(String, &'static str)> {
        let measured = "README.md, ./run bench fanout, 2,000 viewers";
        vec![
            (
                format!("{} ns per packet of video", self.packet_ns),
                if self.packet_ns == VIDEO_PACKET_NS {
                    measured
                } else {
                    "--packet-ns"
                },
            ),
            (
                format!("{AUDIO_PACKET_NS} ns per packet of audio"),
                "README.md, ./run bench fanout, 50 viewers: the fewest packets a call",
            ),
            (
                format!("{RELAYED_PACKET_NS} ns more if through TURN"),
                "README.md, ./run bench turn, client → peer",
            ),
            (
                format!("{VIEWER_BYTES_MARK} bytes per viewer"),
                "the design's limit; measured are 18,530 of media state, not signalling and TLS",
            ),
            (
                "the cores' clock and cache".to_owned(),
                "a 2-core machine with other work on it: measure yours, then --packet-ns",
            ),
        ]
    }

    fn as_json(&self, regions: &[Region]) -> Value {
        let viewer = self.viewer();
        let region = |region: &Region| {
            json!({
                "name": region.name, "viewers": region.viewers, "edges": region.edges, "spare": region.spare,
                "bottleneck": region.bottleneck, "egress_gbps": region.egress_gbps,
            })
        };
        json!({
            "regions": regions.iter().map(region).collect::<Vec<_>>(),
            "edges": regions.iter().map(|region| region.edges + region.spare).sum::<u32>(),
            "links_mbps": self.links_mbps(regions),
            "viewer": { "packets_per_s": viewer.packets, "bits_per_s": viewer.bits, "core_s_per_s": viewer.core_s },
            "figures": {
                "video_packet_ns": self.packet_ns, "audio_packet_ns": AUDIO_PACKET_NS, "relayed_packet_ns": RELAYED_PACKET_NS,
                "viewer_bytes": VIEWER_BYTES_MARK, "viewer_media_bytes": VIEWER_BYTES,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        plan: PlanArgs,
    }

    fn planned(words: &str) -> anyhow::Result<Vec<Region>> {
        let line = std::iter::once("plan").chain(words.split_whitespace());
        let plan = Line::try_parse_from(line)?.plan;
        plan.check()?;
        plan.plan()
    }

    /// Whoever measures again and changes the README is led here.
    #[test]
    fn the_figures_are_those_of_the_readme() {
        let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
        let row = |begins: &str, column: usize| -> f64 {
            let row = readme.lines().find(|line| line.starts_with(begins)).unwrap();
            row.split('|')
                .nth(column)
                .unwrap()
                .trim()
                .replace(',', "")
                .parse()
                .unwrap()
        };
        assert_eq!(row("| 2,000 |", 3), VIDEO_PACKET_NS);
        assert_eq!(row("| 2,000 |", 6), VIEWER_BYTES);
        assert_eq!(row("| 50 |", 3), AUDIO_PACKET_NS);
        assert_eq!(
            row("| bursts of 8 × 1,200 bytes | client → peer |", 4),
            RELAYED_PACKET_NS
        );
    }

    #[test]
    fn ten_thousand_viewers_in_three_regions() {
        let regions =
            planned("--viewers 10000 --regions fra=5000,iad=3000,sin=2000 --relayed 0 --speakers 0 --cores 1").unwrap();
        // 1.15 Mbit/s are 119.8 packets/s, 0.173 ms of a core a second: 3,466 viewers for 0.6 of one.
        let edges: Vec<u32> = regions.iter().map(|region| region.edges).collect();
        assert_eq!(edges, [2, 1, 1]);
        assert!(regions.iter().all(|region| region.bottleneck == "cores"));
        let thin = planned("--viewers 10000 --regions 4 --egress-gbps 1 --cores 64").unwrap();
        assert!(
            thin.iter()
                .all(|region| region.bottleneck == "egress" && region.viewers == 2_500)
        );
        assert_eq!(thin[0].edges, 6, "{thin:?}");
    }

    #[test]
    fn nonsense_is_refused_with_the_flag_and_the_reason() {
        for (words, expected) in [
            ("--viewers 0", "--viewers: at least 1"),
            ("--viewers 10 --busy 0", "--busy: more than 0"),
            (
                "--viewers 10 --regions fra=3",
                "--regions names 3 viewers, --viewers 10",
            ),
            (
                "--viewers 10 --regions fra",
                "`fra` is neither a number of regions nor NAME=VIEWERS",
            ),
            ("--viewers 10 --relayed 2", "--relayed: a share from 0 to 1"),
        ] {
            let error = planned(words).unwrap_err().to_string();
            assert!(error.contains(expected), "{words}: {error}");
        }
    }
}
