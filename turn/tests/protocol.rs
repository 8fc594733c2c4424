//! The protocol in virtual time, as RFC 8489 and 8656 tell it.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use meridian_turn::credentials::PasswordAlgorithm;
use meridian_turn::limits::Rate;
use meridian_turn::policy::MediaPorts;
use meridian_turn::stun::{Class, Message, MessageWriter, Method, TransactionId, attribute};
use meridian_turn::{Framing, Relayed};
use meridian_turn_credentials::time_limited_credential;
use support::*;

fn peer() -> SocketAddr {
    addr("192.0.3.5:7000")
}

#[test]
fn binding_tells_the_senders_address_in_few_bytes() {
    let mut world = World::new(config());
    let request = MessageWriter::new(Class::Request, Method::BINDING, TransactionId([1; 12])).finish();
    let answer = Answer::of(&world.ask(anna().socket, &request).unwrap());
    assert_eq!(
        answer.message().get_address(attribute::XOR_MAPPED_ADDRESS),
        Some(anna().socket.remote)
    );
    assert!(answer.bytes.len() <= 160);
}

#[test]
fn an_allocation_relays_both_ways_by_indication_and_by_channel() {
    let mut world = World::new(config());
    let mut anna = anna();
    let answer = anna.allocate(&mut world);
    assert_eq!((answer.error, answer.lifetime(), answer.relayed().len()), (0, 600, 1));
    let (relay, bound) = world.open[0];
    assert_eq!(answer.relayed()[0], bound);

    let send = anna.send_indication(peer(), b"hello");
    assert_eq!(
        world.server.handle_client(world.now, anna.socket, &send),
        Relayed::Nothing,
        "no permission yet"
    );
    assert_eq!(world.server.handle_peer(world.now, relay, peer(), b"knock"), None);

    assert_eq!(anna.permit(&mut world, peer()).error, 0);
    match world.server.handle_client(world.now, anna.socket, &send) {
        Relayed::ToPeer(out) => assert_eq!((out.relay, out.to, out.payload), (relay, peer(), &b"hello"[..])),
        other => panic!("{other:?}"),
    }
    let other_port = addr("192.0.3.5:9");
    let back = world
        .server
        .handle_peer(world.now, relay, other_port, b"a port does not matter")
        .unwrap();
    let mut frame = vec![0; back.encoded_len()];
    assert!(back.encode(&mut frame));
    let message = Message::parse(&frame).unwrap();
    assert_eq!((message.class, message.method), (Class::Indication, Method::DATA));
    assert_eq!(message.get_address(attribute::XOR_PEER_ADDRESS), Some(other_port));
    assert_eq!(message.get(attribute::DATA), Some(&b"a port does not matter"[..]));

    assert_eq!(anna.bind(&mut world, 0x4001, peer()).error, 0);
    let data = channel_data(0x4001, b"fast");
    assert!(
        matches!(world.server.handle_client(world.now, anna.socket, &data), Relayed::ToPeer(p) if p.payload == b"fast")
    );
    let back = world.server.handle_peer(world.now, relay, peer(), b"fast too").unwrap();
    assert_eq!(back.framing, Framing::Channel(0x4001));
    let mut frame = vec![0; back.encoded_len()];
    back.encode(&mut frame);
    assert_eq!(frame, channel_data(0x4001, b"fast too"));
}

#[test]
fn credentials_are_checked_with_md5_and_with_sha256() {
    for algorithm in [PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256] {
        let mut world = World::new(config());
        let mut anna = Client { algorithm, ..anna() };
        assert_eq!(anna.allocate(&mut world).error, 0);
        let mut wrong = Client {
            algorithm,
            ..client("198.51.99.12:1", "anna", "guess")
        };
        assert_eq!(wrong.allocate(&mut world).error, 401);
        let mut nobody = Client {
            algorithm,
            ..client("198.51.99.12:2", "mallory", "guess")
        };
        assert_eq!(nobody.allocate(&mut world).error, 401);
    }
}

