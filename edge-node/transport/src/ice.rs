//! ICE-lite (RFC 8445 §2.5): the controlled, never-checking side. Answers authenticated binding requests, follows the
//! client's nomination, loses consent. Nothing but an authenticated request moves a path.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng;

use crate::stun;

/// Without an authenticated request for this long the client has withdrawn its consent (RFC 7675 §5.1).
pub const CONSENT_TIMEOUT: Duration = Duration::from_secs(30);
/// A path that was silent this long may be left for one whose request does not nominate: clients that nominate once
/// (regular nomination) keep checking the pair after their NAT gave them a new address, but never nominate again.
const PATH_SILENT: Duration = Duration::from_secs(3);
/// Pairs remembered as the client's. It has one per interface and address family.
const MAX_PAIRS: usize = 16;

/// Username fragment and password of one side of one ICE session (RFC 8445 §5.3).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IceCredentials {
    pub ufrag: String,
    pub pwd: String,
}

impl IceCredentials {
    const UFRAG_LEN: usize = 8;
    const PWD_LEN: usize = 24;

    /// Fresh credentials: 48 bits of ufrag, 143 bits of password. The ufrag also finds the peer of a first datagram, so
    /// the caller checks that no other peer of the socket has it.
    pub fn generate(rng: &mut impl Rng) -> IceCredentials {
        IceCredentials {
            ufrag: ice_chars(rng, Self::UFRAG_LEN),
            pwd: ice_chars(rng, Self::PWD_LEN),
        }
    }
}

impl fmt::Debug for IceCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceCredentials")
            .field("ufrag", &self.ufrag)
            .finish_non_exhaustive()
    }
}

fn ice_chars(rng: &mut impl Rng, len: usize) -> String {
    const CHARS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    (0..len)
        .map(|_| char::from(CHARS[rng.random_range(0..CHARS.len())]))
        .collect()
}

/// A pair of addresses: our socket's and the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// Our and the client's credentials of one ICE session.
struct Generation {
    local: IceCredentials,
    remote: IceCredentials,
}

impl Generation {
    /// Whether USERNAME is `ours:theirs`.
    fn matches(&self, username: &str) -> bool {
        username.split_once(':') == Some((&self.local.ufrag, &self.remote.ufrag))
    }
}

/// What a STUN datagram did.
#[derive(Debug)]
pub(crate) enum Checked {
    /// Not an authenticated binding request; nothing is answered.
    Dropped,
    Answered {
        response: Vec<u8>,
        moved_to: Option<Path>,
    },
}

/// State of one client's ICE session, and of its successor during a restart.
pub(crate) struct IceLite {
    current: Generation,
    restarting: Option<Generation>,
    path: Option<Path>,
    /// Last authenticated packet of any kind on the selected path.
    path_heard: Instant,
    /// Last authenticated request on any path.
    consent: Instant,
    /// Pairs that authenticated, least recently used first.
    pairs: Vec<Path>,
}

impl IceLite {
    pub(crate) fn new(local: IceCredentials, remote: IceCredentials, now: Instant) -> IceLite {
        IceLite {
            current: Generation { local, remote },
            restarting: None,
            path: None,
            path_heard: now,
            consent: now,
            pairs: Vec::new(),
        }
    }

    pub(crate) fn path(&self) -> Option<Path> {
        self.path
    }

    /// When the client's consent ends, unless it asks again.
    pub(crate) fn consent_expires(&self) -> Instant {
        self.consent + CONSENT_TIMEOUT
    }

    /// Whether a pair once authenticated: only such pairs may send DTLS, SRTP and SRTCP.
    pub(crate) fn is_known(&self, pair: Path) -> bool {
        self.path == Some(pair) || self.pairs.contains(&pair)
    }

    /// Authenticated media or data came over `pair`.
    pub(crate) fn heard(&mut self, now: Instant, pair: Path) {
        if self.path == Some(pair) {
            self.path_heard = now;
        }
    }

    /// New credentials; the current ones and the path stay until a request with the new ones nominates.
    pub(crate) fn restart(&mut self, local: IceCredentials, remote: IceCredentials) {
        self.restarting = Some(Generation { local, remote });
    }

    pub(crate) fn handle(&mut self, now: Instant, pair: Path, datagram: &[u8]) -> Checked {
        self.check(now, pair, datagram).unwrap_or(Checked::Dropped)
    }

    fn check(&mut self, now: Instant, pair: Path, datagram: &[u8]) -> Option<Checked> {
        let username = stun::username(datagram)?;
        let restarted = self.restarting.as_ref().is_some_and(|next| next.matches(username));
        let generation = if restarted {
            self.restarting.as_ref()?
        } else {
            &self.current
        };
        if !generation.matches(username) {
            return None;
        }
        let pwd = &generation.local.pwd;
        let request = stun::parse_request(datagram, pwd)?;
        if request.controlled {
            let response = stun::role_conflict(request.transaction, pwd)?;
            return Some(Checked::Answered {
                response,
                moved_to: None,
            });
        }
        let response = stun::success(request.transaction, pair.remote, pwd)?;
        self.consent = now;
        self.remember(pair);
        let moves = match self.path {
            None => true,
            // A request of the old session must not take the path back once the new one has it; before that it may.
            Some(path) if path == pair => request.use_candidate && restarted,
            Some(_) => request.use_candidate || now.duration_since(self.path_heard) >= PATH_SILENT,
        };
        if moves && restarted {
            self.current = self.restarting.take()?;
        }
        let moved_to = (moves && self.path != Some(pair)).then_some(pair);
        if moves {
            self.path = Some(pair);
        }
        self.heard(now, pair);
        Some(Checked::Answered { response, moved_to })
    }

