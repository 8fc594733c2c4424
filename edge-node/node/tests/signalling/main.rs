//! Signalling as clients see it, over real sockets of one edge: slow clients, broken ones, resumes and simulated failures.
#![forbid(unsafe_code)]

#[path = "../support/control_plane.rs"]
mod control_plane;
#[path = "../support/mod.rs"]
mod edges;
mod outages;
mod support;

use std::time::Duration;

use control_plane::ControlPlane;
use edges::{KEY, SECRET, edge_config};
use meridian_access::token::{Claims, MeridianClaims, mint, unix_now_s};
use meridian_pki::CertificateAuthority;
use meridian_signalling::FRAME_BYTES_MAX;
use meridian_signalling::proto::leave_request::Action;
use meridian_signalling::proto::simulate_scenario::Scenario;
use meridian_signalling::proto::{
    self, DisconnectReason, signal_request::Message as Ask, signal_response::Message as Say,
};
use support::{Client, House};
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame as FrameOnTheWire;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

fn metadata(number: usize) -> Ask {
    Ask::UpdateMetadata(proto::UpdateParticipantMetadata {
        metadata: format!("{number:06}{}", "x".repeat(8_000)),
        ..Default::default()
    })
}

/// The numbers of `identity`'s metadata as its updates come in.
fn numbers(say: Say, identity: &str) -> Vec<usize> {
    let Say::Update(update) = say else { return Vec::new() };
    let of = update.participants.into_iter().filter(|info| info.identity == identity);
    of.filter_map(|info| info.metadata.get(..6)?.parse().ok()).collect()
}

#[tokio::test]
async fn a_client_that_stops_reading_loses_its_socket_and_delays_nobody() {
    const LAST: usize = 999_999;
    let house = House::open().await;
    let mut slow = house.join_with("slow", Some(4096)).await;
    let mut quick = house.join("quick").await;
    let mut loud = house.join("loud").await;
    let reading = tokio::spawn(async move {
        let mut seen = Vec::new();
        while seen.last() != Some(&LAST) {
            seen.extend(numbers(quick.hear().await.expect("quick keeps its socket"), "loud"));
        }
        (quick, seen)
    });
    let dropped = "meridian_signal_sockets_dropped_total{reason=\"queue_full\"}";
    let mut sent = 0;
    while sent % 50 != 0 || house.metric(dropped).await == 0 {
        assert!(sent < 3_000, "slow still has its socket");
        update(&mut loud, sent).await;
        sent += 1;
    }
    update(&mut loud, LAST).await;
    let (mut quick, seen) = reading.await.unwrap();
    assert_eq!(seen.len(), sent + 1, "quick hears every one");
    assert!(seen.is_sorted(), "in order");
    assert_eq!(house.metric(dropped).await, 1);
    assert!(
        house
            .metric("meridian_signal_frames_dropped_total{reason=\"queue_full\"}")
            .await
            >= 1
    );
    assert!(house.metric("meridian_signal_queue_frames_max").await >= 512);
    // What the kernel still holds can be read; then comes the end.
    let mut heard = 0;
    while slow.hear().await.is_some() {
        heard += 1;
    }
    assert!(heard < sent, "slow heard {heard} messages");
    let mut back = house.connect("slow", None, Some(&slow.sid)).await;
    assert!(matches!(back.hear().await, Some(Say::Reconnect(_))), "slow may resume");
    let last = back.hear_until(|say| numbers(say, "loud").pop()).await;
    assert_eq!(last, Some(LAST), "and is told how things stand");
    assert!(quick.is_served().await);
    house.close().await;
}

