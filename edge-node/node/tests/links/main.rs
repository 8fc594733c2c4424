//! Links between two edges in one process over real quinn, through netlab's relay on loopback.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_cascade::link::hello::{Hello, Purpose};
use meridian_netlab::Impairment;
use meridian_node::link::{
    DownReason, LinkConfig, LinkEndpoint, LinkError, LinkEvent, LinkStats, MediaPacket, PeerAddress, Priority,
    SendControlError, SenderReport,
};
use meridian_pki::{CertificateAuthority, NodeIdentity, node_dns_name};
use meridian_sfu::media::{Encoding, Layer};
use prost::Message;
use support::*;
use tokio::sync::mpsc;
use tokio::time::timeout;

const MS: Duration = Duration::from_millis(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_percent_loss_both_ways_at_90_ms_leaves_less_than_a_thousandth() {
    for attempt in 1.. {
        let run = five_percent_loss(40 + attempt).await;
        // A run that the machine could not keep pace with says nothing about the link: a steady path of 90 ms then measures much
        // more, and a controller that takes delay for congestion is right to.
        if run.rtt_ms > 140.0 && attempt < 4 {
            println!("the machine was too busy, once more");
            continue;
        }
        run.check();
        return;
    }
}

/// What came of 120 frames.
struct LossyRun {
    sent: u64,
    lost: u64,
    rtt_ms: f64,
    far: LinkStats,
    near: LinkStats,
}

impl LossyRun {
    fn check(&self) {
        let LossyRun {
            sent, lost, far, near, ..
        } = self;
        assert!(*lost as f64 <= *sent as f64 * 0.001, "{lost} of {sent} lost");
        assert!(far.totals.repaired > sent / 50, "the path did lose packets: {far:?}");
        let repeated = near.totals.retransmitted as f64 / far.totals.repaired as f64;
        assert!((0.5..2.0).contains(&repeated), "{near:?}");
        assert_eq!(
            (near.totals.dropped, near.layers_shed),
            (0, 0),
            "random loss is no congestion"
        );
        assert!((85.0..=140.0).contains(&self.rtt_ms), "{near:?}");
    }
}

async fn five_percent_loss(seed: u64) -> LossyRun {
    let (mut near, mut far, _relay) = linked(Impairment::lossy(90 * MS, 0.05), seed).await;
    let began = Instant::now();
    let mut sent = 0u64;
    let mut ticks = tokio::time::interval(33 * MS);
    let collector = tokio::spawn(async move {
        let mut seen = Vec::new();
        let mut stats = LinkStats::default();
        while let Ok(Some(event)) = timeout(2000 * MS, far.events.recv()).await {
            match event {
                LinkEvent::Media { packets, .. } => {
                    seen.extend(packets.iter().map(|p| (number(p), sent_at(p), began.elapsed())))
                }
                LinkEvent::Stats { stats: new, .. } => {
                    stats = new;
                    if seen.last().is_some_and(|(_, _, at)| began.elapsed() > *at + 1500 * MS) {
                        break;
                    }
                }
                LinkEvent::Down { reason, .. } => panic!("link down: {reason}"),
                _ => {}
            }
        }
        (seen, stats, far)
    });
    // 4.9 Mbit/s for 4 s: frames of 17 packets and an audio packet, 30 a second.
    for _ in 0..120 {
        ticks.tick().await;
        let mut batch: Vec<MediaPacket> = (0..17)
            .map(|i| packet(7, Priority::Top, sent + i, began.elapsed(), 1200))
            .collect();
        batch.push(packet(8, Priority::Audio, sent + 17, began.elapsed(), 160));
        sent += 18;
        near.link.send_media(&far_id(), batch).expect("up");
    }
    let (mut seen, stats, _far) = collector.await.unwrap();
    let mut numbers: Vec<u64> = seen.iter().map(|s| s.0).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), seen.len(), "nothing is delivered twice");
    let lost = sent - numbers.len() as u64;
    seen.sort_by_key(|(_, sent, at)| *at - *sent);
    let delay = |share: f64| {
        seen[((seen.len() - 1) as f64 * share) as usize].2 - seen[((seen.len() - 1) as f64 * share) as usize].1
    };
    let near_stats = near.stats().await;
    println!(
        "sent {sent}, residual {lost}, one-way p50 {:?} p99 {:?}, loss before repair {:.3}, retransmitted {:.3}, rtt {:.1} ms, jitter {:.1} ms",
        delay(0.5),
        delay(0.99),
        stats.loss_in,
        near_stats.totals.retransmitted as f64 / near_stats.totals.sent as f64,
        near_stats.rtt_ms,
        stats.jitter_ms,
    );
    LossyRun {
        sent,
        lost,
        rtt_ms: f64::from(near_stats.rtt_ms),
        far: stats,
        near: near_stats,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_peer_is_suspected_soon_a_short_cut_keeps_the_link_and_a_long_one_is_recovered_from() {
    let (mut near, mut far, relay) = linked(
        Impairment {
            delay: 20 * MS,
            ..Impairment::default()
        },
        1,
    )
    .await;
    // Heartbeats first have to learn the path.
    tokio::time::sleep(500 * MS).await;
    relay.cut(true);
    let cut = Instant::now();
    near.until(|e| matches!(e, LinkEvent::Suspect { .. })).await;
    let suspected = cut.elapsed();
    assert!(
        suspected < 400 * MS && suspected > 100 * MS,
        "suspected after {suspected:?}"
    );
    far.until(|e| matches!(e, LinkEvent::Suspect { .. })).await;
    relay.cut(false);
    near.until(|e| matches!(e, LinkEvent::Alive { .. })).await;
    far.until(|e| matches!(e, LinkEvent::Alive { .. })).await;
    assert_eq!(near.downs + far.downs, 0);

    relay.cut(true);
    let reason = near.down().await;
    assert!(matches!(reason, DownReason::TimedOut), "{reason:?}");
    assert_eq!(
        near.link.send_control(&far_id(), Bytes::new()),
        Err(SendControlError::NotConnected)
    );
    far.down().await;
    relay.cut(false);
    near.up().await;
    far.up().await;
    near.link
        .send_control(&far_id(), Bytes::from_static(b"again"))
        .expect("up");
    assert_eq!(far.control().await, "again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_messages_keep_their_order_both_ways_over_a_lossy_path() {
    let (mut near, mut far, _relay) = linked(
        Impairment {
            jitter: 10 * MS,
            ..Impairment::lossy(40 * MS, 0.05)
        },
        3,
    )
    .await;
    let message = |i: usize| {
        let mut message = format!("{i}:").into_bytes();
        message.resize(message.len() + (i * 7919) % 3000, b'x');
        Bytes::from(message)
    };
    for i in 0..300 {
        near.link.send_control(&far_id(), message(i)).expect("queued");
        far.link.send_control(&near_id(), message(i)).expect("queued");
    }
    for i in 0..300 {
        assert_eq!(far.control().await, message(i), "message {i} towards the acceptor");
        assert_eq!(near.control().await, message(i), "message {i} towards the dialler");
    }
    let large = Bytes::from(vec![7; 256 * 1024]);
    near.link.send_control(&far_id(), large.clone()).expect("at the limit");
    assert_eq!(far.control().await, large);
    let over = near.link.send_control(&far_id(), Bytes::from(vec![7; 256 * 1024 + 1]));
    assert_eq!(over, Err(SendControlError::TooLarge(256 * 1024 + 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_of_1250_bytes_falls_back_to_the_small_profile_and_splits_media() {
    let narrow = Impairment {
        mtu: 1250,
        delay: 5 * MS,
        ..Impairment::default()
    };
    let (mut near, mut far, relay) = linked(narrow, 4).await;
    assert!(
        relay.counters().0.too_large + relay.counters().1.too_large > 0,
        "the full profile was tried"
    );
    let big = Bytes::from((0..1400u32).map(|i| i as u8).collect::<Vec<_>>());
    let packet = MediaPacket {
        track: 5,
        encoding: Encoding(1),
        layer: Layer(2),
        priority: Priority::Top,
        keyframe: false,
        payload: big.clone(),
    };
    far.link.send_media(&near_id(), vec![packet.clone(); 3]).expect("up");
    near.link.send_media(&far_id(), vec![packet; 3]).expect("up");
    for node in [&mut near, &mut far] {
        for received in node.media(3).await {
            assert_eq!(
                (received.track, received.encoding, received.layer, received.payload),
                (5, Encoding(1), Layer(2), big.clone())
            );
        }
        let stats = node.stats().await;
        assert!((1162..=1212).contains(&stats.datagram_max), "{stats:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_usual_path_carries_1312_bytes_a_datagram_at_once_and_sender_reports_pass() {
    let (mut near, mut far, _relay) = linked(Impairment::default(), 5).await;
    assert!(near.stats().await.datagram_max >= 1312);
    let report = SenderReport {
        track: 9,
        encoding: Encoding(1),
        ntp: 0x0123_4567_89ab_cdef,
        rtp_timestamp: 77,
    };
    near.link.send_sender_report(&far_id(), report).expect("up");
    let event = far.until(|e| matches!(e, LinkEvent::SenderReport { .. })).await;
    assert!(matches!(event, LinkEvent::SenderReport { report: got, .. } if got == report));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_of_another_ca_or_another_name_are_refused_with_the_reason() {
    let (ours, theirs) = (
        CertificateAuthority::create().unwrap(),
        CertificateAuthority::create().unwrap(),
    );
    let mut far = Node::start("fra-1", ours.issue_node("fra-1", &[]).unwrap()).await;
    let addr = far.addr();

    // The server is of another CA.
    let stranger = Node::start("aaa-1", theirs.issue_node("aaa-1", &[]).unwrap()).await;
    let error = stranger.dial_error("fra-1", addr).await;
    assert!(
        matches!(&error, LinkError::PeerCertificate(why) if why.contains("UnknownIssuer")),
        "{error}"
    );

    // The server is not who was dialled.
    let mistaken = Node::start("aab-1", ours.issue_node("aab-1", &[]).unwrap()).await;
    let error = mistaken.dial_error("iad-1", addr).await;
    assert!(
        matches!(&error, LinkError::PeerCertificate(why) if why.contains("iad-1")),
        "{error}"
    );

    // The client is of another CA, though it trusts ours.
    let forged = NodeIdentity {
        ca_pem: ours.certificate_pem().to_owned(),
        ..theirs.issue_node("aac-1", &[]).unwrap()
    };
    let forger = Node::start("aac-1", forged).await;
    let error = forger.dial_error("fra-1", addr).await;
    assert!(matches!(&error, LinkError::OurCertificate(_)), "{error}");
    let refusal = far
        .until(|e| {
            matches!(
                e,
                LinkEvent::Refused {
                    error: LinkError::PeerCertificate(_),
                    ..
                }
            )
        })
        .await;
    assert!(format!("{refusal:?}").contains("UnknownIssuer"), "{refusal:?}");

    // A control plane is no edge.
    let control = ours.issue_control_plane("aad-1", &[]).unwrap();
    let control = Node::start("aad-1", control).await;
    let error = control.dial_error("fra-1", addr).await;
    assert!(error.to_string().contains("names no edge"), "{error}");
    assert!(far.link.connected().is_empty() && far.ups == 0);

    // The configuration must name the node the certificate names.
    let (events, _) = mpsc::channel(1);
    let config = LinkConfig::new("sin-1".into(), loopback(), ours.issue_node("fra-2", &[]).unwrap());
    assert!(matches!(
        LinkEndpoint::start(config, events).await.err(),
        Some(LinkError::WrongIdentity { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_lower_node_dials_and_a_peer_that_leaves_and_returns_is_linked_again() {
    let ca = CertificateAuthority::create().unwrap();
    let mut near = Node::start(near_id().as_str(), ca.issue_node(near_id().as_str(), &[]).unwrap()).await;
    let identity = ca.issue_node(far_id().as_str(), &[]).unwrap();
    let mut far = Node::start(far_id().as_str(), identity.clone()).await;
    let addr = far.addr();
    far.link.set_peers(vec![PeerAddress {
        node: near_id(),
        addr: near.addr(),
    }]);
    near.link.set_peers(vec![
        PeerAddress { node: far_id(), addr },
        PeerAddress {
            node: near_id(),
            addr: near.addr(),
        },
    ]);
    near.up().await;
    far.up().await;
    assert_eq!(
        (near.link.connected(), far.link.connected()),
        (vec![far_id()], vec![near_id()])
    );

    far.link.shutdown().await;
    let reason = near.down().await;
    assert_eq!(reason, DownReason::PeerClosed("shutting down".into()));
    drop(far);
    let (events, received) = mpsc::channel(1024);
    let mut far = loop {
        // The old socket closes when quinn's tasks are done with it.
        let config = LinkConfig::new(far_id(), addr, identity.clone());
        match LinkEndpoint::start(config, events.clone()).await {
            Ok(link) => {
                break Node {
                    link,
                    events: received,
                    ups: 0,
                    downs: 0,
                };
            }
            Err(LinkError::Bind { .. }) => tokio::time::sleep(10 * MS).await,
            Err(error) => panic!("{error}"),
        }
    };
    near.up().await;
    far.up().await;

    near.link.disconnect(&far_id());
    assert_eq!(near.down().await, DownReason::Disconnected);
    assert_eq!(far.down().await, DownReason::PeerClosed("disconnected".into()));
    assert!(near.link.connected().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bottleneck_costs_top_layers_and_little_delay_and_never_audio() {
    // 8 Mbit/s of media on a path that suddenly carries 4, with a second of drop-tail queue.
    let wide = Impairment {
        rate_bps: Some(40_000_000),
        queue_bytes: 500_000,
        delay: 20 * MS,
        ..Impairment::default()
    };
    let (mut near, mut far, relay) = linked(wide.clone(), 6).await;
    let began = Instant::now();
    let collector = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Ok(Some(event)) = timeout(3000 * MS, far.events.recv()).await {
            match event {
                LinkEvent::Media { packets, .. } => {
                    seen.extend(
                        packets
                            .iter()
                            .map(|p| (p.track, number(p), sent_at(p), began.elapsed())),
                    );
                    if packets.iter().any(|p| p.track == 99) {
                        break;
                    }
                }
                LinkEvent::Down { reason, .. } => panic!("link down: {reason}"),
                _ => {}
            }
        }
        (seen, far)
    });
    let mut ticks = tokio::time::interval(20 * MS);
    let mut audio = 0;
    for tick in 0..300u64 {
        ticks.tick().await;
        if tick == 100 {
            let narrow = Impairment {
                rate_bps: Some(4_000_000),
                ..wide.clone()
            };
            relay.set(narrow.clone(), narrow);
        }
        let mut batch = vec![packet(1, Priority::Audio, audio, began.elapsed(), 160)];
        audio += 1;
        // 480 kbit/s of base, 1.4 Mbit/s of mid and 6.2 Mbit/s of top.
        for (track, priority, count) in [(2, Priority::Base, 1), (3, Priority::Mid, 3), (4, Priority::Top, 13)] {
            batch.extend((0..count).map(|i| packet(track, priority, tick * 100 + i, began.elapsed(), 1190)));
        }
        near.link.send_media(&far_id(), batch).expect("up");
    }
    tokio::time::sleep(1000 * MS).await;
    near.link
        .send_media(&far_id(), vec![packet(99, Priority::Audio, 0, began.elapsed(), 160)])
        .expect("up");
    let (seen, _far) = collector.await.unwrap();
    let shed = near.until(|e| matches!(e, LinkEvent::LayerShed { .. })).await;
    assert!(
        matches!(
            shed,
            LinkEvent::LayerShed {
                track: 4,
                layer: Layer(2),
                shed: true,
                ..
            }
        ),
        "{shed:?}"
    );
    let mut delays: Vec<Duration> = Vec::new();
    for (_, _, sent, at) in seen
        .iter()
        .filter(|(track, _, sent, _)| *track < 3 && *sent > 4000 * MS)
    {
        delays.push((*at - *sent).saturating_sub(20 * MS));
    }
    delays.sort_unstable();
    let quantile = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
    let heard = seen.iter().filter(|(track, ..)| *track == 1).count() as u64;
    let stats = near.stats().await;
    println!(
        "audio {heard} of {audio}; 2 s after the cut: added p50 {:?}, p99 {:?}; target {} bit/s",
        quantile(0.5),
        quantile(0.99),
        stats.target_bps
    );
    assert_eq!(heard, audio, "audio is never dropped: {stats:?}");
    assert!(
        quantile(0.5) < 60 * MS,
        "the queue stays short: p50 {:?}, p99 {:?}",
        quantile(0.5),
        quantile(0.99)
    );
}

#[test]
fn a_killed_peer_that_restarts_on_its_address_is_linked_again_well_before_the_idle_timeout() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let (ours, theirs) = (runtime(), runtime());
    let ca = CertificateAuthority::create().unwrap();
    let identity = ca.issue_node(far_id().as_str(), &[]).unwrap();
    let far = theirs.block_on(Node::start(far_id().as_str(), identity.clone()));
    let addr = far.addr();
    let mut near = ours.block_on(Node::start(
        near_id().as_str(),
        ca.issue_node(near_id().as_str(), &[]).unwrap(),
    ));
    ours.block_on(async {
        near.link.connect(far_id(), addr);
        near.up().await;
    });
    // No task of the peer runs again, nothing says goodbye: as after kill -9.
    drop(far);
    theirs.shutdown_timeout(PATIENCE);
    let killed = Instant::now();
    let _restarted = ours.block_on(async {
        let (events, received) = mpsc::channel(1024);
        let config = LinkConfig::new(far_id(), addr, identity);
        let link = LinkEndpoint::start(config, events).await.expect("the address is free");
        let reason = near.down().await;
        assert_eq!(reason, DownReason::PeerRestarted);
        near.up().await;
        (link, received)
    });
    println!("linked again {:?} after the kill", killed.elapsed());
    assert!(killed.elapsed() < 2000 * MS, "{:?}", killed.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_path_died_is_linked_at_its_new_address_before_the_old_link_times_out() {
    let (mut near, mut far, relay) = linked(Impairment::default(), 7).await;
    tokio::time::sleep(300 * MS).await;
    relay.cut(true);
    let cut = Instant::now();
    near.link.set_peers(vec![PeerAddress {
        node: far_id(),
        addr: far.addr(),
    }]);
    assert_eq!(near.down().await, DownReason::Replaced);
    near.up().await;
    assert!(cut.elapsed() < 2500 * MS, "{:?}", cut.elapsed());
    assert_eq!(far.down().await, DownReason::Replaced);
    far.up().await;
    far.link
        .send_control(&near_id(), Bytes::from_static(b"hello"))
        .expect("up");
    assert_eq!(near.control().await, "hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_from_strangers_harms_no_link() {
    let (near, mut far, _relay) = linked(Impairment::default(), 8).await;
    let socket = tokio::net::UdpSocket::bind(loopback()).await.unwrap();
    for i in 0..5000u32 {
        let mut noise: Vec<u8> = (0..1200u32)
            .map(|at| (at.wrapping_mul(i ^ 0x9e37) >> 3) as u8)
            .collect();
        // Half of them look like QUIC Initials with invented connection ids.
        if i % 2 == 0 {
            noise[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 18]);
        }
        let _ = socket.send_to(&noise, far.addr()).await;
    }
    for i in 0..50u64 {
        near.link
            .send_media(&far_id(), vec![packet(1, Priority::Audio, i, Duration::ZERO, 100)])
            .expect("up");
    }
    near.link
        .send_control(&far_id(), Bytes::from_static(b"still here"))
        .expect("up");
    assert_eq!(far.control().await, "still here");
    assert_eq!(near.downs + far.downs, 0);
    while let Ok(event) = far.events.try_recv() {
        assert!(
            !matches!(event, LinkEvent::Refused { .. }),
            "noise never got as far as a handshake: {event:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certified_peer_that_breaks_the_protocol_loses_its_link_and_the_reason_is_said() {
    let ca = CertificateAuthority::create().unwrap();
    let mut far = Node::start(far_id().as_str(), ca.issue_node(far_id().as_str(), &[]).unwrap()).await;
    let tls = ca
        .issue_node("aaa-1", &[])
        .unwrap()
        .client_config(&[b"meridian-link/1"])
        .unwrap();
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let client = quinn::Endpoint::client(loopback()).unwrap();
    let greet = async |name: &str, purpose: Purpose, link_id: u64| {
        let connecting = client
            .connect_with(config.clone(), far.addr(), &node_dns_name(far_id().as_str()))
            .unwrap();
        let connection = connecting.await.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        let hello = Hello::new(name, purpose, link_id, 7).encode_to_vec();
        send.write_all(&(hello.len() as u32).to_be_bytes()).await.unwrap();
        send.write_all(&hello).await.unwrap();
        let answered = receive.read_exact(&mut [0; 8]).await.is_ok();
        (connection, send, receive, answered)
    };

    // A name that is not its own.
    let (connection, _, _, answered) = greet("bbb-1", Purpose::Control, 1).await;
    assert!(!answered);
    assert!(
        connection
            .closed()
            .await
            .to_string()
            .contains("its certificate says aaa-1")
    );

    // A proper link, then a message announced as 4 GiB.
    let (_control, mut send, _receive, _) = greet("aaa-1", Purpose::Control, 2).await;
    let _media = greet("aaa-1", Purpose::Media, 2).await;
    far.up().await;
    send.write_all(&[0, 0, 0, 1, b'x']).await.unwrap();
    assert_eq!(far.control().await, "x");
    send.write_all(&[0xff; 4]).await.unwrap();
    let reason = far.down().await.to_string();
    assert!(reason.contains("4294967295 bytes"), "{reason}");
}
