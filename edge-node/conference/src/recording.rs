//! The room is recorded, or no longer. Each edge records what its own people publish, at its source and without a link in between; an edge that
//! takes over somebody's stay takes over the recording of it. That a room is recorded is one of its facts, and so reaches every edge and everybody in it.

use meridian_room::{Participant, RoomEvent, Track, TrackSid, TrackSource};
use meridian_sfu::{Codec, Layer, LayerSet, TrackId};
use meridian_shard_api::{Command, TapConsumer};

use crate::conference::Conference;
use crate::io::Output;
use crate::tracks::CarriedTrack;

/// What the edge's recorder is told of a room. Everything between [`Recorded::Begin`] and [`Recorded::End`] belongs to that recording.
#[derive(Clone, Debug, PartialEq)]
pub enum Recorded {
    /// The recording's id, as the room's facts say it.
    Begin {
        id: String,
    },
    End,
    Joined {
        participant: String,
        identity: String,
        name: String,
    },
    Left {
        participant: String,
    },
    /// Its packets come by the recorder's tap.
    Track {
        id: TrackId,
        sid: String,
        participant: String,
        source: &'static str,
        codec: Codec,
    },
    TrackEnded {
        id: TrackId,
    },
    Muted {
        id: TrackId,
        muted: bool,
    },
    /// Loudest first.
    Speaking(Vec<String>),
}

impl Conference {
    /// Writes into the room's facts that it is recorded under this id, or (`None`) that it is not.
    pub(crate) fn set_recording(&mut self, id: Option<String>) {
        let id = id.unwrap_or_default();
        if self.room.info().recording != id
            && let Err(error) = self.room.update_info(|info| info.recording = id)
        {
            tracing::warn!(room = %self.name, %error, "the recording's id was refused");
        }
    }

    /// Follows the room's facts: begins to record what is published here, or ends it.
    pub(crate) fn follow_recording(&mut self) {
        let wanted = Some(self.room.info().recording.clone()).filter(|id| !id.is_empty());
        if self.recording == wanted {
            return;
        }
        self.end_recording();
        let Some(id) = wanted else { return };
        self.recording = Some(id.clone());
        self.tell_recorder(Recorded::Begin { id });
        let locals: Vec<_> = self.room.locals().cloned().collect();
        for participant in locals {
            self.record_participant(&participant);
            for sid in participant.tracks.keys() {
                self.record_track(sid);
            }
        }
    }

    pub(crate) fn end_recording(&mut self) {
        if self.recording.take().is_none() {
            return;
        }
        let recorded = self.tracks.iter().filter(|track| track.recorded);
        let recorded: Vec<TrackSid> = recorded.map(|track| track.sid.clone()).collect();
        for sid in recorded {
            if let Some(track) = self.tracks.get_mut(&sid) {
                track.recorded = false;
                let id = track.id;
                self.tap(id, LayerSet::EMPTY);
            }
        }
        self.tell_recorder(Recorded::End);
    }

    /// Before tracks that are gone are dropped.
    pub(crate) fn record_event(&mut self, event: &RoomEvent) {
        if matches!(event, RoomEvent::RoomUpdated) {
            return self.follow_recording();
        }
        if self.recording.is_none() {
            return;
        }
        match event {
            RoomEvent::ParticipantJoined(identity) if self.room.is_local(identity) => {
                if let Some(participant) = self.room.participant(identity).cloned() {
                    self.record_participant(&participant);
                }
            }
            RoomEvent::TrackPublished { track, .. } => self.record_track(track),
            RoomEvent::TrackUpdated { track, .. } => self.record_mute(track),
            RoomEvent::TrackUnpublished { track, .. } => self.end_track(track),
            RoomEvent::ParticipantLeft { participant, .. } => self.record_departure(participant),
            // From elsewhere to this edge, from here to another, or from one device to another.
            RoomEvent::ParticipantReplaced { previous, .. } => {
                self.record_departure(previous);
                let arrived = self.room.participant(&previous.identity).cloned();
                if let Some(arrived) = arrived.filter(|_| self.room.is_local(&previous.identity)) {
                    self.record_participant(&arrived);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn record_speakers(&mut self) {
        if self.recording.is_none() {
            return;
        }
        let mut speaking: Vec<_> = self.speaking.iter().collect();
        speaking.sort_by(|a, b| b.1.total_cmp(a.1).then_with(|| a.0.cmp(b.0)));
        let speaking = speaking.into_iter().map(|(sid, _)| sid.to_string()).collect();
        self.tell_recorder(Recorded::Speaking(speaking));
    }

    /// Of somebody who was on this edge.
    fn record_departure(&mut self, participant: &Participant) {
        if participant.node != self.node {
            return;
        }
        participant.tracks.keys().for_each(|track| self.end_track(track));
        let participant = participant.sid.to_string();
        self.tell_recorder(Recorded::Left { participant });
    }

    fn record_participant(&mut self, participant: &Participant) {
        self.tell_recorder(Recorded::Joined {
            participant: participant.sid.to_string(),
            identity: participant.identity.to_string(),
            name: participant.name.clone(),
        });
    }

    /// A track of this edge's people. What is encrypted end to end cannot be recorded: its publisher keeps the key.
    fn record_track(&mut self, sid: &TrackSid) {
        let Some((owner, facts)) = self.room.track(sid) else {
            return;
        };
        if facts.encryption != 0 {
            return;
        }
        let (participant, source, muted) = (owner.sid.to_string(), source_name(facts), facts.muted);
        let Some(track) = self.tracks.get_mut(sid).filter(|track| track.is_local()) else {
            return;
        };
        let Some(&codec) = track.codecs.first() else { return };
        if std::mem::replace(&mut track.recorded, true) {
            return;
        }
        let id = track.id;
        self.tell_recorder(Recorded::Track {
            id,
            sid: sid.to_string(),
            participant,
            source,
            codec,
        });
        if muted {
            self.tell_recorder(Recorded::Muted { id, muted });
        }
        self.tap(id, LayerSet::up_to(Layer::HIGH));
    }

    fn record_mute(&mut self, sid: &TrackSid) {
        let Some(id) = self.recorded(sid) else { return };
        let muted = self.room.track(sid).is_some_and(|(_, facts)| facts.muted);
        self.tell_recorder(Recorded::Muted { id, muted });
    }

    fn end_track(&mut self, sid: &TrackSid) {
        if let Some(id) = self.recorded(sid) {
            self.tell_recorder(Recorded::TrackEnded { id });
        }
    }

    fn recorded(&self, sid: &TrackSid) -> Option<TrackId> {
        let recorded = |track: &&CarriedTrack| track.recorded;
        self.tracks.get(sid).filter(recorded).map(|track| track.id)
    }

    fn tap(&mut self, track: TrackId, layers: LayerSet) {
        self.out.media(Command::Tap {
            track,
            consumer: TapConsumer::Recorder,
            layers,
        });
    }

    fn tell_recorder(&mut self, recorded: Recorded) {
        self.out.put(Output::Recorded(recorded));
    }
}

fn source_name(facts: &Track) -> &'static str {
    match facts.source {
        TrackSource::Unknown => "unknown",
        TrackSource::Camera => "camera",
        TrackSource::Microphone => "microphone",
        TrackSource::ScreenShare => "screen_share",
        TrackSource::ScreenShareAudio => "screen_share_audio",
    }
}
