//! Tracks: announced, matched, shown, subscribed to.

mod support;

use livekit_protocol as proto;
use meridian_room::*;
use meridian_signalling::*;
use proto::request_response::{Reason, Request};
use support::*;

#[test]
fn a_track_is_answered_at_once_and_shown_to_others_when_its_media_is_ready() {
    let mut edge = Edge::new("fra-1");
    let (ann, bob) = (edge.connect("ann"), edge.connect("bob"));
    edge.heard(ann);
    edge.heard(bob);
    edge.acted(bob);
    let actions = edge.ask(ann, Ask::AddTrack(camera("c1")));
    assert!(matches!(
        &actions[..],
        [Action::AddTrack {
            kind: TrackKind::Video,
            ..
        }]
    ));
    let heard = edge.heard(ann);
    let [Say::TrackPublished(published)] = &heard[..] else {
        panic!("{heard:?}")
    };
    let track = published.track.as_ref().expect("track");
    assert_eq!(published.cid, "c1");
    assert_eq!(
        (track.encryption(), track.packet_trailer_features.clone()),
        (proto::encryption::Type::Gcm, vec![1])
    );
    let rids: Vec<_> = track.codecs[0]
        .layers
        .iter()
        .map(|l| (l.rid.as_str(), l.width))
        .collect();
    assert_eq!(rids, [("q", 320), ("h", 640), ("f", 1280)]);
    // Asking again changes nothing.
    assert_eq!(edge.ask(ann, Ask::AddTrack(camera("c1"))), []);
    assert_eq!(edge.heard(ann), [Say::TrackPublished(published.clone())]);
    assert!(edge.heard(bob).is_empty());
    // Muted before it starts.
    edge.ask(
        ann,
        Ask::Mute(proto::MuteTrackRequest {
            sid: track.sid.clone(),
            muted: true,
        }),
    );
    let key = PublicationKey {
        cid: "c1",
        stream_id: "",
        mid: "8",
        mime: "video/VP8",
        kind: TrackKind::Video,
        rids: &[],
    };
    let matched = edge.clients[ann].session.match_publication(key).expect("announced");
    assert!(matched.track.muted && matched.backup.is_none());
    assert_eq!(edge.clients[ann].session.match_publication(key), None);
    let sid = edge.clients[ann].sid.clone();
    edge.room.publish_track(&sid, matched.track).expect("new");
    edge.pump();
    let heard = edge.heard(bob);
    let shown = updates(&heard);
    assert_eq!(
        shown.last().map(|p| (p.tracks[0].sid.clone(), p.tracks[0].muted)),
        Some((track.sid.clone(), true))
    );
    assert_eq!(
        edge.acted(bob),
        [Action::Subscribe {
            track: TrackSid::from(track.sid.as_str())
        }]
    );
    edge.clients[ann]
        .session
        .track_subscribed(&TrackSid::from(track.sid.as_str()));
    edge.clients[ann]
        .session
        .track_subscribed(&TrackSid::from(track.sid.as_str()));
    edge.pump();
    let told = edge
        .heard(ann)
        .into_iter()
        .filter(|say| matches!(say, Say::TrackSubscribed(_)))
        .count();
    assert_eq!(told, 1);
}

#[test]
fn a_track_renamed_in_the_sdp_is_found_by_its_kind() {
    let mut edge = Edge::new("fra-1");
    let ann = edge.connect("ann");
    edge.ask(ann, Ask::AddTrack(microphone("m")));
    edge.ask(ann, Ask::AddTrack(camera("c")));
    let session = &mut edge.clients[ann].session;
    let key = PublicationKey {
        cid: "{renamed}",
        stream_id: "-",
        mid: "6",
        mime: "video/VP9",
        kind: TrackKind::Video,
        rids: &[],
    };
    let track = session.match_publication(key).expect("by kind").track;
    assert_eq!(
        (track.mime.as_str(), track.codecs[0].sdp_cid.as_str()),
        ("video/VP9", "{renamed}")
    );
    assert_eq!(
        session.match_publication(key),
        None,
        "audio is no answer to a video section"
    );
}

