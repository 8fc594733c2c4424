//! Members that come by one HTTP exchange: WHIP publishers (RFC 9725) and WHEP viewers (draft-ietf-wish-whep). They offer once, in the join;
//! afterwards they may restart ICE or leave, and that is all they say. A publisher announces nothing: what its offer sends is shown when it flows.
//! A viewer gets what its room publishes when it comes, in the sections that it offers, and is gone when all of that has ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use meridian_room::{
    DisconnectReason, Identity, ParticipantSid, Room, RoomEvent, Track, TrackCodec, TrackKind, TrackSid, TrackSource,
    VideoLayer,
};
use meridian_signalling::{Action, Frame, LeaveAction, Matched, PublicationKey, Violation};
use meridian_transport::IceCredentials;
use meridian_transport::sdp::{self, fragment_of_answer};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{Belongs, Voice};

/// How long a client may take from its offer until its media transport stands.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);
/// Media sections that are published of one offer; further ones are answered and not shown.
const TRACKS_MAX: usize = 8;
/// Tracks that a viewer is tried with, whatever its sections can take.
const SUBSCRIPTIONS_MAX: usize = 64;

/// What somebody came for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    Publish,
    /// To watch everybody, or one publisher.
    Play {
        publisher: Option<Identity>,
    },
}

/// What a member says after its offer, as a frame of its socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpAsk {
    /// ICE begins anew with these credentials of the client. Answered with [`HttpReply::Restarted`].
    Restart(IceCredentials),
    Leave,
}

impl HttpAsk {
    pub fn to_frame(&self) -> Frame {
        Frame::Text(match self {
            HttpAsk::Restart(ice) => format!("restart {} {}", ice.ufrag, ice.pwd),
            HttpAsk::Leave => "leave".to_owned(),
        })
    }

    fn from_frame(frame: &Frame) -> Option<HttpAsk> {
        let Frame::Text(text) = frame else { return None };
        if text == "leave" {
            return Some(HttpAsk::Leave);
        }
        let (ufrag, pwd) = text.strip_prefix("restart ")?.split_once(' ')?;
        Some(HttpAsk::Restart(IceCredentials {
            ufrag: ufrag.to_owned(),
            pwd: pwd.to_owned(),
        }))
    }
}

/// What a member is told, as a frame of its socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpReply {
    /// The answer to its offer.
    Answer(String),
    /// Our side of a restarted ICE session, a fragment of SDP (RFC 8840 §9).
    Restarted(String),
    /// It is turned away: the HTTP status, and what to do about it.
    Refused { status: u16, text: String },
}

impl HttpReply {
    fn to_frame(&self) -> Frame {
        let (status, text) = match self {
            HttpReply::Answer(sdp) => (201, sdp),
            HttpReply::Restarted(fragment) => (200, fragment),
            HttpReply::Refused { status, text } => (*status, text),
        };
        Frame::Text(format!("{status} {text}"))
    }

    /// `None`: no reply.
    pub fn from_frame(frame: &Frame) -> Option<HttpReply> {
        let Frame::Text(said) = frame else { return None };
        let (status, text) = said.split_once(' ')?;
        let text = text.to_owned();
        Some(match status.parse().ok()? {
            201 => HttpReply::Answer(text),
            200 => HttpReply::Restarted(text),
            status => HttpReply::Refused { status, text },
        })
    }
}

/// See the module.
pub struct HttpVoice {
    identity: Identity,
    purpose: Purpose,
    offer: String,
    /// Offers made.
    offers: u32,
    rng: StdRng,
    out: VecDeque<HttpReply>,
    /// Its own tracks.
    matched: BTreeMap<TrackSid, Track>,
    /// Tracks that it receives.
    playing: BTreeSet<TrackSid>,
}

impl HttpVoice {
    /// `identity`: as its claims say. `seed` must be unpredictable: track ids come from it.
    pub fn new(identity: Identity, purpose: Purpose, offer: String, seed: [u8; 32]) -> HttpVoice {
        HttpVoice {
            identity,
            purpose,
            offer,
            offers: 0,
            rng: StdRng::from_seed(seed),
            out: VecDeque::new(),
            matched: BTreeMap::new(),
            playing: BTreeSet::new(),
        }
    }

    fn offer(&mut self) -> Action {
        self.offers += 1;
        Action::Offer {
            id: self.offers,
            sdp: self.offer.clone(),
        }
    }

    fn refuse(&mut self, status: u16, text: impl Into<String>) {
        let text = text.into();
        self.out.push_back(HttpReply::Refused { status, text });
    }

    /// What it might be sent, shared screens first, then in the order in which their publishers came.
    fn watchable(&self, room: &Room) -> Vec<TrackSid> {
        let Purpose::Play { publisher } = &self.purpose else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for person in room.participants() {
            let wanted = publisher.as_ref().is_none_or(|wanted| *wanted == person.identity);
            if !wanted || person.identity == self.identity || person.permission.hidden {
                continue;
            }
            for (sid, track) in &person.tracks {
                if track.kind != TrackKind::Data && track.encryption == 0 && person.allows(&self.identity, sid) {
                    let later = !matches!(track.source, TrackSource::ScreenShare | TrackSource::ScreenShareAudio);
                    found.push((later, track.muted, person.joined_at_ms, sid.clone()));
                }
            }
        }
        found.sort();
        found.truncate(SUBSCRIPTIONS_MAX);
        found.into_iter().map(|(.., sid)| sid).collect()
    }

