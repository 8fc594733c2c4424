//! `meridian mesh` and `meridian top`: what network engineers look at.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::operator::{Operator, Shown};
use crate::table::Table;

/// PoPs that fit beside each other on a screen; more are listed pair by pair.
const COLUMNS_MAX: usize = 12;

#[derive(Args)]
pub(crate) struct MeshArgs {
    #[command(subcommand)]
    command: MeshCommand,
}

#[derive(Subcommand)]
enum MeshCommand {
    /// Round trips (median and 95th percentile of a minute, ms) and losses on the way there (before repair) between all PoPs.
    Matrix(ShowArgs),
}

#[derive(Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    operator: Operator,
    #[command(flatten)]
    shown: Shown,
}

pub(crate) async fn run(args: MeshArgs) -> anyhow::Result<()> {
    let MeshCommand::Matrix(args) = args.command;
    args.operator.show("mesh/matrix", args.shown, matrix, |_| false).await
}

/// `meridian top`.
pub(crate) async fn top(args: ShowArgs) -> anyhow::Result<()> {
    args.operator.show("pops", args.shown, busiest, |_| false).await
}

/// Who sees the link, from whom to whom.
fn ends(link: &Value) -> (&str, &str) {
    let end = |key: &str| link[key].as_str().unwrap_or_default();
    (end("from"), end("to"))
}

fn measured(link: &Value) -> String {
    let number = |key: &str| link[key].as_f64().unwrap_or_default();
    let (p50, p95, loss) = (number("rtt_p50_ms"), number("rtt_p95_ms"), number("loss_out") * 100.0);
    if p50 <= 0.0 {
        return "…".to_owned();
    }
    // A tenth of a millisecond tells PoPs of one city apart.
    let digits = usize::from(p95 < 10.0);
    let loss = if loss >= 0.005 {
        format!(" {loss:.2} %")
    } else {
        String::new()
    };
    format!("{p50:.digits$}/{p95:.digits$}{loss}")
}

fn matrix(answer: &Value) -> String {
    let links: Vec<&Value> = answer["links"].as_array().into_iter().flatten().collect();
    let pops: BTreeSet<&str> = links.iter().flat_map(|link| <[&str; 2]>::from(ends(link))).collect();
    if pops.len() > COLUMNS_MAX {
        let mut table = Table::new(&["from", "to", "rtt, loss", "tracks there", "tracks back"]);
        for link in links {
            let (from, to) = ends(link);
            let tracks = |key: &str| link[key].as_u64().unwrap_or_default().to_string();
            let cells = [
                from.to_owned(),
                to.to_owned(),
                measured(link),
                tracks("tracks_out"),
                tracks("tracks_in"),
            ];
            table.row(cells.to_vec());
        }
        return table.to_string();
    }
    let header: Vec<&str> = std::iter::once("ms").chain(pops.iter().copied()).collect();
    let mut table = Table::new(&header);
    for from in &pops {
        let cell = |to: &&str| {
            let found = links.iter().find(|link| ends(link) == (*from, *to));
            found.map_or_else(|| "-".to_owned(), |link| measured(link))
        };
        table.row(
            std::iter::once((*from).to_owned())
                .chain(pops.iter().map(cell))
                .collect(),
        );
    }
    table.to_string()
}

/// The busiest first, and all together.
fn busiest(answer: &Value) -> String {
    let mut pops: Vec<&Value> = answer["pops"].as_array().into_iter().flatten().collect();
    let load = |pop: &Value| pop["load"].as_f64().unwrap_or_default();
    pops.sort_by(|a, b| load(b).total_cmp(&load(a)));
    let mut table = Table::new(&[
        "pop",
        "state",
        "people",
        "rooms",
        "load",
        "cpu",
        "out Mb/s",
        "in Mb/s",
        "packets/s",
    ]);
    let sum = |key: &str| pops.iter().filter_map(|pop| pop[key].as_f64()).sum::<f64>();
    for pop in &pops {
        let text = |key: &str| pop[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| pop[key].as_f64().unwrap_or_default();
        table.row(vec![
            text("id"),
            text("state"),
            format!("{:.0}", number("participants")),
            format!("{:.0}", number("rooms")),
            format!("{:.0} %", load(pop) * 100.0),
            format!("{:.0} %", number("cpu") * 100.0),
            format!("{:.1}", number("tx_mbps")),
            format!("{:.1}", number("rx_mbps")),
            format!("{:.0}", number("tx_packets_per_s")),
        ]);
    }
    let together = format!("{} PoPs", pops.len());
    table.row(vec![
        together,
        String::new(),
        format!("{:.0}", sum("participants")),
        String::new(),
        String::new(),
        String::new(),
        format!("{:.1}", sum("tx_mbps")),
        format!("{:.1}", sum("rx_mbps")),
        format!("{:.0}", sum("tx_packets_per_s")),
    ]);
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn link(from: &str, to: &str, p50: f64, loss: f64) -> Value {
        json!({ "from": from, "to": to, "rtt_p50_ms": p50, "rtt_p95_ms": p50 * 1.1, "loss_out": loss })
    }

    #[test]
    fn a_matrix_has_a_row_and_a_column_for_each_pop_and_says_what_is_not_known() {
        let links = [
            link("fra", "iad", 88.0, 0.001),
            link("iad", "fra", 89.0, 0.0),
            link("fra", "lhr", 0.0, 0.0),
        ];
        let shown = matrix(&json!({ "links": links }));
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(
            lines[0].split_whitespace().collect::<Vec<_>>(),
            ["ms", "fra", "iad", "lhr"]
        );
        assert!(lines[1].contains("88/97 0.10 %") && lines[1].contains('…'), "{shown}");
        assert!(lines[2].contains("89/98") && !lines[2].contains('%'), "{shown}");
        assert_eq!(lines[3].split_whitespace().collect::<Vec<_>>(), ["lhr", "-", "-", "-"]);
    }

    #[test]
    fn a_large_mesh_is_listed_pair_by_pair() {
        let links: Vec<Value> = (0..20).map(|n| link("fra", &format!("pop-{n}"), 5.0, 0.0)).collect();
        let shown = matrix(&json!({ "links": links }));
        assert_eq!(shown.lines().count(), 21);
        assert!(shown.contains("5.0/5.5"), "{shown}");
    }

    #[test]
    fn the_busiest_pop_comes_first_and_the_sum_last() {
        let pops = json!([
            { "id": "fra", "load": 0.1, "participants": 10, "tx_mbps": 1.5 },
            { "id": "iad", "load": 0.7, "participants": 70, "tx_mbps": 3.0 },
        ]);
        let shown = busiest(&json!({ "pops": pops }));
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[1].starts_with("iad") && lines[2].starts_with("fra"), "{shown}");
        assert!(
            lines[3].starts_with("2 PoPs") && lines[3].contains("80") && lines[3].contains("4.5"),
            "{shown}"
        );
    }
}
