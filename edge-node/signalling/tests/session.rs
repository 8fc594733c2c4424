//! A session speaks the client protocol as spec/client-protocol.md says.

mod support;

use livekit_protocol as proto;
use meridian_room::*;
use meridian_signalling::*;
use prost::Message;
use proto::participant_info::State;
use proto::request_response::Reason;
use support::*;

#[test]
fn the_join_response_holds_what_clients_need() {
    let mut edge = Edge::new("fra-1");
    let ann = edge.connect("ann");
    edge.publish(ann, camera("c1"), "7");
    let bob = edge.connect("bob");
    let heard = edge.heard(bob);
    let Say::Join(join) = &heard[0] else {
        panic!("{:?}", heard[0])
    };
    let room = join.room.as_ref().expect("room");
    assert_eq!(
        (room.sid.as_str(), room.name.as_str(), room.metadata.as_str()),
        ("RM_test", "r", "about")
    );
    assert_eq!(room.num_participants, 2);
    assert!(!room.enabled_codecs.is_empty() && !join.enabled_publish_codecs.is_empty());
    let me = join.participant.as_ref().expect("participant");
    assert!(me.sid.starts_with("PA_") && me.identity == "bob" && me.name == "BOB" && me.metadata == "from the token");
    assert_eq!(me.attributes.get("role").map(String::as_str), Some("guest"));
    assert_eq!(
        (me.state(), me.version, me.joined_at, me.client_protocol),
        (State::Joined, 1, NOW_MS / 1000, 2)
    );
    let permission = me.permission.as_ref().expect("permission");
    assert!(permission.can_subscribe && permission.can_publish && permission.can_publish_data);
    let [other] = &join.other_participants[..] else {
        panic!("one other")
    };
    let [track] = &other.tracks[..] else {
        panic!("one track")
    };
    assert!(other.is_publisher && track.sid.starts_with("TR_VC") && track.mime_type == "video/VP8" && track.mid == "7");
    let server = join.server_info.as_ref().expect("server_info");
    assert_eq!(
        (server.version.as_str(), server.protocol, server.node_id.as_str()),
        ("1.13.5", 17, "fra-1")
    );
    assert_eq!(
        (join.ping_interval, join.ping_timeout, join.subscriber_primary),
        (5, 15, false)
    );
    assert!(!join.server_version.is_empty() && !join.server_region.is_empty() && !join.sif_trailer.is_empty());
    assert!(join.fast_publish);
    assert!(edge.acted(bob).contains(&Action::Subscribe {
        track: TrackSid::from(track.sid.as_str())
    }));
}

/// Everything in a transcript that may differ between edges.
fn strip(says: Vec<Say>) -> Vec<Say> {
    let strip_info = |info: &mut proto::ParticipantInfo| {
        (info.joined_at, info.joined_at_ms) = (0, 0);
        info.region.clear();
        info.tracks
            .iter_mut()
            .filter_map(|t| t.version.as_mut())
            .for_each(|v| v.unix_micro = 0);
    };
    let mut out = Vec::new();
    for mut say in says {
        match &mut say {
            Say::Join(join) => {
                // The observers themselves differ.
                join.participant = None;
                join.ice_servers.clear();
                join.server_region.clear();
                join.server_info = None;
                join.other_participants.iter_mut().for_each(strip_info);
                join.other_participants.retain(|p| !p.identity.starts_with("observer"));
            }
            Say::Update(update) => {
                update.participants.iter_mut().for_each(strip_info);
                update.participants.retain(|p| !p.identity.starts_with("observer"));
                if update.participants.is_empty() {
                    continue;
                }
            }
            _ => {}
        }
        out.push(say);
    }
    out
}

