//! What happens: meetings by local time, edges that die, transit that fails; and what is measured of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meridian_geo::regions::REGIONS;
use meridian_geo::{Candidate, Candidates, Client, Location, Policy, predicted_rtt_ms};
use meridian_room::RoomName;
use meridian_simulation::check::Tree;
use meridian_simulation::{World, layout};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Bits a second of a microphone, and of a camera's three layers.
const AUDIO_BPS: f64 = 40e3;
const LAYERS_BPS: [f64; 3] = [150e3, 500e3, 1_700e3];
/// People per edge that placement reckons with.
const CAPACITY: u32 = 500;

pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) pops: usize,
    pub(crate) people: usize,
    pub(crate) minutes: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            seed: 1,
            pops: 100,
            people: 1_000,
            minutes: 60,
        }
    }
}

/// A meeting that goes on.
struct Meeting {
    room: String,
    people: Vec<usize>,
    ends: u64,
}

/// Everything that the report says. Milliseconds, unless named otherwise.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) seed: u64,
    pub(crate) pops: usize,
    pub(crate) people: usize,
    pub(crate) minutes: u64,
    pub(crate) happenings: u64,
    pub(crate) meetings: usize,
    pub(crate) deaths: usize,
    pub(crate) outages: usize,
    /// From a publisher's device to a viewer's, one way: through the mesh, and if each meeting were on one server, the best for it.
    pub(crate) mesh_ms: Vec<f64>,
    pub(crate) one_sfu_ms: Vec<f64>,
    /// How many edges a track has passed when it leaves the last.
    pub(crate) depths: BTreeMap<usize, usize>,
    /// Bits a second between regions, summed over samples: as it was, at least, and with one server a meeting.
    pub(crate) between_bps: f64,
    pub(crate) optimum_bps: f64,
    pub(crate) one_sfu_bps: f64,
    /// From somebody's coming until somebody else is told.
    pub(crate) seen_ms: Vec<f64>,
    /// From an edge's death, or the end of transit trouble, until nothing was amiss anywhere.
    pub(crate) healed_ms: Vec<f64>,
    pub(crate) unhealed: usize,
    pub(crate) messages_per_s: f64,
    pub(crate) faults: Vec<String>,
}

pub(crate) struct Day {
    plan: Plan,
    world: World,
    rng: SmallRng,
    homes: Vec<Location>,
    candidates: Candidates,
    free: Vec<usize>,
    meetings: Vec<Meeting>,
    opened: usize,
    dead: Vec<(usize, u64)>,
    found: Found,
}

impl Day {
    pub(crate) fn new(plan: Plan) -> Day {
        let mut rng = SmallRng::seed_from_u64(plan.seed ^ 0x0064_6179);
        let mut world = World::new(plan.seed, layout::planet(plan.pops, 64));
        let cities = REGIONS.len();
        let near = |rng: &mut SmallRng| {
            let city = REGIONS[rng.random_range(0..cities)].location;
            let lat = (city.lat + rng.random_range(-3.0..3.0)).clamp(-89.0, 89.0);
            let lon = (city.lon + rng.random_range(-3.0..3.0)).clamp(-179.0, 179.0);
            Location { lat, lon }
        };
        let homes: Vec<Location> = (0..plan.people).map(|_| near(&mut rng)).collect();
        for _ in 0..plan.people {
            let (publishes, quality) = (rng.random_bool(0.4), rng.random_range(0..3));
            world.add_person(publishes, quality);
        }
        let candidate = |index: usize| Candidate {
            id: world.edges[index].node.to_string(),
            region: world.edges[index].region.clone(),
            healthy: true,
            capacity: CAPACITY,
            accepting: true,
            ..Candidate::default()
        };
        let candidates = Candidates::new((0..plan.pops).map(candidate).collect(), &Policy::default());
        world.run(Duration::from_secs(2));
        Day {
            found: Found {
                seed: plan.seed,
                pops: plan.pops,
                people: plan.people,
                minutes: plan.minutes,
                ..Found::default()
            },
            free: (0..plan.people).collect(),
            plan,
            world,
            rng,
            homes,
            candidates,
            meetings: Vec::new(),
            opened: 0,
            dead: Vec::new(),
        }
    }

    pub(crate) fn present(&self) -> usize {
        self.meetings.iter().map(|meeting| meeting.people.len()).sum()
    }

    /// One minute: meetings end and begin, something may break, and at its end everything is measured.
    pub(crate) fn minute(&mut self, minute: u64) {
        let over: Vec<Meeting> = self.meetings.extract_if(.., |meeting| meeting.ends <= minute).collect();
        for meeting in over {
            for person in meeting.people {
                self.world.leave(person);
                self.free.push(person);
                self.world.run(Duration::from_millis(5));
            }
        }
        self.open_meetings(minute);
        self.world.run(Duration::from_secs(25));
        match minute % 10 {
            4 => self.kill_one(minute),
            8 => self.cut_transit(),
            _ => {}
        }
        let back: Vec<(usize, u64)> = self.dead.extract_if(.., |(_, until)| *until <= minute).collect();
        for (edge, _) in back {
            self.world.revive(edge);
            self.candidates.update(edge, |candidate| candidate.healthy = true);
        }
        let end = Duration::from_secs(2 + 60 * (minute + 1));
        self.world.run(end.saturating_sub(self.world.elapsed));
        self.measure();
    }