#[test]
fn a_bid_down_of_the_password_algorithms_is_refused() {
    let mut world = World::new(config());
    let mut anna = anna();
    anna.allocate(&mut world);
    let tampered = bytes_attribute(attribute::PASSWORD_ALGORITHMS, &[0, 1, 0, 0]);
    let chosen = bytes_attribute(attribute::PASSWORD_ALGORITHM, &[0, 1, 0, 0]);
    let request = anna.request(Method::REFRESH, &[tampered, chosen]);
    assert_eq!(Answer::of(&world.ask(anna.socket, &request).unwrap()).error, 400);
}

#[test]
fn time_limited_credentials_end_but_calls_go_on() {
    let mut world = World::new(config());
    let (name, password) = time_limited_credential(b"north", "carla", UNIX.as_secs() + 60);
    let mut carla = client("198.51.99.13:1", &name, &password);
    assert_eq!(carla.allocate(&mut world).error, 0);
    world.pass(Duration::from_secs(61));
    assert_eq!(
        carla.refresh(&mut world, 600).error,
        0,
        "what was allocated in time may be kept up"
    );
    let mut late = client("198.51.99.13:2", &name, &password);
    assert_eq!(late.allocate(&mut world).error, 401);
}

#[test]
fn a_nonce_grows_stale_and_is_replaced() {
    let mut world = World::new(config());
    let mut anna = anna();
    anna.allocate(&mut world);
    let stale = anna.nonce.clone();
    for _ in 0..7 {
        world.pass(Duration::from_secs(590));
        assert_eq!(anna.refresh(&mut world, 600).error, 0);
    }
    assert_ne!(anna.nonce, stale);
    let mut thief = Client {
        nonce: anna.nonce.clone(),
        ..client("198.51.98.1:1", "anna", "pw-a")
    };
    let request = thief.request(Method::ALLOCATE, &[udp()]);
    assert_eq!(
        Answer::of(&world.ask(thief.socket, &request).unwrap()).error,
        438,
        "a nonce is its client's own"
    );
}

#[test]
fn everything_ends_in_its_time() {
    let mut world = World::new(config());
    let mut anna = anna();
    anna.allocate(&mut world);
    anna.bind(&mut world, 0x4001, peer());
    let (relay, _) = world.open[0];
    world.pass(Duration::from_secs(299));
    assert!(world.server.handle_peer(world.now, relay, peer(), b"x").is_some());
    world.pass(Duration::from_secs(1));
    assert!(
        world.server.handle_peer(world.now, relay, peer(), b"x").is_none(),
        "permission: 300 s"
    );
    anna.refresh(&mut world, 3600);
    anna.permit(&mut world, peer());
    world.pass(Duration::from_secs(299));
    let back = world.server.handle_peer(world.now, relay, peer(), b"x").unwrap();
    assert_eq!(back.framing, Framing::Channel(0x4001));
    anna.permit(&mut world, peer());
    world.pass(Duration::from_secs(1));
    let back = world.server.handle_peer(world.now, relay, peer(), b"x").unwrap();
    assert!(matches!(back.framing, Framing::Indication { .. }), "channel: 600 s");
    world.pass(Duration::from_secs(3600));
    assert_eq!((world.server.allocations(), world.open.len()), (0, 0));
    assert_eq!(anna.refresh(&mut world, 600).error, 437);
}

#[test]
fn expiry_does_not_wait_for_the_timer() {
    let mut world = World::new(config());
    let mut anna = anna();
    anna.allocate(&mut world);
    anna.permit(&mut world, peer());
    let (relay, _) = world.open[0];
    world.now += Duration::from_secs(601);
    assert!(world.server.handle_peer(world.now, relay, peer(), b"x").is_none());
    world.settle();
    assert!(world.open.is_empty());
}

#[test]
fn refresh_to_zero_deletes_and_may_be_repeated() {
    let mut world = World::new(config());
    let mut anna = anna();
    anna.allocate(&mut world);
    assert_eq!((anna.refresh(&mut world, 0).error, world.open.len()), (0, 0));
    assert_eq!(anna.refresh(&mut world, 0).error, 0);
    assert_eq!(anna.refresh(&mut world, 600).error, 437);
    assert_eq!(anna.allocate(&mut world).error, 0);
    assert_eq!(anna.refresh(&mut world, 1_000_000).lifetime(), 3600);
}