#[test]
fn a_remote_participants_transcript_equals_a_local_ones() {
    let (mut near, mut far) = (Edge::new("fra-1"), Edge::new("sin-1"));
    far.sync_from(&near);
    let early = near.connect("ann");
    near.publish(early, microphone("m0"), "0");
    far.sync_from(&near);
    let (here, there) = (near.connect("observer-near"), far.connect("observer-far"));
    near.sync_from(&far);
    far.sync_from(&near);
    type Step = Box<dyn FnMut(&mut Edge)>;
    let mut script: Vec<Step> = vec![
        Box::new(|e| {
            e.connect("cid");
        }),
        Box::new(|e| {
            let (cid, sid) = (e.clients.len() - 1, e.clients.last().expect("cid").sid.clone());
            e.room.set_state(&sid, ParticipantState::Active).expect("here");
            e.pump();
            e.publish(cid, camera("c1"), "3");
        }),
        Box::new(|e| {
            let cid = e.clients.len() - 1;
            let track = e
                .room
                .participant(&Identity::from("cid"))
                .and_then(|p| p.tracks.keys().next().cloned());
            let sid = track.expect("published").as_str().to_owned();
            e.ask(cid, Ask::Mute(proto::MuteTrackRequest { sid, muted: true }));
            let attributes = [("hand".to_owned(), "up".to_owned()), ("role".to_owned(), String::new())].into();
            let update = proto::UpdateParticipantMetadata {
                attributes,
                request_id: 3,
                ..Default::default()
            };
            e.ask(cid, Ask::UpdateMetadata(update));
        }),
        Box::new(|e| {
            let (cid, sid) = (e.clients.len() - 1, e.clients.last().expect("cid").sid.clone());
            let track = e
                .room
                .participant(&Identity::from("cid"))
                .and_then(|p| p.tracks.keys().next().cloned());
            e.room
                .unpublish_track(&sid, &track.expect("published"))
                .expect("published");
            e.pump();
            e.ask(
                cid,
                Ask::Leave(proto::LeaveRequest {
                    reason: 1,
                    ..Default::default()
                }),
            );
        }),
    ];
    let (mut transcript_near, mut transcript_far) = (strip(near.heard(here)), strip(far.heard(there)));
    for step in &mut script {
        step(&mut near);
        far.sync_from(&near);
        // A remote edge learns a step's changes together: compare what each step left the client with.
        let (n, f) = (strip(near.heard(here)), strip(far.heard(there)));
        let last = |says: &[Say]| updates(says).last().map(|info| (*info).clone());
        assert_eq!(last(&n), last(&f));
        transcript_near.extend(last(&n).map(|p| Say::Update(proto::ParticipantUpdate { participants: vec![p] })));
        transcript_far.extend(last(&f).map(|p| Say::Update(proto::ParticipantUpdate { participants: vec![p] })));
    }
    assert_eq!(transcript_near, transcript_far);
    // Who comes late is told the same, too.
    near.connect("dan");
    let dan = near.clients.len() - 1;
    near.publish(dan, camera("c9"), "4");
    far.sync_from(&near);
    let (late_near, late_far) = (near.connect("observer-late-near"), far.connect("observer-late-far"));
    let (mut n, mut f) = (strip(near.heard(late_near)), strip(far.heard(late_far)));
    for say in n.iter_mut().chain(&mut f) {
        if let Say::Join(join) = say {
            assert_eq!(join.other_participants.len(), 2, "ann and dan");
            // Counts lag by the observers that have not been exchanged yet.
            join.room.iter_mut().for_each(|room| room.num_participants = 0);
        }
    }
    assert_eq!(n, f);
    assert_eq!(transcript_near.len(), 5, "a join and four steps");
    let kinds = |acts: Vec<Action>| acts.iter().map(std::mem::discriminant).collect::<Vec<_>>();
    assert_eq!(
        kinds(near.acted(here)),
        kinds(far.acted(there)),
        "the same subscriptions come and go"
    );
    let departed = updates(&transcript_far)
        .last()
        .map(|p| (p.state(), p.sid.is_empty(), p.disconnect_reason()));
    assert_eq!(
        departed,
        Some((State::Disconnected, false, proto::DisconnectReason::ClientInitiated))
    );
}

