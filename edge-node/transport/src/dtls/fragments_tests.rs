//! Handshakes whose messages the client cuts into fragments, differently each time it sends them, some of which are lost: in virtual time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{DimplDtls, Dtls, DtlsEvent, DtlsIdentity};

const LATENCY: Duration = Duration::from_millis(10);

/// Plaintext handshake messages of a datagram in two fragments each, cut at `cut` (or as far as the message reaches); each fragment, and what comes
/// between, is a datagram of its own.
fn recut(datagram: &[u8], cut: usize) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    let mut rest = datagram;
    while let Some((header, body)) = rest.split_at_checked(13) {
        let (mut body, next) = body.split_at(usize::from(u16::from_be_bytes([header[11], header[12]])));
        if header[0] != 22 || header[3..5] != [0, 0] {
            datagrams.push([header, body].concat());
            body = &[];
        }
        while let Some((head, message)) = body.split_at_checked(12) {
            let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let (message, others) = message.split_at(len);
            let cut = cut.min(len);
            for (from, to) in [(0, cut), (cut, len)].into_iter().filter(|(from, to)| from < to) {
                let mut fragment = header[..11].to_vec();
                fragment.extend(((to - from + 12) as u16).to_be_bytes());
                fragment.extend(&head[..6]);
                fragment.extend(&(from as u32).to_be_bytes()[1..]);
                fragment.extend(&((to - from) as u32).to_be_bytes()[1..]);
                fragment.extend(&message[from..to]);
                datagrams.push(fragment);
            }
            body = others;
        }
        rest = next;
    }
    datagrams
}

/// How long a handshake takes whose client cuts the messages of its n-th datagram at `cut(n)`, and of whose fragments, counted through, those of which
/// `lost` says so do not arrive. `None`: it fails.
fn handshake(
    [server, client]: [&DtlsIdentity; 2],
    cut: impl Fn(usize) -> usize,
    lost: impl Fn(usize) -> bool,
) -> Option<Duration> {
    let start = Instant::now();
    let mut now = start;
    let (mut server, mut client) = (DimplDtls::server(server, now), DimplDtls::client(client, now));
    let mut wire: VecDeque<(Instant, bool, Vec<u8>)> = VecDeque::new();
    let (mut flights, mut fragments, mut connected) = (0, 0, [false; 2]);
    while now < start + Duration::from_secs(20) {
        while let Some(event) = client.poll() {
            match event {
                DtlsEvent::Transmit(datagram) => {
                    for fragment in recut(&datagram, cut(flights)) {
                        if !lost(fragments) {
                            wire.push_back((now + LATENCY, true, fragment));
                        }
                        fragments += 1;
                    }
                    flights += 1;
                }
                DtlsEvent::Connected(_) => connected[0] = true,
                DtlsEvent::Failed => return None,
                _ => {}
            }
        }
        while let Some(event) = server.poll() {
            match event {
                DtlsEvent::Transmit(datagram) => wire.push_back((now + LATENCY, false, datagram)),
                DtlsEvent::Connected(_) => connected[1] = true,
                DtlsEvent::Failed => return None,
                _ => {}
            }
        }
        if connected == [true; 2] {
            return Some(now - start);
        }
        let timers = [client.poll_timeout(), server.poll_timeout()];
        now = wire
            .front()
            .map(|(at, ..)| *at)
            .into_iter()
            .chain(timers.into_iter().flatten())
            .min()?
            .max(now);
        match wire.pop_front_if(|(at, ..)| *at <= now) {
            Some((_, true, datagram)) => server.handle_datagram(now, &datagram),
            Some((_, false, datagram)) => client.handle_datagram(now, &datagram),
            None => {
                client.handle_timeout(now);
                server.handle_timeout(now);
            }
        }
    }
    None
}

/// The client's longest message, its certificate, is cut everywhere; shorter ones at most at their ends.
const LONGEST: usize = 420;

#[test]
fn messages_cut_anywhere_make_a_handshake() {
    let identities = [DtlsIdentity::generate().unwrap(), DtlsIdentity::generate().unwrap()];
    for cut in 1..LONGEST {
        let took = handshake([&identities[0], &identities[1]], |_| cut, |_| false);
        assert_eq!(took, Some(4 * LATENCY), "cut at {cut}");
    }
}

#[test]
fn whichever_fragment_is_lost_and_however_the_next_ones_are_cut_the_handshake_goes_on() {
    let identities = [DtlsIdentity::generate().unwrap(), DtlsIdentity::generate().unwrap()];
    let mut slowest = Duration::ZERO;
    for cut in (1..LONGEST).step_by(6) {
        for lost in 0..11 {
            let cuts = |flight: usize| (cut + flight * 97) % LONGEST + 1;
            let took = handshake([&identities[0], &identities[1]], cuts, |n| n == lost);
            let took = took.unwrap_or_else(|| panic!("fails when fragment {lost} is lost after a cut at {cut}"));
            slowest = slowest.max(took);
        }
    }
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}

#[test]
fn a_client_whose_first_fragments_never_arrive_joins_once_it_cuts_them_shorter() {
    let identities = [DtlsIdentity::generate().unwrap(), DtlsIdentity::generate().unwrap()];
    // Fragment 0 of each ClientHello is lost until the third retransmission.
    let cuts = |flight: usize| if flight < 3 { 150 } else { 100 };
    let took = handshake([&identities[0], &identities[1]], cuts, |n| n < 6 && n % 2 == 0);
    assert!(took.is_some_and(|took| took < Duration::from_millis(1_500)), "{took:?}");
}
