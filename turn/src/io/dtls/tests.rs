//! Sessions in virtual time, against dimpl's client.

use std::net::SocketAddr;

use super::*;
use meridian_turn_core::Transport;

fn issued() -> rcgen::CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed(["turn.test".to_owned()]).unwrap()
}

fn at(ip: [u8; 4], port: u16) -> ClientSocket {
    ClientSocket {
        remote: SocketAddr::from((ip, port)),
        local: "203.0.114.1:5349".parse().unwrap(),
        transport: Transport::Dtls,
    }
}

/// A server, without a network.
struct World {
    sessions: Sessions,
    now: Instant,
    gauges: Arc<Gauges>,
}

impl World {
    fn new(limits: &Limits) -> World {
        let (issued, now, gauges) = (issued(), Instant::now(), Arc::<Gauges>::default());
        let identity = DtlsIdentity::new(issued.cert.der(), &issued.signing_key.serialize_der()).unwrap();
        let sessions = Sessions::new(Some(Arc::new(identity)), limits, now, gauges.clone());
        World { sessions, now, gauges }
    }

    /// What comes back for a datagram, what it said, and whether a session ended.
    fn hear(&mut self, from: ClientSocket, datagram: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>, bool) {
        let mut sent = Vec::new();
        let mut send = |packet: &[u8]| sent.push(packet.to_vec());
        let ended = self.sessions.receive(self.now, from, datagram, || true, &mut send);
        let frames = self.sessions.take_frames();
        let said = frames.iter().map(<[u8]>::to_vec).collect();
        self.sessions.return_frames(frames);
        self.check();
        (sent, said, ended)
    }

    fn pass(&mut self, time: Duration) -> usize {
        self.now += time;
        let mut sent = 0;
        self.sessions.handle_timeout(self.now, &mut |_, _| sent += 1);
        self.check();
        sent
    }

    fn check(&self) {
        let sessions = &self.sessions;
        let open = sessions.table.values().filter(|s| !s.connected).count();
        assert_eq!(open, sessions.handshakes.len());
        let shares = sessions.per_source.values();
        let sums = shares.fold((0, 0), |(s, h), share| (s + share.sessions, h + share.handshakes));
        assert_eq!(sums, (sessions.table.len(), open));
        assert_eq!(
            self.gauges.dtls_sessions.load(Ordering::Relaxed),
            sessions.table.len() as u64
        );
        let first = sessions.handshakes.iter().map(|c| sessions.table[c].next_timer()).min();
        assert!(first.is_none_or(|first| sessions.next_timer.is_some_and(|at| at <= first)));
    }
}

/// A client's engine.
struct Caller {
    engine: Dtls,
    at: ClientSocket,
    said: Vec<Vec<u8>>,
    closed: bool,
}

impl Caller {
    fn new(world: &World, at: ClientSocket) -> Caller {
        let issued = issued();
        let certificate = dimpl::DtlsCertificate {
            certificate: issued.cert.der().to_vec(),
            private_key: issued.signing_key.serialize_der(),
        };
        let config = Arc::new(dimpl::Config::builder().build().unwrap());
        let mut engine = Dtls::new_12(config, certificate, world.now);
        engine.set_active(true);
        engine.handle_timeout(world.now).unwrap();
        Caller {
            engine,
            at,
            said: Vec::new(),
            closed: false,
        }
    }

    fn packets(&mut self) -> Vec<Vec<u8>> {
        let (mut packets, mut buffer) = (Vec::new(), vec![0; RECORD_MAX]);
        loop {
            match self.engine.poll_output(&mut buffer) {
                Output::Packet(packet) => packets.push(packet.to_vec()),
                Output::ApplicationData(data) => self.said.push(data.to_vec()),
                Output::CloseNotify => self.closed = true,
                Output::Timeout(_) => return packets,
                _ => {}
            }
        }
    }

    /// Until nobody has anything to say; what the client said.
    fn talk(&mut self, world: &mut World) -> (Vec<Vec<u8>>, bool) {
        let (mut heard, mut ended) = (Vec::new(), false);
        let mut waiting = self.packets();
        while !waiting.is_empty() {
            for packet in std::mem::take(&mut waiting) {
                let (sent, said, over) = world.hear(self.at, &packet);
                heard.extend(said);
                ended |= over;
                for answer in sent {
                    self.engine.handle_packet(&answer).unwrap();
                    waiting.extend(self.packets());
                }
            }
        }
        (heard, ended)
    }

