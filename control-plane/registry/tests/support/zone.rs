//! A DNS server on loopback, UDP and TCP, whose zone the test changes as it goes.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use hickory_proto::rr::rdata::{A, SOA, SRV};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType, RrKey};
use hickory_server::Server;
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};

/// An SRV record of `meridian.test`: priority, weight, port, target.
pub type Service<'a> = (u16, u16, u16, &'a str);

/// Serves until dropped.
pub struct Zone {
    _server: Server<Catalog>,
    records: Arc<InMemoryZoneHandler>,
    pub address: SocketAddr,
}

impl Zone {
    /// `services` under their names (`_etcd-client._tcp`), `hosts` at 127.0.0.1; all in meridian.test.
    pub async fn serve(at: SocketAddr, services: &[(&str, Service<'_>)], hosts: &[&str]) -> Zone {
        let origin = name("meridian.test.");
        let soa = SOA::new(name("ns.meridian.test."), name("x.meridian.test."), 1, 60, 60, 60, 1);
        let first = BTreeMap::from([(
            RrKey::new(LowerName::new(&origin), RecordType::SOA),
            Record::from_rdata(origin.clone(), 60, RData::SOA(soa)).into(),
        )]);
        let records = InMemoryZoneHandler::new(origin.clone(), first, ZoneType::Primary, AxfrPolicy::Deny);
        let records = Arc::new(records.unwrap());
        let mut catalog = Catalog::new();
        catalog.upsert(LowerName::new(&origin), vec![records.clone()]);
        let mut server = Server::new(catalog);
        let (tcp, udp) = sockets(at).await;
        let address = tcp.local_addr().unwrap();
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(5), 16);
        let zone = Zone {
            _server: server,
            records,
            address,
        };
        zone.replace(services, hosts).await;
        zone
    }

    /// Other records from now on. (The sockets stay: an address given up may be somebody else's a moment later.)
    pub async fn replace(&self, services: &[(&str, Service<'_>)], hosts: &[&str]) {
        let keep = |key: &RrKey| key.record_type == RecordType::SOA;
        self.records.records_mut().await.retain(|key, _| keep(key));
        for (service, (priority, weight, port, target)) in services {
            let target = match *target {
                "." => Name::root(),
                host => name(&format!("{host}.meridian.test.")),
            };
            let data = RData::SRV(SRV::new(*priority, *weight, *port, target));
            let record = Record::from_rdata(name(&format!("{service}.meridian.test.")), 60, data);
            self.records.upsert(record, 1).await;
        }
        for host in hosts {
            let data = RData::A(A(Ipv4Addr::LOCALHOST));
            let record = Record::from_rdata(name(&format!("{host}.meridian.test.")), 60, data);
            self.records.upsert(record, 1).await;
        }
    }
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// One port for both protocols. A free one of TCP may be taken in UDP: then another is tried.
async fn sockets(at: SocketAddr) -> (TcpListener, UdpSocket) {
    for _ in 0..100 {
        let tcp = TcpListener::bind(at).await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (tcp, udp);
        }
    }
    panic!("no port is free in both TCP and UDP");
}
