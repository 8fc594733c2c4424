//! The socket against the real kernel, on loopback.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use meridian_udp::{Batch, RecvBatch, Socket, SocketOptions, Waker, wait};

fn socket(address: &str) -> Socket {
    Socket::bind(address.parse().expect("literal"), &SocketOptions::default()).expect("bind on loopback")
}

/// Everything that arrives until `count` datagrams are here, or two seconds have passed.
fn collect(socket: &Socket, count: usize) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
    let mut batch = RecvBatch::new(16);
    let mut out = Vec::new();
    let waker = Waker::new().expect("eventfd");
    let deadline = Instant::now() + Duration::from_secs(2);
    while out.len() < count && Instant::now() < deadline {
        wait(std::slice::from_ref(socket), &waker, Some(Duration::from_millis(50))).expect("ppoll");
        while socket.recv(&mut batch).expect("recv") > 0 {
            out.extend(batch.datagrams().map(|d| (d.from, d.local, d.data.to_vec())));
        }
    }
    out
}

fn payload(size: usize, tag: u8) -> Vec<u8> {
    (0..size).map(|i| tag.wrapping_add(i as u8)).collect()
}

#[test]
fn equal_datagrams_to_one_destination_leave_as_one_message_and_arrive_apart() {
    let (a, b) = (socket("127.0.0.1:0"), socket("127.0.0.2:0"));
    let mut batch = Batch::new(64 * 1024);
    let sent: Vec<_> = [1200, 1200, 1200, 700, 900, 901]
        .iter()
        .zip(1..)
        .map(|(&n, t)| payload(n, t))
        .collect();
    for p in &sent {
        assert!(batch.push(b.local_addr(), None, p));
    }
    a.send(&mut batch);
    // 1200 ×3 + 700 | 900 | 901: shorter ends a message, longer begins one.
    assert_eq!(
        (batch.stats().calls, batch.stats().messages, batch.stats().datagrams),
        (1, 3, 6)
    );
    assert!(batch.is_empty());
    let got = collect(&b, 6);
    assert_eq!(got.iter().map(|g| g.2.clone()).collect::<Vec<_>>(), sent);
    assert!(got.iter().all(|g| g.0 == a.local_addr() && g.1 == b.local_addr()));
}

#[test]
fn ipv6_works_like_ipv4() {
    let (a, b) = (socket("[::1]:0"), socket("[::1]:0"));
    let mut batch = Batch::new(64 * 1024);
    for tag in 0..5 {
        assert!(batch.push(b.local_addr(), None, &payload(500, tag)));
    }
    a.send(&mut batch);
    let got = collect(&b, 5);
    assert_eq!(got.len(), 5);
    assert_eq!(got[4].2, payload(500, 4));
    assert_eq!(got[0].0, a.local_addr());
}

#[test]
fn a_wildcard_socket_knows_and_chooses_its_local_address() {
    for (wildcard, here, there) in [("0.0.0.0:0", "127.0.0.7", "127.0.0.1:0"), ("[::]:0", "::1", "[::1]:0")] {
        let (w, peer) = (socket(wildcard), socket(there));
        let here: IpAddr = here.parse().expect("literal");
        let reached = SocketAddr::new(here, w.local_addr().port());
        peer.send_to(b"hello", reached, None).expect("send");
        let got = collect(&w, 1);
        assert_eq!((got[0].0, got[0].1), (peer.local_addr(), reached));

        let mut batch = Batch::new(4096);
        assert!(batch.push(peer.local_addr(), Some(here), b"one"));
        assert!(batch.push(peer.local_addr(), Some(here), b"two"));
        w.send(&mut batch);
        w.send_to(b"three", peer.local_addr(), Some(here)).expect("send");
        let back = collect(&peer, 3);
        assert_eq!(back.iter().map(|g| g.0).collect::<Vec<_>>(), vec![reached; 3]);
    }
}

