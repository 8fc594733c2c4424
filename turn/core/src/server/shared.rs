//! What all workers of one server have in common: configuration, port pool, quotas, nonce key, clock offset.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::credentials::Credentials;
use crate::limits::{Ledger, Limits, PrefixLimiter};
use crate::nonce::NonceKey;
use crate::policy::PeerPolicy;
use crate::ports::PortPool;
use crate::sockets::{AllocationPort, Family};

/// Keeps an answer to a stranger within 160 bytes.
const REALM_BYTES_MAX: usize = 48;

/// The relay's address of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayAddress {
    /// Where relay sockets are bound.
    pub bind: IpAddr,
    /// What clients and peers are told; differs behind 1:1 NAT.
    pub advertised: IpAddr,
}

impl From<IpAddr> for RelayAddress {
    fn from(ip: IpAddr) -> RelayAddress {
        RelayAddress {
            bind: ip,
            advertised: ip,
        }
    }
}

/// What the protocol needs to know. Start from [`ServerConfig::new`].
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// At most 48 bytes.
    pub realm: String,
    pub credentials: Credentials,
    /// Without one of a family, allocations of that family are refused (440).
    pub relay_v4: Option<RelayAddress>,
    pub relay_v6: Option<RelayAddress>,
    pub relay_ports: RangeInclusive<u16>,
    pub policy: PeerPolicy,
    pub limits: Limits,
    /// Given to those who ask for less, or for nothing. RFC 8656 §7.2: 10 minutes.
    pub lifetime_default: Duration,
    pub lifetime_max: Duration,
    pub nonce_lifetime: Duration,
    /// How long past its expiry a time-limited credential may still refresh what it allocated.
    pub expired_credential_grace: Duration,
    /// Whether TCP connections to peers are relayed (RFC 6062); refused otherwise (442). No call needs them, and they make a server an open
    /// proxy to every public web server.
    pub tcp_relay: bool,
    /// Whether clients may relay to each other's relayed addresses on this server.
    pub relay_to_relay: bool,
    /// Named in 300 Try Alternate while draining.
    pub alternate: Option<SocketAddr>,
}

impl ServerConfig {
    pub fn new(realm: impl Into<String>, credentials: Credentials) -> ServerConfig {
        ServerConfig {
            realm: realm.into(),
            credentials,
            relay_v4: None,
            relay_v6: None,
            relay_ports: 49_152..=65_535,
            policy: PeerPolicy::default(),
            limits: Limits::default(),
            lifetime_default: Duration::from_secs(600),
            lifetime_max: Duration::from_secs(3_600),
            nonce_lifetime: Duration::from_secs(3_600),
            expired_credential_grace: Duration::from_secs(24 * 3_600),
            tcp_relay: false,
            relay_to_relay: true,
            alternate: None,
        }
    }

