//! Answers to offers recorded from Chromium 156, Firefox 153 and the Python SDK 1.2.1 (libwebrtc). The same flow was accepted
//! by the two browsers themselves (examples/sdp_answer.rs answers for them).

use std::collections::HashSet;

use meridian_sfu::media::{Codec, MediaKind};
use meridian_transport::sdp::{
    Answer, AudioPreferences, LocalMedia, Negotiation, SdpError, SectionsRequired, SsrcInfo, Survey, WantedTrack,
};
use meridian_transport::{DtlsRole, Fingerprint, IceCredentials};
use proptest::prelude::*;

const CHROMIUM_JOIN: &str = include_str!("fixtures/chromium-156-join.sdp");
const CHROMIUM_PUBLISHED: &str = include_str!("fixtures/chromium-156-published.sdp");
const CHROMIUM_UNPUBLISHED: &str = include_str!("fixtures/chromium-156-unpublished.sdp");
const CHROMIUM_ICE_RESTART: &str = include_str!("fixtures/chromium-156-ice-restart.sdp");
const FIREFOX_JOIN: &str = include_str!("fixtures/firefox-153-join.sdp");
const FIREFOX_PUBLISHED: &str = include_str!("fixtures/firefox-153-published.sdp");
const NATIVE_JOIN: &str = include_str!("fixtures/python-1.2.1-join.sdp");
const ALL: [&str; 7] = [
    CHROMIUM_JOIN,
    CHROMIUM_PUBLISHED,
    CHROMIUM_UNPUBLISHED,
    CHROMIUM_ICE_RESTART,
    FIREFOX_JOIN,
    FIREFOX_PUBLISHED,
    NATIVE_JOIN,
];

#[test]
fn a_join_offer_is_answered_with_idle_sections_and_data_channels() {
    for offer in [CHROMIUM_JOIN, FIREFOX_JOIN, NATIVE_JOIN] {
        let answer = Negotiation::new(1).answer(offer, &local()).unwrap();
        assert_invariants(offer, &answer.sdp);
        assert!(answer.has_data && answer.publications.is_empty() && answer.subscriptions.is_empty());
        assert!(!answer.remote.restarted && !answer.remote.dtls_changed);
        assert_eq!(answer.sdp.matches("a=inactive").count(), 6);
        assert_eq!(answer.sdp.matches("a=setup:passive").count(), 7);
        assert!(answer.sdp.contains("a=ice-lite") && answer.sdp.contains("a=group:BUNDLE 0 1 2 3 4 5 6\r\n"));
        assert!(
            answer
                .sdp
                .contains("m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n")
        );
        assert!(answer.sdp.contains("a=sctp-port:5000\r\na=max-message-size:64000\r\n"));
        // Candidates stand in the tagged section alone.
        assert_eq!(answer.sdp.matches("a=candidate:").count(), 2);
        assert!(section(&answer.sdp, "0").contains("a=candidate:1 1 udp 2130706431 192.0.2.1 7881 typ host"));
        assert!(section(&answer.sdp, "0").contains("a=end-of-candidates"));
    }
}

#[test]
fn subscriptions_go_to_free_sections_with_msid_ssrc_and_rtx() {
    for offer in [CHROMIUM_JOIN, FIREFOX_JOIN, NATIVE_JOIN] {
        let mut negotiation = Negotiation::new(2);
        negotiation.subscribe(track(1, MediaKind::Audio, &[Codec::Opus]));
        negotiation.subscribe(track(2, MediaKind::Video, &[Codec::Vp8]));
        let answer = negotiation.answer(offer, &local()).unwrap();
        assert_invariants(offer, &answer.sdp);
        assert_eq!(
            answer.mid_to_track,
            [("0".into(), "TR_1".into()), ("3".into(), "TR_2".into())]
        );
        let video = &answer.subscriptions[1];
        assert_eq!(
            (video.key, video.payloads.len(), video.payloads[0].codec),
            (2, 1, Codec::Vp8)
        );
        assert!(video.payloads[0].rtx_pt.is_some() && video.extensions.mid.is_some());
        let text = section(&answer.sdp, "3");
        assert!(text.contains("a=sendonly") && text.contains("a=msid:PA_2|TR_2 TR_2\r\n"));
        assert!(text.contains(&format!("a=ssrc-group:FID {} {}\r\n", video.ssrc, video.rtx_ssrc)));
        assert!(text.contains(&format!("a=ssrc:{} cname:PA_2|TR_2\r\n", video.ssrc)));
        assert!(section(&answer.sdp, "0").contains("useinbandfec=1"));
        assert!(!negotiation.needs_reoffer());
    }
}

