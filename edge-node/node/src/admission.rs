//! Who is let in: the keys of tokens, where they come from, and whether this edge should get anybody new at all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use meridian_access::limits::Limiter;
use meridian_access::token::{Claims, KeyRing};
use meridian_registry::RegistrationState;
use tokio::sync::watch;

use crate::lifecycle::{Lifecycle, Stage};

/// First joins of one identity in one room. Each replaces a stay and is told to everybody with all its metadata; people, and SDKs that lose their
/// edge again and again, need a tenth.
const JOINS_PER_MINUTE: u32 = 30;
/// How long an edge that has API keys of its own waits for the control plane's before it is announced without them.
const FIRST_POLICY: Duration = Duration::from_secs(3);

/// Where the keys of tokens come from.
#[derive(Default)]
struct KeySources {
    policy: KeyRing,
    configured: BTreeMap<String, String>,
}

pub(crate) struct Admission {
    lifecycle: Arc<Lifecycle>,
    keys: watch::Sender<Arc<KeyRing>>,
    sources: Mutex<KeySources>,
    /// The control plane's token keys and TURN secret have been here at least once.
    policy_known: watch::Sender<bool>,
    /// There is a control plane whose policy may come.
    expects_policy: bool,
    joins: Limiter<(String, String)>,
}

impl Admission {
    /// `expects_policy`: the configuration names a control plane.
    pub(crate) fn new(
        lifecycle: Arc<Lifecycle>,
        api_keys: &BTreeMap<String, String>,
        expects_policy: bool,
    ) -> Admission {
        let admission = Admission {
            lifecycle,
            keys: watch::Sender::default(),
            sources: Mutex::default(),
            policy_known: watch::Sender::default(),
            expects_policy,
            joins: Limiter::new(JOINS_PER_MINUTE),
        };
        admission.configure_keys(api_keys);
        admission
    }

    /// What tokens are verified with.
    pub(crate) fn keys(&self) -> Arc<KeyRing> {
        self.keys.borrow().clone()
    }

    /// Keys of the control plane's policy, beside those of the configuration.
    pub(crate) fn set_policy_keys(&self, keys: KeyRing) {
        self.change(|sources| sources.policy = keys);
    }

    /// Keys of the configuration, beside those of the policy.
    pub(crate) fn configure_keys(&self, keys: &BTreeMap<String, String>) {
        self.change(|sources| sources.configured = keys.clone());
    }

    fn change(&self, change: impl FnOnce(&mut KeySources)) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut sources);
        let mut keys = sources.policy.clone();
        for (key, secret) in &sources.configured {
            keys.add_api_key(key, secret);
        }
        // Under the lock, so that the last change is what remains.
        self.keys.send_replace(Arc::new(keys));
    }

    /// All of a policy of the control plane has been taken over.
    pub(crate) fn policy_known(&self) {
        self.policy_known.send_replace(true);
    }

    /// Once people who are sent here are let in: both their tokens and their TURN credentials may be the control plane's.
    pub(crate) async fn can_admit(&self) {
        if self.expects_policy {
            let mut known = self.policy_known.subscribe();
            // Whoever has API keys of its own serves those when the control plane is away.
            let _ = tokio::time::timeout(FIRST_POLICY, known.wait_for(|known| *known)).await;
        }
        let _ = self.keys.subscribe().wait_for(|keys| !keys.is_empty()).await;
    }

    /// Counts a join; sessions that go on are none.
    ///
    /// # Errors
    /// The identity has joined this room too often: seconds until it may again.
    pub(crate) fn may_join(&self, claims: &Claims) -> Result<(), u32> {
        let room = claims.video.as_ref().map(|grants| grants.room.clone());
        self.joins
            .take((room.unwrap_or_default(), claims.sub.clone()), Instant::now())
    }

    /// Why this edge should get nobody new, if so.
    pub(crate) fn not_ready(&self) -> Option<&'static str> {
        if self.lifecycle.is_stopped() {
            return Some("stopping");
        }
        if self.lifecycle.vital().failed().is_some() {
            return Some("a vital part has ended: this process is about to");
        }
        match self.lifecycle.registration() {
            // Without keys it does not try to register: what it lacks is what it says.
            RegistrationState::Starting => {
                return self.refuses().or(Some(
                    "not registered yet: the registry has not been reached, or refuses",
                ));
            }
            RegistrationState::Superseded => return Some("another process has registered this edge's name"),
            // Others may miss this edge for a while, but an outage of the registry is none of the edge's.
            RegistrationState::Registered | RegistrationState::Lost => {}
        }
        self.refuses()
    }

    /// Whether people who are sent here are served; whoever asks sees for themselves whether this edge is registered.
    pub(crate) fn accepts(&self) -> bool {
        self.lifecycle.vital().failed().is_none() && self.refuses().is_none()
    }

    fn refuses(&self) -> Option<&'static str> {
        match self.lifecycle.stage() {
            Stage::Active if self.keys().is_empty() => {
                Some("no token keys yet: the control plane has not been reached")
            }
            stage => stage.refuses(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::Wish;

    #[test]
    fn an_edge_is_ready_with_keys_a_registration_and_no_other_wish_and_says_what_it_lacks() {
        meridian_access::install_crypto();
        let lifecycle = Arc::new(Lifecycle::default());
        let admission = Admission::new(lifecycle.clone(), &BTreeMap::new(), true);
        assert!(admission.not_ready().unwrap().contains("token keys"));
        admission.configure_keys(&BTreeMap::from([("key".to_owned(), "s".repeat(32))]));
        assert!(admission.not_ready().unwrap().contains("not registered yet"));
        assert!(admission.accepts(), "whoever asks sees the registry, too");
        lifecycle.set_registration(RegistrationState::Registered);
        assert_eq!(admission.not_ready(), None);
        admission.set_policy_keys(KeyRing::default());
        assert_eq!(admission.keys().secret("key"), Some("s".repeat(32).as_str()), "kept");
        lifecycle.set_registration(RegistrationState::Lost);
        assert_eq!(
            admission.not_ready(),
            None,
            "an outage of the registry is none of its people's"
        );
        lifecycle.set_registration(RegistrationState::Superseded);
        assert!(admission.not_ready().unwrap().contains("another process"));
        lifecycle.set_registration(RegistrationState::Registered);
        lifecycle.wish(Wish::Cordoned);
        assert_eq!((admission.not_ready(), admission.accepts()), (Some("cordoned"), false));
    }
}
