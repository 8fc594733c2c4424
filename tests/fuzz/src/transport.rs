//! What strangers send to a media port, and SDP.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use meridian_sfu::media::{Codec, MediaKind};
use meridian_transport::sdp::{
    Fragment, LocalMedia, Negotiation, OFFER_BYTES_MAX, Survey, WantedTrack, fragment_of_answer, with_credentials,
};
use meridian_transport::{
    DtlsIdentity, DtlsRole, Fingerprint, IceCredentials, Output, Peer, PeerConfig, PeerEvent, Received, kind,
    stun_local_ufrag,
};

use crate::{joined, messages};

/// Generating a key for every input would be all a fuzzer does.
static IDENTITY: LazyLock<Option<Arc<DtlsIdentity>>> = LazyLock::new(|| DtlsIdentity::generate().ok().map(Arc::new));

fn credentials(ufrag: &str) -> IceCredentials {
    IceCredentials {
        ufrag: ufrag.to_owned(),
        pwd: "a-password-of-22-characters".to_owned(),
    }
}

/// Datagrams to a peer whose client has not come yet, from two addresses: none has an effect.
pub(crate) fn datagrams(input: &[u8]) {
    let Some(identity) = IDENTITY.clone() else { return };
    let mut now = Instant::now();
    let config = PeerConfig {
        identity,
        local: credentials("server01"),
        remote: credentials("client01"),
        remote_fingerprint: Fingerprint([7; 32]),
        role: DtlsRole::Server,
        seed: [9; 32],
    };
    let Ok(mut peer) = Peer::new(config, now) else { return };
    let local = SocketAddr::from(([192, 0, 2, 1], 7882));
    for (index, datagram) in messages(input).enumerate() {
        now += Duration::from_millis(20);
        let from = SocketAddr::from(([198, 51, 100, 1 + (index % 2) as u8], 4000));
        let _ = (kind(datagram), stun_local_ufrag(datagram));
        let received = peer.handle_datagram(now, from, local, &mut datagram.to_vec());
        assert_eq!(received, Received::Nothing);
        peer.handle_timeout(now);
        while let Some(output) = peer.poll_output() {
            let impossible = matches!(
                output,
                Output::Event(PeerEvent::Connected { .. } | PeerEvent::Data { .. })
            );
            assert!(!impossible, "nobody can connect without the keys");
        }
    }
}

pub(crate) fn datagram_seeds() -> Vec<Vec<u8>> {
    // A binding request with a USERNAME, and the beginning of a ClientHello record.
    let username = b"server01:client01\0\0\0";
    let stun = [
        &[0, 1, 0, 24, 0x21, 0x12, 0xa4, 0x42][..],
        &[7; 12],
        &[0, 6, 0, 17],
        username,
    ]
    .concat();
    let dtls = [
        &[22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 1, 0, 0, 0, 0, 0, 0, 0][..],
        &[0; 4],
    ]
    .concat();
    let rtp = [&[0x80, 96, 0, 1][..], &[0; 20]].concat();
    vec![joined([stun.as_slice(), dtls.as_slice(), rtp.as_slice()])]
}

/// Offers of one client, one after the other; each is answered or refused, and an answer has as many sections as its offer.
pub(crate) fn sdp(input: &[u8]) {
    let mut negotiation = Negotiation::new(1);
    for key in 1..=2 {
        negotiation.subscribe(WantedTrack {
            key,
            kind: if key == 1 { MediaKind::Audio } else { MediaKind::Video },
            stream_id: "PA_bert".into(),
            track_sid: format!("TR_{key}"),
            codecs: vec![if key == 1 { Codec::Opus } else { Codec::Vp8 }],
        });
    }
    let local = LocalMedia {
        ice: credentials("server01"),
        fingerprint: Fingerprint([7; 32]),
        candidates: vec![SocketAddr::from(([192, 0, 2, 1], 7882))],
    };
    for offer in messages(input) {
        let Ok(offer) = std::str::from_utf8(offer) else { return };
        if let Ok(answer) = negotiation.answer(offer, &local) {
            let sections = |sdp: &str| sdp.split(['\r', '\n']).filter(|line| line.starts_with("m=")).count();
            assert_eq!(sections(&answer.sdp), sections(offer));
        }
    }
}

/// The body of a WHIP POST, and one of a PATCH: what was surveyed is answered, and a restart changes the credentials alone.
pub(crate) fn whip(input: &[u8]) {
    let mut bodies = messages(input).map(std::str::from_utf8);
    let (Some(Ok(offer)), Some(Ok(patch))) = (bodies.next(), bodies.next()) else {
        return;
    };
    let fragment = Fragment::parse(patch);
    let Ok(survey) = Survey::of(offer) else { return };
    let local = LocalMedia {
        ice: credentials("server01"),
        fingerprint: Fingerprint([7; 32]),
        candidates: vec![SocketAddr::from(([192, 0, 2, 1], 7882))],
    };
    let mut negotiation = Negotiation::new(1);
    let answer = negotiation.answer(offer, &local);
    assert!(answer.is_ok(), "a survey promises an answer");
    if let Ok(answer) = answer {
        let ours = Fragment::parse(&fragment_of_answer(&answer.sdp));
        assert_eq!(ours.ok().and_then(|ours| ours.ice), Some(local.ice.clone()));
    }
    if let Ok(Fragment { ice: Some(ice), .. }) = fragment {
        let again = with_credentials(offer, &ice);
        if again.len() <= OFFER_BYTES_MAX {
            let (changed, before) = (Survey::of(&again).ok(), Some(survey));
            let rest = |survey: Option<Survey>| survey.map(|of| (of.sends, of.receives, of.both, of.refused));
            assert_eq!(changed.as_ref().map(|of| of.remote.ice.clone()), Some(ice));
            assert_eq!(rest(changed), rest(before));
        }
    }
}

pub(crate) fn whip_seeds() -> Vec<Vec<u8>> {
    const PATCH: &[u8] =
        b"a=ice-ufrag:fresh\r\na=ice-pwd:a-password-of-22-characters\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n\
        a=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host\r\na=end-of-candidates\r\n";
    sdp_seeds()
        .iter()
        .filter_map(|offers| messages(offers).next())
        .map(|offer| joined([offer, PATCH]))
        .collect()
}

pub(crate) fn sdp_seeds() -> Vec<Vec<u8>> {
    macro_rules! recorded {
        ($name:literal) => {
            include_str!(concat!(
                "../../../edge-node/transport/tests/fixtures/",
                $name,
                ".sdp"
            ))
        };
    }
    let chromium = [
        recorded!("chromium-156-join"),
        recorded!("chromium-156-published"),
        recorded!("chromium-156-ice-restart"),
    ];
    let firefox = [recorded!("firefox-153-join"), recorded!("firefox-153-published")];
    let native = [recorded!("python-1.2.1-join")];
    [&chromium[..], &firefox, &native]
        .map(|offers| joined(offers.iter().map(|offer| offer.as_bytes())))
        .to_vec()
}