#[test]
fn a_backup_codec_joins_its_track() {
    let mut edge = Edge::new("fra-1");
    let ann = edge.connect("ann");
    let mut request = camera("c1");
    request.simulcast_codecs[0].codec = "vp9".into();
    request.simulcast_codecs.push(proto::SimulcastCodec {
        codec: "vp8".into(),
        ..Default::default()
    });
    let track = edge.publish(ann, request, "5");
    edge.heard(ann);
    let backup = proto::AddTrackRequest {
        sid: track.as_str().into(),
        simulcast_codecs: vec![proto::SimulcastCodec {
            codec: "vp8".into(),
            cid: "c2".into(),
            ..Default::default()
        }],
        ..camera("c2")
    };
    edge.ask(ann, Ask::AddTrack(backup));
    let heard = edge.heard(ann);
    let [Say::TrackPublished(published)] = &heard[..] else {
        panic!("{heard:?}")
    };
    assert_eq!(published.cid, "c2");
    assert_eq!(
        published.track.as_ref().map(|t| (t.sid.as_str(), t.codecs.len())),
        Some((track.as_str(), 2))
    );
    let key = PublicationKey {
        cid: "c2",
        stream_id: "",
        mid: "9",
        mime: "video/VP8",
        kind: TrackKind::Video,
        rids: &[],
    };
    let matched = edge.clients[ann].session.match_publication(key).expect("announced");
    assert_eq!((matched.track.sid, matched.backup), (track, Some(1)));
}

#[test]
fn publishing_is_checked_against_grants_and_limits() {
    let mut edge = Edge::new("fra-1");
    let mut listener = claims("ann");
    listener.video.as_mut().expect("grants").can_publish_sources = vec!["microphone".into()];
    let ann = edge.connect_with(listener, request());
    edge.heard(ann);
    edge.ask(ann, Ask::AddTrack(camera("c")));
    let heard = edge.heard(ann);
    let [Say::RequestResponse(refused)] = &heard[..] else {
        panic!("{heard:?}")
    };
    assert!(matches!(
        (refused.reason(), &refused.request),
        (Reason::NotAllowed, Some(Request::AddTrack(_)))
    ));
    for i in 0..limits::TRACKS {
        edge.ask(ann, Ask::AddTrack(microphone(&format!("m{i}"))));
    }
    edge.heard(ann);
    for (request, reason) in [
        (microphone("one more"), Reason::LimitExceeded),
        (microphone(""), Reason::InvalidRequest),
        (microphone(&"x".repeat(1000)), Reason::InvalidRequest),
        (
            proto::AddTrackRequest {
                r#type: 2,
                ..microphone("d")
            },
            Reason::UnsupportedType,
        ),
    ] {
        edge.ask(ann, Ask::AddTrack(request));
        let heard = edge.heard(ann);
        assert!(
            matches!(&heard[..], [Say::RequestResponse(refused)] if refused.reason() == reason),
            "{heard:?}"
        );
    }
}

#[test]
fn subscriptions_follow_wish_and_permission() {
    let mut edge = Edge::new("fra-1");
    let ann = edge.connect("ann");
    let track = edge.publish(ann, camera("c"), "3");
    let bob = edge.connect_with(
        claims("bob"),
        ConnectRequest {
            auto_subscribe: false,
            ..request()
        },
    );
    assert_eq!(edge.acted(bob), []);
    let update = |subscribe| {
        Ask::Subscription(proto::UpdateSubscription {
            subscribe,
            participant_tracks: vec![proto::ParticipantTracks {
                track_sids: vec![track.as_str().into()],
                ..Default::default()
            }],
            ..Default::default()
        })
    };
    let on = Action::Subscribe { track: track.clone() };
    let off = Action::Unsubscribe { track: track.clone() };
    assert_eq!(edge.ask(bob, update(true)), std::slice::from_ref(&on));
    assert_eq!(edge.ask(bob, update(true)), []);
    assert_eq!(edge.clients[bob].session.wanted_tracks().collect::<Vec<_>>(), [&track]);
    assert_eq!(edge.ask(bob, update(false)), std::slice::from_ref(&off));
    edge.ask(bob, update(true));
    // Ann lets nobody but Cid subscribe.
    edge.acted(bob);
    edge.heard(bob);
    let rule = proto::TrackPermission {
        participant_identity: "cid".into(),
        all_tracks: true,
        ..Default::default()
    };
    let only_cid = proto::SubscriptionPermission {
        all_participants: false,
        track_permissions: vec![rule],
    };
    edge.ask(ann, Ask::SubscriptionPermission(only_cid));
    assert_eq!(edge.acted(bob), [off]);
    let denied = |say: &Say, to: bool| matches!(say, Say::SubscriptionPermissionUpdate(u) if u.allowed == to);
    assert!(edge.heard(bob).iter().any(|say| denied(say, false)));
    let cid = edge.connect("cid");
    assert_eq!(edge.acted(cid), std::slice::from_ref(&on));
    edge.ask(
        ann,
        Ask::SubscriptionPermission(proto::SubscriptionPermission {
            all_participants: true,
            ..Default::default()
        }),
    );
    assert_eq!(edge.acted(bob), [on]);
    assert!(edge.heard(bob).iter().any(|say| denied(say, true)));
    // Unknown tracks.
    let unknown = proto::UpdateSubscription {
        track_sids: vec!["TR_x".into()],
        subscribe: true,
        ..Default::default()
    };
    edge.ask(bob, Ask::Subscription(unknown));
    let not_found = proto::SubscriptionError::SeTrackNotfound;
    assert!(
        edge.heard(bob)
            .iter()
            .any(|say| matches!(say, Say::SubscriptionResponse(r) if r.err() == not_found))
    );
}

