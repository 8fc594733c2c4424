//! Who is in the world, and how people come to rooms, stay and leave; and what an edge does once something has reached it.

use std::sync::Arc;
use std::time::Duration;

use meridian_access::token::Claims;
use meridian_cascade::carriage::Step;
use meridian_conference::{Connect, Input, Newcomer, Note, Output, SessionKey};
use meridian_room::{DisconnectReason, RoomName, RoomSid};
use meridian_shard_api::{Command, Event};
use meridian_signalling::Frame;
use meridian_transport::SrtpProfile;
use rand::Rng;

use crate::edge::Seat;
use crate::person::{Eyes, Shared, Speaker, look};
use crate::plane::Later;
use crate::world::{Happening, World};

/// From the first packet of a publisher to the event that tells of it.
const STARTS_WITHIN: Duration = Duration::from_millis(60);
/// How soon somebody whose edge has died finds out: half the web app's heartbeat, on average.
const NOTICED: Duration = Duration::from_millis(1_000);

/// Stays that met in a partition are settled so long after its end.
const QUIET: Duration = Duration::from_secs(30);

pub struct Person {
    pub identity: String,
    pub publishes: bool,
    /// The best layer of every picture that it wants.
    pub quality: u8,
    /// To its edge and back.
    pub rtt: Duration,
    pub eyes: Shared,
    /// Where it sits, while it does.
    pub place: Option<Place>,
    /// Counts its stays.
    pub stay: u32,
    /// The room it wants to be in.
    pub wants: Option<RoomName>,
    /// Where it goes should its edge die, in this order; then anywhere.
    pub alternates: Vec<usize>,
    offering: bool,
}

#[derive(Clone)]
pub struct Place {
    pub edge: usize,
    pub room: RoomName,
    pub socket: SessionKey,
    pub is_in: bool,
    /// When it came.
    pub since: Duration,
}

impl World {
    pub fn add_person(&mut self, publishes: bool, quality: u8) -> usize {
        let index = self.people.len();
        self.people.push(Person {
            identity: format!("p{index:05}"),
            publishes,
            quality,
            rtt: Duration::from_millis(20),
            eyes: Shared::default(),
            place: None,
            stay: 0,
            wants: None,
            alternates: Vec::new(),
            offering: false,
        });
        index
    }

    pub fn join(&mut self, person: usize, edge: usize, name: &str) {
        let (now, elapsed, room) = (self.now(), self.elapsed, RoomName::from(name));
        if let Some(Place { edge, room, socket, .. }) = self.people[person].place.clone() {
            // It goes on elsewhere: its old edge sees no more than that.
            self.edges[edge].hand(now, elapsed, &room, Input::SocketClosed { socket });
            self.stand_up(person);
            self.pump(edge);
        }
        self.people[person].stay += 1;
        self.people[person].wants = Some(room.clone());
        if !self.edges[edge].is_alive {
            return self.try_again(person);
        }
        let held = &mut self.people[person];
        held.eyes = Arc::new(std::sync::Mutex::new(Eyes::default()));
        held.offering = false;
        let speaker = Speaker::new(&held.identity, held.publishes, held.quality, held.eyes.clone());
        let identity = held.identity.clone();
        self.edges[edge].sockets += 1;
        let socket = SessionKey(self.edges[edge].sockets);
        held.place = Some(Place {
            edge,
            room: room.clone(),
            socket,
            is_in: false,
            since: elapsed,
        });
        self.seated.entry((edge, room.clone())).or_default().insert(person);
        self.sockets.insert((edge, socket.0), person);
        if !self.edges[edge].seats.contains_key(&room) {
            self.edges[edge].seats.insert(room.clone(), Seat::Unborn(Vec::new()));
            let sid = RoomSid::generate(&mut self.rng);
            let home = self.home_regions.get(&room).cloned().unwrap_or_default();
            let wall_ms = self.edges[edge].wall_ms(elapsed) as i64;
            self.edges[edge].carriage.enter(now, room.clone(), &home, sid, wall_ms);
        }
        let claims = Claims {
            exp: None,
            nbf: None,
            ..Claims::join(identity.as_str(), identity.as_str(), name)
        };
        let connect = Connect {
            claims,
            address: [192, 0, 2, 9].into(),
            voice: Newcomer::Other(Box::new(speaker)),
        };
        self.edges[edge].hand(now, elapsed, &room, Input::Connect { socket, connect });
        self.pump(edge);
    }

    /// It goes, and says so.
    pub fn leave(&mut self, person: usize) {
        self.people[person].wants = None;
        self.people[person].stay += 1;
        let Some(place) = self.people[person].place.clone() else {
            return;
        };
        // The first frame that it sends after this ends its stay.
        look(&self.people[person].eyes).leaves = true;
        let (now, elapsed) = (self.now(), self.elapsed);
        let frame = Input::Frame {
            socket: place.socket,
            frame: Frame::Text("goodbye".to_owned()),
        };
        self.edges[place.edge].hand(now, elapsed, &place.room, frame);
        if !place.is_in {
            // It closed the page before it was let in.
            let closed = Input::SocketClosed { socket: place.socket };
            self.edges[place.edge].hand(now, elapsed, &place.room, closed);
        }
        self.stand_up(person);
        self.pump(place.edge);
    }

