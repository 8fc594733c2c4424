//! What must hold: of every person, of every track, at once or once the world has come to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meridian_room::{Identity, ParticipantSid, RoomName, TrackSid};

use crate::people::Person;
use crate::person::look;
use crate::world::{PROBE, World};

/// Edges from the origin to the last one, both included (DESIGN.md §5).
const HOPS_MAX: usize = 4;
/// How often a world is looked at while it is to come to rest.
const LOOK: Duration = Duration::from_millis(250);

/// The way one track takes: who gets it from whom.
pub struct Tree {
    pub origin: usize,
    pub sources: BTreeMap<usize, usize>,
}

impl Tree {
    /// From `edge` to the origin, both included; `None` if it does not get there.
    pub fn way(&self, edge: usize) -> Option<Vec<usize>> {
        let mut way = vec![edge];
        while *way.last()? != self.origin {
            let from = *self.sources.get(way.last()?)?;
            if way.contains(&from) {
                return None;
            }
            way.push(from);
        }
        way.reverse();
        Some(way)
    }
}

impl World {
    /// Who should be seen in each room: those who sit there.
    pub fn present(&self) -> BTreeMap<RoomName, BTreeMap<Identity, &Person>> {
        let mut present: BTreeMap<RoomName, BTreeMap<Identity, &Person>> = BTreeMap::new();
        for person in &self.people {
            if let Some(place) = &person.place {
                let identity = Identity::from(person.identity.as_str());
                present.entry(place.room.clone()).or_default().insert(identity, person);
            }
        }
        present
    }

    /// All trees, by room and track.
    pub fn trees(&self) -> BTreeMap<(RoomName, TrackSid), Tree> {
        let mut trees: BTreeMap<(RoomName, TrackSid), Tree> = BTreeMap::new();
        let live = || (0..self.edges.len()).filter(|edge| self.edges[*edge].is_alive);
        for edge in live() {
            for (room, sid, id, _) in self.edges[edge].carriage.tracks() {
                let is_here = |track: &crate::plane::Carried| track.publisher.is_some();
                if self.edges[edge].plane.tracks.get(&id).is_some_and(is_here) {
                    let tree = Tree {
                        origin: edge,
                        sources: BTreeMap::new(),
                    };
                    trees.insert((room.clone(), sid.clone()), tree);
                }
            }
        }
        for edge in live() {
            for (room, sid, _, source) in self.edges[edge].carriage.tracks() {
                let tree = trees.get_mut(&(room.clone(), sid.clone()));
                if let (Some(tree), Some(source)) = (tree, source) {
                    tree.sources.insert(edge, self.indices[source]);
                }
            }
        }
        trees
    }

    /// What holds at any moment.
    ///
    /// # Errors
    /// What does not.
    pub fn check_always(&self) -> Result<(), String> {
        if let Some(fault) = self.faults.first() {
            return Err(fault.clone());
        }
        Ok(())
    }

    /// What holds once the world has come to rest.
    ///
    /// # Errors
    /// What does not.
    pub fn check_rest(&self) -> Result<(), String> {
        self.check_always()?;
        for (room, people) in self.present() {
            for (identity, person) in &people {
                self.sees_all(&room, identity, person, &people)?;
            }
        }
        self.check_trees()?;
        self.check_layers()
    }

    fn sees_all(
        &self,
        room: &RoomName,
        identity: &Identity,
        person: &Person,
        people: &BTreeMap<Identity, &Person>,
    ) -> Result<(), String> {
        let eyes = look(&person.eyes);
        if !person.place.as_ref().is_some_and(|place| place.is_in) {
            return Err(format!("{identity} waits at the door of {room}"));
        }
        let others = || people.iter().filter(|(other, _)| *other != identity);
        let expected: BTreeMap<&Identity, Option<ParticipantSid>> =
            others().map(|(other, person)| (other, look_sid(person))).collect();
        let seen: BTreeMap<&Identity, Option<ParticipantSid>> = eyes
            .sees
            .iter()
            .map(|(other, sid)| (other, Some(sid.clone())))
            .collect();
        if seen != expected {
            let missing: Vec<_> = expected.keys().filter(|other| !seen.contains_key(*other)).collect();
            let ghosts: Vec<_> = seen.keys().filter(|other| !expected.contains_key(*other)).collect();
            return Err(format!(
                "{identity} in {room} does not see {missing:?}, sees ghosts {ghosts:?}, or an old stay"
            ));
        }
        let tracks: BTreeSet<TrackSid> = others()
            .filter(|(_, person)| person.publishes)
            .filter_map(|(_, person)| look_sid(person))
            .flat_map(|sid| ["A", "V"].map(|letter| TrackSid::new(format!("TR_{letter}{sid}"))))
            .collect();
        if eyes.tracks != tracks {
            return Err(format!(
                "{identity} in {room} knows {} tracks of {}",
                eyes.tracks.len(),
                tracks.len()
            ));
        }
        Ok(())
    }