/// Every update comes back to its author, too: waiting for it keeps the room from merging it with the next.
async fn update(client: &mut Client, number: usize) {
    client.say(metadata(number)).await;
    client
        .hear_until(|say| numbers(say, "loud").contains(&number).then_some(()))
        .await
        .expect("the author keeps its socket");
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_is_told_why_and_harms_nobody() {
    let house = House::open().await;
    let mut witness = house.join("witness").await;
    let answer = Ask::Answer(proto::SessionDescription::default());
    let answer = proto::SignalRequest { message: Some(answer) };
    let bad_offer = proto::SignalRequest {
        message: Some(Ask::Offer(proto::SessionDescription {
            r#type: "offer".into(),
            sdp: "v=0\r\nm=nonsense".into(),
            ..Default::default()
        })),
    };
    let binary = |request: proto::SignalRequest| Frame::Binary(prost::Message::encode_to_vec(&request).into());
    let broken = [
        (
            "malformed binary",
            Frame::Binary(vec![0xff; 40].into()),
            "malformed binary message",
        ),
        (
            "malformed text",
            Frame::Text("{\"offer\": 7".into()),
            "malformed text message",
        ),
        ("out of order", binary(answer), "this server never offers"),
        ("an offer that is no SDP", binary(bad_offer), ""),
    ];
    for (what, frame, reason) in broken {
        let mut client = house.join("breaker").await;
        client.send(frame).await;
        let leave = client.farewell().await.unwrap_or_else(|| panic!("{what}: no Leave"));
        assert_eq!(leave.reason(), DisconnectReason::StateMismatch, "{what}");
        assert_eq!(leave.action(), Action::Disconnect, "{what}");
        assert!(client.hear().await.is_none());
        let (code, said) = client.closed.unwrap_or_else(|| panic!("{what}: no close frame"));
        assert_eq!(code, 1008, "{what}");
        assert!(!said.is_empty() && said.contains(reason), "{what}: {said}");
        assert!(witness.is_served().await, "{what}");
    }
    // A frame larger than the limit is not even read to its end; RFC 6455 §7.4.1 has numbers for what breaks its own rules.
    let not_text = FrameOnTheWire::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true);
    let unknown = FrameOnTheWire::message(vec![1], OpCode::Data(Data::Reserved(5)), true);
    let broken = [
        (1009, Frame::Binary(vec![0; FRAME_BYTES_MAX + 1].into())),
        (1007, Frame::Frame(not_text)),
        (1002, Frame::Frame(unknown)),
    ];
    for (number, frame) in broken {
        let mut client = house.join("breaker").await;
        client.send(frame).await;
        let leave = client.farewell().await.unwrap_or_else(|| panic!("{number}: no Leave"));
        assert_eq!(leave.action(), Action::Disconnect, "{number}");
        while client.hear().await.is_some() {}
        let (code, said) = client.closed.unwrap_or_else(|| panic!("{number}: no close frame"));
        assert!(code == number && !said.is_empty(), "{code} for {number}: {said}");
        assert!(witness.is_served().await, "{number}");
    }
    assert_eq!(house.metric("meridian_signal_violations_total").await, 7);
    house.close().await;
}

#[tokio::test]
async fn a_session_that_is_unknown_or_somebody_elses_is_not_resumed_but_joined_anew() {
    let house = House::open().await;
    let mut alice = house.join("alice").await;
    for (identity, sid) in [("alice", "PA_unknown"), ("mallory", alice.sid.as_str())] {
        let mut client = house.connect(identity, None, Some(sid)).await;
        let Some(Say::Leave(leave)) = client.hear().await else {
            panic!("{identity} was let in")
        };
        assert_eq!(
            (leave.action(), leave.reason()),
            (Action::Reconnect, DisconnectReason::StateMismatch)
        );
    }
    assert!(alice.is_served().await);
    let mut again = house.connect("alice", None, Some(&alice.sid)).await;
    assert!(matches!(again.hear().await, Some(Say::Reconnect(_))));
    assert!(again.is_served().await);
    assert_eq!(house.metric("meridian_signal_resumes_total").await, 1);
    house.close().await;
}

/// Alice, with this token: and she can come back with the other.
async fn is_given_another(house: &House, token: &str) {
    let mut client = house.connect_as(token, None, None).await;
    let refreshed = client
        .hear_until(|say| match say {
            Say::RefreshToken(token) => Some(token),
            _ => None,
        })
        .await
        .expect("a token");
    let mut back = house.connect_as(&refreshed, None, None).await;
    let Some(Say::Join(join)) = back.hear().await else {
        panic!("not let in")
    };
    assert_eq!(join.participant.map(|me| me.identity).as_deref(), Some("alice"));
}

#[tokio::test]
async fn whoever_comes_with_a_token_that_expires_soon_is_given_another() {
    let house = House::open().await;
    is_given_another(&house, &house.token("alice", 90)).await;
    house.close().await;
}