#[test]
fn a_retransmitted_allocate_is_answered_alike_and_another_refused() {
    let mut world = World::new(config());
    let mut anna = anna();
    anna.allocate(&mut world);
    anna.refresh(&mut world, 0);
    let request = anna.request(Method::ALLOCATE, &[udp()]);
    let first = Answer::of(&world.ask(anna.socket, &request).unwrap());
    let second = Answer::of(&world.ask(anna.socket, &request).unwrap());
    assert_eq!((first.error, first.relayed()), (0, second.relayed()));
    assert_eq!(anna.allocate(&mut world).error, 437);
    let mut bert = Client {
        socket: anna.socket,
        ..bert()
    };
    assert_eq!(bert.refresh(&mut world, 600).error, 441);
}

#[test]
fn families_are_chosen_and_dual_allocations_refreshed_apart() {
    let mut world = World::new(config());
    let family = |f: u32| u32_attribute(attribute::REQUESTED_ADDRESS_FAMILY, f << 24);
    let additional = || u32_attribute(attribute::ADDITIONAL_ADDRESS_FAMILY, 2 << 24);
    let mut anna = anna();
    let six = anna.call(&mut world, Method::ALLOCATE, &[udp(), family(2)]);
    assert!(six.relayed()[0].is_ipv6());
    assert_eq!(anna.permit(&mut world, peer()).error, 443);
    assert_eq!(anna.permit(&mut world, addr("[2a00:2::1]:1")).error, 0);
    anna.refresh(&mut world, 0);
    assert_eq!(anna.call(&mut world, Method::ALLOCATE, &[udp(), family(3)]).error, 440);
    assert_eq!(
        anna.call(&mut world, Method::ALLOCATE, &[udp(), family(1), additional()])
            .error,
        400
    );

    let dual = anna.call(&mut world, Method::ALLOCATE, &[udp(), additional()]);
    assert_eq!(
        dual.relayed().iter().map(SocketAddr::is_ipv4).collect::<Vec<_>>(),
        [true, false]
    );
    let zero = || u32_attribute(attribute::LIFETIME, 0);
    assert_eq!(anna.call(&mut world, Method::REFRESH, &[zero(), family(1)]).error, 0);
    assert_eq!((world.open.len(), anna.permit(&mut world, peer()).error), (1, 443));
    assert_eq!(anna.call(&mut world, Method::REFRESH, &[zero(), family(2)]).error, 0);
    assert_eq!(world.server.allocations(), 0);
}

#[test]
fn half_a_dual_allocation_is_had_if_the_other_half_is_not() {
    let mut world = World::new(meridian_turn::ServerConfig {
        relay_v6: None,
        ..config()
    });
    let additional = u32_attribute(attribute::ADDITIONAL_ADDRESS_FAMILY, 2 << 24);
    let answer = anna().call(&mut world, Method::ALLOCATE, &[udp(), additional]);
    assert_eq!((answer.error, answer.relayed().len()), (0, 1));
    assert_eq!(answer.get(attribute::ADDRESS_ERROR_CODE).unwrap()[..4], [2, 0, 4, 40]);
}

#[test]
fn an_even_port_reserves_the_next_for_the_same_user() {
    let mut world = World::new(config());
    let (mut anna, mut again, mut bert) = (anna(), client("198.51.99.10:4001", "anna", "pw-a"), bert());
    let even = bytes_attribute(attribute::EVEN_PORT, &[0x80]);
    let first = anna.call(&mut world, Method::ALLOCATE, &[udp(), even]);
    let port = first.relayed()[0].port();
    let token = first.get(attribute::RESERVATION_TOKEN).unwrap();
    assert_eq!(port % 2, 0);
    let claim = || bytes_attribute(attribute::RESERVATION_TOKEN, &token);
    assert_eq!(bert.call(&mut world, Method::ALLOCATE, &[udp(), claim()]).error, 508);
    let second = again.call(&mut world, Method::ALLOCATE, &[udp(), claim()]);
    assert_eq!(second.relayed()[0].port(), port + 1);
}

