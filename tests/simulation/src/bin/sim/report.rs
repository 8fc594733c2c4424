//! The report, and its plots as SVG: plain text, so that two runs can be compared by `diff`.

use std::fmt::Write;
use std::path::Path;

use crate::day::Found;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
const EDGE: f64 = 50.0;

pub(crate) fn write(folder: &Path, found: &Found) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let latency = curves(
        "One way from device to device, ms: share of pairs within it",
        &[("the mesh", &found.mesh_ms), ("one SFU a meeting", &found.one_sfu_ms)],
    );
    std::fs::write(folder.join("latency.svg"), latency)?;
    let seen = curves(
        "From a join until somebody else is told, ms: share within it",
        &[("", &found.seen_ms)],
    );
    std::fs::write(folder.join("seen.svg"), seen)?;
    let depths: Vec<(String, f64)> = found
        .depths
        .iter()
        .map(|(depth, count)| (depth.to_string(), *count as f64))
        .collect();
    std::fs::write(
        folder.join("depth.svg"),
        bars("Edges on a track's way, both ends included", &depths),
    )?;
    let between = [
        ("at least".to_owned(), found.optimum_bps),
        ("the mesh".to_owned(), found.between_bps),
        ("one SFU a meeting".to_owned(), found.one_sfu_bps),
    ];
    std::fs::write(
        folder.join("between.svg"),
        bars("Bits between regions, against the least", &relative(&between)),
    )?;
    std::fs::write(folder.join("report.md"), text(found))
}

fn relative(bars: &[(String, f64)]) -> Vec<(String, f64)> {
    let least = bars.first().map_or(1.0, |(_, value)| value.max(1.0));
    bars.iter().map(|(name, value)| (name.clone(), value / least)).collect()
}

/// Of sorted values.
fn quantile(values: &[f64], share: f64) -> f64 {
    let at = (values.len().saturating_sub(1) as f64 * share) as usize;
    values.get(at).copied().unwrap_or(0.0)
}

fn text(found: &Found) -> String {
    let mut text = String::new();
    let Found {
        seed,
        pops,
        people,
        minutes,
        ..
    } = found;
    let _ = writeln!(
        text,
        "# {pops} PoPs, {people} people, {minutes} minutes, seed {seed}\n\n\
         `./run sim --seed {seed} --pops {pops} --people {people} --minutes {minutes}` writes this page again, to the byte.\n\n\
         {} meetings, {} deaths of PoPs, {} outages of transit; {} events, {:.0} control messages a second in the whole mesh.\n",
        found.meetings, found.deaths, found.outages, found.happenings, found.messages_per_s,
    );
    let _ = writeln!(text, "| | p50 | p95 | p99 | of |\n| --- | --- | --- | --- | --- |");
    let rows = [
        ("device to device through the mesh, ms", &found.mesh_ms),
        (
            "with one SFU a meeting, the best of those it uses, ms",
            &found.one_sfu_ms,
        ),
        ("join until somebody else is told, ms", &found.seen_ms),
        ("failure until nothing is amiss anywhere, ms", &found.healed_ms),
    ];
    for (name, values) in rows {
        let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|share| quantile(values, share));
        let _ = writeln!(text, "| {name} | {p50:.0} | {p95:.0} | {p99:.0} | {} |", values.len());
    }
    let least = found.optimum_bps.max(1.0);
    let _ = writeln!(
        text,
        "\nBits between regions: {:.3} × the least possible (one copy of a track for each region that wants it); one SFU a meeting: {:.2} ×. \
         {} failures were not over after 20 s.\n",
        found.between_bps / least,
        found.one_sfu_bps / least,
        found.unhealed,
    );
    for plot in ["latency", "between", "depth", "seen"] {
        let _ = writeln!(text, "![{plot}]({plot}.svg)");
    }
    for fault in found.faults.iter().take(20) {
        let _ = writeln!(text, "\nFault: {fault}");
    }
    text
}

fn head(title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n<text x=\"{EDGE}\" y=\"20\" font-size=\"14\">{title}</text>\n\
         <path d=\"M{EDGE} 30V{0}H{1}\" fill=\"none\" stroke=\"black\"/>\n",
        HEIGHT - EDGE,
        WIDTH - 20.0,
    )
}

/// What share of the values lies at or below each.
fn curves(title: &str, lists: &[(&str, &Vec<f64>)]) -> String {
    let mut svg = head(title);
    let most = lists
        .iter()
        .map(|(_, values)| quantile(values, 0.995))
        .fold(1.0, f64::max);
    let (width, height) = (WIDTH - EDGE - 20.0, HEIGHT - EDGE - 30.0);
    for ((name, values), (colour, line)) in lists.iter().zip([("#0b6", 40.0), ("#c40", 56.0)]) {
        let points: Vec<String> = (0..=100)
            .map(|percent| {
                let share = f64::from(percent) / 100.0;
                let x = EDGE + width * (quantile(values, share) / most).min(1.0);
                format!("{x:.1},{:.1}", HEIGHT - EDGE - height * share)
            })
            .collect();
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n<text x=\"{}\" y=\"{line}\" fill=\"{colour}\">{name}</text>\n",
            points.join(" "),
            EDGE + 10.0,
        );
    }
    for tick in 0..=5 {
        let share = f64::from(tick) / 5.0;
        let _ = write!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{:.0}</text>\n<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{:.0} %</text>\n",
            EDGE + width * share,
            HEIGHT - EDGE + 18.0,
            most * share,
            EDGE - 6.0,
            HEIGHT - EDGE - height * share + 4.0,
            share * 100.0,
        );
    }
    svg + "</svg>\n"
}

fn bars(title: &str, bars: &[(String, f64)]) -> String {
    let mut svg = head(title);
    let most = bars.iter().map(|(_, value)| *value).fold(1e-9, f64::max);
    let step = (WIDTH - EDGE - 20.0) / bars.len().max(1) as f64;
    for (at, (name, value)) in bars.iter().enumerate() {
        let x = EDGE + step * (at as f64 + 0.25);
        let height = (HEIGHT - EDGE - 50.0) * value / most;
        let digits = if *value < 100.0 { 2 } else { 0 };
        let _ = write!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"#0b6\"/>\n<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>\n<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value:.digits$}</text>\n",
            HEIGHT - EDGE - height,
            step / 2.0,
            x + step / 4.0,
            HEIGHT - EDGE + 18.0,
            x + step / 4.0,
            HEIGHT - EDGE - height - 4.0,
        );
    }
    svg + "</svg>\n"
}