#[test]
fn a_published_camera_keeps_its_rids_and_every_video_section_echoes_them() {
    let answer = Negotiation::new(3).answer(CHROMIUM_PUBLISHED, &local()).unwrap();
    assert_invariants(CHROMIUM_PUBLISHED, &answer.sdp);
    let [camera, microphone] = answer.publications.as_slice() else {
        panic!("two publications")
    };
    assert_eq!(
        (camera.kind, camera.rids.join(","), camera.active),
        (MediaKind::Video, "q,h,f".into(), true)
    );
    assert_eq!(camera.cid, "652740ca-4682-4935-90b4-60fd70a66c70");
    assert!(camera.ssrcs.is_empty() && camera.payloads[0].codec == Codec::Vp8);
    let codecs: Vec<Codec> = camera.payloads.iter().map(|payload| payload.codec).collect();
    for codec in [Codec::Vp9 { profile: 0 }, Codec::Av1] {
        assert!(codecs.contains(&codec));
    }
    for packetization_mode in [0, 1] {
        assert!(codecs.contains(&Codec::H264 {
            profile_level_id: 0x42e01f,
            packetization_mode
        }));
    }
    assert!(camera.payloads.iter().all(|payload| payload.rtx_pt.is_some()));
    assert_eq!(microphone.payloads[0].codec, Codec::Opus);
    assert!(
        microphone
            .payloads
            .iter()
            .any(|payload| payload.pt == 63 && payload.codec == Codec::Red)
    );
    let text = section(&answer.sdp, "7");
    assert!(
        text.contains("a=recvonly") && text.contains("a=simulcast:recv q;h;f\r\n") && text.contains("a=rid:q recv")
    );
    for mid in ["3", "4", "5", "7"] {
        let text = section(&answer.sdp, mid);
        for uri in ["sdes:mid", "sdes:rtp-stream-id", "sdes:repaired-rtp-stream-id"] {
            assert!(text.contains(uri), "{uri} in {mid}");
        }
    }
}

#[test]
fn a_layer_that_the_client_paused_is_answered_paused_and_in_its_place() {
    let offer = CHROMIUM_PUBLISHED.replace("a=simulcast:send q;h;f", "a=simulcast:send ~f;h;q");
    assert_ne!(offer, CHROMIUM_PUBLISHED);
    let answer = Negotiation::new(3).answer(&offer, &local()).unwrap();
    assert!(section(&answer.sdp, "7").contains("a=simulcast:recv ~f;h;q\r\n"));
    let camera = answer
        .publications
        .iter()
        .find(|publication| publication.mid == "7")
        .unwrap();
    assert_eq!(camera.rids, ["q", "h", "f"], "low to high, whatever the order");
}

#[test]
fn layers_with_names_of_their_own_go_by_the_sizes_that_were_told() {
    let offer = CHROMIUM_PUBLISHED
        .replace("a=rid:q send", "a=rid:top send")
        .replace("a=rid:h send", "a=rid:middle send")
        .replace("a=rid:f send", "a=rid:low send")
        .replace("send q;h;f", "send top;middle;low");
    let mut negotiation = Negotiation::new(3);
    let first = negotiation.answer(&offer, &local()).unwrap();
    let camera = first
        .publications
        .iter()
        .find(|publication| publication.mid == "7")
        .unwrap();
    assert_eq!(camera.rids, ["top", "middle", "low"], "nothing is known yet");
    negotiation.prefer_layers(&camera.cid, ["low", "middle", "top"].map(String::from).to_vec());
    let second = negotiation.answer(&offer, &local()).unwrap();
    let camera = second
        .publications
        .iter()
        .find(|publication| publication.mid == "7")
        .unwrap();
    assert_eq!(camera.rids, ["low", "middle", "top"]);
}

