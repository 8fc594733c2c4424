//! How people come to a conference, stay, return and leave, in virtual time.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use meridian_access::token::Claims;
use meridian_conference::{CloseKind, Input, Note, Renewed, ToMesh};
use meridian_room::NodeId;
use meridian_shard_api::Command;
use meridian_signalling::proto::leave_request::Action;
use meridian_signalling::proto::participant_info::State;
use meridian_signalling::proto::{self, DisconnectReason};
use support::*;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

#[test]
fn a_join_is_answered_with_the_room_then_with_an_answer_and_others_see_it_become_active() {
    let mut desk = Desk::open(1);
    let ana = desk.join("ana");
    desk.hear(ana);
    let (ben, peer) = desk.join_with_media("ben");
    let said = desk.hear(ben);
    let Say::Join(join) = &said[0] else {
        panic!("JoinResponse first")
    };
    assert_eq!(join.participant.as_ref().unwrap().identity, "ben");
    let others: Vec<_> = join.other_participants.iter().map(|p| p.identity.as_str()).collect();
    assert_eq!(others, ["ana"]);
    let answer = said.iter().find_map(|say| match say {
        Say::Answer(answer) => Some(answer),
        _ => None,
    });
    let answer = answer.expect("the offer is answered");
    assert_eq!((answer.id, answer.r#type.as_str()), (1, "answer"));
    assert!(
        answer
            .sdp
            .contains("a=candidate:1 1 udp 2130706431 192.0.2.1 7881 typ host")
    );
    let added = desk.commands.iter().find_map(|command| match command {
        Command::AddPeer { peer, local, .. } => Some((*peer, local.clone())),
        _ => None,
    });
    let (added, local) = added.expect("the media thread is told");
    assert_eq!(added, peer);
    assert!(answer.sdp.contains(&format!("a=ice-pwd:{}", local.pwd)));
    assert_eq!(shown(&desk.hear(ana), "ben"), Some(State::Active));
    assert_eq!(desk.conference.people(), 2);
}

#[test]
fn the_same_seed_and_inputs_make_the_same_conference_and_another_seed_another() {
    let run = |seed| {
        let mut desk = Desk::open(seed);
        let (ana, _) = desk.join_with_media("ana");
        let said = format!("{:?}", desk.hear(ana));
        (said, format!("{:?}", desk.commands))
    };
    assert_eq!(run(1), run(1));
    let ((said, commands), (other_said, other_commands)) = (run(1), run(2));
    assert_ne!(said, other_said, "sids");
    assert_ne!(commands, other_commands, "ICE passwords");
}

#[test]
fn a_client_that_lost_its_socket_resumes_within_twenty_seconds_and_is_told_how_things_stand() {
    let mut desk = Desk::open(2);
    let (ana, _) = desk.join_with_media("ana");
    let sid = desk.sid(ana);
    let (ben, _) = desk.join_with_media("ben");
    desk.hear(ben);
    desk.hear(ana);
    desk.handle(Input::SocketClosed { socket: ana });
    desk.pass(19 * S);
    desk.say(ben, metadata("while she was away"));
    assert!(desk.hear(ana).is_empty(), "nothing is written to a socket that is gone");
    let back = desk.resume("ana", &sid);
    assert!(desk.admitted.contains(&back));
    let said = desk.hear(back);
    assert!(matches!(said[0], Say::Reconnect(_)));
    let told = said.iter().any(|say| match say {
        Say::Update(update) => update.participants.iter().any(|p| p.metadata == "while she was away"),
        _ => false,
    });
    assert!(told);
    assert!(matches!(desk.notes[..], [Note::Resumed { .. }]));
    desk.say(back, metadata("here again"));
    desk.pass(60 * S);
    assert_eq!(desk.conference.people(), 2, "the new socket is as good as the old");
    // Frames that the old socket still brings are nobody's.
    desk.say(ana, Ask::Leave(proto::LeaveRequest::default()));
    assert_eq!(desk.conference.people(), 2);
}

#[test]
fn a_client_that_does_not_come_back_is_shown_leaving_and_cannot_resume() {
    let mut desk = Desk::open(3);
    let (ana, peer) = desk.join_with_media("ana");
    let sid = desk.sid(ana);
    let (ben, _) = desk.join_with_media("ben");
    desk.handle(Input::SocketClosed { socket: ana });
    desk.pass(20 * S);
    desk.hear(ben);
    desk.pass(500 * MS);
    assert_eq!(shown(&desk.hear(ben), "ana"), Some(State::Disconnected));
    let removed = |command: &Command| matches!(command, Command::RemovePeer { peer: gone } if *gone == peer);
    assert!(desk.commands.iter().any(removed));
    assert!(
        desk.reports
            .iter()
            .any(|report| report.ended && report.participant.as_str() == sid)
    );
    let back = desk.resume("ana", &sid);
    assert!(desk.refused.contains(&back));
    let left = farewell(&desk.hear(back));
    assert_eq!(left, Some((Action::Reconnect, DisconnectReason::StateMismatch)));
}

#[test]
fn whoever_joins_under_an_identity_that_is_here_takes_its_place() {
    let mut desk = Desk::open(4);
    let ben = desk.join("ben");
    let (old, peer) = desk.join_with_media("ana");
    let old_sid = desk.sid(old);
    desk.hear(ben);
    let new = desk.join("ana");
    let left = farewell(&desk.hear(old));
    assert_eq!(left, Some((Action::Disconnect, DisconnectReason::DuplicateIdentity)));
    assert_eq!(desk.closed.get(&old).map(String::as_str), Some(""));
    let removed = |command: &Command| matches!(command, Command::RemovePeer { peer: gone } if *gone == peer);
    assert!(desk.commands.iter().any(removed));
    assert_ne!(desk.sid(new), old_sid);
    assert_eq!(desk.conference.people(), 2);
    let back = desk.resume("ana", &old_sid);
    assert!(desk.refused.contains(&back), "the old stay cannot be resumed");
    let left = farewell(&desk.hear(back));
    assert_eq!(left, Some((Action::Disconnect, DisconnectReason::DuplicateIdentity)));
    assert!(desk.admitted.contains(&new) && !desk.closed.contains_key(&new));
}

#[test]
fn an_old_device_that_returns_to_its_edge_does_not_throw_out_the_one_that_took_its_place_on_another() {
    let mut other = OtherEdge::new("iad-1");
    let mut desk = Desk::open(14);
    other.join(desk.now, "eve");
    desk.learn(&mut other);
    let (old, _) = desk.join_with_media("ana");
    let old_sid = desk.sid(old);
    let ben = desk.join("ben");
    desk.handle(Input::SocketClosed { socket: old });
    // The other edge knows of the stay here, so its own outranks it.
    for message in std::mem::take(&mut desk.mesh) {
        if let ToMesh::Delta(delta) = message {
            other.room.apply(desk.now, &NodeId::new("fra-1"), delta).unwrap();
        }
    }
    other.join(desk.now, "ana");
    desk.learn(&mut other);
    desk.pass(2 * S);
    desk.hear(ben);
    let back = desk.resume("ana", &old_sid);
    let left = farewell(&desk.hear(back));
    assert_eq!(left, Some((Action::Disconnect, DisconnectReason::DuplicateIdentity)));
    assert_eq!(shown(&desk.hear(ben), "ana"), None, "the newer one stays");
}

#[test]
fn a_room_has_the_settings_that_the_join_which_created_it_brought_and_no_later_one() {
    let with = |identity: &str, config: serde_json::Value| Claims {
        room_config: Some(config),
        ..claims(identity)
    };
    let told = |said: Vec<Say>| match said.into_iter().next() {
        Some(Say::Join(join)) => join.room.unwrap(),
        other => panic!("JoinResponse first, not {other:?}"),
    };
    let config = serde_json::json!({
        "emptyTimeout": 60, "departure_timeout": 5, "maxParticipants": 2, "metadata": "the talk", "unknown": [1],
    });
    let mut desk = Desk::open(15);
    let ana = desk.connect(with("ana", config), request());
    let room = told(desk.hear(ana));
    let timeouts = (room.empty_timeout, room.departure_timeout);
    assert_eq!(
        (timeouts, room.max_participants, room.metadata.as_str()),
        ((60, 5), 2, "the talk")
    );
    let later = serde_json::json!({"maxParticipants": 9, "metadata": "another"});
    let ben = desk.connect(with("ben", later.clone()), request());
    let room = told(desk.hear(ben));
    assert_eq!((room.max_participants, room.metadata.as_str()), (2, "the talk"));
    let eve = desk.connect(claims("eve"), request());
    assert!(desk.refused.contains(&eve), "the room is full");
    let mut desk = Desk::with_others(16, &["sin-1"], &[]);
    let ana = desk.connect(with("ana", later), request());
    assert_eq!(told(desk.hear(ana)).max_participants, 0, "it exists elsewhere");
}

#[test]
fn a_token_is_replaced_ten_minutes_before_it_ends_and_asked_for_again_each_minute() {
    let mut desk = Desk::open(5);
    let mut expiring = claims("ana");
    expiring.exp = Some(WALL_MS / 1000 + 900);
    let (ana, _) = desk.join_with_media_as(expiring);
    desk.pass(300 * S);
    assert!(desk.renewals.is_empty());
    desk.pass(2 * S);
    let renewal = desk.renewals.pop().expect("it is due");
    assert_eq!((renewal.client, renewal.token.as_str()), (ana, "token"));
    assert!(desk.renewals.is_empty(), "asked for once");
    desk.renewed(ana, Renewed::Unanswered);
    desk.pass(62 * S);
    let again = desk.renewals.pop().expect("asked for again");
    assert!(again.at - renewal.at >= 60 * S);
    desk.hear(ana);
    desk.renewed(
        ana,
        Renewed::Yes {
            token: "another".to_owned(),
            expires_s: desk.wall_ms() / 1000 + 1_800,
        },
    );
    assert!(matches!(&desk.hear(ana)[..], [Say::RefreshToken(token)] if token == "another"));
    desk.pass(1_190 * S);
    assert!(desk.renewals.is_empty());
    desk.pass(20 * S);
    assert_eq!(
        desk.renewals.pop().map(|renewal| renewal.token).as_deref(),
        Some("another")
    );
    desk.renewed(ana, Renewed::Never);
    desk.pass(600 * S);
    assert!(desk.renewals.is_empty(), "there is none to be had");
}

#[test]
fn a_thousand_tokens_that_end_together_are_not_asked_for_together() {
    let mut desk = Desk::open(6);
    for person in 0..100 {
        let mut expiring = claims(&format!("person-{person}"));
        expiring.exp = Some(WALL_MS / 1000 + 600);
        desk.connect(expiring, request());
    }
    desk.pass(1_100 * MS);
    assert_eq!(desk.renewals.len(), 32);
    desk.pass(750 * MS);
    assert_eq!(desk.renewals.len(), 100);
    let asked: BTreeSet<_> = desk.renewals.iter().map(|renewal| renewal.client).collect();
    assert_eq!(asked.len(), 100, "each once");
}

#[test]
fn a_room_is_over_two_seconds_after_its_last_person_left_and_carries_nothing_any_more() {
    let mut other = OtherEdge::new("sin-1");
    let mut desk = Desk::open(7);
    let eve = other.join(desk.now, "eve");
    other.publish(&eve, "TR_camera");
    let (ana, _) = desk.join_with_media("ana");
    desk.learn(&mut other);
    assert!(
        desk.commands
            .iter()
            .any(|command| matches!(command, Command::AddRemoteTrack { .. }))
    );
    desk.pass(S);
    desk.say(ana, Ask::Leave(proto::LeaveRequest::default()));
    let left = desk.elapsed();
    desk.pass(1_900 * MS);
    assert_eq!(desk.emptied, None, "somebody who reloads the page finds it as it was");
    desk.pass(600 * MS);
    let emptied = desk.emptied.expect("it is over");
    assert!(emptied - left > 2 * S);
    assert!(
        desk.commands
            .iter()
            .any(|command| matches!(command, Command::RemoveTrack { .. }))
    );
    assert!(desk.mesh.iter().any(|message| matches!(message, ToMesh::Drop { .. })));
    assert_eq!(desk.conference.poll_timeout(), None);
}

#[test]
fn a_room_that_somebody_comes_back_to_is_not_over() {
    let mut desk = Desk::open(8);
    let ana = desk.join("ana");
    desk.say(ana, Ask::Leave(proto::LeaveRequest::default()));
    desk.pass(1_500 * MS);
    desk.join("ana");
    desk.pass(10 * S);
    assert_eq!(desk.emptied, None);
}

#[test]
fn a_closed_room_sends_everybody_away_and_is_over_at_once() {
    for (kind, goodbye) in [
        (
            CloseKind::RoomClosed,
            (Action::Disconnect, DisconnectReason::RoomClosed),
        ),
        (
            CloseKind::EdgeLeaves,
            (Action::Reconnect, DisconnectReason::ServerShutdown),
        ),
    ] {
        let mut desk = Desk::open(9);
        let people = ["ana", "ben"].map(|identity| desk.join(identity));
        desk.mesh.clear();
        desk.handle(Input::Close(kind));
        for socket in people {
            assert_eq!(farewell(&desk.hear(socket)), Some(goodbye));
            assert!(desk.closed.contains_key(&socket));
        }
        assert_eq!(desk.emptied, Some(Duration::ZERO));
        let withdrawn = desk.mesh.iter().any(|message| matches!(message, ToMesh::Delta(_)));
        assert_eq!(
            withdrawn,
            kind == CloseKind::RoomClosed,
            "an edge that leaves does not withdraw its people's stays"
        );
    }
}

#[test]
fn a_client_that_reads_too_slowly_loses_its_socket_delays_nobody_and_may_resume() {
    let mut desk = Desk::open(10);
    let (slow, _) = desk.join_with_media("slow");
    let sid = desk.sid(slow);
    let (quick, _) = desk.join_with_media("quick");
    desk.hear(quick);
    // Each is answered; nobody takes the answers.
    for number in 0..5_000 {
        let ask = Ask::PingReq(proto::Ping {
            timestamp: number,
            rtt: 0,
        });
        let frame = desk.frame(ask);
        desk.now += 6 * MS;
        desk.hand(Input::Frame { socket: slow, frame });
    }
    desk.hear(slow);
    desk.say(quick, metadata("still served"));
    assert!(desk.given_up.contains(&slow));
    assert!(desk.hear(slow).is_empty());
    assert_eq!(shown(&desk.hear(quick), "quick"), Some(State::Active));
    assert_eq!(desk.notes, [Note::SessionOverflow]);
    let back = desk.resume("slow", &sid);
    let said = desk.hear(back);
    assert!(matches!(said[0], Say::Reconnect(_)));
    assert!(said.len() < 10, "told how things stand, not all that was missed");
}

#[test]
fn people_wait_at_the_door_until_the_rooms_other_edges_have_told_what_they_know() {
    let mut other = OtherEdge::new("sin-1");
    let mut desk = Desk::with_others(11, &["sin-1", "iad-1"], &["sin-1"]);
    other.join(desk.now, "eve");
    let ana = desk.connect(claims("ana"), request());
    desk.pass(100 * MS);
    assert!(!desk.admitted.contains(&ana) && desk.conference.is_learning());
    desk.learn(&mut other);
    assert!(desk.admitted.contains(&ana), "iad-1 is silent: it is not waited for");
    let Some(Say::Join(join)) = desk.hear(ana).into_iter().next() else {
        panic!("JoinResponse first")
    };
    assert_eq!(join.other_participants[0].identity, "eve");
}

#[test]
fn an_edge_that_falls_silent_or_stays_mute_is_not_waited_for() {
    let mut desk = Desk::with_others(12, &["sin-1"], &["sin-1"]);
    let ana = desk.connect(claims("ana"), request());
    desk.handle(Input::Audible(BTreeSet::from([NodeId::new("iad-1")])));
    assert!(desk.admitted.contains(&ana));
    let mut desk = Desk::with_others(13, &["sin-1"], &["sin-1"]);
    let ana = desk.connect(claims("ana"), request());
    desk.pass(499 * MS);
    assert!(!desk.admitted.contains(&ana));
    desk.pass(MS);
    assert!(desk.admitted.contains(&ana));
}