#[test]
fn a_viewer_without_the_right_to_subscribe_receives_nothing_until_it_is_given() {
    let mut edge = Edge::new("fra-1");
    let ann = edge.connect("ann");
    let track = edge.publish(ann, camera("c"), "3");
    let mut muted = claims("bob");
    muted.video.as_mut().expect("grants").can_subscribe = Some(false);
    let bob = edge.connect_with(muted, request());
    assert_eq!(edge.acted(bob), []);
    let sid = edge.clients[bob].sid.clone();
    let permission = Permission {
        can_subscribe: true,
        ..Permission::default()
    };
    let update = ParticipantUpdate {
        permission: Some(permission),
        ..Default::default()
    };
    edge.room.update_participant(&sid, update).expect("here");
    edge.pump();
    assert_eq!(edge.acted(bob), [Action::Subscribe { track }]);
}

#[test]
fn track_settings_reach_the_node_for_received_tracks_only() {
    let mut edge = Edge::new("fra-1");
    let (ann, bob) = (edge.connect("ann"), edge.connect("bob"));
    let track = edge.publish(ann, camera("c"), "3");
    let settings = proto::UpdateTrackSettings {
        track_sids: vec![track.as_str().into(), "TR_other".into()],
        quality: proto::VideoQuality::Medium as i32,
        width: 640,
        height: 360,
        fps: 15,
        ..Default::default()
    };
    let actions = edge.ask(bob, Ask::TrackSetting(settings.clone()));
    let [Action::TrackSetting { track: of, setting }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(*of, track);
    assert_eq!(
        (setting.enabled, setting.quality, setting.width, setting.fps),
        (true, Some(1), 640, 15)
    );
    let actions = edge.ask(
        bob,
        Ask::TrackSetting(proto::UpdateTrackSettings {
            disabled: true,
            ..settings
        }),
    );
    assert!(matches!(&actions[..], [Action::TrackSetting { setting, .. }] if !setting.enabled));
}

#[test]
fn an_edge_that_takes_a_session_over_gives_the_tracks_their_sids_back() {
    let mut lost = Edge::new("fra-1");
    let ann = lost.connect("ann");
    let track = lost.publish(ann, camera("c1"), "3");
    let watcher = lost.connect("watcher");
    let info = meridian_signalling::convert::track_info(lost.room.track(&track).expect("published").1);
    let mut edge = Edge::new("sin-1");
    edge.sync_from(&lost);
    let old = &lost.clients[ann];
    let mut session = Session::new(SessionConfig::new("sin-1", "sin", [9; 32]), request(), claims("ann"));
    let again = session.new_participant(old.sid.clone());
    edge.room.join(edge.now, NOW_MS, again).expect("join");
    let state = proto::SyncState {
        publish_tracks: vec![proto::TrackPublishedResponse {
            cid: "c1".into(),
            track: Some(info),
        }],
        ..Default::default()
    };
    let resume = ConnectRequest {
        reconnect: true,
        sync_state: Some(state),
        ..request()
    };
    let actions = session.resume(&edge.room, &old.sid, resume);
    assert_eq!(
        actions.first(),
        Some(&Action::AddTrack {
            track: track.clone(),
            kind: TrackKind::Video
        })
    );
    let key = PublicationKey {
        cid: "c1",
        stream_id: "",
        mid: "3",
        mime: "video/VP8",
        kind: TrackKind::Video,
        rids: &[],
    };
    let matched = session.match_publication(key).expect("restored");
    assert_eq!(
        (matched.track.sid.clone(), matched.track.layers.len()),
        (track.clone(), 3)
    );
    edge.room.publish_track(&old.sid, matched.track).expect("new");
    edge.pump();
    lost.sync_from(&edge);
    let heard = lost.heard(watcher);
    let about: Vec<_> = updates(&heard).into_iter().filter(|p| p.identity == "ann").collect();
    assert!(
        about
            .iter()
            .all(|p| p.state() != proto::participant_info::State::Disconnected)
    );
    assert_eq!(about.last().map(|p| p.tracks[0].sid.as_str()), Some(track.as_str()));
}
