//! What was counted, in the Prometheus text format (version 0.0.4), under the names that dashboards know.

use std::fmt::Write;

use super::TurnServer;

/// Label and the counter behind it.
type Labelled = &'static [(&'static str, &'static str)];

const TRANSPORTS: Labelled = &[
    ("udp", "created_udp"),
    ("tcp", "created_tcp"),
    ("tls", "created_tls"),
    ("dtls", "created_dtls"),
];

/// Requests that were not granted.
const REFUSED: Labelled = &[
    ("credentials", "refused_credentials"),
    ("quota", "refused_quota"),
    ("capacity", "refused_capacity"),
    ("peer", "refused_peer"),
    ("rate", "unauthenticated_braked"),
    ("malformed", "malformed"),
];

/// Relayed packets that were not passed on.
const DROPPED: Labelled = &[
    ("peer", "dropped_forbidden"),
    ("quota", "dropped_quota"),
    ("slow_client", "stream_frames_dropped"),
    ("socket", "datagrams_dropped"),
    ("in_process", "local_dropped"),
];

impl TurnServer {
    /// Appends every metric of this server to `text`.
    pub fn render_metrics(&self, text: &mut String) {
        let metrics = self.metrics();
        let value = |name: &str| metrics.iter().find(|(known, _)| *known == name).map_or(0, |(_, v)| *v);
        let ended = |label: &str| value(&format!("ended_{label}"));
        head(
            text,
            "allocations",
            "gauge",
            "Live allocations by what the client speaks.",
        );
        for (label, created) in TRANSPORTS {
            let live = value(created).saturating_sub(ended(label));
            line(text, "allocations", "transport", label, live);
        }
        head(text, "allocations_total", "counter", "Allocations since the start.");
        for (label, created) in TRANSPORTS {
            line(text, "allocations_total", "transport", label, value(created));
        }
        for (what, help) in [
            ("packets", "Packets relayed; up: from client to peer."),
            ("bytes", "Payload bytes relayed; up: from client to peer."),
        ] {
            let name = format!("relayed_{what}_total");
            head(text, &name, "counter", help);
            for direction in ["up", "down"] {
                line(
                    text,
                    &name,
                    "direction",
                    direction,
                    value(&format!("{what}_{direction}")),
                );
            }
        }
        head(
            text,
            "in_process_packets_total",
            "counter",
            "Packets to and from media ports of this process, of those relayed.",
        );
        for direction in ["up", "down"] {
            line(
                text,
                "in_process_packets_total",
                "direction",
                direction,
                value(&format!("local_{direction}")),
            );
        }
        for (name, help, reasons) in [
            ("refused_total", "Requests not granted, by reason.", REFUSED),
            ("dropped_total", "Packets not relayed, by reason.", DROPPED),
        ] {
            head(text, name, "counter", help);
            for (reason, counter) in reasons {
                line(text, name, "reason", reason, value(counter));
            }
        }
        let draining = u64::from(self.is_draining());
        for (name, kind, help, value) in [
            (
                "connections",
                "gauge",
                "Open TCP and TLS connections of clients.",
                value("streams"),
            ),
            (
                "dtls_sessions",
                "gauge",
                "DTLS sessions of clients, handshakes included.",
                value("dtls_sessions"),
            ),
            (
                "connections_refused_total",
                "counter",
                "Connections and DTLS sessions beyond a limit.",
                value("streams_refused"),
            ),
            ("draining", "gauge", "1 if nothing new is allocated.", draining),
        ] {
            head(text, name, kind, help);
            let _ = writeln!(text, "meridian_turn_{name} {value}");
        }
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(
        text,
        "# HELP meridian_turn_{name} {help}\n# TYPE meridian_turn_{name} {kind}"
    );
}

fn line(text: &mut String, name: &str, label: &str, of: &str, value: u64) {
    let _ = writeln!(text, "meridian_turn_{name}{{{label}=\"{of}\"}} {value}");
}
