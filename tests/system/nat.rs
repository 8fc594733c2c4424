//! `meridian turn` behind 1:1 NAT, in network namespaces: a client and its peers outside know the advertised address only.
#![forbid(unsafe_code)]

#[path = "mesh/process.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod process;
/// A client made of single requests.
#[path = "../../turn/tests/support/mod.rs"]
mod requests;

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use meridian_turn::stun::{Method, attribute, decode_xor_address};
use process::{Folder, Process, eventually, get};
use requests::link::{Framed, Link, call, udp_socket};
use requests::{Client, anna, bert, channel_data, peer_attribute, u32_attribute, udp};

const SOON: Duration = Duration::from_secs(20);
/// Set inside the namespaces: the process whose namespace is the server's.
const SERVER: &str = "MERIDIAN_NAT_SERVER";
const PRIVATE: &str = "10.77.1.2";
/// What the router in between makes of it. Public, like the others outside: the server's own rules are not loosened.
const ADVERTISED: &str = "203.0.114.7";
const CLIENT: &str = "198.51.99.10";
const PEER: &str = "198.51.99.11";

/// Three network stacks: this one routes between the server's and the client's and translates addresses; `$@` runs in the client's. Where the client is,
/// packets are 1,300 bytes at most.
const NAMESPACES: &str = r#"
    server= client=
    trap 'kill $server $client' EXIT
    unshare --net sleep 300 & server=$!
    unshare --net sleep 300 & client=$!
    here=$(readlink /proc/self/ns/net)
    for pid in $server $client; do
        while [ "$(readlink /proc/$pid/ns/net)" = "$here" ]; do sleep 0.01; done
        nsenter --target $pid --net ip link set lo up
    done
    ip link set lo up
    ip link add inside type veth peer name wan netns $server
    ip link add outside type veth peer name wan netns $client
    ip address add 10.77.1.1/24 dev inside
    ip address add 198.51.99.1/24 dev outside
    nsenter --target $server --net ip address add $PRIVATE/24 dev wan
    nsenter --target $client --net ip address add $CLIENT/24 dev wan
    nsenter --target $client --net ip address add $PEER/24 dev wan
    ip link set outside mtu 1300
    nsenter --target $client --net ip link set wan mtu 1300
    ip link set inside up
    ip link set outside up
    for pid in $server $client; do nsenter --target $pid --net ip link set wan up; done
    nsenter --target $server --net ip route add default via 10.77.1.1
    nsenter --target $client --net ip route add default via 198.51.99.1
    echo 1 > /proc/sys/net/ipv4/ip_forward
    nft "add table ip nat
         add chain ip nat in { type nat hook prerouting priority dstnat; }
         add chain ip nat out { type nat hook postrouting priority srcnat; }
         add rule ip nat in ip daddr $ADVERTISED dnat to $PRIVATE
         add rule ip nat out ip saddr $PRIVATE snat to $ADVERTISED"
    MERIDIAN_NAT_SERVER=$server nsenter --target $client --net "$@"
"#;

/// Runs this test once more where the namespaces are. Returns whether it is to go on: it is there.
fn inside(test: &str) -> bool {
    if std::env::var_os(SERVER).is_some() {
        return true;
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--kill-child"]);
    // Who is root already needs no namespace of users, which some containers do not give.
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        unshare.arg("--map-root-user");
    }
    unshare.args(["sh", "-ec", NAMESPACES, "sh"]);
    unshare
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"]);
    for (name, value) in [
        ("PRIVATE", PRIVATE),
        ("ADVERTISED", ADVERTISED),
        ("CLIENT", CLIENT),
        ("PEER", PEER),
    ] {
        unshare.env(name, value);
    }
    let output = unshare.output().expect("unshare is part of util-linux");
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}

struct Server {
    _process: Process,
    _folder: Folder,
    turn: SocketAddr,
}

impl Server {
    /// As an operator behind such a router would configure it.
    async fn start() -> Server {
        let namespace = std::env::var(SERVER).unwrap();
        let folder = Folder::new();
        let config = format!(
            "[turn]\nudp = ['{PRIVATE}:3478']\ntcp = ['{PRIVATE}:3478']\nadvertise = ['{ADVERTISED}']\nrealm = '{}'\nthreads = 2\n\
             drain_s = 0\n[turn.users]\nanna = 'pw-a'\nbert = 'pw-b'\n[http]\nbind = '{PRIVATE}:9641'\n",
            requests::REALM
        );
        let file = folder.path("turn.toml");
        std::fs::write(&file, config).unwrap();
        let arguments = [
            "--target",
            &namespace,
            "--net",
            env!("CARGO_BIN_EXE_meridian"),
            "turn",
            "--config",
        ];
        let arguments = arguments.into_iter().chain(file.to_str()).map(str::to_owned);
        let process = Process::start("nsenter", &arguments.collect::<Vec<_>>(), &folder.path("turn.log"));
        let http = SocketAddr::new(ip(ADVERTISED), 9641);
        eventually("it is ready", SOON, async || {
            get(http, "/readyz").await.filter(|answer| answer.status == 200)
        })
        .await;
        Server {
            _process: process,
            _folder: folder,
            turn: SocketAddr::new(ip(ADVERTISED), 3478),
        }
    }

