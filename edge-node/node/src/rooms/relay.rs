//! What passes through a room besides media: data packets, who speaks, how good connections are.

use std::time::Instant;

use meridian_shard::{Command, PeerId, PeerStats};
use meridian_signalling::proto::ConnectionQuality;
use meridian_transport::Channel;

use super::MeshData;
use super::task::{QUALITY, ROOM_UPDATE, RoomTask};

impl RoomTask {
    /// A client's message on one of its data channels.
    pub(super) fn data(&mut self, peer: PeerId, channel: Channel, payload: &[u8]) {
        let Some(&key) = self.peers.get(&peer) else { return };
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        let reliable = match channel {
            Channel::Reliable => true,
            Channel::Lossy => false,
            // Data tracks have a wire format of their own, which this server does not relay yet.
            Channel::DataTrack => return,
        };
        match client.signalling.inspect_data(&self.room, reliable, payload) {
            Ok(Some(relay)) => {
                let destinations = relay
                    .destinations
                    .map(|list| list.iter().map(ToString::to_string).collect());
                let data = MeshData {
                    packet: relay.bytes,
                    reliable,
                    destinations,
                };
                self.deliver(&data, Some(peer));
                self.edge.mesh.data(&self.name, data);
            }
            Ok(None) => {}
            Err(violation) => self.violation(key, &violation.to_string()),
        }
    }

    /// Sends a stamped packet to the clients of this edge that it is for.
    pub(super) fn deliver(&mut self, data: &MeshData, sender: Option<PeerId>) {
        let is_for = |identity: &str| match &data.destinations {
            None => true,
            Some(list) => list.iter().any(|one| one == identity),
        };
        let peers: Vec<PeerId> = self
            .clients
            .values()
            .filter(|client| client.is_connected() && is_for(client.identity.as_str()))
            .filter_map(|client| client.peer())
            .filter(|peer| Some(*peer) != sender)
            .collect();
        if !peers.is_empty() {
            let channel = if data.reliable {
                Channel::Reliable
            } else {
                Channel::Lossy
            };
            self.edge.shards.send(Command::SendData {
                peers,
                channel,
                payload: data.packet.clone(),
            });
        }
    }

    pub(super) fn audio_levels(&mut self, levels: &[(meridian_sfu::TrackId, f32)]) {
        for (track, level) in levels {
            let Some(track) = self.tracks.by_id(*track) else {
                continue;
            };
            let Some((owner, _)) = self.room.track(&track.sid) else {
                continue;
            };
            if *level > 0.0 {
                self.speaking.insert(owner.sid.clone(), *level);
            } else {
                self.speaking.remove(&owner.sid);
            }
            self.speaking_changed = true;
        }
    }

    /// Who speaks, how large the room is, how good connections are: told at a pace people can follow.
    pub(super) fn tell_periodically(&mut self, now: Instant) {
        if std::mem::take(&mut self.speaking_changed) {
            let mut speaking: Vec<_> = self.speaking.iter().map(|(sid, level)| (sid.clone(), *level)).collect();
            speaking.sort_by(|a, b| b.1.total_cmp(&a.1));
            for client in self.clients.values_mut() {
                client.signalling.speakers(&speaking);
            }
        }
        if now.duration_since(self.last_room_update) >= ROOM_UPDATE {
            self.last_room_update = now;
            for client in self.clients.values_mut() {
                client.signalling.room_update(&self.room);
            }
        }
        if now.duration_since(self.last_quality) >= QUALITY {
            self.last_quality = now;
            let qualities: Vec<_> = self
                .clients
                .values()
                .filter_map(|client| {
                    let (quality, score) = grade(client.stats.as_ref()?);
                    Some((client.sid.clone(), quality, score))
                })
                .collect();
            for client in self.clients.values_mut() {
                client.signalling.quality(&qualities);
            }
        }
    }
}

/// A connection's grade and score (0..=5), from the loss a listener notices first.
fn grade(stats: &PeerStats) -> (ConnectionQuality, f32) {
    let loss = stats.loss_up.max(stats.loss_down);
    let delay_ms = stats.rtt_ms.unwrap_or(0.0) / 2.0 + 2.0 * stats.jitter_ms;
    // 1 % of loss weighs like 10 ms of delay beyond the 150 ms that conversations bear (ITU-T G.114).
    let impairment = loss * 100.0 * 0.25 + (delay_ms - 150.0).max(0.0) / 100.0;
    let score = (5.0 - impairment).clamp(0.0, 5.0);
    let quality = match score {
        score if score >= 4.0 => ConnectionQuality::Excellent,
        score if score >= 2.5 => ConnectionQuality::Good,
        _ => ConnectionQuality::Poor,
    };
    (quality, score)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_and_delay_lower_the_grade() {
        let stats = |loss_down, rtt_ms| PeerStats {
            loss_down,
            rtt_ms: Some(rtt_ms),
            ..PeerStats::default()
        };
        assert_eq!(grade(&stats(0.0, 40.0)).0, ConnectionQuality::Excellent);
        assert_eq!(grade(&stats(0.06, 40.0)).0, ConnectionQuality::Good);
        assert_eq!(grade(&stats(0.25, 40.0)).0, ConnectionQuality::Poor);
        assert_eq!(grade(&stats(0.0, 900.0)).0, ConnectionQuality::Poor);
    }
}
