//! The world: a diary of what happens when, edges, people, and what lies between them. One seed decides everything.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_cascade::link::MediaPacket;
use meridian_room::{NodeId, RoomName};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::edge::Edge;
use crate::net::{IDLE, Net, SUSPICION, pair};
use crate::people::Person;
use crate::plane::Later;

/// How long the registry shows an edge that has died.
pub const LEASE: Duration = Duration::from_secs(10);
/// How often everything that is published sends a packet of each layer.
pub const PROBE: Duration = Duration::from_millis(500);
/// How often links are looked at where they are simulated to the datagram.
const WIRE: Duration = Duration::from_millis(10);

pub(crate) enum Happening {
    Message {
        from: usize,
        to: usize,
        life: u32,
        message: Bytes,
    },
    Media {
        from: usize,
        to: usize,
        life: u32,
        packets: Vec<MediaPacket>,
    },
    Dial {
        from: usize,
        to: usize,
        failures: u32,
    },
    Up {
        a: usize,
        b: usize,
        lives: [u32; 2],
    },
    /// Nothing has passed for a while, unless it does again.
    Silent {
        a: usize,
        b: usize,
        life: u32,
        ends: bool,
    },
    View {
        at: usize,
        edges: Rc<Vec<meridian_cascade::Edge>>,
    },
    /// The registry gives an edge up.
    Lapse {
        edge: usize,
        life: u32,
    },
    Due(usize),
    Later {
        edge: usize,
        life: u32,
        room: RoomName,
        later: Later,
    },
    Offer {
        person: usize,
        stay: u32,
    },
    Rejoin {
        person: usize,
        stay: u32,
    },
    Probe,
    Measure,
    Wire {
        a: usize,
        b: usize,
        life: u32,
    },
}

pub struct World {
    pub seed: u64,
    start: Instant,
    pub elapsed: Duration,
    pub(crate) rng: SmallRng,
    diary: BTreeMap<(Duration, u64), Happening>,
    entries: u64,
    pub edges: Vec<Edge>,
    pub(crate) indices: BTreeMap<NodeId, usize>,
    pub net: Net,
    pub people: Vec<Person>,
    /// Who sits where: by edge and room.
    pub(crate) seated: BTreeMap<(usize, RoomName), BTreeSet<usize>>,
    pub(crate) sockets: BTreeMap<(usize, u64), usize>,
    /// What the registry shows.
    listed: BTreeSet<usize>,
    linked_all_up_to: usize,
    /// Home regions of rooms; anywhere for those that are not here.
    pub home_regions: BTreeMap<RoomName, String>,
    /// How long it took until somebody was seen by somebody else, microseconds.
    pub seen_after_us: Vec<u64>,
    pub happenings: u64,
    /// Packets that were put on links that are not simulated to the datagram.
    pub media_packets: u64,
    /// Whose packets are being taken in.
    pub(crate) media_from: usize,
    /// When something last broke or healed.
    pub(crate) troubled: Duration,
    /// People whose stay lost to an earlier one of theirs.
    pub thrown_out: usize,
    pub faults: Vec<String>,
}

/// How a world is laid out.
pub struct Layout {
    /// The region of each edge.
    pub regions: Vec<String>,
    /// One way between sites, and the site of each edge.
    pub ways: Vec<Vec<Duration>>,
    pub sites: Vec<usize>,
    /// Links simulated to the datagram.
    pub is_exact: bool,
    pub linked_all_up_to: usize,
}

pub fn node(index: usize) -> NodeId {
    NodeId::new(format!("edge-{index:04}"))
}