#[test]
fn without_segmentation_the_same_datagrams_arrive() {
    let (a, b) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    a.disable_gso();
    let mut batch = Batch::new(64 * 1024);
    for tag in 0..6 {
        assert!(batch.push(b.local_addr(), None, &payload(1000, tag)));
    }
    a.send(&mut batch);
    assert_eq!((batch.stats().datagrams, batch.stats().gso_refused), (6, 1));
    assert_eq!(collect(&b, 6).len(), 6);
}

#[test]
fn a_batch_takes_64_messages_and_then_asks_to_be_sent() {
    let (a, b, c) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let mut batch = Batch::new(256 * 1024);
    let mut sent = 0;
    // Alternating destinations: no two neighbours share a message.
    while batch.push(
        if sent % 2 == 0 { b.local_addr() } else { c.local_addr() },
        None,
        &payload(100, sent as u8),
    ) {
        sent += 1;
    }
    assert_eq!(sent, 64);
    // The last message's own destination may still append to it.
    assert!(batch.push(c.local_addr(), None, &payload(100, 64)));
    a.send(&mut batch);
    assert_eq!(
        (batch.stats().calls, batch.stats().messages, batch.stats().datagrams),
        (1, 64, 65)
    );
    assert_eq!((collect(&b, 32).len(), collect(&c, 33).len()), (32, 33));
}

#[test]
fn more_than_64_segments_or_64_kilobytes_become_several_messages() {
    let (a, b) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let mut batch = Batch::new(512 * 1024);
    for tag in 0..100 {
        assert!(batch.push(b.local_addr(), None, &payload(50, tag)));
    }
    for tag in 0..60 {
        assert!(batch.push(b.local_addr(), None, &payload(1200, tag)));
    }
    a.send(&mut batch);
    assert_eq!(
        (batch.stats().messages, batch.stats().datagrams, batch.stats().dropped()),
        (4, 160, 0)
    );
    assert_eq!(collect(&b, 160).len(), 160);
}

#[test]
fn one_bad_destination_costs_its_own_datagrams_only() {
    let (a, b) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let mut batch = Batch::new(256 * 1024);
    // A closed port (ICMP comes back), an address of the wrong family, and a datagram beyond any IPv4 packet.
    let closed = socket("127.0.0.1:0").local_addr();
    assert!(batch.push(closed, None, b"refused"));
    assert!(batch.push(b.local_addr(), None, b"one"));
    assert!(batch.push("[2001:db8::1]:9".parse().expect("literal"), None, b"wrong family"));
    assert!(batch.push(b.local_addr(), None, &vec![0; 65_530]));
    assert!(batch.push(b.local_addr(), None, b"two"));
    a.send(&mut batch);
    assert_eq!(
        collect(&b, 2).into_iter().map(|g| g.2).collect::<Vec<_>>(),
        [b"one".to_vec(), b"two".to_vec()]
    );
    assert_eq!(
        (batch.stats().dropped_too_big, batch.stats().dropped_unreachable),
        (1, 1)
    );
}

#[test]
fn waking_ends_a_wait_at_once_and_is_never_lost() {
    let a = socket("127.0.0.1:0");
    let waker = Waker::new().expect("eventfd");
    let start = Instant::now();
    waker.prepare();
    std::thread::scope(|s| {
        s.spawn(|| waker.wake());
        wait(std::slice::from_ref(&a), &waker, Some(Duration::from_secs(5))).expect("ppoll");
    });
    assert!(start.elapsed() < Duration::from_secs(2));
    // A wake before the wait, after the announcement: the wait returns at once.
    waker.prepare();
    waker.wake();
    let start = Instant::now();
    wait(std::slice::from_ref(&a), &waker, Some(Duration::from_secs(5))).expect("ppoll");
    assert!(start.elapsed() < Duration::from_secs(2));
    // And deadlines below a millisecond are kept.
    let start = Instant::now();
    wait(std::slice::from_ref(&a), &waker, Some(Duration::from_micros(300))).expect("ppoll");
    assert!(start.elapsed() >= Duration::from_micros(300));
}