    /// Until the server has a session that waits for more.
    fn knock(&mut self, world: &mut World) -> Vec<u8> {
        let hello = self.packets().remove(0);
        let (sent, ..) = world.hear(self.at, &hello);
        self.engine.handle_packet(&sent[0]).unwrap();
        self.packets().remove(0)
    }
}

#[test]
fn a_session_carries_datagrams_both_ways_and_ends_with_close_notify() {
    let mut world = World::new(&Limits::default());
    let mut caller = Caller::new(&world, at([192, 0, 2, 1], 5_000));
    caller.talk(&mut world);
    caller.engine.send_application_data(b"hello").unwrap();
    assert_eq!(caller.talk(&mut world), (vec![b"hello".to_vec()], false));
    let mut sent = Vec::new();
    let mut send = |packet: &[u8]| sent.push(packet.to_vec());
    let write = |out: &mut [u8]| out.fill(7);
    // More than the engine's queue holds: each is a datagram of its own.
    for _ in 0..100 {
        assert!(world.sessions.seal(caller.at, 1_300, write, &mut send));
    }
    assert!(!world.sessions.seal(caller.at, PLAINTEXT_MAX + 1, write, &mut send));
    assert!(!world.sessions.seal(at([192, 0, 2, 2], 1), 5, write, &mut send));
    assert_eq!(sent.len(), 100);
    for packet in sent {
        caller.engine.handle_packet(&packet).unwrap();
        caller.packets();
    }
    assert_eq!(caller.said, vec![vec![7; 1_300]; 100]);
    caller.engine.close().unwrap();
    assert_eq!(caller.talk(&mut world), (vec![], true));
    assert!(world.sessions.table.is_empty());
}

#[test]
fn strangers_cost_no_memory_and_get_less_than_they_sent() {
    let mut world = World::new(&Limits::default());
    let hello = Caller::new(&world, at([192, 0, 2, 1], 5_000)).packets().remove(0);
    for n in 0..5_000u16 {
        let (sent, ..) = world.hear(at([198, 51, (n >> 8) as u8, n as u8], 9), &hello);
        assert!(sent.len() == 1 && sent[0].len() <= hello.len());
    }
    assert!(world.sessions.table.is_empty() && world.sessions.per_source.is_empty());
}

#[test]
fn a_cookie_is_of_no_use_to_others_and_grows_old() {
    let mut world = World::new(&Limits::default());
    let mut caller = Caller::new(&world, at([192, 0, 2, 1], 5_000));
    let with_cookie = caller.knock(&mut world);
    world.hear(at([192, 0, 2, 2], 5_000), &with_cookie);
    assert!(world.sessions.table.is_empty(), "another address");
    world.now += 2 * COOKIE_SPAN;
    world.hear(caller.at, &with_cookie);
    assert!(world.sessions.table.is_empty(), "too late");
    let mut caller = Caller::new(&world, caller.at);
    let with_cookie = caller.knock(&mut world);
    world.now += COOKIE_SPAN;
    let (sent, ..) = world.hear(caller.at, &with_cookie);
    assert_eq!(world.sessions.table.len(), 1);
    let flight: usize = sent.iter().map(Vec::len).sum();
    assert!(flight < 1_500, "{flight} bytes");
}

#[test]
fn handshakes_are_few_per_address_repeat_themselves_and_expire() {
    let mut world = World::new(&Limits::default());
    for port in 0..HANDSHAKES_PER_SOURCE as u16 + 10 {
        let mut caller = Caller::new(&world, at([192, 0, 2, 1], 5_000 + port));
        let with_cookie = caller.knock(&mut world);
        world.hear(caller.at, &with_cookie);
    }
    assert_eq!(world.sessions.table.len(), HANDSHAKES_PER_SOURCE);
    assert_eq!(world.gauges.streams_refused.load(Ordering::Relaxed), 10);
    let mut neighbour = Caller::new(&world, at([192, 0, 2, 2], 5_000));
    neighbour.talk(&mut world);
    assert_eq!(world.sessions.table.len(), HANDSHAKES_PER_SOURCE + 1);

    let (mut repeated, end) = (0, world.now + HANDSHAKE_MAX);
    while let Some(next) = world.sessions.poll_timeout() {
        assert!(next > world.now && next <= end, "a timer that stands still");
        repeated += world.pass(next - world.now);
    }
    assert!(
        (HANDSHAKES_PER_SOURCE..HANDSHAKES_PER_SOURCE * 10).contains(&repeated),
        "{repeated} repeated datagrams"
    );
    assert_eq!(world.sessions.table.len(), 1, "only the neighbour's is left");
}

