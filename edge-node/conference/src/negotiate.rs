//! Offers and answers: what a client's new SDP means for its transport, for what it publishes and for what it is sent.

use meridian_room::{TrackCodec, TrackKind};
use meridian_sfu::{Codec, Layer, MediaKind, TrackId};
use meridian_shard_api::{Command, PeerId};
use meridian_signalling::{Matched, PublicationKey};
use meridian_transport::IceCredentials;
use meridian_transport::sdp::{Answer, LocalMedia, Publication, SdpError, SubscriptionMedia};

use crate::backup::published;
use crate::conference::Conference;
use crate::io::{SessionKey, ToMesh};
use crate::media::Transport;
use crate::subscribe::priority_for;
use crate::tracks::{CarriedTrack, Origin};

impl Conference {
    /// Answers an offer and puts into effect what changed.
    pub(crate) fn offer(&mut self, key: SessionKey, id: u32, sdp: &str) -> Result<(), SdpError> {
        let Some(member) = self.members.get_mut(&key) else {
            return Ok(());
        };
        member.offer_arrived();
        let restarts = member.media.negotiation.inspect(sdp)?.restarted;
        let (peer, local) = match &member.media.transport {
            Some(transport) if !restarts => (transport.peer, transport.local.clone()),
            // RFC 8839 §4.4.1.1.1: new credentials of the client want new ones of ours.
            Some(transport) => (transport.peer, IceCredentials::generate(&mut self.rng)),
            None => (self.plane.allocate_peer(), IceCredentials::generate(&mut self.rng)),
        };
        let candidates = self.plane.candidates(peer);
        let local = LocalMedia {
            ice: local,
            fingerprint: self.fingerprint,
            candidates,
        };
        let answer = member.media.negotiation.answer(sdp, &local)?;
        self.set_transport(key, peer, local.ice, &answer);
        for publication in &answer.publications {
            self.set_publication(key, publication);
        }
        self.set_subscriptions(key, &answer.subscriptions);
        for unsupported in &answer.unsupported {
            self.subscription_unsupported(key, TrackId(*unsupported));
        }
        if let Some(member) = self.members.get_mut(&key) {
            member.voice.send_answer(id, answer.sdp, &answer.mid_to_track);
            member.media.needs_offer |= member.media.negotiation.needs_reoffer();
        }
        self.dirty.insert(key);
        Ok(())
    }

    fn set_transport(&mut self, key: SessionKey, peer: PeerId, local: IceCredentials, answer: &Answer) {
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        let remote = answer.remote.ice.clone();
        match &mut member.media.transport {
            Some(transport) if !answer.remote.dtls_changed => {
                if answer.remote.restarted {
                    self.out.media(Command::RestartIce {
                        peer,
                        local: local.clone(),
                        remote,
                    });
                    transport.local = local;
                }
                return;
            }
            _ => {}
        }
        let replaced = member.media.transport.is_some();
        member.media.subscriptions.clear();
        // A new transport goes on the same shard: the answer already names that shard's candidates.
        let fresh = if replaced {
            self.plane.allocate_peer_on(peer.shard)
        } else {
            peer
        };
        if replaced {
            // Another certificate is another transport: everything that ran over the old one starts anew.
            self.forget_peer(peer);
        }
        let peer = fresh;
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        member.media.channel_lost(self.replay.next_serial());
        member.media.transport = Some(Transport {
            peer,
            local: local.clone(),
            connected: false,
        });
        self.peers.insert(peer, key);
        self.out.media(Command::AddPeer {
            peer,
            local,
            remote,
            remote_fingerprint: answer.remote.fingerprint,
            role: answer.remote.role,
        });
        for sid in self.tracks.published_by(key) {
            if let Some(track) = self.tracks.get_mut(&sid)
                && let Origin::Local { publication, .. } = &mut track.origin
            {
                *publication = None;
            }
        }
    }

    /// One media section on which the client sends, as it now stands.
    fn set_publication(&mut self, key: SessionKey, publication: &Publication) {
        let Some(peer) = self.members.get(&key).and_then(|member| member.media.peer()) else {
            return;
        };
        if let Some(sid) = self.tracks.published_on(key, &publication.mid) {
            let Some(track) = self.tracks.get_mut(&sid) else { return };
            let Origin::Local {
                publication: held, cid, ..
            } = &mut track.origin
            else {
                return;
            };
            if publication.active && *cid == publication.cid {
                if held.as_ref() != Some(publication) {
                    *held = Some(publication.clone());
                    let (track, publication) = (track.id, publication.clone());
                    self.out.media(Command::Publish {
                        peer,
                        track,
                        publication,
                    });
                }
                return;
            }
            // The section stopped sending, or sends something else now.
            match published(&sid) {
                (track, Some(_)) => self.end_backup(&track, &sid),
                (_, None) => self.unpublish(key, &sid),
            }
        }
        if publication.active {
            self.add_publication(key, peer, publication);
        }
    }

