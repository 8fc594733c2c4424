//! What passes through a room besides media: data packets, who speaks, how good connections are.

use std::collections::HashMap;
use std::time::Instant;

use meridian_room::ParticipantSid;
use meridian_shard_api::{Command, PeerId, PeerStats};
use meridian_signalling::proto::ConnectionQuality;
use meridian_transport::Channel;

use crate::conference::{Conference, QUALITY, ROOM_UPDATE};
use crate::io::{MeshData, Note, SessionKey, ToMesh};

impl Conference {
    /// A client's message on one of its data channels.
    pub(crate) fn data(&mut self, peer: PeerId, channel: Channel, payload: &[u8]) {
        let Some(&key) = self.peers.get(&peer) else { return };
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        let reliable = match channel {
            Channel::Reliable => true,
            Channel::Lossy => false,
            // Data tracks have a wire format of their own, which this server does not relay yet.
            Channel::DataTrack => return,
        };
        match member.voice.inspect_data(&self.room, reliable, payload) {
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
                self.out.mesh(ToMesh::Data(data));
            }
            Ok(None) => {}
            Err(violation) => self.violation(key, &violation.to_string()),
        }
    }

    /// Sends a stamped packet to the clients of this edge that it is for, and keeps a reliable one for those who cannot take it now.
    pub(crate) fn deliver(&mut self, data: &MeshData, sender: Option<PeerId>) {
        if data.reliable
            && let Some((sender, sequence)) = meridian_signalling::data::stamp(&data.packet)
        {
            let (packet, destinations) = (data.packet.clone(), data.destinations.clone());
            self.replay.keep(self.now, &sender, sequence, packet, destinations);
        }
        let is_for = |identity: &str| match &data.destinations {
            None => true,
            Some(list) => list.iter().any(|one| one == identity),
        };
        let peers: Vec<PeerId> = self
            .members
            .values()
            .filter(|member| member.media.is_connected() && (!data.reliable || member.media.unheard_from.is_none()))
            .filter(|member| is_for(member.stay.identity.as_str()))
            .filter_map(|member| member.media.peer())
            .filter(|peer| Some(*peer) != sender)
            .collect();
        if !peers.is_empty() {
            let channel = if data.reliable {
                Channel::Reliable
            } else {
                Channel::Lossy
            };
            self.out.media(Command::SendData {
                peers,
                channel,
                payload: data.packet.clone(),
            });
        }
    }

    /// A client can take reliable data from now on: first what has come since it joined.
    pub(crate) fn channel_open(&mut self, peer: PeerId) {
        let Some(&key) = self.peers.get(&peer) else { return };
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        if let Some(unheard) = member.media.unheard_from.take() {
            let received = member.media.received.take();
            self.replay_to(key, unheard, received.as_ref());
        }
    }

    /// A client that resumes says which packet of each sender it received last. One that says nothing may not tell repeated
    /// packets apart.
    pub(crate) fn replay_after(&mut self, key: SessionKey, received: Vec<(ParticipantSid, u32)>) {
        let Some(member) = self.members.get_mut(&key).filter(|_| !received.is_empty()) else {
            return;
        };
        let received = received.into_iter().collect();
        if member.media.unheard_from.is_some() {
            member.media.received = Some(received);
        } else {
            self.replay_to(key, self.replay.next_serial(), Some(&received));
        }
    }

    fn replay_to(&mut self, key: SessionKey, unheard: u64, received: Option<&HashMap<ParticipantSid, u32>>) {
        let Some(member) = self.members.get(&key) else { return };
        let Some(peer) = member.media.peer() else { return };
        let lacking = self
            .replay
            .lacking(&member.stay.sid, member.media.came_at, unheard, received);
        let lacking = lacking
            .into_iter()
            .filter(|kept| kept.is_for(member.stay.identity.as_str()));
        let mut packets = 0;
        for kept in lacking {
            packets += 1;
            self.out.media(Command::SendData {
                peers: vec![peer],
                channel: Channel::Reliable,
                payload: kept.packet,
            });
        }
        if packets > 0 {
            self.out.note(Note::Replayed { packets });
            tracing::debug!(room = %self.name, identity = %member.stay.identity, packets, "reliable data replayed");
        }
    }

    pub(crate) fn audio_levels(&mut self, levels: &[(meridian_sfu::TrackId, f32)]) {
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
    pub(crate) fn tell_periodically(&mut self, now: Instant) {
        if std::mem::take(&mut self.speaking_changed) {
            self.record_speakers();
            let mut speaking: Vec<_> = self.speaking.iter().map(|(sid, level)| (sid.clone(), *level)).collect();
            speaking.sort_by(|a, b| b.1.total_cmp(&a.1));
            for member in self.members.values_mut() {
                member.voice.speakers(&speaking);
            }
        }
        if now.duration_since(self.last_room_update) >= ROOM_UPDATE {
            self.last_room_update = now;
            for member in self.members.values_mut() {
                member.voice.room_update(&self.room);
            }
        }
        if now.duration_since(self.last_quality) >= QUALITY {
            self.last_quality = now;
            let grades: Vec<(ParticipantSid, f32)> = self
                .members
                .values()
                .filter_map(|member| Some((member.stay.sid.clone(), score(member.stay.stats.as_ref()?))))
                .collect();
            self.tell_grades(&grades);
            self.out.mesh(ToMesh::Grades(grades));
        }
    }

    pub(crate) fn tell_grades(&mut self, grades: &[(ParticipantSid, f32)]) {
        let qualities: Vec<_> = grades
            .iter()
            .map(|(sid, score)| (sid.clone(), quality(*score), *score))
            .collect();
        for member in self.members.values_mut() {
            member.voice.quality(&qualities);
            self.dirty.insert(member.key);
        }
    }
}

/// How good a connection is, 0 to 5, from the loss and delay that a listener notices first.
fn score(stats: &PeerStats) -> f32 {
    let loss = stats.loss_up.max(stats.loss_down);
    let delay_ms = stats.rtt_ms.unwrap_or(0.0) / 2.0 + 2.0 * stats.jitter_ms;
    // 4 % of loss weighs like 100 ms of delay beyond the 150 ms that conversations bear (ITU-T G.114).
    let impairment = loss * 100.0 * 0.25 + (delay_ms - 150.0).max(0.0) / 100.0;
    (5.0 - impairment).clamp(0.0, 5.0)
}

fn quality(score: f32) -> ConnectionQuality {
    match score {
        score if score >= 4.0 => ConnectionQuality::Excellent,
        score if score >= 2.5 => ConnectionQuality::Good,
        _ => ConnectionQuality::Poor,
    }
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
        assert_eq!(quality(score(&stats(0.0, 40.0))), ConnectionQuality::Excellent);
        assert_eq!(quality(score(&stats(0.06, 40.0))), ConnectionQuality::Good);
        assert_eq!(quality(score(&stats(0.25, 40.0))), ConnectionQuality::Poor);
        assert_eq!(quality(score(&stats(0.0, 900.0))), ConnectionQuality::Poor);
    }
}