    fn remember(&mut self, pair: Path) {
        if let Some(at) = self.pairs.iter().position(|&known| known == pair) {
            self.pairs.remove(at);
        } else if self.pairs.len() >= MAX_PAIRS {
            self.pairs.remove(0);
        }
        self.pairs.push(pair);
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use rtc_stun::message::TransactionId;

    use super::*;

    struct Session {
        ice: IceLite,
        server: IceCredentials,
        client: IceCredentials,
        now: Instant,
        rng: StdRng,
    }

    fn session() -> Session {
        let mut rng = StdRng::seed_from_u64(1);
        let (server, client) = (IceCredentials::generate(&mut rng), IceCredentials::generate(&mut rng));
        let now = Instant::now();
        Session {
            ice: IceLite::new(server.clone(), client.clone(), now),
            server,
            client,
            now,
            rng,
        }
    }

    fn pair(port: u16) -> Path {
        Path {
            local: ([10, 0, 0, 1], 7000).into(),
            remote: ([192, 0, 2, 1], port).into(),
        }
    }

    impl Session {
        /// Sends one authenticated check; returns whether the path moved.
        fn check(&mut self, port: u16, nominate: bool) -> bool {
            let bytes = stun::request(
                TransactionId(self.rng.random()),
                &self.client,
                &self.server,
                9,
                nominate,
            )
            .unwrap();
            match self.ice.handle(self.now, pair(port), &bytes) {
                Checked::Answered { moved_to, response } => {
                    assert!(stun::parse_success(&response, &self.server.pwd).is_some());
                    moved_to.is_some()
                }
                Checked::Dropped => panic!("an authenticated check was dropped"),
            }
        }
    }

    #[test]
    fn the_first_check_gives_a_path_and_only_nomination_moves_it() {
        let mut s = session();
        assert!(s.check(1, false));
        assert!(!s.check(2, false), "a second interface probing");
        assert_eq!(s.ice.path(), Some(pair(1)));
        assert!(s.check(2, true));
        assert_eq!(s.ice.path(), Some(pair(2)));
        assert!(!s.check(2, true), "already there");
    }

    #[test]
    fn a_silent_path_is_left_without_nomination() {
        let mut s = session();
        assert!(s.check(1, true));
        s.now += PATH_SILENT - Duration::from_millis(1);
        assert!(!s.check(2, false));
        s.now += Duration::from_millis(1);
        s.ice.heard(s.now, pair(1));
        assert!(!s.check(2, false), "media still comes over the old path");
        s.now += PATH_SILENT;
        assert!(s.check(2, false));
    }

    #[test]
    fn a_restart_keeps_the_old_path_until_the_new_credentials_nominate() {
        let mut s = session();
        assert!(s.check(1, true));
        let (old_server, old_client) = (s.server.clone(), s.client.clone());
        (s.server, s.client) = (
            IceCredentials::generate(&mut s.rng),
            IceCredentials::generate(&mut s.rng),
        );
        s.ice.restart(s.server.clone(), s.client.clone());
        assert!(!s.check(2, false));
        let old = stun::request(TransactionId([1; 12]), &old_client, &old_server, 9, false).unwrap();
        assert!(
            matches!(s.ice.handle(s.now, pair(1), &old), Checked::Answered { .. }),
            "the old session still answers"
        );
        assert!(s.check(2, true));
        assert_eq!(s.ice.path(), Some(pair(2)));
        assert!(
            matches!(s.ice.handle(s.now, pair(1), &old), Checked::Dropped),
            "the old session is over"
        );
    }

    #[test]
    fn a_restart_on_the_same_pair_ends_the_old_session_too() {
        let mut s = session();
        assert!(s.check(1, true));
        let old = stun::request(TransactionId([1; 12]), &s.client, &s.server, 9, true).unwrap();
        (s.server, s.client) = (
            IceCredentials::generate(&mut s.rng),
            IceCredentials::generate(&mut s.rng),
        );
        s.ice.restart(s.server.clone(), s.client.clone());
        assert!(!s.check(1, true), "same pair: nothing for the sender to change");
        assert!(matches!(s.ice.handle(s.now, pair(1), &old), Checked::Dropped));
    }

    #[test]
    fn strangers_get_no_answer() {
        let mut s = session();
        let stranger = IceCredentials {
            ufrag: s.server.ufrag.clone(),
            pwd: "guess".into(),
        };
        let bytes = stun::request(TransactionId([1; 12]), &s.client, &stranger, 9, true).unwrap();
        assert!(matches!(s.ice.handle(s.now, pair(6), &bytes), Checked::Dropped));
        let other_client = IceCredentials {
            ufrag: "someone".into(),
            ..s.client.clone()
        };
        let bytes = stun::request(TransactionId([1; 12]), &other_client, &s.server, 9, true).unwrap();
        assert!(matches!(s.ice.handle(s.now, pair(6), &bytes), Checked::Dropped));
        assert_eq!(s.ice.path(), None);
        assert!(!s.ice.is_known(pair(6)));
    }

    #[test]
    fn only_the_last_pairs_are_remembered() {
        let mut s = session();
        for port in 1..=40 {
            s.check(port, true);
        }
        assert_eq!(s.ice.pairs.len(), MAX_PAIRS);
        assert!(s.ice.is_known(pair(40)) && !s.ice.is_known(pair(1)));
    }
}