#[test]
fn firefox_declares_ssrcs_beside_its_rids() {
    let answer = Negotiation::new(3).answer(FIREFOX_PUBLISHED, &local()).unwrap();
    assert_invariants(FIREFOX_PUBLISHED, &answer.sdp);
    let camera = &answer.publications[0];
    assert_eq!(camera.rids, ["q", "h", "f"]);
    assert_eq!(
        camera.ssrcs[0],
        SsrcInfo {
            ssrc: 2698289851,
            rtx: Some(1004713594)
        }
    );
    assert_eq!(camera.ssrcs.len(), 3);
    // Restricted to one direction by the client, and answered with the other.
    assert!(camera.extensions.rid.is_some() && camera.extensions.playout_delay.is_none());
    assert!(section(&answer.sdp, "7").contains("a=extmap:9/recvonly urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"));
}

#[test]
fn an_ended_subscription_leaves_its_section_inactive_before_another_takes_it() {
    let mut negotiation = Negotiation::new(4);
    for key in 1..=3 {
        negotiation.subscribe(track(key, MediaKind::Video, &[Codec::Vp8]));
    }
    let first = negotiation.answer(CHROMIUM_JOIN, &local()).unwrap();
    negotiation.unsubscribe(2);
    negotiation.subscribe(track(4, MediaKind::Video, &[Codec::Vp8]));
    assert!(negotiation.needs_reoffer());
    assert_eq!(
        negotiation.sections_required(),
        SectionsRequired { audios: 0, videos: 1 }
    );

    let second = negotiation.answer(CHROMIUM_JOIN, &local()).unwrap();
    assert!(section(&second.sdp, "4").contains("a=inactive"));
    assert_eq!(second.subscriptions.len(), 2);
    assert_eq!(
        negotiation.sections_required(),
        SectionsRequired::default(),
        "a section has come free"
    );
    assert!(negotiation.needs_reoffer());

    let third = negotiation.answer(CHROMIUM_JOIN, &local()).unwrap();
    assert!(section(&third.sdp, "4").contains("a=msid:PA_4|TR_4 TR_4"));
    assert!(!negotiation.needs_reoffer());
    let kept = |answer: &Answer| answer.subscriptions.iter().find(|media| media.key == 1).cloned();
    assert_eq!(kept(&first), kept(&third), "the others keep their section and SSRC");
    let ssrcs: HashSet<u32> = [&first, &third]
        .iter()
        .flat_map(|answer| answer.subscriptions.iter())
        .flat_map(|media| [media.ssrc, media.rtx_ssrc])
        .collect();
    assert_eq!(ssrcs.len(), 8, "no SSRC is used for two tracks");
}

#[test]
fn missing_sections_are_counted_and_never_beyond_the_limit() {
    let mut negotiation = Negotiation::new(5);
    negotiation.answer(CHROMIUM_JOIN, &local()).unwrap();
    for key in 0..200 {
        negotiation.subscribe(track(
            key,
            if key < 5 { MediaKind::Audio } else { MediaKind::Video },
            &[],
        ));
    }
    assert_eq!(
        negotiation.sections_required(),
        SectionsRequired { audios: 2, videos: 55 }
    );
    let answer = negotiation.answer(CHROMIUM_JOIN, &local()).unwrap();
    assert_eq!(answer.subscriptions.len(), 6);
    assert_eq!(answer.mid_to_track[5].1, "TR_7");
}

#[test]
fn unpublishing_is_reported_once_and_then_forgotten() {
    let mut negotiation = Negotiation::new(6);
    negotiation.answer(CHROMIUM_PUBLISHED, &local()).unwrap();
    let answer = negotiation.answer(CHROMIUM_UNPUBLISHED, &local()).unwrap();
    let states: Vec<(&str, bool)> = answer.publications.iter().map(|p| (p.mid.as_str(), p.active)).collect();
    assert_eq!(states, [("7", false), ("8", true)]);
    assert!(section(&answer.sdp, "7").contains("a=inactive"));
    let answer = negotiation.answer(CHROMIUM_UNPUBLISHED, &local()).unwrap();
    assert_eq!(answer.publications.len(), 1);
}

