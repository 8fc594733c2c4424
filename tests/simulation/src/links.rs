//! How links come and go between edges of the world, and what passes over them.

use std::time::Duration;

use meridian_cascade::link::engine::PathState;
use meridian_cascade::link::{EngineEvent, MediaPacket, Received};
use meridian_shard_api::TapBatch;
use rand::Rng;

use crate::net::pair;
use crate::world::{Happening, World, node};

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

pub(crate) fn received(packet: MediaPacket) -> Received {
    Received {
        track: packet.track,
        encoding: packet.encoding,
        layer: packet.layer,
        payload: packet.payload,
    }
}

impl World {
    pub(crate) fn want_link(&mut self, from: usize, to: usize) {
        self.after(Duration::ZERO, Happening::Dial { from, to, failures: 0 });
    }

    pub(crate) fn dial(&mut self, from: usize, to: usize, failures: u32) {
        let link = self.net.links.entry(pair(from, to)).or_default();
        if !self.edges[from].is_alive || !self.edges[from].kept.contains(&to) || link.up || link.dialling {
            return;
        }
        link.dialling = true;
        if self.net.passes(from, to) && self.edges[to].is_alive {
            // Two round trips: the handshake, then hello and its answer.
            let takes = 4 * self.net.latency(from, to);
            let lives = [self.edges[from].life, self.edges[to].life];
            self.after(takes, Happening::Up { a: from, b: to, lives });
        } else {
            self.redial(from, to, failures + 1);
        }
    }

    fn redial(&mut self, from: usize, to: usize, failures: u32) {
        if let Some(link) = self.net.links.get_mut(&pair(from, to)) {
            link.dialling = false;
        }
        let backoff = (BACKOFF_FIRST * 2u32.pow(failures.saturating_sub(1).min(8))).min(BACKOFF_MAX);
        let delay = backoff.mul_f64(self.rng.random_range(0.5..1.5));
        self.after(delay, Happening::Dial { from, to, failures });
    }

    pub(crate) fn link_up(&mut self, a: usize, b: usize, lives: [u32; 2]) {
        if self.net.is_up(a, b) {
            return;
        }
        let stand = |edge: usize, life: u32| self.edges[edge].is_alive && self.edges[edge].life == life;
        if !self.net.passes(a, b) || !stand(a, lives[0]) || !stand(b, lives[1]) {
            return self.redial(a, b, 1);
        }
        let (now, seed) = (self.now(), self.rng.random());
        self.net.raise(now, self.elapsed, a, b, seed);
        if self.net.is_exact {
            self.watch_wire(a, b);
        }
        for (at, of) in [(a, b), (b, a)] {
            self.edges[at].carriage.link_up(now, node(of));
        }
        self.pump(a);
        self.pump(b);
    }

    /// Nothing passes, or one end is dead.
    fn is_mute(&self, a: usize, b: usize) -> bool {
        !self.net.passes(a, b) || !self.edges[a].is_alive || !self.edges[b].is_alive
    }

    pub(crate) fn silent(&mut self, a: usize, b: usize, life: u32, ends: bool) {
        if !self.net.is_up(a, b) || self.net.life(a, b) != life || !self.is_mute(a, b) {
            return;
        }
        if ends {
            return self.link_fell(a, b);
        }
        for (at, of) in [(a, b), (b, a)] {
            if self.edges[at].is_alive && !self.net.is_exact {
                let now = self.now();
                self.edges[at].carriage.link_suspect(now, &node(of));
                self.pump(at);
            }
        }
    }

    /// The link is over for both ends; who wants one dials again.
    pub(crate) fn link_fell(&mut self, a: usize, b: usize) {
        if !self.net.is_up(a, b) {
            return;
        }
        self.net.fall(a, b);
        let now = self.now();
        for (at, of) in [(a, b), (b, a)] {
            if self.edges[at].is_alive {
                self.edges[at].carriage.link_down(now, &node(of));
                self.pump(at);
                if self.edges[at].kept.contains(&of) {
                    self.want_link(at, of);
                }
            }
        }
    }

