//! Fragments of handshake messages, cut, lost, doubled and forged.

use meridian_dtls_guard::Joiner;

const MESSAGE_LEN_MAX: usize = 16_000;

/// A record with these fragments: message_seq, message length, offset, bytes.
fn record(number: u8, fragments: &[(u16, usize, usize, &[u8])]) -> Vec<u8> {
    let u24 = |n: usize| (n as u32).to_be_bytes()[1..].to_vec();
    let mut body = Vec::new();
    for (sequence, message_len, offset, bytes) in fragments {
        body.push(1);
        body.extend(u24(*message_len));
        body.extend(sequence.to_be_bytes());
        body.extend(u24(*offset));
        body.extend(u24(bytes.len()));
        body.extend(*bytes);
    }
    let mut record = vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, number];
    record.extend((body.len() as u16).to_be_bytes());
    record.extend(body);
    record
}

fn message(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 256) as u8).collect()
}

fn take(joiner: &mut Joiner, datagram: &[u8]) -> Option<Vec<Vec<u8>>> {
    let records = joiner.take(datagram)?;
    Some(records.into_iter().map(|record| record.into_owned()).collect())
}

fn is_plausible(datagram: &[u8]) -> bool {
    take(&mut Joiner::new(MESSAGE_LEN_MAX), datagram).is_some()
}

#[test]
fn fragments_of_no_real_handshake_are_refused() {
    assert!(is_plausible(&record(0, &[(0, 1_400, 1_150, &[0; 250])])));
    let ninth = record(0, &[(9, 100, 0, &[0; 100])]);
    assert!(!is_plausible(&ninth), "no handshake has ten client messages");
    assert!(!is_plausible(&record(0, &[(0, 16_001, 0, &[0; 100])])));
    assert!(
        !is_plausible(&record(0, &[(0, 100, 50, &[0; 51])])),
        "beyond its message"
    );
    assert!(!is_plausible(&record(0, &[(0, 100, 0, &[0; 100])])[..60]), "cut off");
    let mut two = record(0, &[(0, 100, 0, &[0; 100])]);
    two.extend(record(0, &[(20, 100, 0, &[0; 100])]));
    assert!(!is_plausible(&two));
    assert!(is_plausible(&record(0, &[(0, 1, 0, &[0])]).repeat(16)));
    assert!(!is_plausible(&record(0, &[(0, 1, 0, &[0])]).repeat(17)));
}

/// A message sent three times, each time cut elsewhere, with every loss among the six datagrams, in order and backwards.
#[test]
fn a_message_is_whole_as_soon_as_all_its_bytes_have_come_however_it_was_cut() {
    const LEN: usize = 9;
    let body = message(LEN);
    let whole = record(0, &[(0, LEN, 0, &body)]);
    for cuts in (0..(LEN - 1).pow(3)).map(|n| [n % 8 + 1, n / 8 % 8 + 1, n / 64 + 1]) {
        let mut parts: Vec<_> = cuts.iter().flat_map(|&cut| [(0, cut), (cut, LEN)]).collect();
        for lost in 0..128u8 {
            if lost == 64 {
                parts.reverse();
            }
            let mut joiner = Joiner::new(MESSAGE_LEN_MAX);
            let mut there = [false; LEN];
            for (n, &(from, to)) in parts.iter().enumerate().filter(|(n, _)| lost & 1 << n == 0) {
                let datagram = record(n as u8, &[(0, LEN, from, &body[from..to])]);
                there[from..to].fill(true);
                let mut expected = vec![];
                if there.iter().all(|&there| there) {
                    expected = vec![whole.clone()];
                    expected[0][10] = n as u8;
                    there = [false; LEN];
                }
                assert_eq!(take(&mut joiner, &datagram), Some(expected), "{parts:?}, lost {lost:b}");
            }
        }
    }
}