#[tokio::test]
async fn a_join_token_that_expires_soon_is_replaced_by_the_control_plane() {
    let authority = CertificateAuthority::create().unwrap();
    let control = ControlPlane::start(&authority).await;
    let mut config = edge_config();
    config.control_plane.url = Some(control.url.clone());
    control.say_policy().await;
    let house = House::with(config, &authority).await;
    let mut claims = Claims::join("alice", "Alice", "room");
    claims.exp = Some(unix_now_s() + 90);
    claims.meridian = Some(MeridianClaims::default());
    let token = control.key.mint(&claims).unwrap();
    is_given_another(&house, &token).await;
    house.close().await;
}

/// Longer than the address of a request may be for most servers, ours included.
#[tokio::test]
async fn a_token_with_all_the_metadata_that_is_allowed_is_taken_as_a_header_and_in_the_address() {
    let house = House::open().await;
    let mut claims = Claims::join("alice", "alice", "room");
    claims.metadata = "\"m\"".repeat(64 * 1024 / 3);
    let token = mint(&claims, KEY, SECRET).unwrap();
    assert!(token.len() > 65_534, "{}", token.len());
    let path = format!("/rtc/v1/validate?join_request=&access_token={token}");
    let answer = house.get(&path).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{}", &answer[..200]);
    let mut alice = house.connect_as(&token, None, None).await;
    let Some(Say::Join(join)) = alice.hear().await else {
        panic!("she was not let in")
    };
    assert_eq!(join.participant.unwrap().metadata, claims.metadata);
    house.close().await;
}

