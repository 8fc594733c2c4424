//! A room that is recorded: each edge tells its recorder of its own people, and of nobody else's.

mod support;

use meridian_conference::{CloseKind, FromMesh, Input, Recorded};
use meridian_room::NodeId;
use support::*;

fn joined(recorded: &[Recorded]) -> Vec<&str> {
    recorded
        .iter()
        .filter_map(|told| match told {
            Recorded::Joined { identity, .. } => Some(identity.as_str()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_recording_begins_with_who_is_here_follows_who_comes_and_goes_and_is_one_of_the_rooms_facts() {
    let mut desk = Desk::open(1);
    let ana = desk.join("ana");
    desk.hear(ana);
    desk.handle(Input::Record(Some("rec-1".into())));
    assert_eq!(desk.recorded[0], Recorded::Begin { id: "rec-1".into() });
    assert_eq!(joined(&desk.recorded), ["ana"]);
    desk.join("ben");
    assert_eq!(joined(&desk.recorded), ["ana", "ben"]);
    // Said again, it goes on as it was.
    let told = desk.recorded.len();
    desk.handle(Input::Record(Some("rec-1".into())));
    assert_eq!(desk.recorded.len(), told);
    desk.handle(Input::Record(None));
    assert_eq!(desk.recorded.last(), Some(&Recorded::End));
    desk.join("cleo");
    assert_eq!(desk.recorded.last(), Some(&Recorded::End), "nobody is told of any more");
}

#[test]
fn what_another_edge_says_of_the_room_begins_the_recording_here_and_its_people_are_its_own_to_record() {
    let mut desk = Desk::open(2);
    desk.join("ana");
    let mut other = OtherEdge::new("sin-1");
    other.join(desk.now, "eve");
    // The same life of the room, as both edges know it.
    other
        .room
        .update_info(|info| {
            info.incarnation = WALL_MS;
            info.recording = "rec-2".into();
        })
        .unwrap();
    while let Some(delta) = other.room.poll_delta() {
        let from = NodeId::new("sin-1");
        desk.handle(Input::Mesh(FromMesh::Delta { from, delta }));
    }
    assert_eq!(desk.recorded[0], Recorded::Begin { id: "rec-2".into() });
    assert_eq!(joined(&desk.recorded), ["ana"]);
    desk.handle(Input::Close(CloseKind::RoomClosed));
    assert_eq!(desk.recorded.last(), Some(&Recorded::End));
}
