//! `/metrics` in the Prometheus text format (version 0.0.4).

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use meridian_serving::metrics::head;
use meridian_shard::{Kind, Metric};

use super::Parts;

pub(crate) async fn render(State(edge): State<Arc<Parts>>) -> Response {
    let mut text = String::with_capacity(4096);
    let people = edge.live.people();
    gauge(
        &mut text,
        "meridian_rooms",
        "Rooms with people on this edge.",
        people.len() as f64,
    );
    let total: u32 = people.iter().map(|(_, people)| people).sum();
    gauge(
        &mut text,
        "meridian_participants",
        "People on this edge.",
        f64::from(total),
    );
    let lost = "meridian_room_events_dropped_total";
    head(
        &mut text,
        lost,
        "counter",
        "Media events lost by rooms that were behind: levels and statistics at once, data beyond 16 MiB.",
    );
    let _ = writeln!(text, "{lost} {}", edge.live.events_lost());
    let ready = f64::from(u8::from(edge.admission.not_ready().is_none()));
    gauge(
        &mut text,
        "meridian_ready",
        "1 if this edge may be given new people.",
        ready,
    );
    for Metric {
        name,
        help,
        kind,
        value,
    } in edge.shards.metrics().iter()
    {
        let (kind, suffix) = match kind {
            Kind::Gauge => ("gauge", ""),
            Kind::Counter => ("counter", "_total"),
        };
        let name = format!("meridian_media_{name}{suffix}");
        head(&mut text, &name, kind, help);
        let _ = writeln!(text, "{name} {value}");
    }
    edge.rooms.counters.render(&mut text);
    edge.http_sessions.render(&mut text);
    edge.outgoing.render_metrics(&mut text);
    edge.mesh.render_metrics(&mut text);
    edge.turn.render_metrics(&mut text);
    edge.recorder.render_metrics(&mut text);
    meridian_process::log::render_metrics(&mut text);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

fn gauge(text: &mut String, name: &str, help: &str, value: f64) {
    head(text, name, "gauge", help);
    let _ = writeln!(text, "{name} {value}");
}
