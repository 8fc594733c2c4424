//! Sender reports on their way across edges: what receivers need to relate sound and picture.

use meridian_sfu::rtcp::{Rtcp, SenderReport, parse};
use meridian_sfu::{MediaKind, SenderReportInfo};

use super::*;

const MICROPHONE: u32 = 0x11;
const REPORT: SenderReportInfo = SenderReportInfo {
    ntp: 0x1000_0000_8000_0000,
    rtp_timestamp: 77_000,
};

fn reports(client: &TestClient, ssrc: u32) -> Vec<SenderReportInfo> {
    let all = client.rtcp.iter().flat_map(|data| parse(data));
    all.filter_map(|packet| match packet {
        Rtcp::SenderReport { report, .. } if report.ssrc == ssrc => Some(report.info),
        _ => None,
    })
    .collect()
}

/// How far a report is off the line through [`REPORT`], in ticks of a 48 kHz clock.
fn off_the_line(report: SenderReportInfo) -> i32 {
    let elapsed = (i128::from(report.ntp.wrapping_sub(REPORT.ntp)) * 48_000) >> 32;
    report
        .rtp_timestamp
        .wrapping_sub(REPORT.rtp_timestamp.wrapping_add(elapsed as u32)) as i32
}

#[test]
fn an_edge_that_subscribes_late_has_the_publishers_report_before_the_first_packet_and_passes_it_on() {
    let (mut world, mut a, mut b, mut microphone, _) = call(1, Layer::LOW);
    a.send_rtcp(|w| {
        let report = SenderReport {
            ssrc: MICROPHONE,
            info: REPORT,
            packets: 1,
            octets: 1,
        };
        w.sender_report(&report, &[]);
    });
    world.until(
        &mut [&mut a, &mut b],
        "the report at a subscriber beside it",
        |_, clients| !reports(clients[1], AUDIO_OUT).is_empty(),
    );
    // The publisher reports no more. Only now another edge wants the track.
    let mut far = World::new(1);
    let mut c = far.client(0);
    far.shards.send(Command::AddRemoteTrack {
        track: AUDIO,
        kind: MediaKind::Audio,
        codec: Codec::Opus,
        layers: 1,
    });
    subscribe(&far, &c, Layer::LOW);
    far.connect(&mut [&mut c]);
    world.shards.send(Command::Tap {
        track: AUDIO,
        consumer: meridian_shard::TapConsumer::Mesh,
        layers: LayerSet::up_to(Layer::LOW),
    });
    let mut told = None;
    world.until(&mut [&mut a, &mut b], "the report for the other edge", |world, _| {
        told = world.seen.iter().find_map(|event| match event {
            Event::SenderReport {
                track: AUDIO,
                encoding,
                report,
                ..
            } => Some((*encoding, *report)),
            _ => None,
        });
        told.is_some()
    });
    let (encoding, report) = told.unwrap();
    assert!(off_the_line(report).abs() <= 1, "{report:?}");
    far.shards.send(Command::RemoteSenderReport {
        track: AUDIO,
        encoding,
        report,
    });
    far.until(
        &mut [&mut a, &mut b, &mut c],
        "two reports, without a second one of the publisher",
        |far, clients| {
            microphone.send(clients[0]);
            while let Ok(batch) = world.taps.try_recv() {
                for tapped in batch.packets {
                    far.shards.send(Command::RemoteMedia {
                        track: tapped.track,
                        encoding: tapped.packet.encoding,
                        layer: tapped.layer,
                        packets: vec![Bytes::copy_from_slice(tapped.packet.link_bytes())],
                    });
                }
            }
            reports(clients[2], AUDIO_OUT).len() >= 2
        },
    );
    let seen = reports(&c, AUDIO_OUT);
    assert!(seen[0].ntp < seen[1].ntp, "a receiver needs two moments: {seen:?}");
    let packets = c.of_ssrc(AUDIO_OUT);
    let number = u16::from_be_bytes([packets[0].payload[0], packets[0].payload[1]]);
    let shift = packets[0].header.timestamp.wrapping_sub(u32::from(number) * 960);
    for report in seen {
        let source = SenderReportInfo {
            rtp_timestamp: report.rtp_timestamp.wrapping_sub(shift),
            ..report
        };
        assert!(off_the_line(source).abs() <= 2, "{report:?} with {shift}");
    }
}

#[test]
fn of_a_flood_of_reports_the_latest_goes_on_a_few_times_a_second() {
    let (mut world, mut a, mut b, _, _) = call(1, Layer::LOW);
    world.shards.send(Command::Tap {
        track: AUDIO,
        consumer: meridian_shard::TapConsumer::Mesh,
        layers: LayerSet::up_to(Layer::LOW),
    });
    let last = 10 * 40 - 1;
    let mut number = 0;
    let began = std::time::Instant::now();
    for _ in 0..10 {
        a.send_rtcp(|w| {
            for _ in 0..40 {
                let info = SenderReportInfo {
                    ntp: REPORT.ntp + (u64::from(number) << 20),
                    rtp_timestamp: number,
                };
                let report = SenderReport {
                    ssrc: MICROPHONE,
                    info,
                    packets: 1,
                    octets: 1,
                };
                w.sender_report(&report, &[]);
                number += 1;
            }
        });
    }
    let told = |world: &World| {
        let reports = world.seen.iter().filter_map(|event| match event {
            Event::SenderReport { report, .. } => Some(report.rtp_timestamp),
            _ => None,
        });
        reports.collect::<Vec<u32>>()
    };
    world.until(&mut [&mut a, &mut b], "the latest report", |world, _| {
        told(world).contains(&last)
    });
    // One at once, one per 200 ms; and the mesh is told once a second what is known.
    let most = 2 + began.elapsed().as_millis() as usize / 200 + began.elapsed().as_millis() as usize / 1_000 + 1;
    let told = told(&world);
    assert!(told.len() <= most, "{} reports told: {told:?}", told.len());
}
