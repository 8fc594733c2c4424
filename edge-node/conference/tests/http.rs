//! WHIP publishers and WHEP viewers: one offer each, and what may follow it.

mod support;

use std::time::Duration;

use meridian_conference::{HttpAsk, HttpReply, HttpVoice, Input, Purpose, SessionKey};
use meridian_room::Identity;
use meridian_sfu::{Codec, Layer, MediaKind, TrackId};
use meridian_shard_api::{Command, Event};
use meridian_signalling::proto::participant_info::State;
use meridian_transport::{DtlsRole, IceCredentials};
use support::*;

const S: Duration = Duration::from_secs(1);
/// Chromium's, with a camera and a microphone that it sends, and a section to receive video on.
const PUBLISHED: &str = include_str!("../../transport/tests/fixtures/chromium-156-published.sdp");

fn come(desk: &mut Desk, identity: &str, purpose: Purpose, offer: &str) -> SessionKey {
    let voice = HttpVoice::new(Identity::from(identity), purpose, offer.to_owned(), [7; 32]);
    desk.connect_with(claims(identity), Box::new(voice))
}

fn ask(desk: &mut Desk, socket: SessionKey, ask: &HttpAsk) {
    let frame = ask.to_frame();
    desk.handle(Input::Frame { socket, frame });
}

fn answer(desk: &Desk, socket: SessionKey) -> String {
    match desk.replies.get(&socket).and_then(|replies| replies.last()) {
        Some(HttpReply::Answer(answer)) => answer.clone(),
        other => panic!("{other:?}"),
    }
}

fn refusal(desk: &Desk, socket: SessionKey) -> u16 {
    match desk.replies.get(&socket).and_then(|replies| replies.last()) {
        Some(HttpReply::Refused { status, text }) if !text.is_empty() => *status,
        other => panic!("{other:?}"),
    }
}

/// A WHIP publisher whose video and audio flow.
fn camera(desk: &mut Desk) -> SessionKey {
    let socket = come(desk, "camera", Purpose::Publish, PUBLISHED);
    let published: Vec<(TrackId, Codec)> = desk.commands.iter().filter_map(published).collect();
    assert_eq!(published.len(), 2);
    for (track, codec) in published {
        let layer = Layer(0);
        desk.handle(Input::Media(Event::MediaStarted { track, layer, codec }));
    }
    socket
}

/// With what flows on it.
fn published(command: &Command) -> Option<(TrackId, Codec)> {
    match command {
        Command::Publish { track, publication, .. } if publication.kind == MediaKind::Audio => {
            Some((*track, Codec::Opus))
        }
        Command::Publish { track, .. } => Some((*track, Codec::Vp8)),
        _ => None,
    }
}

fn subscribed(desk: &Desk) -> usize {
    let sent = |command: &&Command| matches!(command, Command::Subscribe { .. });
    desk.commands.iter().filter(sent).count()
}

#[test]
fn a_publisher_is_answered_shown_and_leaves_when_it_says_so() {
    let mut desk = Desk::open(1);
    let (ana, _) = desk.join_with_media("ana");
    let socket = camera(&mut desk);
    assert!(answer(&desk, socket).contains("a=setup:passive"));
    let said = desk.hear(ana);
    assert!(shown(&said, "camera").is_some());
    ask(&mut desk, socket, &HttpAsk::Leave);
    assert_eq!(shown(&desk.hear(ana), "camera"), Some(State::Disconnected));
    assert!(desk.closed.contains_key(&socket));
}

#[test]
fn a_publisher_that_waits_for_the_hello_gets_it_from_us() {
    let mut desk = Desk::open(2);
    let offer = PUBLISHED.replace("a=setup:actpass", "a=setup:passive");
    let socket = come(&mut desk, "ffmpeg", Purpose::Publish, &offer);
    let answer = answer(&desk, socket);
    assert!(answer.contains("a=setup:active") && !answer.contains("a=setup:passive"));
    let client = |command: &Command| {
        let role = DtlsRole::Client;
        matches!(command, Command::AddPeer { role: ours, .. } if *ours == role)
    };
    assert!(desk.commands.iter().any(client));
}