    /// It sits nowhere any more, as far as it knows.
    fn stand_up(&mut self, person: usize) {
        if let Some(place) = self.people[person].place.take() {
            self.sockets.remove(&(place.edge, place.socket.0));
            if let Some(seated) = self.seated.get_mut(&(place.edge, place.room.clone())) {
                seated.remove(&person);
            }
        }
        self.people[person].stay += 1;
    }

    fn try_again(&mut self, person: usize) {
        self.stand_up(person);
        let stay = self.people[person].stay;
        let delay = NOTICED.mul_f64(self.rng.random_range(0.3..1.0));
        self.after(delay, Happening::Rejoin { person, stay });
    }

    /// To one of its alternates, or to some live edge.
    pub(crate) fn rejoin(&mut self, person: usize, stay: u32) {
        if self.people[person].stay != stay || self.people[person].place.is_some() {
            return;
        }
        let Some(room) = self.people[person].wants.clone() else {
            return;
        };
        let open: Vec<usize> = (0..self.edges.len())
            .filter(|edge| self.edges[*edge].is_alive)
            .collect();
        if open.is_empty() {
            return self.try_again(person);
        }
        let known = self.people[person]
            .alternates
            .iter()
            .copied()
            .find(|edge| open.contains(edge));
        let edge = known.unwrap_or_else(|| open[self.rng.random_range(0..open.len())]);
        self.join(person, edge, room.as_str());
    }

    /// Everybody on an edge that has died finds out.
    pub(crate) fn bereave(&mut self, edge: usize) {
        let here: Vec<usize> = self
            .seated
            .iter()
            .filter(|((at, _), _)| *at == edge)
            .flat_map(|(_, people)| people.iter().copied())
            .collect();
        here.into_iter().for_each(|person| self.try_again(person));
        self.edges[edge].seats.clear();
        self.edges[edge].stirred.clear();
        self.edges[edge].plane = Default::default();
    }

    pub(crate) fn offer(&mut self, person: usize, stay: u32) {
        let held = &mut self.people[person];
        held.offering = false;
        let Some(place) = held.place.clone().filter(|_| held.stay == stay) else {
            return;
        };
        let (now, elapsed) = (self.now(), self.elapsed);
        let frame = Input::Frame {
            socket: place.socket,
            frame: Frame::Text("offer".to_owned()),
        };
        self.edges[place.edge].hand(now, elapsed, &place.room, frame);
        self.pump(place.edge);
    }

    pub(crate) fn later(&mut self, edge: usize, room: &RoomName, later: Later) {
        let event = match later {
            Later::Connected(peer) => Event::PeerConnected {
                peer,
                profile: SrtpProfile::AeadAes256Gcm,
            },
            Later::Started(track) => {
                let Some(carried) = self.edges[edge].plane.tracks.get_mut(&track) else {
                    return;
                };
                carried.started = true;
                Event::MediaStarted {
                    track,
                    layer: meridian_sfu::Layer(0),
                    codec: carried.codec,
                }
            }
        };
        let (now, elapsed) = (self.now(), self.elapsed);
        self.edges[edge].hand(now, elapsed, room, Input::Media(event));
        self.pump(edge);
    }

    /// Carries out what an edge says, until it says nothing more.
    pub(crate) fn pump(&mut self, edge: usize) {
        let now = self.now();
        loop {
            while let Some(room) = self.edges[edge].stirred.pop_first() {
                self.pump_room(edge, &room);
            }
            let Some(step) = self.edges[edge].carriage.poll_step(now) else {
                break;
            };
            self.carry_out(edge, step);
        }
        let due = self.edges[edge]
            .next_due()
            .map(|due| due.saturating_duration_since(self.start()));
        if let Some(due) = due.map(|due| due.max(self.elapsed))
            && self.edges[edge].due.is_none_or(|put_down| put_down > due)
        {
            self.edges[edge].due = Some(due);
            self.after(due - self.elapsed, Happening::Due(edge));
        }
    }