    /// What an edge's media threads have tapped goes over its links.
    pub(crate) fn send_media(&mut self, from: usize, batch: &TapBatch) {
        let now = self.now();
        for (to, packets) in self.edges[from].carriage.departing(batch) {
            let to = self.indices[&to];
            let (life, way, loss) = (
                self.net.life(from, to),
                self.net.latency(from, to),
                self.net.weather.loss,
            );
            let Some(link) = self.net.links.get_mut(&pair(from, to)).filter(|link| link.up) else {
                continue;
            };
            if let Some(wire) = &mut link.wire {
                for packet in packets {
                    wire.ends[usize::from(from > to)].send(now, packet);
                }
                continue;
            }
            self.media_packets += packets.len() as u64;
            if !self.net.passes(from, to) {
                continue;
            }
            // A lost packet is repaired within the hop.
            let repaired = loss > 0.0 && self.rng.random_bool(loss);
            let takes = if repaired { 3 * way } else { way };
            let happening = Happening::Media {
                from,
                to,
                life,
                packets,
            };
            self.after(takes, happening);
        }
    }

    pub(crate) fn take_media(&mut self, from: usize, to: usize, packets: Vec<Received>) {
        let sender = node(from);
        self.edges[to].carriage.media(&sender, packets);
        self.media_from = from;
        self.pump(to);
    }

    /// Both ends of a link that is simulated to the datagram.
    pub(crate) fn step_wire(&mut self, a: usize, b: usize) {
        let now = self.now();
        let (low, high) = pair(a, b);
        let alive = [self.edges[low].is_alive, self.edges[high].is_alive];
        let rtt = 2 * self.net.latency(a, b);
        let Some(wire) = self.net.links.get_mut(&(low, high)).and_then(|link| link.wire.as_mut()) else {
            return;
        };
        let path = PathState {
            target_bps: 200_000_000,
            queue: Duration::ZERO,
            srtt: rtt,
        };
        let mut media = [Vec::new(), Vec::new()];
        let mut events = [Vec::new(), Vec::new()];
        for side in [0, 1] {
            while let Some(datagram) = wire.paths[1 - side].poll(now) {
                if alive[side] {
                    wire.ends[side].handle_datagram(now, datagram);
                }
            }
            if !alive[side] {
                continue;
            }
            let end = &mut wire.ends[side];
            end.handle_timeout(now, path);
            while let Some(datagram) = end.poll_transmit(now, 1_312, 640 * 1_024) {
                wire.paths[side].send(now, datagram.len(), datagram);
            }
            media[side] = end.take_received();
            events[side].extend(std::iter::from_fn(|| end.poll_event()));
        }
        let events = events.into_iter().zip([(low, high), (high, low)]);
        for ((events, (at, of)), packets) in events.zip(media) {
            if !packets.is_empty() {
                self.take_media(of, at, packets);
            }
            events.into_iter().for_each(|event| self.link_event(at, of, event));
        }
    }

    fn link_event(&mut self, at: usize, of: usize, event: EngineEvent) {
        let (now, of) = (self.now(), node(of));
        let carriage = &mut self.edges[at].carriage;
        match event {
            EngineEvent::Suspect { .. } => carriage.link_suspect(now, &of),
            EngineEvent::Alive => carriage.link_alive(now, &of),
            EngineEvent::Layer(change) => carriage.layer_shed(now, &of, change.track, change.layer, change.shed),
            EngineEvent::KeyframeWanted { track, layer } => carriage.keyframe_wanted(&of, track, layer),
            EngineEvent::SenderReport(report) => carriage.sender_report(&of, report),
        }
        self.pump(at);
    }

    /// Each link tells its round trip, give or take; one that is simulated to the datagram has measured it.
    pub(crate) fn measure(&mut self) {
        let now = self.now();
        let standing: Vec<(usize, usize)> = self
            .net
            .links
            .iter()
            .filter(|(_, link)| link.up)
            .map(|(pair, _)| *pair)
            .collect();
        for (a, b) in standing {
            let way = self.net.latency(a, b);
            for (side, at, of) in [(0, a, b), (1, b, a)] {
                if !self.edges[at].is_alive {
                    continue;
                }
                let mut measured = Some((2 * way).mul_f64(1.0 + self.rng.random_range(-0.03..0.03)));
                let mut loss = self.net.weather.loss as f32;
                if let Some(wire) = self.net.links.get_mut(&(a, b)).and_then(|link| link.wire.as_mut()) {
                    let end = &mut wire.ends[side];
                    measured = end.life().rtt();
                    loss = f32::from(end.inbound_loss(now)) / 10_000.0;
                }
                if let Some(rtt) = measured {
                    self.edges[at].carriage.link_measured(&node(of), rtt, (loss, loss));
                }
            }
        }
    }
}
