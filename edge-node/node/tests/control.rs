//! What an edge does at the control plane's word: when it is announced, and what becomes of its TURN server when it is drained.

#[path = "support/control_plane.rs"]
mod control_plane;
#[path = "../../../turn/tests/support/mod.rs"]
mod requests;
#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use control_plane::ControlPlane;
use meridian_node::Edge;
use meridian_node::config::{ControlPlaneSettings, EdgeConfig};
use meridian_pki::CertificateAuthority;
use meridian_registry::nodes::NODES_PREFIX;
use meridian_registry::{MemoryRegistry, Watch};
use meridian_turn::settings::TurnSettings;
use meridian_turn::stun::{Method, attribute};
use meridian_wire::v1::edge_command::Command;
use meridian_wire::v1::{self, NodeState};
use requests::link::{call, udp_socket};
use requests::{Answer, Client, anna, bert, channel_data, peer_attribute, u32_attribute, udp};
use support::{ANY, announced, edge_config};

struct House {
    edge: Edge,
    turn: SocketAddr,
    control: ControlPlane,
    /// What the registry says of edges.
    nodes: Watch,
}

impl House {
    async fn open() -> House {
        meridian_access::install_crypto();
        let authority = CertificateAuthority::create().unwrap();
        let control = ControlPlane::start(&authority).await;
        let config = EdgeConfig {
            turn: TurnSettings {
                udp: vec![ANY],
                realm: requests::REALM.into(),
                users: BTreeMap::from([("anna", "pw-a"), ("bert", "pw-b")].map(|(a, b)| (a.into(), b.into()))),
                allowed_peers: vec!["127.0.0.0/8".into()],
                threads: 1,
                drain_s: 0,
                ..TurnSettings::default()
            },
            control_plane: ControlPlaneSettings {
                url: Some(control.url.clone()),
                ..ControlPlaneSettings::default()
            },
            ..edge_config()
        };
        let identity = authority.issue_node("fra-1", &[]).unwrap();
        let registry = Arc::new(MemoryRegistry::new());
        let nodes = meridian_registry::watch(registry.clone(), NODES_PREFIX);
        let edge = Edge::start(config, registry, identity).await.unwrap();
        let turn = edge.turn_urls()[0].strip_prefix("turn:").unwrap();
        let turn = turn.split('?').next().unwrap().parse().unwrap();
        House {
            edge,
            turn,
            control,
            nodes,
        }
    }

    async fn set(&self, state: NodeState) {
        let state = v1::SetState {
            state: state.into(),
            ..v1::SetState::default()
        };
        self.control.say(Command::SetState(state)).await;
    }

    /// Asks for an allocation until the answer is this one: a command takes its time.
    fn allocates(&self, mut client: Client, error: u16) -> (Client, UdpSocket) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut socket = udp_socket("127.0.0.1");
            socket.connect(self.turn).unwrap();
            let answer = call(&mut socket, &mut client, Method::ALLOCATE, &[udp()]).error;
            if answer == error {
                return (client, socket);
            }
            assert!(Instant::now() < deadline, "{answer} instead of {error}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn refresh(socket: &mut UdpSocket, client: &mut Client, seconds: u32) -> Answer {
    let lifetime = [u32_attribute(attribute::LIFETIME, seconds)];
    call(socket, client, Method::REFRESH, &lifetime)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_edge_refuses_new_allocations_and_serves_those_it_has_until_they_end() {
    let house = House::open().await;
    let (mut anna, mut socket) = house.allocates(anna(), 0);
    house.set(NodeState::Draining).await;
    house.allocates(bert(), 508);

    // What there is can be refreshed, given new peers, used and ended.
    let answer = refresh(&mut socket, &mut anna, 1_200);
    assert_eq!((answer.error, answer.lifetime()), (0, 1_200));
    let peer = udp_socket("127.0.0.1");
    let number = u32_attribute(attribute::CHANNEL_NUMBER, 0x4001 << 16);
    let bind = [number, peer_attribute(peer.local_addr().unwrap())];
    assert_eq!(call(&mut socket, &mut anna, Method::CHANNEL_BIND, &bind).error, 0);
    let mut buffer = [0; 64];
    socket.send(&channel_data(0x4001, b"up")).unwrap();
    let (length, relayed) = peer.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"up");
    peer.send_to(b"down", relayed).unwrap();
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], channel_data(0x4001, b"down"));
    assert_eq!(refresh(&mut socket, &mut anna, 0).error, 0);

    // A drain that is called off is over.
    house.set(NodeState::Active).await;
    let (mut bert, mut socket) = house.allocates(bert(), 0);
    house.set(NodeState::Cordoned).await;
    assert_eq!(refresh(&mut socket, &mut bert, 0).error, 0);
    house.edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_with_keys_of_its_own_is_announced_only_when_it_knows_the_control_planes_as_well() {
    let mut house = House::open().await;
    // Had it been announced before the policy, it would have been as active.
    house.set(NodeState::Cordoned).await;
    house.control.say_policy().await;
    assert_eq!(
        announced(&mut house.nodes).await.state,
        meridian_registry::nodes::NodeState::Cordoned
    );
    house.edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_becomes_what_is_wanted_of_it_as_a_whole() {
    let mut house = House::open().await;
    let wanted = v1::Desired {
        policy: Some(v1::Policy::default()),
        state: Some(v1::SetState {
            state: NodeState::Cordoned.into(),
            ..v1::SetState::default()
        }),
        closed: vec![v1::CloseRoom::default()],
    };
    house.control.say(Command::Desired(wanted)).await;
    assert_eq!(
        announced(&mut house.nodes).await.state,
        meridian_registry::nodes::NodeState::Cordoned
    );
    house.edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_with_keys_of_its_own_does_not_wait_for_ever_for_a_control_plane_that_says_nothing() {
    let mut house = House::open().await;
    assert_eq!(announced(&mut house.nodes).await.id, "fra-1");
    house.edge.stop().await;
}