    fn carry_out(&mut self, edge: usize, step: Step) {
        let (now, elapsed) = (self.now(), self.elapsed);
        match step {
            Step::Send { to, message } => {
                let to = self.indices[&to];
                self.transmit(edge, to, &message);
            }
            Step::KeepLinks(nodes) => {
                self.edges[edge].kept = nodes.iter().map(|node| self.indices[node]).collect();
                for to in self.edges[edge].kept.clone() {
                    if !self.net.is_up(edge, to) {
                        self.want_link(edge, to);
                    }
                }
            }
            Step::HangUp(other) => {
                let other = self.indices[&other];
                self.link_fell(edge, other);
            }
            Step::Audible(nodes) => {
                self.edges[edge].audible = nodes.clone();
                let learning = |seat: &Seat| matches!(seat, Seat::Open(conference) if conference.is_learning());
                let seats = self.edges[edge].seats.iter();
                let rooms: Vec<RoomName> = seats
                    .filter(|(_, seat)| learning(seat))
                    .map(|(room, _)| room.clone())
                    .collect();
                for room in rooms {
                    self.edges[edge].hand(now, elapsed, &room, Input::Audible(nodes.clone()));
                }
            }
            Step::Born { room, birth } => {
                let seed = self.rng.random();
                self.edges[edge].open(now, elapsed, &room, birth, seed);
            }
            Step::Room { room, message } => self.edges[edge].hand(now, elapsed, &room, Input::Mesh(message)),
            Step::Media(Command::RemoteMedia {
                track, layer, packets, ..
            }) => {
                let from = self.media_from;
                let onward = self.edges[edge]
                    .plane
                    .arrive(now, elapsed, from, track, layer, &packets);
                if let Some(batch) = onward {
                    self.send_media(edge, &batch);
                }
            }
            Step::Media(command) => {
                self.edges[edge].plane.obey(&RoomName::from(""), command);
            }
            Step::Report { .. } => {}
        }
    }

    fn pump_room(&mut self, edge: usize, room: &RoomName) {
        let (now, mut has_spoken) = (self.now(), false);
        while let Some(Seat::Open(conference)) = self.edges[edge].seats.get_mut(room) {
            let Some(output) = conference.poll_output() else { break };
            has_spoken = true;
            match output {
                Output::Mesh(request) => self.edges[edge].carriage.request(now, room, request, 0),
                Output::Media(command) => self.command(edge, room, command),
                Output::Admitted { socket } => {
                    let person = self.sockets.get(&(edge, socket.0)).copied();
                    if let Some(place) = person.and_then(|person| self.people[person].place.as_mut()) {
                        place.is_in = true;
                    }
                }
                Output::Refused { socket } | Output::Close { socket, .. } | Output::GiveUp { socket } => {
                    self.shown_out(edge, socket);
                }
                Output::Note(Note::Violation) => self.faults.push(format!("edge {edge}: a client broke the protocol")),
                Output::Emptied => {
                    self.edges[edge].seats.remove(room);
                    self.edges[edge].carriage.leave(now, room);
                }
                _ => {}
            }
        }
        if has_spoken {
            self.look_round(edge, room);
        }
    }

    fn command(&mut self, edge: usize, room: &RoomName, command: Command) {
        let life = self.edges[edge].life;
        let Some(later) = self.edges[edge].plane.obey(room, command) else {
            return;
        };
        // A transport stands after ICE and DTLS; media follows.
        let delay = match later {
            Later::Connected(_) => Duration::from_millis(60),
            Later::Started(_) => Duration::from_millis(60) + STARTS_WITHIN,
        };
        let room = room.clone();
        let happening = Happening::Later {
            edge,
            life,
            room,
            later,
        };
        self.after(delay, happening);
    }

    /// The edge has closed somebody's socket.
    fn shown_out(&mut self, edge: usize, socket: SessionKey) {
        let Some(&person) = self.sockets.get(&(edge, socket.0)) else {
            return;
        };
        let reason = look(&self.people[person].eyes).goodbye;
        if reason == Some(DisconnectReason::DuplicateIdentity) {
            // Nobody here joins twice on purpose: a stay that is over has thrown out the one that replaced it. Edges that could not hear
            // each other cannot know which is the later.
            self.thrown_out += 1;
        }
        if reason == Some(DisconnectReason::DuplicateIdentity) && self.elapsed - self.troubled > QUIET {
            let identity = &self.people[person].identity;
            self.faults
                .push(format!("{identity} was thrown out of edge {edge} by an earlier stay"));
        }
        self.try_again(person);
    }

    /// What the people of a room on an edge have just been told.
    fn look_round(&mut self, edge: usize, room: &RoomName) {
        let Some(seated) = self.seated.get(&(edge, room.clone())) else {
            return;
        };
        for person in seated.clone() {
            let held = &mut self.people[person];
            let mut eyes = look(&held.eyes);
            let newcomers = std::mem::take(&mut eyes.newcomers);
            let must_offer = eyes.sections.is_some() && !held.offering;
            self.faults.append(&mut eyes.faults);
            drop(eyes);
            if must_offer {
                held.offering = true;
                let (stay, delay) = (held.stay, held.rtt);
                self.after(delay, Happening::Offer { person, stay });
            }
            for newcomer in newcomers {
                let index: Option<usize> = newcomer.as_str()[1..].parse().ok();
                let since = index
                    .and_then(|index| self.people[index].place.as_ref())
                    .map(|place| place.since);
                let own = self.people[person].place.as_ref().map(|place| place.since);
                if let (Some(since), Some(own)) = (since, own) {
                    self.seen_after_us
                        .push((self.elapsed - since.max(own)).as_micros() as u64);
                }
            }
        }
    }
}