#[test]
fn handshakes_and_sessions_are_few_in_all() {
    let limits = Limits {
        connections: 3,
        ..Limits::default()
    };
    let mut world = World::new(&limits);
    for n in 0..5 {
        Caller::new(&world, at([192, 0, 2, n], 5_000)).talk(&mut world);
    }
    assert_eq!(world.sessions.table.len(), 3);
    let mut world = World::new(&Limits::default());
    for n in 0..HANDSHAKES as u16 + 5 {
        let mut caller = Caller::new(&world, at([10, 0, (n >> 8) as u8, n as u8], 5_000));
        let with_cookie = caller.knock(&mut world);
        world.hear(caller.at, &with_cookie);
    }
    assert_eq!(world.sessions.table.len(), HANDSHAKES);
}

#[test]
fn a_session_of_no_use_is_closed_and_a_useful_one_stays() {
    let mut world = World::new(&Limits::default());
    let mut idle = Caller::new(&world, at([192, 0, 2, 1], 5_000));
    let mut useful = Caller::new(&world, at([192, 0, 2, 1], 5_001));
    idle.talk(&mut world);
    useful.talk(&mut world);
    world.now += Limits::default().stream_idle + Duration::from_secs(1);
    let mut sent = Vec::new();
    world
        .sessions
        .end_idle(world.now, |client| client == useful.at, &mut |to, packet| {
            sent.push((to, packet.to_vec()));
        });
    world.check();
    assert_eq!((sent.len(), sent[0].0), (1, idle.at));
    idle.engine.handle_packet(&sent[0].1).unwrap();
    idle.packets();
    assert!(idle.closed && world.sessions.table.contains_key(&useful.at));
}

#[test]
fn a_client_that_begins_anew_from_the_same_port_replaces_its_session() {
    let mut world = World::new(&Limits::default());
    let mut first = Caller::new(&world, at([192, 0, 2, 1], 5_000));
    first.talk(&mut world);
    let mut second = Caller::new(&world, first.at);
    let hello = second.packets().remove(0);
    let (answers, _, ended) = world.hear(second.at, &hello);
    assert!(!ended, "nobody has shown to be there");
    first.engine.send_application_data(b"still here").unwrap();
    assert_eq!(first.talk(&mut world).0, [b"still here"]);
    second.engine.handle_packet(&answers[0]).unwrap();
    let (_, ended) = second.talk(&mut world);
    assert!(ended, "what the first had allocated is gone");
    second.engine.send_application_data(b"new").unwrap();
    assert_eq!(second.talk(&mut world).0, [b"new"]);
    assert_eq!(world.sessions.table.len(), 1);
}

/// One fragment of a message that is a datagram of its own.
fn fragment(datagram: &[u8], from: usize, to: usize) -> Vec<u8> {
    let (header, body) = datagram[13..].split_at(12);
    let mut out = datagram[..10].to_vec();
    out.push(1 + from as u8);
    out.extend(((to - from + 12) as u16).to_be_bytes());
    out.extend(&header[..6]);
    out.extend(&(from as u32).to_be_bytes()[1..]);
    out.extend(&((to - from) as u32).to_be_bytes()[1..]);
    out.extend(&body[from..to]);
    out
}

/// The first fragment has the cookie in any case: without it nothing is remembered.
#[test]
fn a_hello_is_put_together_however_it_was_cut_and_whatever_of_it_was_lost() {
    let mut world = World::new(&Limits::default());
    let (mut port, mut cases) = (5_000, 0);
    let cookie_end = 2 + 32 + 1 + 1 + COOKIE_LEN;
    for (first, second) in [(cookie_end, 90), (105, cookie_end), (100, 101), (101, 100), (110, 80)] {
        for lost in [0, 1, 2] {
            (port, cases) = (port + 1, cases + 1);
            let mut caller = Caller::new(&world, at([192, 0, 2, 1], port));
            let hello = caller.knock(&mut world);
            let end = hello.len() - 25;
            let sent = [(0, first), (first, end), (0, second), (second, end)];
            let mut flight = Vec::new();
            for (n, (from, to)) in sent.into_iter().enumerate() {
                if n != lost && flight.is_empty() {
                    flight = world.hear(caller.at, &fragment(&hello, from, to)).0;
                }
            }
            for packet in flight {
                caller.engine.handle_packet(&packet).unwrap();
            }
            caller.engine.send_application_data(b"hello").unwrap();
            assert_eq!(
                caller.talk(&mut world).0,
                [b"hello"],
                "cut at {first}, then {second}, {lost} is lost"
            );
        }
    }
    assert_eq!(world.sessions.table.len(), cases);
}

