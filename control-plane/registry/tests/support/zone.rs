//! A DNS server on loopback, UDP and TCP, whose zone the test changes as it goes.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use hickory_proto::rr::rdata::{A, SOA, SRV};
use hickory_proto::rr::{LowerName, Name, RData, Record};
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
    pub address: SocketAddr,
}

impl Zone {
    /// `services` under their names (`_etcd-client._tcp`), `hosts` at 127.0.0.1; all in meridian.test.
    pub async fn serve(at: SocketAddr, services: &[(&str, Service<'_>)], hosts: &[&str]) -> Zone {
        let origin = name("meridian.test.");
        let soa = SOA::new(name("ns.meridian.test."), name("x.meridian.test."), 1, 60, 60, 60, 1);
        let mut zone: InMemoryZoneHandler = InMemoryZoneHandler::new(
            origin.clone(),
            BTreeMap::from([(
                hickory_proto::rr::RrKey::new(LowerName::new(&origin), hickory_proto::rr::RecordType::SOA),
                Record::from_rdata(origin.clone(), 60, RData::SOA(soa)).into(),
            )]),
            ZoneType::Primary,
            AxfrPolicy::Deny,
        )
        .unwrap();
        for (service, (priority, weight, port, target)) in services {
            let target = match *target {
                "." => Name::root(),
                host => name(&format!("{host}.meridian.test.")),
            };
            let data = RData::SRV(SRV::new(*priority, *weight, *port, target));
            zone.upsert_mut(
                Record::from_rdata(name(&format!("{service}.meridian.test.")), 60, data),
                1,
            );
        }
        for host in hosts {
            let data = RData::A(A(Ipv4Addr::LOCALHOST));
            zone.upsert_mut(Record::from_rdata(name(&format!("{host}.meridian.test.")), 60, data), 1);
        }
        let mut catalog = Catalog::new();
        catalog.upsert(LowerName::new(&origin), vec![Arc::new(zone)]);
        let mut server = Server::new(catalog);
        let tcp = TcpListener::bind(at).await.unwrap();
        let address = tcp.local_addr().unwrap();
        server.register_socket(UdpSocket::bind(address).await.unwrap());
        server.register_listener(tcp, Duration::from_secs(5), 16);
        Zone {
            _server: server,
            address,
        }
    }

    /// The same address with other records.
    pub async fn replace(mut self, services: &[(&str, Service<'_>)], hosts: &[&str]) -> Zone {
        let address = self.address;
        self._server.shutdown_gracefully().await.unwrap();
        drop(self);
        Zone::serve(address, services, hosts).await
    }
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}