impl World {
    pub fn new(seed: u64, layout: Layout) -> World {
        let mut rng = SmallRng::seed_from_u64(seed);
        let regions = layout.regions.into_iter().enumerate();
        let edges: Vec<Edge> = regions
            .map(|(index, region)| Edge::new(node(index), region, rng.random(), layout.linked_all_up_to))
            .collect();
        let mut world = World {
            seed,
            start: Instant::now(),
            elapsed: Duration::ZERO,
            diary: BTreeMap::new(),
            entries: 0,
            indices: (0..edges.len()).map(|index| (node(index), index)).collect(),
            listed: (0..edges.len()).collect(),
            edges,
            net: Net::new(layout.ways, layout.sites, layout.is_exact),
            people: Vec::new(),
            seated: BTreeMap::new(),
            sockets: BTreeMap::new(),
            linked_all_up_to: layout.linked_all_up_to,
            home_regions: BTreeMap::new(),
            seen_after_us: Vec::new(),
            happenings: 0,
            media_packets: 0,
            media_from: 0,
            troubled: Duration::ZERO,
            thrown_out: 0,
            faults: Vec::new(),
            rng,
        };
        world.tell_views();
        world.after(PROBE, Happening::Probe);
        world.after(Duration::from_secs(1), Happening::Measure);
        world
    }

    pub(crate) fn start(&self) -> Instant {
        self.start
    }

    pub fn now(&self) -> Instant {
        self.start + self.elapsed
    }

