//! Commands of the node and notes of other shards, each to the function that does it.

use std::time::Instant;

use super::Shard;
use super::data::Holder;
use super::tracks::Origin;
use crate::inbox::Note;
use crate::metrics::add;
use meridian_shard_api::Command;
use meridian_transport::PeerConfig;
use rand::Rng;

impl Shard {
    pub(super) fn execute(&mut self, note: Note, now: Instant) {
        match note {
            Note::Command(command) => self.command(command, now),
            Note::Attach { track, shard } => self.attach(track, shard, now),
            Note::Detach { track, shard } => self.detach(track, shard),
            Note::Home { track, home } => self.set_home(track, home, now),
            Note::Keyframe { track, layer } => self.keyframe_wanted(track, layer, now),
            Note::SenderReport {
                track,
                encoding,
                report,
            } => self.sender_report(track, encoding, report, now),
            Note::Absent { track, layers } => self.set_absent(track, layers, now),
            Note::Muted { track, muted } => self.set_muted(track, muted, now),
            // The loop has seen to it.
            Note::Shutdown => {}
        }
    }

    fn command(&mut self, command: Command, now: Instant) {
        match command {
            Command::AddPeer {
                peer,
                local,
                remote,
                remote_fingerprint,
                role,
            } => {
                let config = PeerConfig {
                    identity: self.shared.identity.clone(),
                    local,
                    remote,
                    remote_fingerprint,
                    role,
                    seed: self.rng.random(),
                };
                self.add_peer(peer, config, now);
            }
            Command::RestartIce { peer, local, remote } => {
                if let Some(slot) = self.peers.find(peer) {
                    self.contained(slot, |shard| shard.restart_ice(slot, local, remote, now));
                }
            }
            Command::RemovePeer { peer } => {
                if let Some(slot) = self.peers.find(peer) {
                    self.contained(slot, |shard| shard.say_goodbye(slot, now));
                    self.remove_peer(slot, None);
                }
            }
            Command::Publish {
                peer,
                track,
                publication,
            } => {
                if let Some(slot) = self.peers.find(peer) {
                    self.contained(slot, |shard| shard.publish(slot, track, publication, now));
                } else {
                    self.refuse_home(track);
                }
            }
            Command::Subscribe { peer, track, media } => {
                if let Some(slot) = self.peers.find(peer) {
                    self.contained(slot, |shard| shard.subscribe(slot, track, media, now));
                }
            }
            Command::Unsubscribe { peer, track } => {
                if let Some(slot) = self.peers.find(peer) {
                    self.unsubscribe(slot, track);
                }
            }
            Command::SetDemand { peer, track, demand } => {
                if let Some(slot) = self.peers.find(peer) {
                    self.contained(slot, |shard| shard.set_demand(slot, track, demand, now));
                }
            }
            Command::SendData {
                peers,
                channel,
                payload,
            } => {
                for slot in peers.into_iter().filter_map(|p| self.peers.find(p)).collect::<Vec<_>>() {
                    self.contained(slot, |shard| shard.send_data(slot, channel, &payload, now));
                }
            }
            Command::HoldData { peer, held } => {
                if let Some(slot) = self.peers.find(peer) {
                    self.contained(slot, |shard| shard.hold_data(slot, Holder::Node, held, now));
                }
            }
            Command::Unpublish { track } | Command::RemoveTrack { track } => self.end_track(track),
            Command::SetMuted { track, muted } => self.set_muted(track, muted, now),
            Command::AddRemoteTrack { track, codec, .. } => self.add_remote_track(track, codec, now),
            Command::RemoteMedia {
                track,
                encoding,
                layer,
                packets,
            } => {
                for data in packets {
                    let Some(entry) = self.tracks.get_mut(&track) else {
                        return;
                    };
                    let Origin::Remote(remote) = &mut entry.origin else {
                        return;
                    };
                    match remote.handle_link(now, (encoding, layer), &data, &mut self.pool) {
                        Ok(Some(packet)) => self.distribute(track, packet, now),
                        Ok(None) => {}
                        Err(_) => add(&self.shared.counters.drop_malformed, 1),
                    }
                }
            }
            Command::RemoteSenderReport {
                track,
                encoding,
                report,
            } => self.sender_report(track, encoding, report, now),
            Command::SetAbsent { track, layers } => self.set_absent(track, layers, now),
            Command::Tap {
                track,
                consumer,
                layers,
            } => self.set_tap(track, consumer, layers, now),
            Command::RequestKeyframe { track, layer } => self.keyframe_wanted(track, layer, now),
        }
    }
}
