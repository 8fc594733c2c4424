//! An edge that is emptied: who is told to go when, what goes on meanwhile, and what others see of it.

mod support;

use std::time::Duration;

use meridian_conference::{Input, Place, SessionKey, ToMesh};
use meridian_room::ParticipantState;
use meridian_shard_api::{Command, Event, PeerCloseReason};
use meridian_signalling::proto::leave_request::Action;
use meridian_signalling::proto::participant_info::State;
use meridian_transport::CloseReason;
use support::*;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn places() -> Option<Vec<Place>> {
    let place = |region: &str| Place {
        region: region.to_owned(),
        url: format!("wss://{region}-1.example.org"),
    };
    Some(["iad", "sin"].map(place).to_vec())
}

fn told(desk: &mut Desk, socket: SessionKey) -> Option<Vec<String>> {
    let leave = desk.hear(socket).into_iter().find_map(|say| match say {
        Say::Leave(leave) => Some(leave),
        _ => None,
    })?;
    assert_eq!(leave.action(), Action::Reconnect);
    let regions = leave.regions.map(|settings| settings.regions).unwrap_or_default();
    Some(regions.into_iter().map(|region| region.url).collect())
}

/// Asks where somebody is best sent, and has them told.
fn move_first(desk: &mut Desk) -> SessionKey {
    desk.handle(Input::MoveAway { people: 1 });
    let client = desk.relocations.pop().expect("somebody is to go");
    desk.handle(Input::Relocated {
        client,
        places: places(),
    });
    client
}

fn withdrawn(desk: &Desk, identity: &str) -> bool {
    let records = desk.mesh.iter().filter_map(|message| match message {
        ToMesh::Delta(delta) => Some(&delta.writers),
        _ => None,
    });
    let mut records = records.flatten().flat_map(|writer| &writer.records);
    records.any(|record| record.identity == identity && record.state() == ParticipantState::Disconnected)
}

#[test]
fn as_many_as_asked_for_are_told_where_to_go_and_go_on_sending_meanwhile() {
    let mut desk = Desk::open(1);
    let people = ["ana", "ben", "cai"].map(|identity| desk.join_with_media(identity).0);
    desk.handle(Input::MoveAway { people: 2 });
    assert_eq!(desk.relocations, people[..2], "those first who came first");
    desk.handle(Input::MoveAway { people: 2 });
    assert_eq!(desk.relocations, people, "nobody is asked for twice");
    desk.handle(Input::Relocated {
        client: people[0],
        places: places(),
    });
    let urls = ["wss://iad-1.example.org", "wss://sin-1.example.org"];
    assert_eq!(told(&mut desk, people[0]).unwrap(), urls);
    assert_eq!((desk.conference.people(), desk.conference.staying()), (3, 2));
    desk.pass(10 * S);
    let removed = desk
        .commands
        .iter()
        .any(|command| matches!(command, Command::RemovePeer { .. }));
    assert!(!removed && !withdrawn(&desk, "ana"), "make before break");
    assert!(!desk.closed.contains_key(&people[0]));
}

#[test]
fn who_never_arrives_is_seen_leaving_in_the_end() {
    let mut desk = Desk::open(2);
    let (ana, peer) = desk.join_with_media("ana");
    let ben = desk.join("ben");
    assert_eq!(move_first(&mut desk), ana);
    desk.handle(Input::SocketClosed { socket: ana });
    let reason = PeerCloseReason::Transport(CloseReason::ClosedByPeer);
    desk.handle(Input::Media(Event::PeerClosed { peer, reason }));
    desk.pass(14 * S);
    assert!(!withdrawn(&desk, "ana"), "it is on its way");
    desk.hear(ben);
    desk.pass(2 * S);
    assert!(withdrawn(&desk, "ana"));
    assert_eq!(shown(&desk.hear(ben), "ana"), Some(State::Disconnected));
}

#[test]
fn a_drain_that_is_called_off_or_finds_no_room_moves_nobody() {
    let mut desk = Desk::open(3);
    let ana = desk.join("ana");
    desk.handle(Input::MoveAway { people: 1 });
    desk.handle(Input::Stay);
    desk.handle(Input::Relocated {
        client: ana,
        places: places(),
    });
    assert_eq!(told(&mut desk, ana), None, "called off while a place was looked for");

    desk.handle(Input::MoveAway { people: 1 });
    desk.handle(Input::Relocated {
        client: ana,
        places: None,
    });
    desk.relocations.clear();
    desk.handle(Input::MoveAway { people: 1 });
    assert!(desk.relocations.is_empty(), "nobody has room: not asked again at once");
    desk.pass(3 * S);
    desk.handle(Input::MoveAway { people: 1 });
    assert_eq!(desk.relocations, [ana]);
}

#[test]
fn who_comes_back_to_the_same_edge_is_let_be_for_a_while() {
    let mut desk = Desk::open(4);
    desk.join("ana");
    move_first(&mut desk);
    let (again, _) = desk.join_with_media("ana");
    desk.relocations.clear();
    desk.handle(Input::MoveAway { people: 1 });
    assert!(desk.relocations.is_empty(), "its name server has not noticed yet, say");
    desk.pass(31 * S);
    desk.handle(Input::MoveAway { people: 1 });
    assert_eq!(desk.relocations, [again]);
}

#[test]
fn the_old_transport_serves_until_the_new_one_has_stood_for_a_while_and_nobody_is_seen_leaving() {
    let mut desk = Desk::open(5);
    let mut iad = OtherEdge::new("iad-1");
    let (ana, _) = desk.join_with_media("ana");
    let ben = desk.join("ben");
    assert_eq!(move_first(&mut desk), ana);
    give(&mut desk, &mut iad);
    let sid = iad.join(desk.now, "ana");
    desk.learn(&mut iad);
    desk.pass(3 * S);
    assert_eq!(desk.conference.people(), 2, "the new transport does not stand yet");
    iad.room.set_state(&sid, ParticipantState::Active).unwrap();
    desk.learn(&mut iad);
    desk.pass(1_500 * MS);
    assert_eq!(desk.conference.people(), 2, "time to switch");
    assert!(desk.closed.is_empty());
    desk.pass(S);
    assert_eq!(desk.conference.people(), 1);
    assert!(desk.closed.contains_key(&ana));
    assert_eq!(shown(&desk.hear(ben), "ana"), Some(State::Active), "never as departed");
    assert_eq!(
        farewell(&desk.hear(ana)).map(|(action, _)| action),
        Some(Action::Reconnect),
        "one goodbye"
    );
}

/// What the other edge hears of the room here.
fn give(desk: &mut Desk, other: &mut OtherEdge) {
    for message in std::mem::take(&mut desk.mesh) {
        if let ToMesh::Delta(delta) = message {
            other.room.apply(desk.now, &"fra-1".into(), delta).unwrap();
        }
    }
}