#[test]
fn an_ice_restart_and_a_new_certificate_are_told_apart() {
    let mut negotiation = Negotiation::new(7);
    let first = negotiation.answer(CHROMIUM_PUBLISHED, &local()).unwrap();
    let seen = negotiation.inspect(CHROMIUM_ICE_RESTART).unwrap();
    assert!(seen.restarted && !seen.dtls_changed && seen.ice != first.remote.ice);
    assert!(
        negotiation.inspect(CHROMIUM_ICE_RESTART).unwrap().restarted,
        "looking changes nothing"
    );
    assert!(
        negotiation
            .answer(CHROMIUM_ICE_RESTART, &local())
            .unwrap()
            .remote
            .restarted
    );
    assert!(!negotiation.inspect(CHROMIUM_ICE_RESTART).unwrap().restarted);
    let other = Fingerprint([7; 32]).to_string();
    let renewed = CHROMIUM_ICE_RESTART.replace(&first.remote.fingerprint.to_string(), &other);
    assert!(negotiation.inspect(&renewed).unwrap().dtls_changed);
}

#[test]
fn rejected_unknown_and_unbundled_sections_are_rejected_and_the_rest_lives() {
    let offer = CHROMIUM_JOIN
        .replacen("m=audio 9 ", "m=audio 0 ", 1)
        .replacen(
            "m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126\r\n",
            "m=text 9 RTP/AVP 98\r\n",
            1,
        )
        .replace("BUNDLE 0 1 2 3 4 5 6", "BUNDLE 0 1 2 4 5 6");
    let mut negotiation = Negotiation::new(8);
    negotiation.subscribe(track(1, MediaKind::Audio, &[]));
    negotiation.subscribe(track(2, MediaKind::Video, &[]));
    let answer = negotiation.answer(&offer, &local()).unwrap();
    assert_invariants(&offer, &answer.sdp);
    assert!(answer.sdp.contains("a=group:BUNDLE 2 4 5 6\r\n"));
    assert_eq!(
        answer.mid_to_track,
        [("2".into(), "TR_1".into()), ("4".into(), "TR_2".into())]
    );
    assert!(answer.sdp.contains("m=text 0 RTP/AVP 98\r\n"));
    assert!(
        section(&answer.sdp, "2").contains("a=candidate:"),
        "the first accepted section is the tagged one"
    );
}

#[test]
fn a_section_the_client_takes_back_sends_its_subscription_to_another() {
    let mut negotiation = Negotiation::new(9);
    negotiation.subscribe(track(1, MediaKind::Video, &[]));
    let first = negotiation.answer(CHROMIUM_JOIN, &local()).unwrap();
    assert_eq!(first.mid_to_track[0].0, "3");
    let cut = CHROMIUM_JOIN.find("a=mid:3").unwrap();
    let taken = format!(
        "{}{}",
        &CHROMIUM_JOIN[..cut],
        CHROMIUM_JOIN[cut..].replacen("a=recvonly", "a=sendrecv", 1)
    );
    let second = negotiation.answer(&taken, &local()).unwrap();
    assert_invariants(&taken, &second.sdp);
    assert_eq!(second.mid_to_track, [("4".into(), "TR_1".into())]);
    assert_ne!(second.subscriptions[0].ssrc, first.subscriptions[0].ssrc);
    assert!(section(&second.sdp, "3").contains("a=recvonly") && second.publications.len() == 1);
    // And when it stops sending there, the section is dead for one answer before it is lent again.
    negotiation.subscribe(track(2, MediaKind::Video, &[]));
    negotiation.subscribe(track(3, MediaKind::Video, &[]));
    let third = negotiation.answer(CHROMIUM_JOIN, &local()).unwrap();
    assert!(!third.publications[0].active && third.subscriptions.len() == 2);
    assert!(negotiation.needs_reoffer());
    let fourth = negotiation.answer(CHROMIUM_JOIN, &local()).unwrap();
    assert!(fourth.publications.is_empty() && fourth.subscriptions.len() == 3);
}

