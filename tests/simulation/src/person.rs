//! People: light stand-ins for clients, as members of a conference with a [`Voice`] of their own. They keep what they were told, and
//! note at once what no client should ever hear.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meridian_conference::{Belongs, Voice};
use meridian_room::{
    DisconnectReason, Identity, ParticipantSid, Room, RoomEvent, Track, TrackKind, TrackSid, TrackSource, VideoLayer,
};
use meridian_signalling::{Action, Frame, LeaveAction, Matched, PublicationKey, TrackSetting, Violation};

/// What one person has been told.
#[derive(Default)]
pub struct Eyes {
    pub sid: Option<ParticipantSid>,
    pub sees: BTreeMap<Identity, ParticipantSid>,
    pub tracks: BTreeSet<TrackSid>,
    /// Since the world looked last.
    pub newcomers: Vec<Identity>,
    /// The edge wants an offer with so many sections more.
    pub sections: Option<(u32, u32)>,
    /// Its next frame says goodbye.
    pub leaves: bool,
    /// Told to go.
    pub goodbye: Option<DisconnectReason>,
    /// What nobody should be told: somebody twice, a departure of who was not there.
    pub faults: Vec<String>,
}

pub type Shared = Arc<Mutex<Eyes>>;

pub fn look(eyes: &Shared) -> MutexGuard<'_, Eyes> {
    eyes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How one person speaks.
pub struct Speaker {
    identity: Identity,
    publishes: bool,
    /// The best layer it wants of every picture.
    quality: u8,
    eyes: Shared,
    offers: u32,
    /// The kinds of the sections it receives on, in their order: new ones get the places that follow.
    receives: Vec<&'static str>,
}

impl Speaker {
    pub fn new(identity: &str, publishes: bool, quality: u8, eyes: Shared) -> Speaker {
        Speaker {
            identity: Identity::from(identity),
            publishes,
            quality,
            eyes,
            offers: 0,
            receives: Vec::new(),
        }
    }

    fn meet(&self, identity: &Identity, sid: &ParticipantSid, is_new: bool) {
        if *identity == self.identity {
            return;
        }
        let mut eyes = look(&self.eyes);
        let held = eyes.sees.insert(identity.clone(), sid.clone());
        if held.is_none() {
            eyes.newcomers.push(identity.clone());
        }
        if held.is_some() && is_new {
            let fault = format!("{} was told twice that {identity} came", self.identity);
            eyes.faults.push(fault);
        }
    }

    fn receive(&self, track: &TrackSid) -> Vec<Action> {
        look(&self.eyes).tracks.insert(track.clone());
        let setting = TrackSetting {
            enabled: true,
            quality: Some(self.quality),
            width: 0,
            height: 0,
            fps: 0,
            priority: 0,
        };
        let track = track.clone();
        vec![
            Action::TrackSetting {
                track: track.clone(),
                setting,
            },
            Action::Subscribe { track },
        ]
    }

    fn offer(&mut self) -> Action {
        self.offers += 1;
        Action::Offer {
            id: self.offers,
            sdp: self.sdp(),
        }
    }

    /// What it sends first, then what it receives: sections keep their places.
    fn sdp(&self) -> String {
        let mut sdp = format!("v=0\r\no=- 1 {} IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n", self.offers);
        let mids: Vec<String> = (0..2 + self.receives.len()).map(|mid| mid.to_string()).collect();
        let _ = write!(sdp, "a=group:BUNDLE {}\r\n", mids.join(" "));
        let sent = if self.publishes { "sendonly" } else { "inactive" };
        section(&mut sdp, "audio", 0, sent);
        section(&mut sdp, "video", 1, sent);
        for (at, kind) in self.receives.iter().enumerate() {
            section(&mut sdp, kind, at + 2, "recvonly");
        }
        sdp
    }
}