#[test]
fn lost_datagrams_of_a_handshake_come_again() {
    let mut world = World::new(&Limits::default());
    let mut caller = Caller::new(&world, at([192, 0, 2, 1], 5_000));
    let hello = caller.knock(&mut world);
    world.hear(caller.at, &hello);
    // Its flight was lost: the client's ClientHello comes again.
    let (flight, ..) = world.hear(caller.at, &hello);
    assert!(!flight.is_empty() && world.sessions.table.len() == 1);
    for packet in flight {
        caller.engine.handle_packet(&packet).unwrap();
    }
    let answer = caller.packets();
    let lost: Vec<_> = answer
        .iter()
        .flat_map(|packet| world.hear(caller.at, packet).0)
        .collect();
    assert!(!lost.is_empty());
    // And now the client's own flight.
    let again: Vec<_> = answer
        .iter()
        .flat_map(|packet| world.hear(caller.at, packet).0)
        .collect();
    assert!(!again.is_empty());
    for packet in again {
        caller.engine.handle_packet(&packet).unwrap();
    }
    caller.engine.send_application_data(b"hello").unwrap();
    assert_eq!(caller.talk(&mut world).0, [b"hello"]);
}

#[test]
fn garbage_neither_opens_nor_ends_a_session() {
    use rand::SeedableRng;
    let mut rng = rand::rngs::StdRng::seed_from_u64(5);
    let mut world = World::new(&Limits::default());
    let mut caller = Caller::new(&world, at([192, 0, 2, 1], 5_000));
    let hello = caller.knock(&mut world);
    for n in 0..hello.len() {
        world.hear(at([192, 0, 2, 9], 5_000), &hello[..n]);
    }
    assert!(world.sessions.table.is_empty());
    world.hear(caller.at, &hello);
    caller.talk(&mut world);
    let mut caller = Caller::new(&world, at([192, 0, 2, 3], 5_000));
    caller.talk(&mut world);
    caller.engine.send_application_data(b"before").unwrap();
    caller.talk(&mut world);
    caller.engine.send_application_data(b"after").unwrap();
    let good = caller.packets();
    for _ in 0..5_000 {
        let mut forged: Vec<u8> = match rng.random_range(0..3) {
            0 => good[0].clone(),
            1 => hello.clone(),
            _ => (0..rng.random_range(0..200)).map(|_| rng.random()).collect(),
        };
        for _ in 0..rng.random_range(1..4) {
            if !forged.is_empty() {
                let mut at = rng.random_range(0..forged.len());
                // The version is not looked at in a record that is authentic otherwise.
                if matches!(at, 1 | 2) {
                    at = 0;
                }
                forged[at] ^= 1 << rng.random_range(0..8);
            }
        }
        if forged == good[0] {
            continue;
        }
        let (_, said, ended) = world.hear(caller.at, &forged);
        assert!(said.is_empty() && !ended, "{forged:?}");
    }
    assert_eq!(world.hear(caller.at, &good[0]).1, [b"after"]);
}

#[test]
fn only_an_ecdsa_p256_key_and_its_own_certificate_will_do() {
    let (ours, other) = (issued(), issued());
    let good = DtlsIdentity::from_pem(&ours.cert.pem(), &ours.signing_key.serialize_pem());
    good.unwrap();
    let mixed = DtlsIdentity::from_pem(&other.cert.pem(), &ours.signing_key.serialize_pem());
    assert!(matches!(mixed, Err(DtlsIdentityError::Mismatch)));
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let ed25519 = DtlsIdentity::new(ours.cert.der(), &key.serialize_der());
    assert!(ed25519.unwrap_err().to_string().contains("--key-type ecdsa"));
    let nothing = DtlsIdentity::from_pem("", "");
    assert!(matches!(nothing, Err(DtlsIdentityError::Certificate(_))));
}