#[test]
fn a_codec_the_client_lacks_drops_the_subscription_and_says_so() {
    let mut negotiation = Negotiation::new(10);
    let h264 = Codec::H264 {
        profile_level_id: 0x42e01f,
        packetization_mode: 1,
    };
    negotiation.subscribe(track(1, MediaKind::Video, &[h264]));
    negotiation.subscribe(track(2, MediaKind::Video, &[Codec::Vp8]));
    let answer = negotiation.answer(FIREFOX_JOIN, &local()).unwrap();
    assert_eq!(answer.unsupported, [1]);
    assert_eq!(answer.subscriptions.len(), 1);
    assert!(!negotiation.needs_reoffer());
}

#[test]
fn a_publisher_who_changes_codec_needs_a_new_answer_on_the_same_stream() {
    let mut negotiation = Negotiation::new(13);
    negotiation.subscribe(track(1, MediaKind::Video, &[Codec::Vp8]));
    let first = negotiation.answer(CHROMIUM_JOIN, &local()).unwrap();
    negotiation.subscribe(track(1, MediaKind::Video, &[Codec::Vp8]));
    assert!(!negotiation.needs_reoffer());
    negotiation.subscribe(track(1, MediaKind::Video, &[Codec::Av1, Codec::Vp8]));
    assert!(negotiation.needs_reoffer());
    let second = negotiation.answer(CHROMIUM_JOIN, &local()).unwrap();
    let codecs: Vec<Codec> = second.subscriptions[0]
        .payloads
        .iter()
        .map(|payload| payload.codec)
        .collect();
    assert_eq!(codecs, [Codec::Av1, Codec::Vp8]);
    assert_eq!(first.subscriptions[0].ssrc, second.subscriptions[0].ssrc);
    assert!(!negotiation.needs_reoffer());
}

#[test]
fn a_microphone_is_told_to_be_silent_or_stereo_as_its_publisher_asked() {
    let mut negotiation = Negotiation::new(11);
    let cid = negotiation.answer(CHROMIUM_PUBLISHED, &local()).unwrap().publications[1]
        .cid
        .clone();
    negotiation.prefer_audio(
        &cid,
        AudioPreferences {
            dtx: true,
            stereo: true,
        },
    );
    let answer = negotiation.answer(CHROMIUM_PUBLISHED, &local()).unwrap();
    assert!(section(&answer.sdp, "8").contains("a=fmtp:111 minptime=10;useinbandfec=1;usedtx=1;stereo=1\r\n"));
    assert!(section(&answer.sdp, "0").contains("a=fmtp:111 minptime=10;useinbandfec=1\r\n"));
}

#[test]
fn a_camera_is_answered_with_the_codec_its_publisher_asked_for_first() {
    let mut negotiation = Negotiation::new(12);
    let first = negotiation.answer(CHROMIUM_PUBLISHED, &local()).unwrap().publications[0].clone();
    assert_eq!((first.mid.as_str(), first.payloads[0].codec), ("7", Codec::Vp8));
    negotiation.prefer_video(&first.cid, "video/av1");
    let answer = negotiation.answer(CHROMIUM_PUBLISHED, &local()).unwrap();
    let camera = &answer.publications[0];
    assert_eq!(camera.payloads[0].codec, Codec::Av1);
    assert_eq!(camera.payloads.len(), first.payloads.len(), "the others stay");
    let line = section(&answer.sdp, "7").lines().next().unwrap().to_owned();
    let named = line.split(' ').nth(3).unwrap();
    assert_eq!(named, camera.payloads[0].pt.to_string(), "{line}");
}