fn section(sdp: &mut String, kind: &str, mid: usize, direction: &str) {
    let payloads = if kind == "audio" { "111" } else { "96 97" };
    let _ = write!(
        sdp,
        "m={kind} 9 UDP/TLS/RTP/SAVPF {payloads}\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:nHKi\r\na=ice-pwd:PVPymEHFwfthqUNZW9c5Kle6\r\n\
         a=fingerprint:sha-256 97:F7:2F:C2:7A:2F:30:6B:91:A6:89:50:A6:A7:54:E2:6E:DA:5F:03:9E:FF:09:B9:54:5E:03:46:F8:16:9D:98\r\n\
         a=setup:actpass\r\na=mid:{mid}\r\na=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\n\
         a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\r\na={direction}\r\na=rtcp-mux\r\n"
    );
    sdp.push_str(if kind == "audio" {
        "a=rtpmap:111 opus/48000/2\r\n"
    } else {
        "a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack pli\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n"
    });
    if direction == "sendonly" {
        let _ = write!(sdp, "a=msid:stream {kind}\r\n");
        if kind == "video" {
            sdp.push_str("a=rid:q send\r\na=rid:h send\r\na=rid:f send\r\na=simulcast:send q;h;f\r\n");
        }
    }
}

impl Voice for Speaker {
    fn belongs(&self) -> Belongs {
        Belongs {
            without_socket: Some(Duration::from_secs(20)),
            without_transport: Some(Duration::from_secs(30)),
            after_its_goodbye: Duration::from_secs(3),
        }
    }

    fn start(&mut self, room: &Room, sid: &ParticipantSid) -> Vec<Action> {
        look(&self.eyes).sid = Some(sid.clone());
        let mut actions = vec![self.offer()];
        for person in room.participants().filter(|person| person.sid != *sid) {
            self.meet(&person.identity, &person.sid, false);
            actions.extend(person.tracks.keys().flat_map(|track| self.receive(track)));
        }
        actions
    }

    /// Its turn to offer, or to say goodbye.
    fn handle(&mut self, _: &Room, _: i64, _: Frame) -> Result<Vec<Action>, Violation> {
        let mut eyes = look(&self.eyes);
        if eyes.leaves {
            let reason = DisconnectReason::ClientInitiated;
            return Ok(vec![Action::Leave { reason }]);
        }
        let more = eyes.sections.take();
        drop(eyes);
        let (audios, videos) = more.unwrap_or_default();
        self.receives.extend(std::iter::repeat_n("audio", audios as usize));
        self.receives.extend(std::iter::repeat_n("video", videos as usize));
        Ok(vec![self.offer()])
    }

    fn match_publication(&mut self, _: &Room, section: PublicationKey<'_>) -> Option<Matched> {
        let (source, letter) = match section.kind {
            TrackKind::Audio => (TrackSource::Microphone, 'A'),
            _ => (TrackSource::Camera, 'V'),
        };
        let sid = look(&self.eyes).sid.clone()?;
        let mut track = Track::new(TrackSid::new(format!("TR_{letter}{sid}")), section.kind, source);
        track.mime = section.mime.to_owned();
        if section.kind == TrackKind::Video {
            track.simulcast = true;
            track.layers = [(0, 320), (1, 640), (2, 1280)]
                .map(|(quality, width)| VideoLayer {
                    quality,
                    width,
                    height: width * 9 / 16,
                    ..VideoLayer::default()
                })
                .to_vec();
        }
        Some(Matched { track, backup: None })
    }

    fn sections_required(&mut self, audios: u32, videos: u32) {
        look(&self.eyes).sections = Some((audios, videos));
    }

    fn on_room_event(&mut self, room: &Room, event: &RoomEvent) -> Vec<Action> {
        match event {
            RoomEvent::ParticipantJoined(identity) => {
                if let Some(person) = room.participant(identity) {
                    self.meet(identity, &person.sid, true);
                }
            }
            RoomEvent::ParticipantReplaced { previous, .. } => {
                if let Some(person) = room.participant(&previous.identity) {
                    self.meet(&person.identity, &person.sid, false);
                }
            }
            RoomEvent::ParticipantLeft { participant, .. } if participant.identity != self.identity => {
                let mut eyes = look(&self.eyes);
                if eyes.sees.remove(&participant.identity).is_none() {
                    let fault = format!("{} never saw {} who left", self.identity, participant.identity);
                    eyes.faults.push(fault);
                }
            }
            RoomEvent::TrackPublished { identity, track } if *identity != self.identity => return self.receive(track),
            RoomEvent::TrackUnpublished { identity, track } if *identity != self.identity => {
                look(&self.eyes).tracks.remove(track);
                let track = track.clone();
                return vec![Action::Unsubscribe { track }];
            }
            _ => {}
        }
        Vec::new()
    }

    fn leave(&mut self, _: LeaveAction, reason: DisconnectReason) {
        look(&self.eyes).goodbye.get_or_insert(reason);
    }
}
