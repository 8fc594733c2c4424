//! What a process's configuration says about the registry and about how it is found: the `[registry]` and `[discovery]` tables, the
//! same in every role.

use crate::nodes::LEASE_S;
use crate::srv::is_srv_name;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegistryKind {
    /// Inside one process: `meridian dev` only.
    #[default]
    Memory,
    Etcd,
}

/// Where the processes of the mesh find each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistrySettings {
    pub kind: RegistryKind,
    /// etcd's client URLs, `http://host:2379`.
    pub endpoints: Vec<String>,
    /// Or the name of SRV records that say where etcd is: `_etcd-client._tcp.example.org`.
    pub srv: Option<String>,
    /// Prefix of all keys, ending in `/`; the same in the whole mesh.
    pub prefix: String,
    /// Seconds after which an edge that stopped renewing gets no new people. 2 to 60.
    pub lease_s: u64,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        RegistrySettings {
            kind: RegistryKind::Memory,
            endpoints: vec![],
            srv: None,
            prefix: "meridian/v1/".to_owned(),
            lease_s: 10,
        }
    }
}

/// How SRV records are looked up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DiscoverySettings {
    /// DNS servers to ask; empty: the system's.
    pub resolvers: Vec<SocketAddr>,
}

impl RegistrySettings {
    /// What is wrong, by key; empty: nothing.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, key: &'static str, message: &str| {
            if !holds {
                problems.push((key, message.to_owned()));
            }
        };
        require(
            self.kind == RegistryKind::Memory || !self.endpoints.is_empty() || self.srv.is_some(),
            "endpoints",
            "must list etcd's client URLs, for example [\"http://10.0.0.1:2379\"], because registry.kind is \"etcd\" (or set registry.srv)",
        );
        require(
            self.srv.is_none() || self.endpoints.is_empty(),
            "srv",
            "either registry.srv or registry.endpoints says where etcd is, not both",
        );
        require(
            self.srv.as_deref().is_none_or(is_srv_name),
            "srv",
            "must be a name of SRV records, for example \"_etcd-client._tcp.example.org\"",
        );
        require(self.prefix.ends_with('/'), "prefix", "must end with /");
        require(
            LEASE_S.contains(&self.lease_s),
            "lease_s",
            &format!("must be between {} and {} seconds", LEASE_S.start(), LEASE_S.end()),
        );
        problems
    }
}
