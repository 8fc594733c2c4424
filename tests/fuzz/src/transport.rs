//! What strangers send to a media port, and SDP.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use meridian_sfu::media::{Codec, MediaKind};
use meridian_transport::sdp::{LocalMedia, Negotiation, WantedTrack};
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