#[test]
fn hidden_participants_are_invisible_to_others() {
    let mut edge = Edge::new("fra-1");
    let ann = edge.connect("ann");
    edge.heard(ann);
    let mut hidden = claims("viewer");
    hidden.video.as_mut().expect("grants").hidden = true;
    let viewer = edge.connect_with(hidden, request());
    let late = edge.connect("late");
    assert!(!updates(&edge.heard(ann)).iter().any(|p| p.identity == "viewer"));
    let heard = edge.heard(late);
    let Say::Join(join) = &heard[0] else { panic!() };
    assert_eq!(join.other_participants.len(), 1);
    let heard = edge.heard(viewer);
    let Say::Join(join) = &heard[0] else { panic!() };
    assert_eq!(join.participant.as_ref().map(|p| p.identity.as_str()), Some("viewer"));
    // Brought on stage, and back.
    let sid = edge.clients[viewer].sid.clone();
    for (hidden, state) in [(false, State::Joined), (true, State::Disconnected)] {
        let permission = Permission {
            hidden,
            can_publish: true,
            ..Permission::default()
        };
        let update = ParticipantUpdate {
            permission: Some(permission),
            ..Default::default()
        };
        edge.room.update_participant(&sid, update).expect("here");
        edge.pump();
        let heard = edge.heard(ann);
        assert_eq!(
            updates(&heard).last().map(|p| (p.identity.as_str(), p.state())),
            Some(("viewer", state))
        );
    }
}

#[test]
fn metadata_updates_are_answered_and_an_empty_attribute_deletes() {
    let mut edge = Edge::new("fra-1");
    let ann = edge.connect("ann");
    edge.heard(ann);
    let attributes = [("role".to_owned(), String::new()), ("hand".to_owned(), "up".to_owned())].into();
    let update = proto::UpdateParticipantMetadata {
        attributes,
        name: "Ann".into(),
        request_id: 9,
        ..Default::default()
    };
    edge.ask(ann, Ask::UpdateMetadata(update.clone()));
    let heard = edge.heard(ann);
    assert!(matches!(&heard[0], Say::RequestResponse(r) if r.request_id == 9 && r.reason() == Reason::Ok));
    let info = updates(&heard)
        .last()
        .map(|p| (p.name.clone(), p.metadata.clone(), p.attributes.len(), p.version));
    assert_eq!(info, Some(("Ann".into(), "from the token".into(), 1, 2)));
    let huge = proto::UpdateParticipantMetadata {
        metadata: "m".repeat(65_537),
        request_id: 10,
        ..Default::default()
    };
    assert_eq!(edge.ask(ann, Ask::UpdateMetadata(huge)), []);
    let heard = edge.heard(ann);
    assert!(matches!(&heard[0], Say::RequestResponse(r) if r.request_id == 10 && r.reason() == Reason::LimitExceeded));
    let mut plain = claims("bob");
    plain.video.as_mut().expect("grants").can_update_own_metadata = None;
    let bob = edge.connect_with(plain, request());
    edge.heard(bob);
    edge.ask(bob, Ask::UpdateMetadata(update));
    assert!(matches!(&edge.heard(bob)[0], Say::RequestResponse(r) if r.reason() == Reason::NotAllowed));
}

#[test]
fn both_kinds_of_ping_are_answered() {
    let mut edge = Edge::new("fra-1");
    let ann = edge.connect("ann");
    edge.heard(ann);
    edge.ask(ann, Ask::PingReq(proto::Ping { timestamp: 5, rtt: 40 }));
    edge.ask(ann, Ask::Ping(6));
    let pong = proto::Pong {
        last_ping_timestamp: 5,
        timestamp: NOW_MS,
    };
    assert_eq!(edge.heard(ann), [Say::PongResp(pong), Say::Pong(NOW_MS)]);
    assert_eq!(edge.clients[ann].session.rtt_ms(), Some(40));
}

