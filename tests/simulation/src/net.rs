//! What lies between edges: how far apart they are, which links stand, what passes, and how the two ends of a link find out that
//! nothing does. Control messages arrive in their order as long as the link stands, as QUIC streams do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_cascade::link::MediaLink;
use meridian_netlab::{Impairment, Path};
use rand::Rng;
use rand::rngs::SmallRng;

/// Nothing heard for so long makes a link suspect, and for so long ends it.
pub const SUSPICION: Duration = Duration::from_millis(175);
pub const IDLE: Duration = Duration::from_secs(3);

/// One link, standing or being dialled.
#[derive(Default)]
pub struct Link {
    pub up: bool,
    pub dialling: bool,
    /// Counts the lives of the link: what was under way in a former one is lost.
    pub life: u32,
    /// When the last message of each direction arrives: none overtakes another.
    arrivals: [Duration; 2],
    /// Sent while nothing passed: said again when it does.
    held: [Vec<Bytes>; 2],
    /// The two ends' engines and the paths between them, where links are simulated to the datagram.
    pub wire: Option<Box<Wire>>,
}

pub struct Wire {
    pub ends: [MediaLink; 2],
    pub paths: [Path<Bytes>; 2],
}

/// Properties of all paths.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Added to each message at random, as a share of the way.
    pub jitter: f64,
    /// Share of datagrams lost.
    pub loss: f64,
}

pub struct Net {
    pub links: BTreeMap<(usize, usize), Link>,
    /// Pairs between which nothing passes, and since when.
    pub cut: BTreeMap<(usize, usize), Duration>,
    pub weather: Weather,
    /// One way, between the sites of edges: by index of the site.
    ways: Vec<Vec<Duration>>,
    site: Vec<usize>,
    /// Links that are not as their sites say.
    odd: BTreeMap<(usize, usize), Duration>,
    pub is_exact: bool,
    pub messages: u64,
    pub message_bytes: u64,
}

pub fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Net {
    /// `ways[a][b]`: one way between two sites; `site[edge]`.
    pub fn new(ways: Vec<Vec<Duration>>, site: Vec<usize>, is_exact: bool) -> Net {
        Net {
            links: BTreeMap::new(),
            cut: BTreeMap::new(),
            weather: Weather::default(),
            ways,
            site,
            odd: BTreeMap::new(),
            is_exact,
            messages: 0,
            message_bytes: 0,
        }
    }

    pub fn latency(&self, a: usize, b: usize) -> Duration {
        let odd = self.odd.get(&pair(a, b)).copied();
        odd.unwrap_or_else(|| self.ways[self.site[a]][self.site[b]])
    }

    pub fn set_latency(&mut self, a: usize, b: usize, latency: Duration) {
        self.odd.insert(pair(a, b), latency);
    }

    pub fn passes(&self, a: usize, b: usize) -> bool {
        !self.cut.contains_key(&pair(a, b))
    }

    pub fn is_up(&self, a: usize, b: usize) -> bool {
        self.links.get(&pair(a, b)).is_some_and(|link| link.up)
    }

    pub fn life(&self, a: usize, b: usize) -> u32 {
        self.links.get(&pair(a, b)).map_or(0, |link| link.life)
    }

    /// Edges with a link to this one, standing as far as it knows.
    pub fn neighbours(&self, edge: usize) -> BTreeSet<usize> {
        let standing = self.links.iter().filter(|(_, link)| link.up);
        standing
            .filter_map(|((a, b), _)| match edge {
                _ if edge == *a => Some(*b),
                _ if edge == *b => Some(*a),
                _ => None,
            })
            .collect()
    }

    /// When a message sent now arrives, and in which life of the link. `None`: there is no link, or it waits for the path.
    pub fn send(
        &mut self,
        rng: &mut SmallRng,
        now: Duration,
        from: usize,
        to: usize,
        message: &Bytes,
    ) -> Option<Duration> {
        let (way, weather, passes) = (self.latency(from, to), self.weather, self.passes(from, to));
        let link = self.links.get_mut(&pair(from, to)).filter(|link| link.up)?;
        let direction = usize::from(from > to);
        if !passes {
            link.held[direction].push(message.clone());
            return None;
        }
        self.messages += 1;
        self.message_bytes += message.len() as u64;
        let mut takes = way.mul_f64(1.0 + weather.jitter * rng.random::<f64>());
        while weather.loss > 0.0 && rng.random_bool(weather.loss) {
            // Noticed and sent again.
            takes += 2 * way + Duration::from_millis(10);
        }
        let at = (now + takes).max(link.arrivals[direction]);
        link.arrivals[direction] = at;
        Some(at)
    }

    /// What waited for the path, by direction (0: from the lower edge).
    pub fn released(&mut self, a: usize, b: usize) -> [Vec<Bytes>; 2] {
        match self.links.get_mut(&pair(a, b)) {
            Some(link) => std::mem::take(&mut link.held),
            None => Default::default(),
        }
    }

    /// The link stands from now on.
    pub fn raise(&mut self, now: Instant, elapsed: Duration, a: usize, b: usize, seed: u64) {
        let impairment = self.impairment(a, b);
        let is_exact = self.is_exact;
        let link = self.links.entry(pair(a, b)).or_default();
        (link.up, link.dialling) = (true, false);
        link.arrivals = [elapsed; 2];
        link.held = Default::default();
        link.wire = is_exact.then(|| {
            Box::new(Wire {
                ends: [MediaLink::new(now), MediaLink::new(now)],
                paths: [Path::new(impairment.clone(), seed), Path::new(impairment, seed ^ 1)],
            })
        });
    }

    pub fn fall(&mut self, a: usize, b: usize) {
        if let Some(link) = self.links.get_mut(&pair(a, b)) {
            link.up = false;
            link.life += 1;
            link.wire = None;
            link.held = Default::default();
        }
    }

    fn impairment(&self, a: usize, b: usize) -> Impairment {
        let delay = self.latency(a, b);
        Impairment {
            delay,
            jitter: delay.mul_f64(self.weather.jitter),
            loss: self.weather.loss,
            cut: !self.passes(a, b),
            ..Impairment::default()
        }
    }

    /// After a cut, a healing, or a change of distance.
    pub fn repave(&mut self, a: usize, b: usize) {
        let impairment = self.impairment(a, b);
        if let Some(wire) = self.links.get_mut(&pair(a, b)).and_then(|link| link.wire.as_mut()) {
            wire.paths.iter_mut().for_each(|path| path.set(impairment.clone()));
        }
    }
}
