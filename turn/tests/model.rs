//! The server beside a model of RFC 8656 so simple that it can be read: allocations, permissions and channels as maps
//! with expiry times. After every step both must say the same about every packet, and the server must be consistent.

mod support;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use meridian_turn::{ClientSocket, Framing, Relayed};
use proptest::prelude::*;
use support::*;

const PEERS: [&str; 4] = ["192.0.3.5:7000", "192.0.3.5:7001", "192.0.3.6:7000", "10.0.0.1:7000"];
/// Behind the four come the clients' own relayed addresses: packets between those never leave the server.
const RELAY_IP: &str = "203.0.114.1";
/// Below the range of relay ports: nobody ever holds it.
const DEAD_PORT: u16 = 9;
const CHANNELS: [u16; 3] = [0x4000, 0x4001, 0x7FFF];
const CLIENTS: usize = 3;
const PERMISSIONS_MAX: usize = 2;
const ALLOCATIONS_PER_USER: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    Allocate {
        client: usize,
    },
    Refresh {
        client: usize,
        lifetime: u32,
    },
    Permit {
        client: usize,
        peer: usize,
    },
    Bind {
        client: usize,
        channel: usize,
        peer: usize,
    },
    Send {
        client: usize,
        peer: usize,
    },
    ChannelData {
        client: usize,
        channel: usize,
    },
    FromPeer {
        client: usize,
        peer: usize,
    },
    /// With or without the timer being called.
    Pass {
        seconds: u64,
        timer: bool,
    },
    /// The clock seems to go back.
    Back {
        seconds: u64,
    },
    Gone {
        client: usize,
    },
    Garbage {
        client: usize,
        bytes: Vec<u8>,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (client, peer, channel) = (0..CLIENTS, 0..PEERS.len() + CLIENTS, 0..CHANNELS.len());
    prop_oneof![
        4 => client.clone().prop_map(|client| Step::Allocate { client }),
        2 => (client.clone(), prop_oneof![Just(0), Just(600), Just(900), Just(u32::MAX)])
            .prop_map(|(client, lifetime)| Step::Refresh { client, lifetime }),
        4 => (client.clone(), peer.clone()).prop_map(|(client, peer)| Step::Permit { client, peer }),
        4 => (client.clone(), channel.clone(), peer.clone())
            .prop_map(|(client, channel, peer)| Step::Bind { client, channel, peer }),
        4 => (client.clone(), peer.clone()).prop_map(|(client, peer)| Step::Send { client, peer }),
        4 => (client.clone(), channel).prop_map(|(client, channel)| Step::ChannelData { client, channel }),
        4 => (client.clone(), peer).prop_map(|(client, peer)| Step::FromPeer { client, peer }),
        4 => (prop::sample::select(vec![1u64, 99, 100, 200, 300, 599, 600, 100_000]), any::<bool>())
            .prop_map(|(seconds, timer)| Step::Pass { seconds, timer }),
        1 => (0..1_000u64).prop_map(|seconds| Step::Back { seconds }),
        1 => client.clone().prop_map(|client| Step::Gone { client }),
        1 => (client, proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(client, bytes)| Step::Garbage { client, bytes }),
    ]
}

#[derive(Default)]
struct ModelAllocation {
    expires: Option<Instant>,
    relayed: Option<SocketAddr>,
    permissions: HashMap<IpAddr, Instant>,
    channels: BTreeMap<u16, (SocketAddr, Instant)>,
}

struct Model {
    world: World,
    clients: Vec<Client>,
    allocations: Vec<Option<ModelAllocation>>,
}

fn is_inside(peer: SocketAddr) -> bool {
    peer.ip() == addr("10.0.0.1:1").ip()
}

fn is_relayed(peer: SocketAddr) -> bool {
    peer.ip() == RELAY_IP.parse::<IpAddr>().unwrap()
}

impl Model {
    /// One of the four, or the relayed address that a client has now.
    fn peer(&self, index: usize) -> SocketAddr {
        match index.checked_sub(PEERS.len()) {
            None => addr(PEERS[index]),
            Some(client) => self.allocations[client]
                .as_ref()
                .and_then(|a| a.relayed)
                .unwrap_or(SocketAddr::new(RELAY_IP.parse().unwrap(), DEAD_PORT)),
        }
    }

    fn new() -> Model {
        let mut config = config();
        config.limits.permissions_per_allocation = PERMISSIONS_MAX;
        config.limits.per_user.allocations = ALLOCATIONS_PER_USER as u32;
        let clients = (0..CLIENTS)
            .map(|n| client(&format!("198.51.99.10:{}", 4_000 + n), "anna", "pw-a"))
            .collect();
        Model {
            world: World::new(config),
            clients,
            allocations: (0..CLIENTS).map(|_| None).collect(),
        }
    }