#[test]
fn speakers_are_told_as_quantised_deltas() {
    let mut edge = Edge::new("fra-1");
    let (ann, bob) = (edge.connect("ann"), edge.connect("bob"));
    edge.heard(bob);
    let (a, b) = (edge.clients[ann].sid.clone(), edge.clients[bob].sid.clone());
    let mut told = |speaking: &[(ParticipantSid, f32)]| -> Vec<(bool, f32)> {
        edge.clients[bob].session.speakers(speaking);
        edge.pump();
        let says = edge.heard(bob);
        let lists = says.into_iter().filter_map(|say| match say {
            Say::SpeakersChanged(changed) => Some(changed.speakers),
            _ => None,
        });
        lists.flatten().map(|s| (s.active, s.level)).collect()
    };
    assert_eq!(
        told(&[(a.clone(), 0.51), (b.clone(), 0.1)]),
        [(true, 0.625), (true, 0.125)]
    );
    assert_eq!(told(&[(a.clone(), 0.55), (b.clone(), 0.12)]), []);
    assert_eq!(
        told(&[(b.clone(), 0.12), (ParticipantSid::from("PA_stranger"), 1.0)]),
        [(false, 0.0)]
    );
    assert_eq!(told(&[(b, 0.12)]), []);
}

#[test]
fn the_other_server_messages_are_well_formed() {
    let mut edge = Edge::new("fra-1");
    let (ann, bob) = (edge.connect("ann"), edge.connect("bob"));
    let track = edge.publish(ann, camera("c"), "3");
    edge.heard(ann);
    edge.heard(bob);
    let ann_sid = edge.clients[ann].sid.clone();
    let session = &mut edge.clients[ann].session;
    session.send_answer(4, "v=0".into(), &[("3".into(), "TR_x".into())]);
    session.sections_required(1, 2);
    session.subscribed_quality(&track, &[("video/VP8".into(), [true, false, true])]);
    session.quality(&[(ann_sid.clone(), proto::ConnectionQuality::Good, 3.5)]);
    session.quality(&[(ann_sid.clone(), proto::ConnectionQuality::Good, 3.4)]);
    session.stream_state(&[(ann_sid.clone(), track.clone(), true)]);
    session.mute_track(&track, true);
    session.refresh_token("jwt".into());
    session.track_unpublished(&track);
    edge.pump();
    let heard = edge.heard(ann);
    let [
        Say::Answer(answer),
        Say::MediaSectionsRequirement(sections),
        Say::SubscribedQualityUpdate(quality),
        Say::ConnectionQuality(connection),
        Say::StreamStateUpdate(stream),
        Say::Mute(mute),
        Say::RefreshToken(token),
        Say::TrackUnpublished(gone),
    ] = &heard[..]
    else {
        panic!("{heard:?}")
    };
    assert_eq!(
        (answer.id, answer.r#type.as_str(), answer.mid_to_track_id["3"].as_str()),
        (4, "answer", "TR_x")
    );
    assert_eq!((sections.num_audios, sections.num_videos), (1, 2));
    let enabled: Vec<bool> = quality.subscribed_codecs[0]
        .qualities
        .iter()
        .map(|q| q.enabled)
        .collect();
    assert_eq!(
        (quality.subscribed_codecs[0].codec.as_str(), enabled),
        ("vp8", vec![true, false, true])
    );
    assert_eq!(connection.updates[0].quality(), proto::ConnectionQuality::Good);
    assert_eq!(stream.stream_states[0].state(), proto::StreamState::Paused);
    assert!(mute.muted && token == "jwt" && gone.track_sid == track.as_str());
}

#[test]
fn a_resumed_session_is_told_everything_again_and_who_left_meanwhile() {
    let mut edge = Edge::new("fra-1");
    let (ann, bob, cid) = (edge.connect("ann"), edge.connect("bob"), edge.connect("cid"));
    let track = edge.publish(ann, camera("c"), "3");
    // Bob's socket is lost: what is said meanwhile may never arrive.
    edge.ask(cid, Ask::Leave(proto::LeaveRequest::default()));
    edge.heard(bob);
    edge.acted(bob);
    let packet = proto::DataPacket {
        sequence: 41,
        value: Some(proto::data_packet::Value::User(Default::default())),
        ..Default::default()
    };
    let client = &mut edge.clients[bob];
    client
        .session
        .inspect_data(&edge.room, true, &packet.encode_to_vec())
        .expect("valid");
    let actions = client.session.resume(
        &edge.room,
        &client.sid,
        ConnectRequest {
            reconnect: true,
            ..request()
        },
    );
    assert_eq!(actions, [], "what was subscribed stays so");
    edge.pump();
    let heard = edge.heard(bob);
    let [Say::Reconnect(reconnect), Say::Update(update), Say::RoomUpdate(_)] = &heard[..] else {
        panic!("{heard:?}")
    };
    assert_eq!(reconnect.last_message_seq, 41);
    assert!(reconnect.server_info.is_some());
    let states: Vec<_> = update
        .participants
        .iter()
        .map(|p| (p.identity.as_str(), p.state()))
        .collect();
    assert_eq!(
        states,
        [
            ("cid", State::Disconnected),
            ("bob", State::Joined),
            ("ann", State::Joined)
        ]
    );
    assert!(update.participants.iter().all(|p| !p.sid.is_empty()));
    let state = proto::SyncState {
        track_sids_disabled: vec![track.as_str().into()],
        datachannel_receive_states: vec![proto::DataChannelReceiveState {
            publisher_sid: "PA_a".into(),
            last_seq: 7,
        }],
        ..Default::default()
    };
    let actions = edge.ask(bob, Ask::SyncState(state));
    let [Action::TrackSetting { setting, .. }, Action::Received(received)] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert!(!setting.enabled);
    assert_eq!(received[..], [(ParticipantSid::from("PA_a"), 7)]);
}

#[test]
fn a_duplicate_identity_evicts_the_earlier_session_and_others_see_a_new_stay() {
    let mut edge = Edge::new("fra-1");
    let (bob, first) = (edge.connect("bob"), edge.connect("ann"));
    let old = edge.clients[first].sid.clone();
    edge.heard(bob);
    edge.connect("ann");
    let heard = edge.heard(bob);
    let seen: Vec<_> = updates(&heard)
        .iter()
        .map(|p| (p.sid == old.as_str(), p.state(), p.disconnect_reason()))
        .collect();
    let unknown = proto::DisconnectReason::UnknownReason;
    assert_eq!(
        seen,
        [
            (true, State::Disconnected, proto::DisconnectReason::DuplicateIdentity),
            (false, State::Joined, unknown)
        ]
    );
    // On the edge the node evicts from `Joined::evicted`; across edges the room says so.
    let mut far = Edge::new("sin-1");
    far.sync_from(&edge);
    edge.sync_from(&far);
    let watcher = far.connect("watcher");
    let moved = far.connect("ann");
    far.heard(watcher);
    edge.heard(bob);
    edge.sync_from(&far);
    let client = edge.clients.len() - 1;
    let heard = edge.heard(client);
    let leave = heard
        .iter()
        .find_map(|say| if let Say::Leave(leave) = say { Some(leave) } else { None });
    assert_eq!(
        leave.map(|l| (l.reason(), l.action())),
        Some((
            proto::DisconnectReason::DuplicateIdentity,
            proto::leave_request::Action::Disconnect
        ))
    );
    assert!(edge.clients[client].session.has_left());
    // The move to another edge is no departure.
    let heard = edge.heard(bob);
    let about: Vec<_> = updates(&heard).into_iter().filter(|p| p.identity == "ann").collect();
    assert!(about.iter().all(|p| p.state() != State::Disconnected));
    assert_eq!(
        about.last().map(|p| p.sid.as_str()),
        Some(far.clients[moved].sid.as_str())
    );
}

#[test]
fn a_move_to_another_room_replaces_everything() {
    let mut edge = Edge::new("fra-1");
    let (ann, bob) = (edge.connect("ann"), edge.connect("bob"));
    let track = edge.publish(ann, camera("c"), "3");
    edge.heard(bob);
    edge.acted(bob);
    let mut breakout = Edge::new("fra-1");
    let cid = breakout.connect("cid");
    let other = breakout.publish(cid, camera("c"), "3");
    let client = &mut edge.clients[bob];
    let sid = ParticipantSid::from("PA_moved");
    breakout
        .room
        .join(breakout.now, NOW_MS, client.session.new_participant(sid.clone()))
        .expect("join");
    let actions = client
        .session
        .room_moved(&breakout.room, &sid, "jwt".into())
        .expect("protocol 17");
    assert_eq!(
        actions,
        [Action::Unsubscribe { track }, Action::Subscribe { track: other }]
    );
    let Some(Frame::Binary(frame)) = client.session.poll_frame() else {
        panic!()
    };
    let Some(Say::RoomMoved(moved)) = proto::SignalResponse::decode(frame).expect("ours").message else {
        panic!()
    };
    assert_eq!(moved.participant.map(|p| p.sid), Some("PA_moved".into()));
    assert_eq!((moved.token.as_str(), moved.other_participants.len()), ("jwt", 1));
}

#[test]
fn text_frames_are_answered_in_json_until_binary_is_seen() {
    let mut edge = Edge::new("fra-1");
    let ann = edge.connect("ann");
    edge.heard(ann);
    let session = &mut edge.clients[ann].session;
    let text = r#"{"pingReq":{"timestamp":"12","rtt":"3"},"somethingNew":1}"#;
    session
        .handle(&edge.room, NOW_MS, Frame::Text(text.into()))
        .expect("valid");
    let Some(Frame::Text(json)) = session.poll_frame() else {
        panic!("answered in JSON")
    };
    let parsed: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(parsed["pongResp"]["lastPingTimestamp"], "12");
    let binary = proto::SignalRequest {
        message: Some(Ask::Ping(1)),
    }
    .encode_to_vec();
    session
        .handle(&edge.room, NOW_MS, Frame::Binary(binary.into()))
        .expect("valid");
    assert!(matches!(session.poll_frame(), Some(Frame::Binary(_))));
}

#[test]
fn tracks_and_offer_in_the_connect_request_are_handled_after_the_join_response() {
    let mut edge = Edge::new("fra-1");
    let offer = proto::SessionDescription {
        r#type: "offer".into(),
        sdp: "v=0".into(),
        id: 1,
        ..Default::default()
    };
    let connect = ConnectRequest {
        add_tracks: vec![microphone("m")],
        offer: Some(offer),
        ..request()
    };
    let ann = edge.connect_with(claims("ann"), connect);
    assert!(matches!(&edge.heard(ann)[..2], [Say::Join(_), Say::TrackPublished(_)]));
    assert!(matches!(
        &edge.acted(ann)[..],
        [Action::AddTrack { .. }, Action::Offer { id: 1, .. }]
    ));
}

#[test]
fn older_clients_are_spared_messages_they_do_not_know() {
    let mut edge = Edge::new("fra-1");
    let old = proto::ClientInfo {
        protocol: 14,
        ..Default::default()
    };
    let ann = edge.connect_with(
        claims("ann"),
        ConnectRequest {
            client: old,
            ..request()
        },
    );
    edge.heard(ann);
    let update = proto::UpdateParticipantMetadata {
        name: "A".into(),
        ..Default::default()
    };
    edge.ask(ann, Ask::UpdateMetadata(update));
    assert!(!edge.heard(ann).iter().any(|say| matches!(say, Say::RequestResponse(_))));
    let client = &mut edge.clients[ann];
    assert_eq!(client.session.room_moved(&edge.room, &client.sid, String::new()), None);
}