    fn add_publication(&mut self, key: SessionKey, peer: PeerId, publication: &Publication) {
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        let codecs: Vec<Codec> = publication.payloads.iter().map(|payload| payload.codec).collect();
        let Some(first) = codecs.first() else { return };
        let named = PublicationKey {
            cid: &publication.cid,
            stream_id: &publication.stream_id,
            mid: &publication.mid,
            mime: &first.to_string(),
            kind: match publication.kind {
                MediaKind::Audio => TrackKind::Audio,
                MediaKind::Video => TrackKind::Video,
            },
            rids: &publication.rids,
        };
        let facts = match member.voice.match_publication(&self.room, named) {
            Some(Matched { track, backup: None }) => track,
            Some(Matched {
                track,
                backup: Some(index),
            }) => {
                self.publish_backup(key, &track, index, publication);
                return;
            }
            None => {
                tracing::debug!(room = %self.name, cid = publication.cid, "media section without an AddTrack request");
                return;
            }
        };
        let id = self.plane.allocate_track();
        let track = CarriedTrack {
            id,
            sid: facts.sid.clone(),
            kind: publication.kind,
            codecs,
            layers: publication.rids.len().clamp(1, Layer::COUNT) as u8,
            origin: Origin::Local {
                session: key,
                mid: publication.mid.clone(),
                cid: publication.cid.clone(),
                publication: Some(publication.clone()),
                unannounced: Some(Box::new(facts.clone())),
            },
            demands: Default::default(),
            lingering: Vec::new(),
            wanted_by_mesh: Default::default(),
            recorded: false,
            told: None,
        };
        self.out.mesh(ToMesh::Carry {
            track: track.sid.clone(),
            id,
            kind: track.kind,
        });
        self.tracks.insert(track);
        self.out.media(Command::Publish {
            peer,
            track: id,
            publication: publication.clone(),
        });
        if facts.muted {
            // No packet will come to show that media is ready.
            self.out.media(Command::SetMuted { track: id, muted: true });
            self.announce(id, None);
        }
    }

    /// Shows a track to the room: its media flows, or it is muted from the start.
    pub(crate) fn announce(&mut self, id: TrackId, codec: Option<Codec>) {
        let Some(track) = self.tracks.by_id_mut(id) else { return };
        let Origin::Local {
            session,
            mid,
            unannounced,
            ..
        } = &mut track.origin
        else {
            return;
        };
        let Some(mut facts) = unannounced.take() else { return };
        let Some(member) = self.members.get(session) else {
            return;
        };
        // A Mute may have come since the section was matched.
        if let Some(now) = member.voice.matched_track(&track.sid) {
            *facts = now.clone();
        }
        // What was announced as layers may come as one stream: spatial layers of VP9 and AV1 do.
        facts.simulcast &= track.layers > 1;
        if let Some(codec) = codec {
            describe_codec(&mut facts, codec, mid);
            // What flows comes first: subscribers that understand it get it without a switch.
            track.codecs.retain(|held| *held != codec);
            track.codecs.insert(0, codec);
        }
        if let Err(error) = self.room.publish_track(&member.stay.sid, *facts) {
            tracing::warn!(room = %self.name, %error, "track not published");
        }
    }

    /// Everything we send to this client, as the answer says.
    fn set_subscriptions(&mut self, key: SessionKey, subscriptions: &[SubscriptionMedia]) {
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        let Some(peer) = member.media.peer() else { return };
        for media in subscriptions {
            let track = TrackId(media.key);
            if member.media.subscriptions.get(&track) == Some(media) {
                continue;
            }
            member.media.subscriptions.insert(track, media.clone());
            let Some(carried) = self.tracks.by_id_mut(track) else {
                continue;
            };
            let sid = published(&carried.sid).0;
            let priority = self.room.track(&sid).map_or(0, |(_, facts)| priority_for(facts, 0));
            let demand = *carried
                .demands
                .entry(key)
                .or_insert_with(|| member.media.first_demand(&sid, priority));
            self.out.media(Command::Subscribe {
                peer,
                track,
                media: media.clone(),
            });
            self.out.media(Command::SetDemand { peer, track, demand });
        }
    }
}

fn describe_codec(facts: &mut meridian_room::Track, codec: Codec, mid: &str) {
    facts.mime = codec.to_string();
    facts.mid = mid.to_owned();
    match facts.codecs.first_mut() {
        Some(first) => (first.mime, first.mid) = (facts.mime.clone(), facts.mid.clone()),
        None => facts.codecs.push(TrackCodec {
            mime: facts.mime.clone(),
            mid: facts.mid.clone(),
            layers: facts.layers.clone(),
            ..TrackCodec::default()
        }),
    }
}