    fn forget_expired(&mut self) {
        let now = self.world.now;
        for slot in &mut self.allocations {
            if slot.as_ref().is_some_and(|a| a.expires.unwrap() <= now) {
                *slot = None;
            }
            if let Some(allocation) = slot {
                allocation.permissions.retain(|_, expires| *expires > now);
                allocation.channels.retain(|_, (_, expires)| *expires > now);
            }
        }
    }

    fn run(&mut self, step: &Step) {
        self.forget_expired();
        match step {
            Step::Allocate { client } => self.allocate(*client),
            Step::Refresh { client, lifetime } => self.refresh(*client, *lifetime),
            Step::Permit { client, peer: p } => self.permit(*client, self.peer(*p)),
            Step::Bind {
                client,
                channel,
                peer: p,
            } => self.bind(*client, CHANNELS[*channel], self.peer(*p)),
            Step::Send { client, peer: p } => self.send(*client, self.peer(*p)),
            Step::ChannelData { client, channel } => self.channel_data(*client, CHANNELS[*channel]),
            Step::FromPeer { client, peer: p } => self.peer_sends(*client, self.peer(*p)),
            Step::Pass { seconds, timer } => {
                self.world.now += Duration::from_secs(*seconds);
                if *timer {
                    self.world.server.handle_timeout(self.world.now);
                }
            }
            Step::Back { seconds } => {
                let back = self.world.now.checked_sub(Duration::from_secs(*seconds));
                self.world.server.handle_timeout(back.unwrap_or(self.world.now));
            }
            Step::Gone { client } => {
                self.world
                    .server
                    .client_gone(self.world.now, self.clients[*client].socket);
                self.allocations[*client] = None;
            }
            Step::Garbage { client, bytes } => {
                let socket = self.clients[*client].socket;
                let relayed = self.world.server.handle_client(self.world.now, socket, bytes);
                if bytes.first().is_none_or(|b| b >> 6 != 1) {
                    assert_eq!(relayed, Relayed::Nothing);
                }
            }
        }
        self.world.settle();
        self.forget_expired();
        self.compare();
    }

    /// Open sockets are exactly those of live allocations (once the server has heard of the time).
    fn compare(&mut self) {
        self.world.server.handle_timeout(self.world.now);
        self.world.settle();
        let mut open: Vec<_> = self.world.open.iter().map(|(_, bind)| *bind).collect();
        let mut expected: Vec<_> = self.allocations.iter().flatten().map(|a| a.relayed.unwrap()).collect();
        open.sort_unstable();
        expected.sort_unstable();
        assert_eq!(open, expected);
        assert_eq!(self.world.server.allocations(), expected.len());
        assert_eq!(self.world.shared.allocations(), expected.len());
    }

    fn allocate(&mut self, client: usize) {
        let live = self.allocations.iter().flatten().count();
        let answer = self.clients[client].allocate(&mut self.world);
        let expected = match &self.allocations[client] {
            Some(_) => 437,
            None if live >= ALLOCATIONS_PER_USER => 486,
            None => 0,
        };
        assert_eq!(answer.error, expected);
        if answer.error == 0 {
            let expires = Some(self.world.now + Duration::from_secs(600));
            let relayed = Some(answer.relayed()[0]);
            self.allocations[client] = Some(ModelAllocation {
                expires,
                relayed,
                ..ModelAllocation::default()
            });
        }
    }

    fn refresh(&mut self, client: usize, lifetime: u32) {
        let answer = self.clients[client].refresh(&mut self.world, lifetime);
        match (&mut self.allocations[client], lifetime) {
            (slot, 0) => {
                assert_eq!(answer.error, 0);
                *slot = None;
            }
            (None, _) => assert_eq!(answer.error, 437),
            (Some(allocation), _) => {
                let granted = lifetime.clamp(600, 3_600);
                assert_eq!((answer.error, answer.lifetime()), (0, granted));
                allocation.expires = Some(self.world.now + Duration::from_secs(granted.into()));
            }
        }
    }

    /// Installs the permission in the model; the error it meets otherwise.
    fn model_permit(allocation: &mut ModelAllocation, peer: SocketAddr, now: Instant) -> u16 {
        if is_inside(peer) {
            return 403;
        }
        if !allocation.permissions.contains_key(&peer.ip()) && allocation.permissions.len() >= PERMISSIONS_MAX {
            return 508;
        }
        allocation.permissions.insert(peer.ip(), now + Duration::from_secs(300));
        0
    }

    fn permit(&mut self, client: usize, peer: SocketAddr) {
        let answer = self.clients[client].permit(&mut self.world, peer);
        let now = self.world.now;
        let expected = self.allocations[client]
            .as_mut()
            .map_or(437, |a| Model::model_permit(a, peer, now));
        assert_eq!(answer.error, expected);
    }

