//! Members that do not speak LiveKit's protocol: a publisher that announces no tracks, a recorder that says nothing, somebody who waits at
//! the door. Stay, transport and voice vary on their own; the room treats all alike.

mod support;

use std::time::Duration;

use meridian_access::token::Claims;
use meridian_conference::{Belongs, CloseKind, Input, SessionKey, Voice};
use meridian_room::{DisconnectReason, ParticipantSid, Room, Track, TrackKind, TrackSid, TrackSource};
use meridian_sfu::{Codec, Layer, TrackId};
use meridian_shard_api::{Command, Event, PeerCloseReason, PeerId};
use meridian_signalling::proto::participant_info::State;
use meridian_signalling::{Action, Frame, Matched, PublicationKey, Violation};
use meridian_transport::{CloseReason, SrtpProfile};
use support::*;

const S: Duration = Duration::from_secs(1);
/// Chromium's, with a camera and a microphone that it sends.
const PUBLISHED: &str = include_str!("../../transport/tests/fixtures/chromium-156-published.sdp");

/// Offers once, and publishes whatever it sends.
struct Publisher;

impl Voice for Publisher {
    fn belongs(&self) -> Belongs {
        Belongs {
            without_socket: None,
            without_transport: Some(30 * S),
            after_its_goodbye: Duration::ZERO,
        }
    }

    fn start(&mut self, _: &Room, _: &ParticipantSid) -> Vec<Action> {
        let sdp = PUBLISHED.to_owned();
        vec![Action::Offer { id: 1, sdp }]
    }

    fn match_publication(&mut self, _: &Room, section: PublicationKey<'_>) -> Option<Matched> {
        let source = match section.kind {
            TrackKind::Audio => TrackSource::Microphone,
            _ => TrackSource::Camera,
        };
        let mut track = Track::new(TrackSid::new(format!("TR_{}", section.mid)), section.kind, source);
        track.mime = section.mime.to_owned();
        Some(Matched { track, backup: None })
    }
}

/// Neither speaks nor is told anything, and has no transport.
struct Recorder;

impl Voice for Recorder {
    fn belongs(&self) -> Belongs {
        Belongs {
            without_socket: None,
            without_transport: None,
            after_its_goodbye: Duration::ZERO,
        }
    }

    fn start(&mut self, _: &Room, _: &ParticipantSid) -> Vec<Action> {
        Vec::new()
    }
}

/// Waits with its socket open until it knocks off.
struct AtTheDoor;

impl Voice for AtTheDoor {
    fn belongs(&self) -> Belongs {
        Belongs {
            without_socket: Some(20 * S),
            without_transport: None,
            after_its_goodbye: Duration::ZERO,
        }
    }

    fn start(&mut self, _: &Room, _: &ParticipantSid) -> Vec<Action> {
        Vec::new()
    }

    fn handle(&mut self, _: &Room, _: i64, _: Frame) -> Result<Vec<Action>, Violation> {
        let reason = DisconnectReason::ClientInitiated;
        Ok(vec![Action::Leave { reason }])
    }
}

fn hidden(identity: &str) -> Claims {
    let mut claims = claims(identity);
    let grants = claims.video.as_mut().unwrap();
    (grants.hidden, grants.can_publish, grants.can_subscribe) = (true, Some(false), Some(false));
    claims
}

fn publish(desk: &mut Desk) -> (SessionKey, PeerId) {
    let socket = desk.connect_with(claims("camera"), Box::new(Publisher));
    assert!(desk.admitted.contains(&socket));
    let peer = desk.commands.iter().rev().find_map(|command| match command {
        Command::AddPeer { peer, .. } => Some(*peer),
        _ => None,
    });
    // As an HTTP exchange, which ends when the offer is answered.
    desk.handle(Input::SocketClosed { socket });
    (socket, peer.expect("its offer is a transport"))
}

fn published(desk: &Desk) -> Vec<TrackId> {
    let tracks = desk.commands.iter().filter_map(|command| match command {
        Command::Publish { track, .. } => Some(*track),
        _ => None,
    });
    tracks.collect()
}

fn stands(desk: &mut Desk, peer: PeerId) {
    let profile = SrtpProfile::AeadAes256Gcm;
    desk.handle(Input::Media(Event::PeerConnected { peer, profile }));
}