    /// What its next section of this kind is shown as.
    fn next_source(&self, kind: TrackKind) -> TrackSource {
        let before = self.matched.values().filter(|track| track.kind == kind).count();
        match (kind, before) {
            (TrackKind::Video, 0) => TrackSource::Camera,
            (TrackKind::Video, 1) => TrackSource::ScreenShare,
            (TrackKind::Audio, 0) => TrackSource::Microphone,
            (TrackKind::Audio, 1) => TrackSource::ScreenShareAudio,
            _ => TrackSource::Unknown,
        }
    }
}

impl Voice for HttpVoice {
    fn belongs(&self) -> Belongs {
        Belongs {
            without_socket: None,
            without_transport: Some(CONNECT_PATIENCE),
            after_its_goodbye: Duration::ZERO,
        }
    }

    fn may_join(&mut self, room: &Room) -> bool {
        if self.purpose == Purpose::Publish || !self.watchable(room).is_empty() {
            return true;
        }
        let who = match &self.purpose {
            Purpose::Play { publisher: Some(who) } => format!("{who} publishes nothing"),
            _ => "nobody publishes anything".to_owned(),
        };
        self.refuse(
            409,
            format!("{who} in this room that you may watch: try again when it has begun"),
        );
        false
    }

    fn start(&mut self, room: &Room, _: &ParticipantSid) -> Vec<Action> {
        let tracks = self.watchable(room).into_iter();
        let mut actions: Vec<Action> = tracks.map(|track| Action::Subscribe { track }).collect();
        actions.push(self.offer());
        actions
    }

    fn handle(&mut self, _: &Room, _: i64, frame: Frame) -> Result<Vec<Action>, Violation> {
        match HttpAsk::from_frame(&frame) {
            Some(HttpAsk::Restart(ice)) => {
                self.offer = sdp::with_credentials(&self.offer, &ice);
                Ok(vec![self.offer()])
            }
            Some(HttpAsk::Leave) => Ok(vec![Action::Leave {
                reason: DisconnectReason::ClientInitiated,
            }]),
            None => Err(Violation::new("a frame that no HTTP request makes")),
        }
    }

    fn poll_frame(&mut self) -> Option<Frame> {
        self.out.pop_front().map(|reply| reply.to_frame())
    }

    fn frames_waiting(&self) -> usize {
        self.out.len()
    }

    fn leave(&mut self, _: LeaveAction, reason: DisconnectReason) {
        if self.offers == 0 {
            let text = match reason {
                DisconnectReason::JoinFailure => {
                    "the room takes nobody more: it is full or about to end; try again later"
                }
                _ => "the room has turned you away: ask for a new token",
            };
            self.refuse(403, text);
        }
    }

    fn send_answer(&mut self, id: u32, sdp: String, mid_to_track: &[(String, String)]) {
        self.playing = mid_to_track
            .iter()
            .map(|(_, sid)| TrackSid::from(sid.as_str()))
            .collect();
        if id > 1 {
            self.out.push_back(HttpReply::Restarted(fragment_of_answer(&sdp)));
        } else if self.purpose != Purpose::Publish && self.playing.is_empty() {
            let text = "no section of the offer can take what is published: offer recvonly audio and video with the publishers' codecs \
                        (VP8, VP9, H264, AV1, Opus)";
            self.refuse(406, text);
        } else {
            self.out.push_back(HttpReply::Answer(sdp));
        }
    }

    fn match_publication(&mut self, room: &Room, section: PublicationKey<'_>) -> Option<Matched> {
        if self.purpose != Purpose::Publish || self.matched.len() >= TRACKS_MAX {
            return None;
        }
        let source = self.next_source(section.kind);
        let me = room.participant(&self.identity)?;
        if !me.permission.may_publish(source) {
            return None;
        }
        let sid = TrackSid::generate(section.kind, source, &mut self.rng);
        let mut track = Track::new(sid.clone(), section.kind, source);
        (track.mime, track.mid) = (section.mime.to_owned(), section.mid.to_owned());
        if section.kind == TrackKind::Video {
            track.layers = layers(section.rids);
            track.simulcast = section.rids.len() > 1;
        }
        track.codecs = vec![TrackCodec {
            mime: track.mime.clone(),
            mid: track.mid.clone(),
            cid: section.cid.to_owned(),
            layers: track.layers.clone(),
            ..TrackCodec::default()
        }];
        self.matched.insert(sid, track.clone());
        Some(Matched { track, backup: None })
    }

    fn matched_track(&self, track: &TrackSid) -> Option<&Track> {
        self.matched.get(track)
    }

    fn offers_once(&self) -> bool {
        true
    }

    fn on_room_event(&mut self, room: &Room, _: &RoomEvent) -> Vec<Action> {
        if self.playing.is_empty() {
            return Vec::new();
        }
        self.playing.retain(|sid| room.track(sid).is_some());
        let over = self.playing.is_empty();
        let reason = DisconnectReason::RoomClosed;
        over.then_some(Action::Leave { reason }).into_iter().collect()
    }
}

/// Of simulcast by its rids, low to high; the best of fewer than three is called the best of all.
fn layers(rids: &[String]) -> Vec<VideoLayer> {
    const HIGH: i32 = 2;
    if rids.is_empty() {
        return vec![VideoLayer {
            quality: HIGH,
            ..VideoLayer::default()
        }];
    }
    let top = rids.len() - 1;
    let layer = |(index, rid): (usize, &String)| VideoLayer {
        quality: if index == top { HIGH } else { index as i32 },
        rid: rid.clone(),
        ..VideoLayer::default()
    };
    rids.iter().enumerate().map(layer).collect()
}