/// Runs itself again in a network namespace whose loopback carries 1,000 bytes (needs root, as CI and the demo machine
/// have; passes without having looked otherwise).
#[test]
fn segments_larger_than_the_mtu_leave_one_by_one_and_arrive() {
    const INSIDE: &str = "MERIDIAN_UDP_SMALL_MTU";
    if std::env::var_os(INSIDE).is_none() {
        let me = std::env::current_exe().expect("path of this test");
        let script = "ip link set lo up mtu 1000 || exit 77; exec \"$0\" --exact \
                      segments_larger_than_the_mtu_leave_one_by_one_and_arrive";
        let run = std::process::Command::new("unshare")
            .args(["-n", "sh", "-c", script])
            .arg(me)
            .env(INSIDE, "1")
            .output();
        let Ok(output) = run else { return };
        let refused = output.status.code() == Some(77) || String::from_utf8_lossy(&output.stderr).contains("unshare");
        assert!(output.status.success() || refused, "{output:?}");
        return;
    }
    let (a, b) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let mut batch = Batch::new(64 * 1024);
    for tag in 0..4 {
        assert!(batch.push(b.local_addr(), None, &payload(1200, tag)));
    }
    assert!(batch.push(b.local_addr(), None, &payload(100, 9)));
    a.send(&mut batch);
    // One path's MTU says nothing about the device: segmentation stays on for everybody else.
    assert!(a.has_gso());
    assert_eq!(
        (
            batch.stats().datagrams,
            batch.stats().gso_refused,
            batch.stats().dropped()
        ),
        (5, 1, 0)
    );
    assert_eq!(collect(&b, 5).len(), 5);
}

#[test]
fn one_batch_leaves_through_several_sockets() {
    let (a, b, to) = (socket("127.0.0.1:0"), socket("127.0.0.2:0"), socket("127.0.0.3:0"));
    let mut batch = Batch::new(64 * 1024);
    let mut ends = Vec::new();
    for tag in [1, 2] {
        assert!(batch.push(to.local_addr(), None, &payload(100, tag)));
        assert!(batch.push(to.local_addr(), None, &payload(100, tag)));
        ends.push(batch.seal());
    }
    assert_eq!(ends, [1, 2], "what goes through another socket is another message");
    a.send_part(&mut batch, 0..ends[0]);
    b.send_part(&mut batch, ends[0]..ends[1]);
    batch.clear();
    assert_eq!((batch.stats().messages, batch.stats().datagrams), (2, 4));
    let mut got = collect(&to, 4);
    got.sort();
    let from: Vec<_> = got.iter().map(|g| (g.0, g.2[0])).collect();
    assert_eq!(
        from,
        [
            (a.local_addr(), 1),
            (a.local_addr(), 1),
            (b.local_addr(), 2),
            (b.local_addr(), 2)
        ]
    );
}

#[test]
fn several_sockets_receive_into_one_batch() {
    let (from, a, b) = (socket("127.0.0.1:0"), socket("127.0.0.2:0"), socket("127.0.0.3:0"));
    for (to, tag) in [(&a, 1), (&b, 2), (&b, 3), (&b, 4)] {
        from.send_to(&payload(100, tag), to.local_addr(), None).expect("send");
    }
    // On loopback a datagram has arrived when sending it returns.
    let mut batch = RecvBatch::new(3);
    assert_eq!(a.recv_more(&mut batch, 2).expect("recv"), 1);
    assert_eq!((batch.filled(), batch.room()), (1, 2));
    assert_eq!(
        b.recv_more(&mut batch, 16).expect("recv"),
        2,
        "no more than there is room for"
    );
    assert_eq!(b.recv_more(&mut batch, 16).expect("recv"), 0, "and then nothing");
    let seen: Vec<_> = batch.datagrams_in(1..9).map(|d| (d.local, d.data[0])).collect();
    assert_eq!(seen, [(b.local_addr(), 2), (b.local_addr(), 3)]);
    assert_eq!(batch.datagrams().count(), 3);
    batch.clear();
    assert_eq!(b.recv_more(&mut batch, 16).expect("recv"), 1);
    assert_eq!(batch.datagrams().map(|d| d.data[0]).collect::<Vec<_>>(), [4]);
}