#[test]
fn a_port_that_cannot_be_bound_is_replaced() {
    let mut world = World::new(config());
    world.refuse_ports = 3;
    assert_eq!(anna().allocate(&mut world).error, 0);
    world.refuse_ports = 4;
    assert_eq!(bert().allocate(&mut world).error, 508);
    assert_eq!(world.server.allocations(), 1);
}

#[test]
fn an_even_port_that_cannot_be_bound_is_replaced_by_another_even_one_and_its_reservation_moves_along() {
    let mut config = config();
    config.relay_ports = 61_000..=61_007;
    let mut world = World::new(config);
    let (mut anna, mut again) = (anna(), client("198.51.99.10:4001", "anna", "pw-a"));
    world.refuse_ports = 3;
    let even = |value| bytes_attribute(attribute::EVEN_PORT, &[value]);
    let first = anna.call(&mut world, Method::ALLOCATE, &[udp(), even(0x80)]);
    let (port, token) = (
        first.relayed()[0].port(),
        first.get(attribute::RESERVATION_TOKEN).unwrap(),
    );
    assert_eq!(port % 2, 0);
    // The pairs that were given back are free: three of four.
    for i in 0..6 {
        let mut other = client(&format!("198.51.99.{}:4000", 20 + i), "bert", "pw-b");
        assert_eq!(other.allocate(&mut world).error, 0);
    }
    let mut late = client("198.51.99.30:4000", "bert", "pw-b");
    assert_eq!(late.allocate(&mut world).error, 508);
    let claim = bytes_attribute(attribute::RESERVATION_TOKEN, &token);
    let second = again.call(&mut world, Method::ALLOCATE, &[udp(), claim]);
    assert_eq!(second.relayed()[0].port(), port + 1);
}

#[test]
fn peers_inside_are_refused_and_configured_ones_are_not() {
    let mut world = World::new(config());
    let mut anna = anna();
    anna.allocate(&mut world);
    for inside in [
        "127.0.0.1:1",
        "10.0.0.1:1",
        "192.168.1.1:1",
        "169.254.169.254:80",
        "224.0.0.1:1",
        "0.0.0.0:1",
    ] {
        assert_eq!(anna.permit(&mut world, addr(inside)).error, 403, "{inside}");
        assert_eq!(anna.bind(&mut world, 0x4001, addr(inside)).error, 403, "{inside}");
    }
    let mut config = config();
    config.policy.allowed = vec!["10.0.0.0/8".parse().unwrap()];
    let mut world = World::new(config);
    let mut bert = bert();
    bert.allocate(&mut world);
    assert_eq!(bert.permit(&mut world, addr("10.0.0.1:1")).error, 0);
    assert_eq!(bert.permit(&mut world, addr("192.168.1.1:1")).error, 403);
}

#[test]
fn our_own_address_is_reached_at_live_relayed_ports_only() {
    let mut world = World::new(config());
    let (mut anna, mut bert) = (anna(), bert());
    let a = anna.allocate(&mut world).relayed()[0];
    let b = bert.allocate(&mut world).relayed()[0];
    assert_eq!(anna.bind(&mut world, 0x4001, b).error, 0);
    assert_eq!(bert.permit(&mut world, a).error, 0);
    match world
        .server
        .handle_client(world.now, anna.socket, &channel_data(0x4001, b"hi"))
    {
        Relayed::ToClient(out) => assert_eq!((out.client, out.payload), (bert.socket, &b"hi"[..])),
        other => panic!("{other:?}"),
    }
    let ssh = anna.send_indication(SocketAddr::new(b.ip(), 22), b"SSH-2.0");
    assert_eq!(
        world.server.handle_client(world.now, anna.socket, &ssh),
        Relayed::Nothing
    );
    let unused = SocketAddr::new(b.ip(), if b.port() == 60_000 { 60_001 } else { 60_000 });
    if unused != a {
        let send = anna.send_indication(unused, b"x");
        assert_eq!(
            world.server.handle_client(world.now, anna.socket, &send),
            Relayed::Nothing
        );
    }
}

