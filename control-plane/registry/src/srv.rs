//! Finding servers by SRV records (RFC 2782): edges and control planes find etcd so, and edges their control planes.
//!
//! Each look-up asks anew; what was found last stands in when DNS fails, because a process that is cut off from DNS is not cut off from
//! its servers.

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{Resolver, TokioResolver};
use rand::Rng;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Servers that are read of one answer.
const RECORDS_MAX: usize = 32;
/// Addresses that are read of one server.
const ADDRESSES_MAX: usize = 4;
/// One question to one DNS server.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Why no server was found. Each says which name is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SrvError {
    #[error("`{0}` is no name of SRV records; it looks like _service._tcp.example.org")]
    Name(String),
    #[error("the system's DNS settings cannot be read: {0}")]
    System(String),
    #[error("the SRV records of {name} cannot be had: {why}")]
    Lookup { name: String, why: String },
    /// RFC 2782: a single target `.`.
    #[error("{0} says that there is no such service in its domain")]
    NotOffered(String),
    #[error("no server in the SRV records of {name} has an address: {why}")]
    NoAddress { name: String, why: String },
}

/// A server, in the order in which to try them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub name: String,
    pub address: SocketAddr,
}

/// An SRV record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    priority: u16,
    weight: u16,
    port: u16,
    target: String,
}

/// Looks up one name whenever it is asked to.
pub struct Discovery {
    name: String,
    resolver: TokioResolver,
    last: Mutex<Vec<Server>>,
}

/// Whether a name can have SRV records: `_service._proto.domain`.
pub fn is_srv_name(name: &str) -> bool {
    let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
    let plain = |label: &&str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.len() <= 253
        && labels.len() >= 3
        && labels.iter().all(plain)
        && labels[0].starts_with('_')
        && matches!(labels[1], "_tcp" | "_udp")
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovery")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Discovery {
    /// `resolvers`: DNS servers to ask; empty: those of the system (`/etc/resolv.conf`).
    ///
    /// # Errors
    /// [`SrvError::Name`], [`SrvError::System`]. Whether the name exists is not asked yet.
    pub fn new(name: &str, resolvers: &[SocketAddr]) -> Result<Self, SrvError> {
        if !is_srv_name(name) {
            return Err(SrvError::Name(name.to_owned()));
        }
        let system = |error: hickory_resolver::net::NetError| SrvError::System(error.to_string());
        let mut builder = if resolvers.is_empty() {
            Resolver::builder_tokio().map_err(system)?
        } else {
            let servers = resolvers.iter().map(|address| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = address.port();
                    connection
                });
                NameServerConfig::new(address.ip(), true, connections.to_vec())
            });
            let config = ResolverConfig::from_name_servers(servers.collect());
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.timeout = TIMEOUT;
        options.attempts = 2;
        // Asked on reconnects only: then what held a minute ago is just what is in doubt.
        options.cache_size = 0;
        Ok(Discovery {
            // With the last dot, so that no search domain is tried.
            name: format!("{}.", name.trim_end_matches('.')),
            resolver: builder.build().map_err(system)?,
            last: Mutex::default(),
        })
    }

    /// The name, with its last dot.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The servers now, by priority and weight. If DNS fails, those of the last time, with a warning.
    ///
    /// # Errors
    /// [`SrvError`], if there was no last time.
    pub async fn servers(&self) -> Result<Vec<Server>, SrvError> {
        match self.look_up().await {
            Ok(servers) => {
                *self.last.lock().unwrap_or_else(PoisonError::into_inner) = servers.clone();
                Ok(servers)
            }
            Err(error) => {
                let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if last.is_empty() {
                    return Err(error);
                }
                tracing::warn!(%error, servers = last.len(), "going on with the servers found before");
                Ok(last)
            }
        }
    }

    async fn look_up(&self) -> Result<Vec<Server>, SrvError> {
        let name = || self.name.clone();
        let failed = |error: hickory_resolver::net::NetError| SrvError::Lookup {
            name: name(),
            why: error.to_string(),
        };
        let found = self.resolver.srv_lookup(self.name.as_str()).await.map_err(failed)?;
        let record = |data: &RData| match data {
            RData::SRV(srv) => Some(Record {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: srv.target.to_ascii(),
            }),
            _ => None,
        };
        let answers = found.answers().iter();
        let records: Vec<Record> = answers.filter_map(|one| record(&one.data)).take(RECORDS_MAX).collect();
        if records.iter().all(|record| record.target == ".") {
            return Err(SrvError::NotOffered(name()));
        }
        let mut servers = Vec::new();
        let mut why = String::new();
        let ordered = in_order(records, &mut rand::rng());
        for record in ordered {
            match self.resolver.lookup_ip(record.target.as_str()).await {
                Ok(found) => servers.extend(found.iter().take(ADDRESSES_MAX).map(|address| Server {
                    name: record.target.trim_end_matches('.').to_owned(),
                    address: SocketAddr::new(address, record.port),
                })),
                Err(error) => why = format!("{}: {error}", record.target),
            }
        }
        if servers.is_empty() {
            return Err(SrvError::NoAddress { name: name(), why });
        }
        Ok(servers)
    }
}