    /// Every edge that takes a track gets it from its origin, over few hops.
    fn check_trees(&self) -> Result<(), String> {
        for ((room, track), tree) in self.trees() {
            for edge in tree.sources.keys() {
                match tree.way(*edge) {
                    Some(way) if way.len() <= HOPS_MAX => {}
                    way => return Err(format!("{track} of {room} comes to edge {edge} by {way:?}")),
                }
            }
        }
        Ok(())
    }

    /// Each layer that somebody looks at comes.
    fn check_layers(&self) -> Result<(), String> {
        for (index, edge) in self.edges.iter().enumerate().filter(|(_, edge)| edge.is_alive) {
            let mut wishes: BTreeMap<&RoomName, usize> = BTreeMap::new();
            for track in edge.plane.tracks.values() {
                *wishes.entry(&track.room).or_default() += track.demands.len();
                if track.publisher.is_some() {
                    continue;
                }
                for layer in track.wanted_here() {
                    let late = 3 * PROBE + Duration::from_millis(500);
                    let came = track
                        .arrived
                        .get(&layer)
                        .is_some_and(|(at, ..)| *at + late > self.elapsed);
                    if !came {
                        return Err(format!(
                            "layer {layer} of a track in {} does not come to edge {index}",
                            track.room
                        ));
                    }
                }
            }
            for ((at, room), people) in self
                .seated
                .range((index, RoomName::from(""))..)
                .take_while(|((at, _), _)| *at == index)
            {
                let expected: usize = people
                    .iter()
                    .map(|person| look(&self.people[*person].eyes).tracks.len())
                    .sum();
                let held = wishes.get(room).copied().unwrap_or(0);
                if held != expected {
                    return Err(format!("edge {at} sends {held} streams of {expected} in {room}"));
                }
            }
        }
        Ok(())
    }

    /// How many edges take each track from another region, beyond one for each region that it is wanted in; and all that do.
    pub fn entries(&self) -> (usize, usize) {
        let (mut entries, mut more) = (0, 0);
        for tree in self.trees().values() {
            let region = |edge: usize| self.edges[edge].region.as_str();
            let foreign = tree
                .sources
                .iter()
                .filter(|(edge, from)| region(**edge) != region(**from));
            let regions: Vec<&str> = foreign.map(|(edge, _)| region(*edge)).collect();
            let distinct: BTreeSet<&str> = regions.iter().copied().collect();
            entries += regions.len();
            more += regions.len() - distinct.len();
        }
        (entries, more)
    }

    /// Runs on until [`World::check_rest`] holds.
    ///
    /// # Errors
    /// What still does not hold after so long.
    pub fn come_to_rest(&mut self, within: Duration) -> Result<Duration, String> {
        let began = self.elapsed;
        loop {
            self.check_always()?;
            match self.check_rest() {
                Ok(()) => return Ok(self.elapsed - began),
                Err(error) if self.elapsed - began >= within => return Err(format!("after {within:?}: {error}")),
                Err(_) => self.run(LOOK),
            }
        }
    }
}

impl World {
    /// What stands behind a room that is not whole: for whoever replays a seed.
    pub fn describe(&self, name: &str) -> String {
        let room = RoomName::from(name);
        let mut text = String::new();
        for (index, edge) in self.edges.iter().enumerate() {
            if !edge.seats.contains_key(&room) {
                continue;
            }
            let members: Vec<&str> = edge.carriage.mesh().members(&room).map(|node| node.as_str()).collect();
            let links: Vec<&str> = edge.carriage.mesh().links().map(|node| node.as_str()).collect();
            let people: Vec<String> = self
                .seated
                .get(&(index, room.clone()))
                .into_iter()
                .flatten()
                .map(|person| {
                    let eyes = look(&self.people[*person].eyes);
                    let seen: Vec<&str> = eyes.sees.keys().map(Identity::as_str).collect();
                    format!("{} {:?} sees {seen:?}", self.people[*person].identity, eyes.sid)
                })
                .collect();
            let known = edge.conference(&room).map(|conference| conference.people());
            text += &format!(
                "edge {index} (life {}): members {members:?}, links {links:?}, people {known:?}: {people:#?}\n",
                edge.life
            );
        }
        text
    }
}

fn look_sid(person: &Person) -> Option<ParticipantSid> {
    look(&person.eyes).sid.clone()
}