#[test]
fn who_offers_to_wait_in_dtls_is_answered_active_and_keeps_that_role() {
    let passive = CHROMIUM_JOIN.replace("setup:actpass", "setup:passive");
    let mut negotiation = Negotiation::new(13);
    let answer = negotiation.answer(&passive, &local()).unwrap();
    assert_eq!(answer.remote.role, DtlsRole::Client);
    assert_eq!(answer.sdp.matches("a=setup:active").count(), 7);
    let again = negotiation.answer(CHROMIUM_JOIN, &local()).unwrap();
    assert_eq!(again.remote.role, DtlsRole::Client, "the handshake is done");
}

#[test]
fn a_survey_says_what_an_offer_would_do_and_what_cannot_be_accepted() {
    let survey = Survey::of(CHROMIUM_JOIN).unwrap();
    assert_eq!((survey.sends.len(), survey.receives.len()), (0, 6));
    let survey = Survey::of(CHROMIUM_PUBLISHED).unwrap();
    assert_eq!(survey.sends, [MediaKind::Video, MediaKind::Audio]);
    assert!(survey.refused.is_empty());
    let survey = Survey::of(&CHROMIUM_JOIN.replace("BUNDLE 0 1 ", "BUNDLE 0 ")).unwrap();
    assert_eq!(survey.refused, ["audio (mid 1)"]);
}

#[test]
fn a_refused_offer_says_why_and_changes_nothing() {
    let cases = [
        ("", SdpError::NothingBundled),
        ("hello", SdpError::NotSdp),
        (&CHROMIUM_JOIN.replace("a=ice-ufrag:", "a=x:"), SdpError::NoIce),
        (
            &CHROMIUM_JOIN.replace("a=fingerprint:sha-256", "a=fingerprint:sha-1"),
            SdpError::NoFingerprint,
        ),
        (
            &CHROMIUM_JOIN.replace("setup:actpass", "setup:holdconn"),
            SdpError::DtlsRole,
        ),
        (
            &CHROMIUM_JOIN.replace("a=mid:1\r", "a=mid:0\r"),
            SdpError::DuplicateMid("0".into()),
        ),
        (
            &CHROMIUM_JOIN.replace("BUNDLE 0 1 2 3 4 5 6", "LS 0 1"),
            SdpError::NothingBundled,
        ),
        (
            &format!("v=0\r\n{}", "m=audio 9 RTP/SAVPF 0\r\n".repeat(257)),
            SdpError::TooManySections,
        ),
        (&"x".repeat(600_000), SdpError::TooLong(600_000)),
    ];
    let mut negotiation = Negotiation::new(12);
    negotiation.subscribe(track(1, MediaKind::Audio, &[]));
    let before = negotiation.answer(CHROMIUM_JOIN, &local()).unwrap();
    for (offer, error) in cases {
        assert_eq!(negotiation.answer(offer, &local()).unwrap_err(), error);
    }
    let after = negotiation.answer(CHROMIUM_JOIN, &local()).unwrap();
    assert_eq!(before.subscriptions, after.subscriptions);
    assert!(!after.remote.restarted);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_never_panics(text in ".{0,400}", prefixed in any::<bool>()) {
        let text = if prefixed { format!("v=0\r\nm=audio 9 RTP/SAVPF 0\r\n{text}") } else { text };
        let _ = Negotiation::new(1).answer(&text, &local());
    }

    #[test]
    fn mutated_offers_are_refused_or_answered_consistently(
        which in 0..ALL.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..6u8, any::<prop::sample::Index>(), "[ -~]{0,12}"), 1..12),
        rounds in 1..4usize,
        subscribed in 0..8u64,
    ) {
        let mut negotiation = Negotiation::new(subscribed);
        for round in 0..rounds {
            for key in 0..subscribed {
                let kind = if key % 2 == 0 { MediaKind::Audio } else { MediaKind::Video };
                negotiation.subscribe(track(key + round as u64 * 3, kind, &[]));
            }
            negotiation.unsubscribe(round as u64 * 2);
            let offer = mutate(ALL[(which + round) % ALL.len()], &edits[round.min(edits.len())..]);
            if let Ok(answer) = negotiation.answer(&offer, &local()) {
                assert_invariants(&offer, &answer.sdp);
                let mut ssrcs = HashSet::new();
                for media in &answer.subscriptions {
                    assert!(ssrcs.insert(media.ssrc) && ssrcs.insert(media.rtx_ssrc));
                }
                let keys: HashSet<u64> = answer.subscriptions.iter().map(|media| media.key).collect();
                assert_eq!(keys.len(), answer.subscriptions.len());
            }
        }
    }
}