    /// People meet when it is day where they are.
    fn open_meetings(&mut self, minute: u64) {
        let wanted = self.plan.people * 6 / 10;
        let mut tries = 0;
        while self.present() < wanted && tries < 1_000 {
            tries += 1;
            let Some(host) = self.pick(minute, None) else { continue };
            let size = 2 + (self.rng.random::<f64>().powi(3) * 14.0) as usize;
            let mut people = vec![host];
            let spread = if self.rng.random_bool(0.7) {
                Some(self.homes[host])
            } else {
                None
            };
            while people.len() < size
                && let Some(person) = self.pick(minute, spread)
            {
                people.push(person);
            }
            if people.len() < 2 {
                self.free.append(&mut people);
                continue;
            }
            self.opened += 1;
            let room = format!("meeting-{}", self.opened);
            let ends = minute + self.rng.random_range(5..40);
            self.begin(&room, &people);
            self.meetings.push(Meeting { room, people, ends });
        }
    }

    /// Somebody who is free and awake, near that place.
    fn pick(&mut self, minute: u64, near: Option<Location>) -> Option<usize> {
        for _ in 0..12 {
            if self.free.is_empty() {
                return None;
            }
            let at = self.rng.random_range(0..self.free.len());
            let home = self.homes[self.free[at]];
            let local_h = (minute as f64 / 60.0 + home.lon / 15.0 + 12.0).rem_euclid(24.0);
            let awake = (0.1 + 0.9 * (-((local_h - 13.0) / 5.0).powi(2)).exp()).clamp(0.0, 1.0);
            let is_near = near.is_none_or(|place| predicted_rtt_ms(place, home) < 60.0);
            if is_near && self.rng.random_bool(awake) {
                return Some(self.free.swap_remove(at));
            }
        }
        None
    }

    fn begin(&mut self, room: &str, people: &[usize]) {
        let mut with_room: Vec<usize> = Vec::new();
        for &person in people {
            let client = Client {
                location: Some(self.homes[person]),
                draw: Some(self.rng.random()),
                ..Client::default()
            };
            let ranked = self.candidates.assign(&client, &with_room).ranked;
            let mut open = ranked
                .iter()
                .map(|one| one.index)
                .filter(|edge| self.world.edges[*edge].is_alive);
            let Some(edge) = open.next() else { continue };
            self.world.people[person].alternates = open.take(2).collect();
            if !with_room.contains(&edge) {
                with_room.push(edge);
            }
            let home = self.world.edges[edge].region.clone();
            self.world.home_regions.entry(RoomName::from(room)).or_insert(home);
            let rtt_ms = predicted_rtt_ms(self.homes[person], location(&self.world, edge));
            self.world.people[person].rtt = Duration::from_micros((rtt_ms * 1_000.0) as u64);
            self.world.join(person, edge, room);
            let pause = Duration::from_millis(self.rng.random_range(1..20));
            self.world.run(pause);
        }
    }

    fn kill_one(&mut self, minute: u64) {
        let used: BTreeSet<usize> = self
            .world
            .people
            .iter()
            .filter_map(|person| Some(person.place.as_ref()?.edge))
            .collect();
        let used: Vec<usize> = used
            .into_iter()
            .filter(|edge| self.world.edges[*edge].is_alive)
            .collect();
        if used.len() < 2 {
            return;
        }
        let edge = used[self.rng.random_range(0..used.len())];
        self.world.kill(edge);
        self.candidates.update(edge, |candidate| candidate.healthy = false);
        self.dead.push((edge, minute + 2));
        self.found.deaths += 1;
        self.await_rest();
    }

    /// Two regions cannot reach each other for ten seconds.
    fn cut_transit(&mut self) {
        let one = self.world.edges[self.rng.random_range(0..self.plan.pops)]
            .region
            .clone();
        let other = self.world.edges[self.rng.random_range(0..self.plan.pops)]
            .region
            .clone();
        let of = |region: &str| -> Vec<usize> {
            (0..self.plan.pops)
                .filter(|edge| self.world.edges[*edge].region == region)
                .collect()
        };
        let (these, those) = (of(&one), of(&other));
        if one == other {
            return;
        }
        let pairs: Vec<(usize, usize)> = these.iter().flat_map(|a| those.iter().map(move |b| (*a, *b))).collect();
        pairs.iter().for_each(|(a, b)| self.world.cut(*a, *b));
        self.world.run(Duration::from_secs(10));
        pairs.iter().for_each(|(a, b)| self.world.heal(*a, *b));
        self.found.outages += 1;
        self.await_rest();
    }