#[test]
fn what_a_publisher_sends_without_having_announced_it_is_shown_once_it_flows_and_stays_without_a_socket() {
    let mut desk = Desk::open(1);
    let (ana, _) = desk.join_with_media("ana");
    let (_, peer) = publish(&mut desk);
    stands(&mut desk, peer);
    let tracks = published(&desk);
    assert_eq!(tracks.len(), 2, "camera and microphone");
    for track in tracks {
        let (layer, codec) = (Layer(0), Codec::Vp8);
        desk.handle(Input::Media(Event::MediaStarted { track, layer, codec }));
    }
    let said = desk.hear(ana);
    assert_eq!(shown(&said, "camera"), Some(State::Active));
    let shown_tracks = said.iter().rev().find_map(|say| match say {
        Say::Update(update) => update.participants.iter().find(|p| p.identity == "camera"),
        _ => None,
    });
    assert_eq!(shown_tracks.unwrap().tracks.len(), 2);
    desk.pass(600 * S);
    assert_eq!(desk.conference.people(), 2, "its transport is all it needs");
}

#[test]
fn a_publisher_is_gone_with_its_transport_and_when_that_never_stands() {
    let mut desk = Desk::open(2);
    let (ana, _) = desk.join_with_media("ana");
    let (_, peer) = publish(&mut desk);
    stands(&mut desk, peer);
    desk.hear(ana);
    let reason = PeerCloseReason::Transport(CloseReason::ClosedByPeer);
    desk.handle(Input::Media(Event::PeerClosed { peer, reason }));
    desk.pass(S);
    assert_eq!(shown(&desk.hear(ana), "camera"), Some(State::Disconnected));
    let (_, peer) = publish(&mut desk);
    desk.pass(29 * S);
    assert_eq!(desk.conference.people(), 2);
    desk.pass(2 * S);
    assert_eq!(desk.conference.people(), 1);
    let removed = |command: &Command| matches!(command, Command::RemovePeer { peer: gone } if *gone == peer);
    assert!(desk.commands.iter().any(removed));
}

#[test]
fn a_recorder_is_a_member_that_nobody_sees_is_told_nothing_and_leaves_when_all_do() {
    let mut desk = Desk::open(3);
    let (ana, _) = desk.join_with_media("ana");
    desk.hear(ana);
    let recorder = desk.connect_with(hidden("recorder"), Box::new(Recorder));
    assert!(desk.admitted.contains(&recorder));
    desk.pass(600 * S);
    assert_eq!(desk.conference.people(), 2);
    assert_eq!(shown(&desk.hear(ana), "recorder"), None);
    desk.say(ana, metadata("recorded"));
    assert!(desk.hear(recorder).is_empty());
    desk.handle(Input::Close(CloseKind::RoomClosed));
    assert_eq!(desk.conference.people(), 0);
    assert!(desk.closed.contains_key(&recorder));
}

#[test]
fn whoever_waits_at_the_door_does_so_as_long_as_its_socket_stands_and_may_go() {
    let mut desk = Desk::open(4);
    let (ana, _) = desk.join_with_media("ana");
    desk.hear(ana);
    let eve = desk.connect_with(hidden("eve"), Box::new(AtTheDoor));
    let bob = desk.connect_with(hidden("bob"), Box::new(AtTheDoor));
    desk.pass(600 * S);
    assert_eq!(desk.conference.people(), 3, "nobody needs a transport to wait");
    assert_eq!(shown(&desk.hear(ana), "eve"), None);
    let frame = Frame::Text("never mind".to_owned());
    desk.handle(Input::Frame { socket: bob, frame });
    assert_eq!(desk.conference.people(), 2);
    desk.handle(Input::SocketClosed { socket: eve });
    desk.pass(21 * S);
    assert_eq!(desk.conference.people(), 1);
}

#[test]
fn a_device_that_speaks_otherwise_takes_the_place_of_the_same_identity() {
    let mut desk = Desk::open(5);
    let ana = desk.join("camera");
    desk.hear(ana);
    publish(&mut desk);
    assert!(desk.closed.contains_key(&ana));
    assert_eq!(desk.conference.people(), 1);
    // Only LiveKit's sessions are resumed: nobody goes on as a publisher of another kind.
    let sid = desk.reports.iter().map(|report| report.participant.clone()).next_back();
    let back = desk.resume("camera", sid.unwrap().as_str());
    assert!(desk.refused.contains(&back));
}