#[test]
fn channels_bind_one_number_to_one_peer() {
    let mut world = World::new(config());
    let mut anna = anna();
    anna.allocate(&mut world);
    assert_eq!(anna.bind(&mut world, 0x4001, peer()).error, 0);
    assert_eq!(anna.bind(&mut world, 0x4001, peer()).error, 0, "renewed");
    assert_eq!(anna.bind(&mut world, 0x4001, addr("192.0.3.6:1")).error, 400);
    assert_eq!(anna.bind(&mut world, 0x4002, peer()).error, 400);
    assert_eq!(anna.bind(&mut world, 0x3FFF, addr("192.0.3.6:1")).error, 400);
    assert_eq!(anna.bind(&mut world, 0x8000, addr("192.0.3.6:1")).error, 400);
    assert_eq!(anna.bind(&mut world, 0x7FFF, addr("192.0.3.6:1")).error, 0);
}

#[test]
fn quotas_hold_for_allocations_permissions_channels_and_bandwidth() {
    let mut config = config();
    config.limits.per_user.allocations = 2;
    config.limits.per_user.bytes = Some(Rate {
        per_second: 1_000,
        burst: 2_000,
    });
    config.limits.permissions_per_allocation = 3;
    config.limits.channels_per_allocation = 2;
    let mut world = World::new(config);
    let mut clients: Vec<_> = (1..=3)
        .map(|n| client(&format!("198.51.99.20:{n}"), "anna", "pw-a"))
        .collect();
    let errors: Vec<_> = clients.iter_mut().map(|c| c.allocate(&mut world).error).collect();
    assert_eq!(errors, [0, 0, 486]);
    let anna = &mut clients[0];
    let peers: Vec<_> = (1..=4).map(|n| addr(&format!("192.0.3.{n}:1"))).collect();
    let all: Vec<_> = peers.iter().map(|p| peer_attribute(*p)).collect();
    assert_eq!(
        anna.call(&mut world, Method::CREATE_PERMISSION, &all).error,
        508,
        "all or none"
    );
    let errors: Vec<_> = peers.iter().map(|p| anna.permit(&mut world, *p).error).collect();
    assert_eq!(errors, [0, 0, 0, 508]);
    let errors: Vec<_> = (0..3)
        .map(|n| anna.bind(&mut world, 0x4000 + n, peers[usize::from(n)]).error)
        .collect();
    assert_eq!(errors, [0, 0, 508]);
    let data = channel_data(0x4000, &[0; 500]);
    let passed = |world: &mut World, client: &Client| {
        (0..10)
            .filter(|_| world.server.handle_client(world.now, client.socket, &data) != Relayed::Nothing)
            .count()
    };
    assert_eq!(passed(&mut world, &clients[0]), 4);
    world.pass(Duration::from_secs(1));
    assert_eq!(passed(&mut world, &clients[0]), 2);
    clients[0].refresh(&mut world, 0);
    assert_eq!(clients[2].allocate(&mut world).error, 0, "a place was freed");
}

#[test]
fn strangers_are_answered_briefly_and_seldom() {
    let mut config = config();
    config.realm = "r".repeat(48);
    config.limits.unauthenticated = Rate {
        per_second: 10,
        burst: 10,
    };
    let mut world = World::new(config);
    let mut answers = 0;
    for n in 0..100 {
        let mut stranger = client(&format!("198.51.99.{n}:4000"), "", "");
        let request = stranger.request(Method::ALLOCATE, &[udp()]);
        if let Some(answer) = world.ask(stranger.socket, &request) {
            assert!(answer.len() <= 160, "{}", answer.len());
            answers += 1;
        }
    }
    assert_eq!(answers, 10);
    world.pass(Duration::from_secs(1));
    let mut stranger = client("198.51.99.1:4000", "", "");
    let request = stranger.request(Method::ALLOCATE, &[udp()]);
    assert!(world.ask(stranger.socket, &request).is_some());
}