/// RFC 2782's order: lower priorities first; within one, at random by weight, those of weight 0 last but for a small chance.
fn in_order(mut records: Vec<Record>, rng: &mut impl Rng) -> Vec<Record> {
    records.retain(|record| record.target != ".");
    records.sort_by_key(|record| (record.priority, record.weight));
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(first) = records.first() {
        let priority = first.priority;
        let group = records.iter().take_while(|record| record.priority == priority).count();
        let sum: u32 = records[..group].iter().map(|record| u32::from(record.weight)).sum();
        let drawn = rng.random_range(0..=sum);
        let mut running = 0;
        let chosen = records[..group].iter().position(|record| {
            running += u32::from(record.weight);
            running >= drawn
        });
        ordered.push(records.remove(chosen.unwrap_or(0)));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn record(priority: u16, weight: u16, target: &str) -> Record {
        Record {
            priority,
            weight,
            port: 2379,
            target: target.to_owned(),
        }
    }

    #[test]
    fn priority_decides_first_and_weight_by_chance() {
        let records = vec![
            record(20, 100, "backup"),
            record(10, 30, "large"),
            record(10, 10, "small"),
            record(10, 0, "idle"),
        ];
        let mut rng = StdRng::seed_from_u64(1);
        let (mut first_large, mut first_idle) = (0, 0);
        for _ in 0..10_000 {
            let order = in_order(records.clone(), &mut rng);
            assert_eq!((order.len(), order[3].target.as_str()), (4, "backup"));
            first_large += u32::from(order[0].target == "large");
            first_idle += u32::from(order[0].target == "idle");
        }
        // 30 of 41 draws, 1 of 41 draws.
        assert!((7_100..7_550).contains(&first_large), "{first_large}");
        assert!((150..350).contains(&first_idle), "{first_idle}");
    }

    #[test]
    fn equal_servers_share_and_a_dot_is_none() {
        let mut rng = StdRng::seed_from_u64(2);
        let records = vec![record(0, 0, "a"), record(0, 0, "."), record(0, 0, "b")];
        let order = in_order(records, &mut rng);
        assert_eq!(order.len(), 2);
    }

    #[test]
    fn only_names_of_services_are_looked_up() {
        for good in [
            "_etcd-client._tcp.example.org",
            "_meridian-control._tcp.mesh.example.org.",
        ] {
            assert!(is_srv_name(good), "{good}");
        }
        for bad in [
            "",
            "etcd.example.org",
            "_etcd._tcp",
            "_etcd._http.example.org",
            "_etcd._tcp.exa mple.org",
            "_a._tcp..org",
        ] {
            assert!(!is_srv_name(bad), "{bad}");
            assert!(matches!(Discovery::new(bad, &[]), Err(SrvError::Name(_))));
        }
    }
}