    pub(crate) fn after(&mut self, delay: Duration, happening: Happening) {
        self.entries += 1;
        self.diary.insert((self.elapsed + delay, self.entries), happening);
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.elapsed + time;
        while let Some(entry) = self.diary.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, _), happening) = entry.remove_entry();
            self.elapsed = at;
            self.happenings += 1;
            self.happen(happening);
        }
        self.elapsed = end;
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now();
        match happening {
            Happening::Message {
                from,
                to,
                life,
                message,
            } => {
                if self.edges[to].is_alive && self.net.is_up(from, to) && self.net.life(from, to) == life {
                    let sender = self.edges[from].node.clone();
                    if let Err(error) = self.edges[to].carriage.control(now, &sender, &message) {
                        self.faults.push(format!("edge {to} cannot read edge {from}: {error}"));
                    }
                    self.pump(to);
                }
            }
            Happening::Media {
                from,
                to,
                life,
                packets,
            } => {
                if self.edges[to].is_alive && self.net.is_up(from, to) && self.net.life(from, to) == life {
                    self.take_media(from, to, packets.into_iter().map(crate::links::received).collect());
                }
            }
            Happening::Dial { from, to, failures } => self.dial(from, to, failures),
            Happening::Up { a, b, lives } => self.link_up(a, b, lives),
            Happening::Silent { a, b, life, ends } => self.silent(a, b, life, ends),
            Happening::View { at, edges } => {
                if self.edges[at].is_alive {
                    self.edges[at].carriage.view_changed(now, edges.to_vec());
                    self.pump(at);
                }
            }
            Happening::Lapse { edge, life } => {
                if !self.edges[edge].is_alive && self.edges[edge].life == life && self.listed.remove(&edge) {
                    self.tell_views();
                }
            }
            Happening::Due(edge) => {
                if self.edges[edge].due == Some(self.elapsed) {
                    self.edges[edge].due = None;
                    if self.edges[edge].is_alive {
                        let elapsed = self.elapsed;
                        self.edges[edge].handle_timeouts(now, elapsed);
                        self.pump(edge);
                    }
                }
            }
            Happening::Later {
                edge,
                life,
                room,
                later,
            } => {
                if self.edges[edge].life == life && self.edges[edge].is_alive {
                    self.later(edge, &room, later);
                }
            }
            Happening::Offer { person, stay } => self.offer(person, stay),
            Happening::Rejoin { person, stay } => self.rejoin(person, stay),
            Happening::Probe => {
                for edge in 0..self.edges.len() {
                    if self.edges[edge].is_alive && !self.edges[edge].plane.tracks.is_empty() {
                        let batch = self.edges[edge].plane.probes(now, self.elapsed);
                        self.send_media(edge, &batch);
                    }
                }
                self.after(PROBE, Happening::Probe);
            }
            Happening::Measure => {
                self.measure();
                self.after(Duration::from_secs(1), Happening::Measure);
            }
            Happening::Wire { a, b, life } => {
                if self.net.is_up(a, b) && self.net.life(a, b) == life {
                    self.step_wire(a, b);
                    self.after(WIRE, Happening::Wire { a, b, life });
                }
            }
        }
    }

    pub(crate) fn watch_wire(&mut self, a: usize, b: usize) {
        let life = self.net.life(a, b);
        self.after(WIRE, Happening::Wire { a, b, life });
    }

    /// Every edge sees what the registry shows, each at a moment of its own.
    fn tell_views(&mut self) {
        let edge = |index: &usize| meridian_cascade::Edge {
            node: node(*index),
            region: self.edges[*index].region.clone(),
        };
        let edges = Rc::new(self.listed.iter().map(edge).collect::<Vec<_>>());
        for at in 0..self.edges.len() {
            let delay = Duration::from_millis(self.rng.random_range(0..300));
            let edges = edges.clone();
            self.after(delay, Happening::View { at, edges });
        }
    }

    /// Nothing passes between two edges any more.
    pub fn cut(&mut self, a: usize, b: usize) {
        if a == b || self.net.cut.contains_key(&pair(a, b)) {
            return;
        }
        self.net.cut.insert(pair(a, b), self.elapsed);
        self.troubled = self.elapsed;
        self.net.repave(a, b);
        self.fall_silent(a, b);
    }

    fn fall_silent(&mut self, a: usize, b: usize) {
        let life = self.net.life(a, b);
        for (delay, ends) in [(SUSPICION, false), (IDLE, true)] {
            self.after(delay, Happening::Silent { a, b, life, ends });
        }
    }

    pub fn heal(&mut self, a: usize, b: usize) {
        if self.net.cut.remove(&pair(a, b)).is_none() {
            return;
        }
        self.troubled = self.elapsed;
        self.net.repave(a, b);
        let (low, high) = pair(a, b);
        let [up, down] = self.net.released(a, b);
        for (from, to, held) in [(low, high, up), (high, low, down)] {
            held.iter().for_each(|message| self.transmit(from, to, message));
        }
        if self.net.is_up(a, b) && !self.net.is_exact {
            for (at, of) in [(a, b), (b, a)] {
                let (now, of) = (self.now(), node(of));
                if self.edges[at].is_alive {
                    self.edges[at].carriage.link_alive(now, &of);
                    self.pump(at);
                }
            }
        }
    }

    pub fn heal_all(&mut self) {
        let cut: Vec<_> = self.net.cut.keys().copied().collect();
        cut.into_iter().for_each(|(a, b)| self.heal(a, b));
    }

    pub(crate) fn transmit(&mut self, from: usize, to: usize, message: &Bytes) {
        let life = self.net.life(from, to);
        if let Some(at) = self.net.send(&mut self.rng, self.elapsed, from, to, message) {
            let message = message.clone();
            let happening = Happening::Message {
                from,
                to,
                life,
                message,
            };
            self.after(at - self.elapsed, happening);
        }
    }

    /// An edge dies without a word.
    pub fn kill(&mut self, edge: usize) {
        if !std::mem::replace(&mut self.edges[edge].is_alive, false) {
            return;
        }
        self.troubled = self.elapsed;
        let life = self.edges[edge].life;
        self.after(LEASE, Happening::Lapse { edge, life });
        for other in self.net.neighbours(edge) {
            self.fall_silent(edge, other);
        }
        self.bereave(edge);
    }

    /// A dead edge starts anew.
    pub fn revive(&mut self, edge: usize) {
        if self.edges[edge].is_alive {
            return;
        }
        self.troubled = self.elapsed;
        for other in self.net.neighbours(edge) {
            // Its old connections are reset by what does not know them.
            self.link_fell(edge, other);
        }
        let held = &self.edges[edge];
        let (region, skew_ms, life) = (held.region.clone(), held.skew_ms, held.life + 1);
        let seed = self.rng.random();
        self.edges[edge] = Edge {
            skew_ms,
            life,
            ..Edge::new(node(edge), region, seed, self.linked_all_up_to)
        };
        self.listed.insert(edge);
        self.tell_views();
    }

    pub fn is_listed(&self, edge: usize) -> bool {
        self.listed.contains(&edge)
    }
}