    pub(crate) fn relay(&self, family: Family) -> Option<RelayAddress> {
        match family {
            Family::V4 => self.relay_v4,
            Family::V6 => self.relay_v6,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("the realm {0:?} is empty or longer than {REALM_BYTES_MAX} bytes")]
    Realm(String),
    #[error("no relay address is configured: clients could allocate nothing")]
    NoRelayAddress,
    #[error("relay address {0} is of the wrong family, or unspecified and so cannot be told to clients")]
    RelayAddress(IpAddr),
    #[error("the range of relay ports is empty or contains port 0")]
    Ports,
}

/// Shared by the [`super::Server`]s of all workers.
#[derive(Debug)]
pub struct Shared {
    /// Without its credentials, which may change.
    pub(crate) config: ServerConfig,
    credentials: RwLock<Arc<Credentials>>,
    pub(crate) ports: PortPool,
    pub(crate) ledger: Ledger,
    pub(crate) prefixes: PrefixLimiter,
    pub(crate) nonces: NonceKey,
    /// Own relay addresses as clients know them.
    pub(crate) relayed: Vec<IpAddr>,
    pub(crate) allocations: AtomicUsize,
    /// Of these, those that speak with nobody but this PoP's media ports.
    pub(crate) own_media_only: AtomicUsize,
    /// By family and port: the worker whose open relay has it, counted from 1; 0 = none.
    owners: [Box<[AtomicU8]>; 2],
    beginning: Instant,
    unix_at_beginning_ms: AtomicU64,
    draining: AtomicBool,
}

impl Shared {
    /// `unix`: the wall clock at `now`. `seed` must be secret and random: nonces are made with it.
    pub fn new(
        mut config: ServerConfig,
        now: Instant,
        unix: Duration,
        seed: [u8; 32],
    ) -> Result<Arc<Shared>, ConfigError> {
        if config.realm.is_empty() || config.realm.len() > REALM_BYTES_MAX {
            return Err(ConfigError::Realm(config.realm));
        }
        let mut relays = Vec::new();
        for (relay, v4) in [(config.relay_v4, true), (config.relay_v6, false)] {
            let Some(relay) = relay else { continue };
            for ip in [relay.bind, relay.advertised] {
                if ip.is_ipv4() != v4 {
                    return Err(ConfigError::RelayAddress(ip));
                }
            }
            if relay.advertised.is_unspecified() {
                return Err(ConfigError::RelayAddress(relay.advertised));
            }
            relays.push(relay);
        }
        if relays.is_empty() {
            return Err(ConfigError::NoRelayAddress);
        }
        if config.relay_ports.is_empty() || *config.relay_ports.start() == 0 {
            return Err(ConfigError::Ports);
        }
        config
            .policy
            .own
            .extend(relays.iter().flat_map(|r| [r.bind, r.advertised]));
        let media = config.policy.media.iter().flat_map(|m| [m.advertised, m.actual]);
        config.policy.own.extend(media);
        let relayed = if config.relay_to_relay {
            relays.iter().map(|r| r.advertised).collect()
        } else {
            Vec::new()
        };
        let credentials = std::mem::take(&mut config.credentials);
        Ok(Arc::new(Shared {
            credentials: RwLock::new(Arc::new(credentials)),
            ports: PortPool::new(config.relay_ports.clone(), config.limits.reservations),
            ledger: Ledger::default(),
            prefixes: PrefixLimiter::new(),
            nonces: NonceKey::new(seed),
            relayed,
            allocations: AtomicUsize::new(0),
            own_media_only: AtomicUsize::new(0),
            owners: [(); 2].map(|()| (0..=u16::MAX).map(|_| AtomicU8::new(0)).collect()),
            beginning: now,
            unix_at_beginning_ms: AtomicU64::new(u64::try_from(unix.as_millis()).unwrap_or(0)),
            draining: AtomicBool::new(false),
            config,
        }))
    }

    pub(crate) fn set_owner(&self, family: Family, port: AllocationPort, worker: Option<u8>) {
        let owner = worker.map_or(0, |worker| worker.saturating_add(1));
        self.owners[family.index()][usize::from(port.0)].store(owner, Ordering::Relaxed);
    }

    /// The worker with an open relay at this port.
    pub fn owner(&self, family: Family, port: u16) -> Option<u8> {
        let owner = self.owners[family.index()][usize::from(port)].load(Ordering::Relaxed);
        owner.checked_sub(1)
    }

    /// Follows an adjusted wall clock; credentials' expiry is judged by it.
    pub fn set_wall_clock(&self, now: Instant, unix: Duration) {
        let ms = u64::try_from(unix.saturating_sub(self.since(now)).as_millis()).unwrap_or(0);
        self.unix_at_beginning_ms.store(ms, Ordering::Relaxed);
    }

    /// Who may allocate from now on. Allocations made under earlier credentials last until they need a refresh.
    pub fn set_credentials(&self, credentials: Credentials) {
        *self.credentials.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(credentials);
    }

    /// What it was started with.
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        self.credentials.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// While draining nothing new is allocated (300 or 508); what there is goes on.
    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Live allocations of all workers.
    pub fn allocations(&self) -> usize {
        self.allocations.load(Ordering::Relaxed)
    }

    /// Live allocations of all workers that would be missed if this PoP's media ports were closed: all but those that speak
    /// with nobody else.
    pub fn allocations_beside_own_media(&self) -> usize {
        let own_media_only = self.own_media_only.load(Ordering::Relaxed);
        self.allocations().saturating_sub(own_media_only)
    }

    pub(crate) fn since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.beginning)
    }

    pub(crate) fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(self.since(now).as_nanos()).unwrap_or(u64::MAX / 2)
    }

    pub(crate) fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(self.since(now).as_secs()).unwrap_or(u32::MAX)
    }

    pub(crate) fn unix_s(&self, now: Instant) -> u64 {
        self.unix_at_beginning_ms.load(Ordering::Relaxed) / 1_000 + self.since(now).as_secs()
    }
}
