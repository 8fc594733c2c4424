//! Published vectors: RFC 7714 §16–17 (session keys), and whole packets as libsrtp checks itself with (master keys).

use super::cipher::Cipher;
use super::{MasterKeys, SrtpProfile, SrtpReceiver, SrtpSender, SrtpStream};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

const SALT: &str = "517569642070726f2071756f";

#[test]
fn rtp_is_sealed_as_in_rfc_7714_section_16() {
    let header = hex("8040f17b 8041f8d3 5501a0b2");
    let plain = hex("47616c6c 69612065 7374206f 6d6e6973 20646976 69736120 696e2070 61727465 73207472 6573");
    let cases = [
        (
            16,
            "f24de3a3 fb34de6c acba861c 9d7e4bca be633bd5 0d294e6f 42a5f47a 51c7d19b 36de3adf 8833",
            "899d7f27 beb16a91 52cf765e e4390cce",
        ),
        (
            32,
            "32b1de78 a822fe12 ef9f78fa 332e33aa b1801238 9a58e2f3 b50b2a02 76ffae0f 1ba63799 b87b",
            "7aa3db36 dfffd6b0 f9bb7878 d7a76c13",
        ),
    ];
    for (key_len, sealed, tag) in cases {
        let key: Vec<u8> = (0..key_len).collect();
        let cipher = Cipher::from_session_keys(&key, &hex(SALT));
        let mut payload = plain.clone();
        let computed = cipher.seal_rtp(0x5501_a0b2, 0xf17b, &header, &mut payload).unwrap();
        assert_eq!(payload, hex(sealed), "{key_len}");
        assert_eq!(computed.to_vec(), hex(tag), "{key_len}");
        let mut body = payload.clone();
        body.extend_from_slice(&computed);
        cipher.open_rtp(0x5501_a0b2, 0xf17b, &header, &mut body).unwrap();
        assert_eq!(body[..38], plain);
    }
}

#[test]
fn rtcp_is_sealed_as_in_rfc_7714_section_17() {
    let key: Vec<u8> = (0..16).collect();
    let cipher = Cipher::from_session_keys(&key, &hex(SALT));
    let plain = hex(
        "81c8000d 4d617273 4e545031 4e545032 52545020 0000042a 0000e930 4c756e61 \
         deadbeef deadbeef deadbeef deadbeef deadbeef",
    );
    let mut packet = plain.clone();
    cipher.seal_rtcp(0x4d61_7273, 0x5d4, &mut packet).unwrap();
    let expected = hex(
        "81c8000d 4d617273 63e94885 dcdab67c a727d766 2f6b7e99 7ff5c0f7 6c06f32d c676a5f1 \
         730d6fda 4ce09b46 86303ded 0bb9275b c84aa458 96cf4d2f c5abf872 45d9eade 800005d4",
    );
    assert_eq!(packet, expected);
    assert_eq!(cipher.rtcp_index(&packet), Some(0x5d4));
    let len = cipher.open_rtcp(0x4d61_7273, 0x5d4, &mut packet).unwrap();
    assert_eq!(packet[..len], plain);
}

struct Packets {
    profile: SrtpProfile,
    key: &'static str,
    salt: &'static str,
    rtp: &'static str,
    rtcp: &'static str,
}

const LIBSRTP: [Packets; 2] = [
    Packets {
        profile: SrtpProfile::AesCm128HmacSha1_80,
        key: "e1f97a0d3e018be0d64fa32c06de4139",
        salt: "0ec675ad498afeebb6960b3aabe6",
        rtp: "800f1234decafbadcafebabe 4e55dc4ce79978d88ca4d215949d2402 b78d6acc99ea179b8dbb",
        rtcp: "81c8000bcafebabe 7128035be487b9bdbef89041f977a5a8 80000001 993e08cd54d6c1230798",
    },
    Packets {
        profile: SrtpProfile::AeadAes128Gcm,
        key: "000102030405060708090a0b0c0d0e0f",
        salt: "a0a1a2a3a4a5a6a7a8a9aaab",
        rtp: "800f1234decafbadcafebabe c5002ede04cfdd2eb91159e0880aa06e d2976826f796b201df3131a127e8a392",
        rtcp: "81c8000bcafebabe c98b8b5df0392a55852b6c21ac8e7025 c52c6fbea2b3b446ea31123ba88ce61e 80000001",
    },
];

#[test]
fn whole_packets_are_those_of_libsrtp_both_ways() {
    for case in LIBSRTP {
        let master = MasterKeys::new(case.profile, &hex(case.key), &hex(case.salt)).unwrap();
        let mut sender = SrtpSender::new(&master, 1).unwrap();
        let mut receiver = SrtpReceiver::new(&master).unwrap();
        let mut rtp = hex("800f1234decafbadcafebabe abababababababababababababababab");
        let plain = rtp.clone();
        rtp.resize(plain.len() + sender.tag_len(), 0);
        let mut stream = SrtpStream::new(0xcafe_babe);
        let len = sender.protect_rtp(&mut stream, &mut rtp, 12, plain.len()).unwrap();
        assert_eq!(len, rtp.len());
        assert_eq!(rtp, hex(case.rtp), "{:?}", case.profile);
        let len = receiver.unprotect_rtp(&mut rtp).unwrap();
        assert_eq!(rtp[..len], plain);

        let mut rtcp = hex("81c8000bcafebabe abababababababababababababababab");
        let plain = rtcp.clone();
        sender.protect_rtcp(&mut rtcp).unwrap();
        assert_eq!(rtcp, hex(case.rtcp), "{:?}", case.profile);
        let len = receiver.unprotect_rtcp(&mut rtcp).unwrap();
        assert_eq!(rtcp[..len], plain);
    }
}

#[test]
fn every_profile_opens_what_it_sealed_across_rollovers() {
    for profile in [
        SrtpProfile::AeadAes128Gcm,
        SrtpProfile::AeadAes256Gcm,
        SrtpProfile::AesCm128HmacSha1_80,
    ] {
        let master = MasterKeys::new(profile, &vec![3; profile.key_len()], &vec![5; profile.salt_len()]).unwrap();
        let mut sender = SrtpSender::new(&master, 1).unwrap();
        let mut receiver = SrtpReceiver::new(&master).unwrap();
        let mut stream = SrtpStream::new(0xcafe_babe);
        for sequence in (0..200_000u32).step_by(3_000) {
            let mut packet = hex("90600000decafbadcafebabe bede0001 01020304 abababababab");
            packet[2..4].copy_from_slice(&(sequence as u16).to_be_bytes());
            let plain = packet.clone();
            packet.resize(plain.len() + sender.tag_len(), 0);
            sender.protect_rtp(&mut stream, &mut packet, 20, plain.len()).unwrap();
            assert_eq!(packet[..20], plain[..20], "the header stays readable");
            let len = receiver.unprotect_rtp(&mut packet).unwrap();
            assert_eq!(packet[..len], plain);
        }
    }
}