#[test]
fn whoever_may_not_publish_a_source_is_answered_and_not_shown_with_it() {
    let mut desk = Desk::open(3);
    let mut claims = claims("camera");
    claims.video.as_mut().unwrap().can_publish_sources = vec!["microphone".to_owned()];
    let voice = HttpVoice::new(
        Identity::from("camera"),
        Purpose::Publish,
        PUBLISHED.to_owned(),
        [7; 32],
    );
    desk.connect_with(claims, Box::new(voice));
    assert_eq!(desk.commands.iter().filter_map(published).count(), 1, "the microphone");
}

#[test]
fn a_restart_of_ice_gives_new_credentials_and_keeps_the_rest() {
    let mut desk = Desk::open(4);
    let socket = camera(&mut desk);
    let theirs = IceCredentials {
        ufrag: "fresh".to_owned(),
        pwd: "a-password-of-22-characters".to_owned(),
    };
    let before = answer(&desk, socket);
    ask(&mut desk, socket, &HttpAsk::Restart(theirs.clone()));
    let Some(HttpReply::Restarted(fragment)) = desk.replies[&socket].last() else {
        panic!("{:?}", desk.replies)
    };
    let ufrag = |text: &str| {
        text.lines()
            .find(|line| line.starts_with("a=ice-ufrag"))
            .unwrap()
            .to_owned()
    };
    assert_ne!(ufrag(fragment), ufrag(&before));
    assert!(fragment.contains("a=candidate:") && !fragment.contains("rtpmap"));
    let restarts = |command: &Command| matches!(command, Command::RestartIce { remote, .. } if *remote == theirs);
    assert!(desk.commands.iter().any(restarts));
    assert_eq!(
        desk.commands.iter().filter_map(published).count(),
        2,
        "nothing is published anew"
    );
}

#[test]
fn a_viewer_gets_what_is_published_in_its_sections_and_goes_with_it() {
    let mut desk = Desk::open(5);
    let publisher = camera(&mut desk);
    let play = Purpose::Play { publisher: None };
    let viewer = come(&mut desk, "viewer", play, OFFER);
    let answer = answer(&desk, viewer);
    assert_eq!(answer.matches("a=sendonly").count(), 2);
    assert_eq!(subscribed(&desk), 2);
    desk.pass(S);
    ask(&mut desk, publisher, &HttpAsk::Leave);
    assert!(desk.closed.contains_key(&viewer), "it would wait for ever");
}

#[test]
fn a_viewer_that_comes_too_early_or_understands_nothing_is_told_and_never_shown() {
    let mut desk = Desk::open(6);
    let (ana, _) = desk.join_with_media("ana");
    desk.hear(ana);
    let early = come(&mut desk, "viewer", Purpose::Play { publisher: None }, OFFER);
    assert_eq!(refusal(&desk, early), 409);
    assert!(desk.refused.contains(&early));
    assert_eq!(shown(&desk.hear(ana), "viewer"), None);
    camera(&mut desk);
    let publisher = Some(Identity::from("nobody"));
    let other = come(&mut desk, "viewer", Purpose::Play { publisher }, OFFER);
    assert_eq!(refusal(&desk, other), 409, "another publishes");
    let audio = OFFER
        .replace("VP8/90000", "VP8X/90000")
        .replace("opus/48000", "opux/48000");
    let deaf = come(&mut desk, "viewer", Purpose::Play { publisher: None }, &audio);
    assert_eq!(refusal(&desk, deaf), 406);
}

#[test]
fn a_member_whose_transport_never_stands_is_given_up() {
    let mut desk = Desk::open(7);
    let socket = camera(&mut desk);
    desk.pass(29 * S);
    assert!(!desk.closed.contains_key(&socket));
    desk.pass(2 * S);
    assert!(desk.closed.contains_key(&socket));
}