    fn udp(&self) -> UdpSocket {
        let socket = udp_socket(CLIENT);
        socket.connect(self.turn).unwrap();
        socket
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Allocates, and says under which address peers are to reach it.
fn allocate(link: &mut impl Link, client: &mut Client) -> SocketAddr {
    let answer = call(link, client, Method::ALLOCATE, &[udp()]);
    assert_eq!(answer.error, 0);
    let mapped = answer.get(attribute::XOR_MAPPED_ADDRESS).unwrap();
    let mapped = decode_xor_address(&mapped, &answer.message().transaction).unwrap();
    assert_eq!(mapped.ip(), ip(CLIENT), "the client as the server sees it");
    let relayed = answer.relayed()[0];
    assert_eq!(relayed.ip(), ip(ADVERTISED), "not the one that is bound");
    relayed
}

fn bind(link: &mut impl Link, client: &mut Client, peer: SocketAddr) -> u16 {
    let number = u32_attribute(attribute::CHANNEL_NUMBER, 0x4001 << 16);
    call(link, client, Method::CHANNEL_BIND, &[number, peer_attribute(peer)]).error
}

/// Data to a peer outside and back.
fn talk(link: &mut impl Link, mut client: Client) {
    let relayed = allocate(link, &mut client);
    let peer = udp_socket(PEER);
    assert_eq!(bind(link, &mut client, peer.local_addr().unwrap()), 0);
    for n in 0..20 {
        let (up, down) = ([n; 300], [n + 100; 900]);
        link.put(&channel_data(0x4001, &up));
        let mut buffer = [0; 1_500];
        let (length, from) = peer.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&up[..], relayed));
        peer.send_to(&down, relayed).unwrap();
        assert_eq!(link.get(), channel_data(0x4001, &down));
    }
}

#[tokio::test]
async fn a_client_outside_of_a_one_to_one_nat_relays_under_the_advertised_address_over_udp_and_tcp() {
    if !inside("a_client_outside_of_a_one_to_one_nat_relays_under_the_advertised_address_over_udp_and_tcp") {
        return;
    }
    let server = Server::start().await;
    talk(&mut server.udp(), anna());
    talk(
        &mut Framed(TcpStream::connect(server.turn).unwrap(), Vec::new()),
        bert(),
    );
}

/// Whatever one end sends until the other has it: the first that meets a narrow path is lost, as the router's word must come back.
fn arrives(what: &str, mut send: impl FnMut(), mut receive: impl FnMut() -> bool) {
    for _ in 0..5 {
        send();
        if receive() {
            return;
        }
    }
    panic!("{what} never arrives");
}

#[tokio::test]
async fn datagrams_that_a_path_is_too_narrow_for_are_relayed_in_fragments() {
    if !inside("datagrams_that_a_path_is_too_narrow_for_are_relayed_in_fragments") {
        return;
    }
    let server = Server::start().await;
    let (mut socket, mut client) = (server.udp(), anna());
    let relayed = allocate(&mut socket, &mut client);
    let peer = udp_socket(PEER);
    assert_eq!(bind(&mut socket, &mut client, peer.local_addr().unwrap()), 0);
    for socket in [&socket, &peer] {
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    }
    let mut buffer = [0; 9_000];
    // Fits the server's own link, but not the way behind the router; then neither.
    for bytes in [1_350, 3_000] {
        let payload = vec![7; bytes];
        let framed = channel_data(0x4001, &payload);
        arrives(
            &format!("{bytes} bytes up"),
            || assert_eq!(socket.send(&framed).unwrap(), framed.len()),
            || peer.recv(&mut buffer).is_ok_and(|length| length == bytes),
        );
        arrives(
            &format!("{bytes} bytes down"),
            || assert_eq!(peer.send_to(&payload, relayed).unwrap(), bytes),
            || socket.recv(&mut buffer).is_ok_and(|length| length == framed.len()),
        );
    }
}

#[tokio::test]
async fn two_clients_outside_of_a_one_to_one_nat_reach_each_others_advertised_addresses_and_no_private_one() {
    if !inside("two_clients_outside_of_a_one_to_one_nat_reach_each_others_advertised_addresses_and_no_private_one") {
        return;
    }
    let server = Server::start().await;
    // Which of the server's threads has whom is chance: several pairs meet both cases.
    for _ in 0..8 {
        let (mut anna, mut bert) = (anna(), bert());
        let mut links = [server.udp(), server.udp()];
        let relayed = [allocate(&mut links[0], &mut anna), allocate(&mut links[1], &mut bert)];
        let private = SocketAddr::new(ip(PRIVATE), relayed[1].port());
        assert_eq!(bind(&mut links[0], &mut anna, private), 403);
        assert_eq!(bind(&mut links[0], &mut anna, relayed[1]), 0);
        assert_eq!(bind(&mut links[1], &mut bert, relayed[0]), 0);
        for (from, to) in [(0, 1), (1, 0)] {
            links[from].put(&channel_data(0x4001, b"hello"));
            assert_eq!(links[to].get(), channel_data(0x4001, b"hello"));
        }
    }
}