#[test]
fn what_is_not_understood_is_named() {
    let mut world = World::new(config());
    let mut anna = anna();
    anna.allocate(&mut world);
    let answer = anna.call(&mut world, Method::REFRESH, &[u32_attribute(0x7F01, 1)]);
    assert_eq!(
        (answer.error, answer.get(attribute::UNKNOWN_ATTRIBUTES)),
        (420, Some(vec![0x7F, 1]))
    );
    assert_eq!(bert().call(&mut world, Method::ALLOCATE, &[]).error, 400);
    let tcp = u32_attribute(attribute::REQUESTED_TRANSPORT, 6 << 24);
    assert_eq!(bert().call(&mut world, Method::ALLOCATE, &[tcp]).error, 442);
}

#[test]
fn an_allocation_counts_as_this_pops_own_for_as_long_as_it_speaks_with_media_ports_only() {
    let (media, far) = (addr("203.0.114.7:7882"), addr("192.0.3.5:7000"));
    let beside = addr("203.0.114.7:9");
    let mut config = config();
    config.policy.allowed = vec!["203.0.114.7".parse().unwrap()];
    config.policy.media = vec![MediaPorts {
        advertised: media.ip(),
        actual: media.ip(),
        ports: 7_882..=7_883,
    }];
    // What a client does, and whether others than this PoP's media would miss its allocation.
    type Step = fn(&mut Client, &mut World, std::net::SocketAddr);
    let permit: Step = |client, world, peer| assert_eq!(client.permit(world, peer).error, 0);
    let bind: Step = |client, world, peer| assert_eq!(client.bind(world, 0x4001, peer).error, 0);
    let send: Step = |client, world, peer| {
        let sent = client.send_indication(peer, b"x");
        let relayed = world.server.handle_client(world.now, client.socket, &sent);
        assert!(matches!(relayed, Relayed::ToPeer(_)));
    };
    let hear: Step = |_, world, peer| {
        let relay = world.open[0].0;
        assert!(world.server.handle_peer(world.now, relay, peer, b"x").is_some());
    };
    type Story<'a> = &'a [(Step, std::net::SocketAddr)];
    let stories: [(Story<'_>, usize); 8] = [
        (&[], 1),
        (&[(permit, media)], 0),
        (&[(permit, media), (bind, media), (send, media), (hear, media)], 0),
        (&[(permit, media), (permit, far)], 1),
        (&[(permit, far), (permit, media)], 1),
        (&[(permit, media), (bind, beside)], 1),
        (&[(permit, media), (send, beside)], 1),
        (&[(permit, media), (hear, beside)], 1),
    ];
    for (number, (story, missed)) in stories.into_iter().enumerate() {
        let mut world = World::new(config.clone());
        let mut anna = anna();
        anna.allocate(&mut world);
        for (step, peer) in story {
            step(&mut anna, &mut world, *peer);
        }
        assert_eq!(world.shared.allocations_beside_own_media(), missed, "story {number}");
        assert_eq!(world.shared.allocations(), 1);
        anna.refresh(&mut world, 0);
        assert_eq!(world.shared.allocations_beside_own_media(), 0, "story {number}");
        // What has gone is not counted against those who come.
        anna.allocate(&mut world);
        assert_eq!(world.shared.allocations_beside_own_media(), 1, "story {number}");
    }
}

#[test]
fn draining_refuses_the_new_and_keeps_the_old() {
    let mut world = World::new(config());
    let mut anna = anna();
    anna.allocate(&mut world);
    world.shared.set_draining(true);
    assert_eq!(bert().allocate(&mut world).error, 508);
    assert_eq!(anna.refresh(&mut world, 600).error, 0);
    world.server.client_gone(world.now, anna.socket);
    world.settle();
    assert_eq!((world.shared.allocations(), world.open.len()), (0, 0));
}