    fn bind(&mut self, client: usize, channel: u16, peer: SocketAddr) {
        let answer = self.clients[client].bind(&mut self.world, channel, peer);
        let now = self.world.now;
        let expected = match &mut self.allocations[client] {
            None => 437,
            Some(_) if is_inside(peer) => 403,
            Some(allocation) => {
                let clash = allocation
                    .channels
                    .iter()
                    .any(|(n, (p, _))| (*n == channel) != (*p == peer));
                if clash {
                    400
                } else {
                    Model::model_permit(allocation, peer, now)
                }
            }
        };
        assert_eq!(answer.error, expected);
        if let (0, Some(allocation)) = (expected, &mut self.allocations[client]) {
            allocation
                .channels
                .insert(channel, (peer, now + Duration::from_secs(600)));
        }
    }

    /// What reaches the client whose relayed address is `to`: its socket, and the framing.
    fn handed_over(&self, client: usize, to: SocketAddr) -> Option<(ClientSocket, Result<u16, SocketAddr>)> {
        let from = self.allocations[client].as_ref()?.relayed?;
        let holds = |a: &Option<ModelAllocation>| a.as_ref().is_some_and(|a| a.relayed == Some(to));
        let there = self.allocations.iter().position(holds)?;
        let allocation = self.allocations[there].as_ref()?;
        allocation.permissions.get(&from.ip())?;
        let channel = allocation.channels.iter().find(|(_, (peer, _))| *peer == from);
        Some((
            self.clients[there].socket,
            channel.map(|(number, _)| *number).ok_or(from),
        ))
    }

    fn expect_up(&mut self, client: usize, bytes: &[u8], expected: Option<SocketAddr>) {
        let socket = self.clients[client].socket;
        if let Some(to) = expected.filter(|to| is_relayed(*to)) {
            let expected = self.handed_over(client, to);
            let relayed = self.world.server.handle_client(self.world.now, socket, bytes);
            let handed = match relayed {
                Relayed::ToClient(packet) => {
                    assert_eq!(packet.payload, b"payload");
                    let framing = match packet.framing {
                        Framing::Channel(number) => Ok(number),
                        Framing::Indication { peer, .. } => Err(peer.0),
                    };
                    Some((packet.client, framing))
                }
                Relayed::Nothing => None,
                other => panic!("{other:?} leaves the server"),
            };
            assert_eq!(handed, expected);
            return;
        }
        let relayed = self.world.server.handle_client(self.world.now, socket, bytes);
        match (relayed, expected) {
            (Relayed::Nothing, None) => {}
            (Relayed::ToPeer(packet), Some(to)) => {
                assert_eq!((packet.to, packet.payload), (to, &b"payload"[..]));
                let bind = self.world.open.iter().find(|(id, _)| *id == packet.relay).unwrap().1;
                assert_eq!(Some(bind), self.allocations[client].as_ref().unwrap().relayed);
            }
            (other, expected) => panic!("{other:?} where {expected:?} was due"),
        }
    }

    fn send(&mut self, client: usize, peer: SocketAddr) {
        let permitted = self.allocations[client]
            .as_ref()
            .is_some_and(|a| a.permissions.contains_key(&peer.ip()));
        let bytes = self.clients[client].send_indication(peer, b"payload");
        self.expect_up(client, &bytes, permitted.then_some(peer));
    }

    fn channel_data(&mut self, client: usize, channel: u16) {
        let expected = self.allocations[client].as_ref().and_then(|a| {
            let (peer, _) = a.channels.get(&channel)?;
            a.permissions.contains_key(&peer.ip()).then_some(*peer)
        });
        self.expect_up(client, &channel_data(channel, b"payload"), expected);
    }

    fn peer_sends(&mut self, client: usize, peer: SocketAddr) {
        let Some(allocation) = &self.allocations[client] else {
            return;
        };
        let relay = self
            .world
            .open
            .iter()
            .find(|(_, bind)| Some(*bind) == allocation.relayed)
            .unwrap()
            .0;
        let relayed = self.world.server.handle_peer(self.world.now, relay, peer, b"payload");
        if !allocation.permissions.contains_key(&peer.ip()) {
            assert_eq!(relayed, None);
            return;
        }
        let packet = relayed.unwrap();
        assert_eq!(
            (packet.client, packet.payload),
            (self.clients[client].socket, &b"payload"[..])
        );
        let channel = allocation
            .channels
            .iter()
            .find(|(_, (p, _))| *p == peer)
            .map(|(number, _)| *number);
        match packet.framing {
            Framing::Channel(number) => assert_eq!(Some(number), channel),
            Framing::Indication { peer: named, .. } => assert_eq!((channel, named.0), (None, peer)),
        }
        let mut frame = vec![0xAA; packet.encoded_len()];
        assert!(packet.encode(&mut frame));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn the_server_does_what_the_model_does(steps in proptest::collection::vec(step(), 1..120)) {
        let mut model = Model::new();
        for step in &steps {
            model.run(step);
        }
        assert!(model.world.server.counters().snapshot().iter().all(|(_, n)| *n < 1_000_000));
    }
}