#[tokio::test]
async fn every_refusal_at_the_door_can_be_read_by_a_page() {
    let house = House::open().await;
    let token = house.token("alice", 60);
    let cases = [
        (
            format!("/rtc/v1/validate?join_request=&access_token={token}"),
            "200",
            "success",
        ),
        (format!("/rtc/v1?access_token={token}"), "400", "join_request"),
        (
            format!("/rtc/v1?join_request=%25&access_token={token}"),
            "400",
            "base64url",
        ),
        ("/rtc/v1/validate?join_request=".to_owned(), "401", "no access token"),
        (
            "/rtc/v1/validate?join_request=&access_token=x.y.z".to_owned(),
            "401",
            "invalid token",
        ),
        (format!("/rtc/validate?access_token={token}"), "404", "/rtc/v1"),
        ("/nothing".to_owned(), "404", "no_such_endpoint"),
        (format!("/{}", "x".repeat(70_000)), "414", "address_too_long"),
    ];
    for (path, status, text) in cases {
        let answer = house.get(&path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        assert!(
            answer.to_ascii_lowercase().contains("access-control-allow-origin: *"),
            "{path}: {answer}"
        );
        assert!(answer.contains(text), "{path}: {answer}");
    }
    house.close().await;
}

async fn simulate(client: &mut Client, scenario: Scenario) {
    let scenario = Some(scenario);
    client.say(Ask::Simulate(proto::SimulateScenario { scenario })).await;
}

#[tokio::test]
async fn simulated_leaves_say_what_the_client_is_to_do() {
    let house = House::open().await;
    let mut witness = house.join("witness").await;
    let expected = [
        (
            Scenario::ServerLeave(true),
            Action::Disconnect,
            DisconnectReason::ServerShutdown,
        ),
        (
            Scenario::Migration(true),
            Action::Reconnect,
            DisconnectReason::Migration,
        ),
        (
            Scenario::LeaveRequestFullReconnect(true),
            Action::Reconnect,
            DisconnectReason::UnknownReason,
        ),
    ];
    for (scenario, action, reason) in expected {
        let mut client = house.join("tester").await;
        simulate(&mut client, scenario).await;
        let leave = client.farewell().await.expect("a Leave");
        assert_eq!((leave.action(), leave.reason()), (action, reason), "{scenario:?}");
        assert!(client.hear().await.is_none(), "{scenario:?}: the socket closes");
        let left = witness
            .hear_until(|say| departed(&say, "tester"))
            .await
            .expect("the others see it");
        assert_eq!(left, reason, "{scenario:?}");
    }
    house.close().await;
}

fn departed(say: &Say, identity: &str) -> Option<DisconnectReason> {
    let Say::Update(update) = say else { return None };
    let gone = |info: &&proto::ParticipantInfo| {
        info.identity == identity && info.state() == proto::participant_info::State::Disconnected
    };
    update
        .participants
        .iter()
        .find(gone)
        .map(|info| info.disconnect_reason())
}

#[tokio::test]
async fn a_simulated_node_failure_says_nothing_and_ends_in_a_new_join() {
    let house = House::open().await;
    let mut client = house.join("tester").await;
    simulate(&mut client, Scenario::NodeFailure(true)).await;
    assert!(client.farewell().await.is_none(), "no Leave");
    let mut back = house.connect("tester", None, Some(&client.sid)).await;
    let leave = back.farewell().await.expect("a Leave");
    assert_eq!(
        (leave.action(), leave.reason()),
        (Action::Reconnect, DisconnectReason::StateMismatch)
    );
    assert_ne!(house.join("tester").await.sid, client.sid);
    house.close().await;
}

#[tokio::test]
async fn a_socket_that_is_lost_while_resuming_can_be_resumed_again() {
    let house = House::open().await;
    let client = &mut house.join("tester").await;
    let scenarios = [
        (Scenario::DisconnectSignalOnResume(true), true),
        (Scenario::DisconnectSignalOnResumeNoMessages(true), false),
    ];
    for (scenario, told) in scenarios {
        simulate(client, scenario).await;
        assert!(client.is_served().await);
        let mut first = house.connect("tester", None, Some(&client.sid)).await;
        assert_eq!(
            matches!(first.hear().await, Some(Say::Reconnect(_))),
            told,
            "{scenario:?}"
        );
        while first.hear().await.is_some() {}
        let mut second = house.connect("tester", None, Some(&client.sid)).await;
        assert!(matches!(second.hear().await, Some(Say::Reconnect(_))), "{scenario:?}");
        second.sid = client.sid.clone();
        *client = second;
        assert!(client.is_served().await);
    }
    house.close().await;
}

#[tokio::test]
async fn a_simulated_speaker_is_heard_by_everybody_and_falls_silent() {
    let house = House::open().await;
    let mut witness = house.join("witness").await;
    let mut client = house.join("tester").await;
    simulate(&mut client, Scenario::SpeakerUpdate(1)).await;
    for active in [true, false] {
        let speaker = witness
            .hear_until(|say| match say {
                Say::SpeakersChanged(changed) => changed.speakers.into_iter().next(),
                _ => None,
            })
            .await
            .expect("speakers are told");
        assert_eq!((speaker.sid.as_str(), speaker.active), (client.sid.as_str(), active));
    }
    house.close().await;
}

#[tokio::test]
async fn a_stopping_edge_sends_people_to_another_by_a_full_reconnect() {
    let house = House::open().await;
    let mut client = house.join("tester").await;
    let (leave, ()) = tokio::join!(client.farewell(), house.close());
    let leave = leave.expect("a Leave");
    assert_eq!(
        (leave.action(), leave.reason()),
        (Action::Reconnect, DisconnectReason::ServerShutdown)
    );
    assert!(
        tokio::time::timeout(Duration::from_secs(5), client.hear())
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn one_token_joins_thirty_times_a_minute_and_resumes_as_often_as_it_likes() {
    let house = House::open().await;
    let mut client = house.join("restless").await;
    for _ in 1..30 {
        client = house.join("restless").await;
    }
    let token = house.token("restless", 600);
    let refused = house.get(&format!("/rtc/v1?access_token={token}&join_request=")).await;
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    let head = refused.to_lowercase();
    assert!(head.contains("access-control-allow-origin: *"), "{head}");
    assert!(head.contains("retry-after: 2"), "{head}");
    assert!(head.contains("joins too often"), "{head}");
    let checked = house
        .get(&format!("/rtc/v1/validate?access_token={token}&join_request="))
        .await;
    assert!(checked.starts_with("HTTP/1.1 200"), "asking is free: {checked}");
    let mut back = house.connect("restless", None, Some(&client.sid)).await;
    assert!(
        matches!(back.hear().await, Some(Say::Reconnect(_))),
        "a session that goes on"
    );
    house.join("somebody else").await;
    house.close().await;
}

#[tokio::test]
async fn a_join_request_is_opened_only_for_a_good_token() {
    let house = House::open().await;
    let bad = house.get("/rtc/v1?access_token=forged&join_request=%25%25%25").await;
    assert!(bad.starts_with("HTTP/1.1 401"), "{bad}");
    let good = house.token("anna", 600);
    let bad = house
        .get(&format!("/rtc/v1?access_token={good}&join_request=%25%25%25"))
        .await;
    assert!(bad.starts_with("HTTP/1.1 400"), "{bad}");
    house.close().await;
}