/// As seen: 1383 + 78 bytes of which the first part is always lost, then 1163 + 298.
#[test]
fn firefoxs_hello_is_joined_when_its_first_part_has_been_too_long_for_the_path() {
    let body = message(1_461);
    let mut joiner = Joiner::new(MESSAGE_LEN_MAX);
    let part = |from: usize, to: usize| record(0, &[(0, 1_461, from, &body[from..to])]);
    for _ in 0..3 {
        assert_eq!(take(&mut joiner, &part(1_383, 1_461)), Some(vec![]));
    }
    let first = take(&mut joiner, &part(0, 1_163));
    assert_eq!(first, Some(vec![]));
    let joined = take(&mut joiner, &part(1_163, 1_461));
    assert_eq!(joined, Some(vec![record(0, &[(0, 1_461, 0, &body)])]));
    assert_eq!(joiner.held(), 0);
}

#[test]
fn single_bytes_in_any_order_make_a_message() {
    let body = message(1_400);
    let mut joiner = Joiner::new(MESSAGE_LEN_MAX);
    let mut whole = Vec::new();
    for n in 0..1_400 {
        let at = n * 619 % 1_400;
        whole.extend(take(&mut joiner, &record(0, &[(3, 1_400, at, &body[at..=at])])).unwrap());
        assert_eq!(whole.is_empty(), n < 1_399);
    }
    assert_eq!(whole, [record(0, &[(3, 1_400, 0, &body)])]);
}

#[test]
fn every_message_and_every_other_record_comes_alone_and_in_order() {
    let (a, b, c) = (message(100), message(60), message(30));
    let mut datagram = record(
        5,
        &[(1, 100, 80, &a[80..]), (2, 60, 0, &b), (3, 30, 0, &c), (4, 0, 0, &[])],
    );
    let change_cipher_spec = [&[20, 254, 253, 0, 0, 0, 0, 0, 0, 0, 6, 0, 1][..], &[1]].concat();
    let encrypted = [&[22, 254, 253, 0, 1, 0, 0, 0, 0, 0, 0, 0, 40][..], &[9; 40]].concat();
    datagram.extend(&change_cipher_spec);
    datagram.extend(&encrypted);
    let mut joiner = Joiner::new(MESSAGE_LEN_MAX);
    assert_eq!(take(&mut joiner, &record(4, &[(1, 100, 0, &a[..90])])), Some(vec![]));
    let expected = vec![
        record(5, &[(1, 100, 0, &a)]),
        record(5, &[(2, 60, 0, &b)]),
        record(5, &[(3, 30, 0, &c)]),
        record(5, &[(4, 0, 0, &[])]),
        change_cipher_spec,
        encrypted,
    ];
    assert_eq!(take(&mut joiner, &datagram), Some(expected));
}

#[test]
fn forged_fragments_are_replaced_and_hold_little() {
    let mut joiner = Joiner::new(MESSAGE_LEN_MAX);
    for sequence in 0..=8 {
        for len in [16_000, 15_999] {
            assert_eq!(take(&mut joiner, &record(0, &[(sequence, len, 7, &[1])])), Some(vec![]));
            assert!(joiner.held() <= 2 * MESSAGE_LEN_MAX, "{} bytes", joiner.held());
        }
    }
    let body = message(200);
    assert_eq!(
        take(&mut joiner, &record(0, &[(0, 200, 0, &body[..150])])),
        Some(vec![])
    );
    let joined = take(&mut joiner, &record(0, &[(0, 200, 150, &body[150..])]));
    assert_eq!(joined, Some(vec![record(0, &[(0, 200, 0, &body)])]));
    // A whole one needs none of its fragments.
    take(&mut joiner, &record(0, &[(8, 200, 0, &body[..150])])).unwrap();
    take(&mut joiner, &record(0, &[(8, 200, 0, &body)])).unwrap();
    let rest = take(&mut joiner, &record(0, &[(8, 200, 150, &body[150..])]));
    assert_eq!(rest, Some(vec![]));
}