    fn await_rest(&mut self) {
        match self.world.come_to_rest(Duration::from_secs(20)) {
            Ok(took) => self.found.healed_ms.push(took.as_secs_f64() * 1_000.0),
            Err(_) => self.found.unhealed += 1,
        }
    }

    fn measure(&mut self) {
        let trees = self.world.trees();
        for ((_, track), tree) in &trees {
            let is_audio = track.as_str().starts_with("TR_A");
            self.measure_tree(tree, is_audio);
        }
        let rooms: Vec<(String, Vec<usize>)> = self
            .meetings
            .iter()
            .map(|meeting| (meeting.room.clone(), meeting.people.clone()))
            .collect();
        for (room, people) in rooms {
            self.measure_meeting(&room, &people, &trees);
        }
    }

    fn measure_tree(&mut self, tree: &Tree, is_audio: bool) {
        let region = |edge: usize| self.world.edges[edge].region.as_str();
        let bps = if is_audio { AUDIO_BPS } else { LAYERS_BPS.iter().sum() };
        let mut regions = BTreeSet::new();
        for (edge, from) in &tree.sources {
            if region(*edge) != region(*from) {
                self.found.between_bps += bps;
            }
            if region(*edge) != region(tree.origin) {
                regions.insert(region(*edge));
            }
            if let Some(way) = tree.way(*edge) {
                *self.found.depths.entry(way.len()).or_default() += 1;
            }
        }
        self.found.optimum_bps += bps * regions.len() as f64;
    }

    fn measure_meeting(
        &mut self,
        room: &str,
        people: &[usize],
        trees: &BTreeMap<(RoomName, meridian_room::TrackSid), Tree>,
    ) {
        let world = &self.world;
        let seat = |person: usize| {
            world.people[person]
                .place
                .as_ref()
                .filter(|place| place.is_in)
                .map(|place| place.edge)
        };
        let seated: Vec<(usize, usize)> = people
            .iter()
            .filter_map(|person| Some((*person, seat(*person)?)))
            .collect();
        let server = |edge: &usize| -> f64 {
            let at = location(world, *edge);
            seated
                .iter()
                .map(|(person, _)| predicted_rtt_ms(self.homes[*person], at))
                .sum()
        };
        let edges: BTreeSet<usize> = seated.iter().map(|(_, edge)| *edge).collect();
        let Some(best) = edges.into_iter().min_by(|a, b| server(a).total_cmp(&server(b))) else {
            return;
        };
        let to_best = |person: usize| predicted_rtt_ms(self.homes[person], location(world, best)) / 2.0;
        for &(viewer, at) in &seated {
            for &(publisher, origin) in seated
                .iter()
                .filter(|(other, _)| *other != viewer && world.people[*other].publishes)
            {
                let access = (world.people[viewer].rtt + world.people[publisher].rtt) / 2;
                let of_publisher = |((of, track), tree): (&(RoomName, meridian_room::TrackSid), &Tree)| {
                    let is_it = of.as_str() == room && tree.origin == origin && track.as_str().starts_with("TR_A");
                    is_it.then(|| tree.way(at)).flatten()
                };
                let range = (RoomName::from(room), meridian_room::TrackSid::from(""))..;
                let Some(way) = trees
                    .range(range)
                    .take_while(|((of, _), _)| of.as_str() == room)
                    .find_map(of_publisher)
                else {
                    continue;
                };
                let between: Duration = way.windows(2).map(|hop| world.net.latency(hop[0], hop[1])).sum();
                self.found.mesh_ms.push((access + between).as_secs_f64() * 1_000.0);
                self.found.one_sfu_ms.push(to_best(viewer) + to_best(publisher));
            }
        }
        let published = seated
            .iter()
            .filter(|(person, _)| world.people[*person].publishes)
            .count() as f64;
        let bps = AUDIO_BPS + LAYERS_BPS.iter().sum::<f64>();
        // Whoever is far from the server sends it what it publishes and gets what others do; all three ways are reckoned with all layers.
        let is_far = |edge: usize| world.edges[edge].region != world.edges[best].region;
        let far = seated.iter().filter(|(_, edge)| is_far(*edge)).count();
        self.found.one_sfu_bps += far as f64 * published * bps;
    }

    pub(crate) fn finish(mut self) -> Found {
        let found = &mut self.found;
        found.seen_ms = self.world.seen_after_us.iter().map(|us| *us as f64 / 1_000.0).collect();
        found.happenings = self.world.happenings;
        found.messages_per_s = self.world.net.messages as f64 / self.world.elapsed.as_secs_f64();
        found.meetings = self.opened;
        found.faults.clone_from(&self.world.faults);
        for list in [
            &mut found.mesh_ms,
            &mut found.one_sfu_ms,
            &mut found.seen_ms,
            &mut found.healed_ms,
        ] {
            list.sort_by(f64::total_cmp);
        }
        self.found
    }
}

fn location(world: &World, edge: usize) -> Location {
    let region = meridian_geo::regions::find(&world.edges[edge].region);
    region.map_or(Location { lat: 0.0, lon: 0.0 }, |region| region.location)
}