fn mutate(offer: &str, edits: &[(prop::sample::Index, u8, prop::sample::Index, String)]) -> String {
    let mut lines: Vec<String> = offer.lines().map(str::to_owned).collect();
    for (at, how, other, text) in edits {
        let (at, other) = (at.index(lines.len()), other.index(lines.len()));
        match how {
            0 => drop(lines.remove(at)),
            1 => lines.insert(other, lines[at].clone()),
            2 => lines.swap(at, other),
            3 => lines[at].push_str(text),
            4 => lines[at] = format!("{}{text}", lines[at].split(':').next().unwrap_or("")),
            _ => lines[at] = format!("a={text}"),
        }
    }
    lines.join("\r\n")
}

/// What any answer owes its offer (RFC 9429 §5.3.1, RFC 8285 §6).
fn assert_invariants(offer: &str, answer: &str) {
    let (offered, answered) = (sections(offer), sections(answer));
    assert_eq!(offered.len(), answered.len(), "as many sections as offered");
    for (offered, answered) in offered.iter().zip(&answered) {
        let kind = |section: &str| section.split(' ').next().map(str::to_owned);
        assert_eq!(kind(offered), kind(answered));
        assert_eq!(last_attribute(offered, "mid:"), last_attribute(answered, "mid:"));
        let known: HashSet<(String, &str)> = extensions(offered).collect();
        let mut ids = HashSet::new();
        for extension in extensions(answered) {
            assert!(known.contains(&extension), "{extension:?} was not offered");
            assert!(ids.insert(extension.0.clone()), "{extension:?} has an id twice");
        }
        let formats = |section: &str| -> Vec<String> {
            section
                .lines()
                .next()
                .unwrap_or("")
                .split(' ')
                .skip(3)
                .map(str::to_owned)
                .collect()
        };
        let known = formats(offered);
        assert!(
            formats(answered).iter().all(|format| known.contains(format)),
            "a format was not offered"
        );
    }
}

fn extensions(section: &str) -> impl Iterator<Item = (String, &str)> {
    section.lines().filter_map(|line| {
        let (id, uri) = line.strip_prefix("a=extmap:")?.split_once(' ')?;
        Some((
            id.split('/').next()?.to_owned(),
            uri.split_ascii_whitespace().next().unwrap_or(""),
        ))
    })
}

fn last_attribute<'a>(section: &'a str, name: &str) -> Option<&'a str> {
    section
        .lines()
        .filter_map(|line| line.strip_prefix("a=")?.strip_prefix(name))
        .next_back()
}

fn sections(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.starts_with("m=") {
            found.push(String::new());
        }
        if let Some(section) = found.last_mut() {
            section.push_str(line);
            section.push_str("\r\n");
        }
    }
    found
}

fn section(text: &str, mid: &str) -> String {
    let is_it = |section: &String| last_attribute(section, "mid:") == Some(mid);
    sections(text)
        .into_iter()
        .find(is_it)
        .unwrap_or_else(|| panic!("no section {mid}"))
}

fn track(key: u64, kind: MediaKind, codecs: &[Codec]) -> WantedTrack {
    WantedTrack {
        key,
        kind,
        stream_id: format!("PA_{key}|TR_{key}"),
        track_sid: format!("TR_{key}"),
        codecs: codecs.to_vec(),
    }
}

fn local() -> LocalMedia {
    LocalMedia {
        ice: IceCredentials {
            ufrag: "localufrag".into(),
            pwd: "localpasswordlocalpassword".into(),
        },
        fingerprint: Fingerprint([0x5a; 32]),
        candidates: vec!["192.0.2.1:7881".parse().unwrap(), "[2001:db8::1]:7881".parse().unwrap()],
    }
}
