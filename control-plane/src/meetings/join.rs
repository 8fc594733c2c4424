//! Joining and keeping meetings: what the HTTP API here and the edges, by gRPC, both call.

mod making;
mod recording;
mod tokens;

pub use making::NewMeeting;
pub(crate) use recording::RecordingToken;

use super::codes::normalise;
use super::{Meeting, MeetingStore};
use crate::config::{LimitsConfig, TurnConfig};
use crate::database::{StoreError, now_ms};
use crate::fleet::{Fleet, Note};
use crate::learning::Learning;
use crate::metrics::Metrics;
use crate::passwords::{PASSWORD_BYTES_MAX, Passwords};
use crate::placement::Explanation;
use aws_lc_rs::digest;
use meridian_access::limits::Limiter;
use meridian_access::network::limit_key;
use meridian_access::token::{KeyRing, SigningKey, unix_now_s};
use meridian_geo::{Client, Location, Policy, Probe, regions};
use meridian_registry::nodes::NodeRecord;
use meridian_turn_credentials::{IceServer, permitted_urls};
use meridian_wire::join::{AVOID_MAX, NAME_CHARS_MAX, PROBES_MAX, Refusal};
use meridian_wire::v1;
use rand::Rng as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

/// Lines of the reckoning in an answer: enough for the edges that matter, however many there are.
const REASONS_MAX: usize = 40;
/// Lists of regions to measure, a minute, for one client address: an office opens many lobbies at ten o'clock.
const PROBE_LISTS_PER_MINUTE: u32 = 600;
/// Meetings in an account's list.
const OWN_MEETINGS_MAX: u32 = 200;
/// How often the use of a meeting is written.
const TOUCH_EVERY_MS: u64 = 3_600_000;

/// Everything a join needs. Cheap to share: one per process, in an `Arc`.
pub struct JoinService {
    pub(crate) store: Arc<dyn MeetingStore>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) learning: Arc<Learning>,
    pub(crate) policy: Policy,
    turn: TurnConfig,
    signing_key: Arc<SigningKey>,
    keys: KeyRing,
    passcodes: Passwords,
    limits: Limits,
    people_max: u32,
    demo: bool,
}

struct Limits {
    joins: Limiter<IpAddr>,
    wrong_codes: Limiter<IpAddr>,
    wrong_passcodes: Limiter<String>,
    meetings: Limiter<IpAddr>,
    probes: Limiter<IpAddr>,
}

/// What [`JoinService::new`] puts together.
pub(crate) struct JoinParts {
    pub(crate) store: Arc<dyn MeetingStore>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) learning: Arc<Learning>,
    pub(crate) policy: Policy,
    pub(crate) turn: TurnConfig,
    pub(crate) signing_key: Arc<SigningKey>,
    pub(crate) passwords: Passwords,
    pub(crate) keys: KeyRing,
    pub(crate) limits: LimitsConfig,
    pub(crate) demo: bool,
}

/// How somebody shows that a meeting is theirs.
#[derive(Debug, Clone, Copy)]
pub enum Host<'a> {
    /// The host key that its creation returned.
    Key(&'a str),
    /// The account that they have signed in to.
    Account(&'a str),
}

/// A meeting as strangers with its code may see it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct MeetingInfo {
    pub code: String,
    pub title: String,
    pub passcode_required: bool,
    /// `open`; a meeting that has ended is refused instead.
    pub state: &'static str,
    pub max_participants: u32,
    /// People there now, as far as the edges have reported.
    pub participants: u32,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// Where it may be held; left out if anywhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub residency: Vec<String>,
}

impl JoinService {
    pub(crate) fn new(parts: JoinParts) -> Self {
        let limits = Limits {
            joins: Limiter::new(parts.limits.joins_per_minute_address),
            wrong_codes: Limiter::new(parts.limits.wrong_codes_per_minute_address),
            wrong_passcodes: Limiter::new(parts.limits.wrong_passcodes_per_minute_meeting),
            meetings: Limiter::new(parts.limits.meetings_per_minute_address),
            probes: Limiter::new(PROBE_LISTS_PER_MINUTE),
        };
        JoinService {
            store: parts.store,
            fleet: parts.fleet,
            metrics: parts.metrics,
            learning: parts.learning,
            policy: parts.policy,
            turn: parts.turn,
            signing_key: parts.signing_key,
            keys: parts.keys,
            passcodes: parts.passwords,
            limits,
            people_max: parts.limits.participants_max,
            demo: parts.demo,
        }
    }

    /// Whether `from` is honoured.
    pub fn is_demo(&self) -> bool {
        self.demo
    }

    /// What a stranger with the code may know.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Ended`], [`Refusal::TooManyTries`], [`Refusal::Unavailable`].
    pub async fn info(&self, code: &str, client: IpAddr) -> Result<MeetingInfo, Refusal> {
        let meeting = self.find(code, client, Instant::now()).await?;
        Ok(self.info_of(&meeting))
    }

    /// The open meetings of an account, the latest first, at most [`OWN_MEETINGS_MAX`].
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub(crate) async fn meetings_of(&self, account: &str) -> Result<Vec<MeetingInfo>, Refusal> {
        let owned = self
            .store
            .owned_by(account, OWN_MEETINGS_MAX)
            .await
            .map_err(unavailable)?;
        Ok(owned.iter().map(|meeting| self.info_of(meeting)).collect())
    }

    /// Ends a meeting for everybody.
    ///
    /// # Errors
    /// As [`Self::info`], and [`Refusal::NotHost`].
    pub async fn end(&self, code: &str, host: Host<'_>, client: IpAddr) -> Result<(), Refusal> {
        let meeting = self.hosted(code, host, client).await?;
        self.store.end(&meeting.code, now_ms()).await.map_err(unavailable)?;
        let close = v1::CloseRoom {
            room: meeting.code,
            reason: "the host has ended the meeting".to_owned(),
        };
        self.fleet.close(close);
        Ok(())
    }

    /// The open meeting of a code, for its host only.
    async fn hosted(&self, code: &str, host: Host<'_>, client: IpAddr) -> Result<Meeting, Refusal> {
        let meeting = self.find(code, client, Instant::now()).await?;
        let is_host = match host {
            // Hashes of 256 random bits: how long the comparison takes tells nothing about the key.
            Host::Key(key) => sha256(key) == meeting.host_key_hash,
            Host::Account(account) => meeting.owner.as_deref() == Some(account),
        };
        is_host.then_some(meeting).ok_or(Refusal::NotHost)
    }

    /// Admits somebody to a meeting: an edge, alternates, ICE servers, a token, and why.
    ///
    /// # Errors
    /// [`Refusal`], each with its own status, code and words.
    pub async fn join(&self, request: v1::JoinRequest) -> Result<v1::JoinGranted, Refusal> {
        let started = Instant::now();
        let result = self.admit(request, started).await;
        let outcome = result.as_ref().err().map_or("granted", Refusal::code);
        self.metrics
            .count("meridian_joins_total", &format!("outcome=\"{outcome}\""));
        self.metrics.took("meridian_join_seconds", started.elapsed());
        result
    }

    async fn admit(&self, request: v1::JoinRequest, now: Instant) -> Result<v1::JoinGranted, Refusal> {
        let address: IpAddr = request
            .client_address
            .parse()
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        self.limits.joins.take(limit_key(address), now).map_err(too_many)?;
        let meeting = self.find(&request.code, address, now).await?;
        let returning = self.identity_of(&request.previous_token, &meeting.code);
        if returning.is_none() {
            self.check_passcode(&meeting, &request.passcode, now).await?;
        }
        let name = clean(&request.name, NAME_CHARS_MAX)
            .ok_or_else(|| Refusal::BadRequest("Enter the name that others should see.".to_owned()))?;
        let mut client = self.client(&request, address)?;
        client.residency.clone_from(&meeting.residency);
        // Nobody is part of an experiment in the middle of a call.
        client.draw = returning.is_none().then(|| rand::rng().random());
        // Somebody who returns is in the count already, or has just been dropped from it.
        let note = match &returning {
            Some(_) => Note::Returning,
            None => Note::New {
                people_max: meeting.max_participants,
            },
        };
        let placement = self.fleet.place(&client, &meeting.code, note, Instant::now());
        let (edge, alternates) = placement.edges.split_first().ok_or(Refusal::NoEdge)?;
        let nearest_turn = placement.edges.iter().find(|record| !record.turn.is_empty());
        if placement.full {
            return Err(Refusal::Full {
                people_max: meeting.max_participants,
            });
        }
        let choice = format!("choice=\"{}\"", placement.choice.as_str());
        self.metrics.count("meridian_assignments_total", &choice);
        if let Err(error) = self.touch(&meeting).await {
            // Nobody is turned away because of bookkeeping.
            tracing::warn!(%error, "the use of a meeting could not be noted");
        }
        let identity = returning.unwrap_or_else(new_identity);
        let relays = self.relays(&meeting);
        let claims = self.claims(&identity, &name, &meeting, relays.clone());
        let token = self.signing_key.mint(&claims).map_err(unavailable)?;
        let ice_servers = self.ice_servers(&identity, edge, nearest_turn, relays.as_deref());
        let reason = |one: meridian_geo::Reason| v1::Reason {
            edge: one.edge,
            kind: one.kind.as_str().to_owned(),
            value: one.value,
            text: one.text,
        };
        Ok(v1::JoinGranted {
            edge: Some(edge_address(edge)),
            alternates: alternates.iter().map(edge_address).collect(),
            ice_servers,
            token,
            identity,
            room: meeting.code,
            reasons: placement.reasons.into_iter().take(REASONS_MAX).map(reason).collect(),
            expires: claims.exp.unwrap_or_default(),
            title: meeting.title,
        })
    }

    /// Notes that a meeting is used; at most once an hour, so that joins mostly read.
    async fn touch(&self, meeting: &Meeting) -> Result<(), StoreError> {
        let now_ms = now_ms();
        match now_ms.saturating_sub(meeting.used_at_ms) >= TOUCH_EVERY_MS {
            true => self.store.touch(&meeting.code, now_ms).await,
            false => Ok(()),
        }
    }

    /// The open meeting of a code. Codes that do not exist are counted against whoever tries them.
    async fn find(&self, code: &str, client: IpAddr, now: Instant) -> Result<Meeting, Refusal> {
        let guesses = &self.limits.wrong_codes;
        let key = limit_key(client);
        // Taken first and given back, so that many guesses at once are not all free.
        guesses.take(key, now).map_err(too_many)?;
        let found = self.open_meeting(code).await;
        if !matches!(found, Err(Refusal::NotFound | Refusal::Unavailable)) {
            guesses.give_back(&key);
        }
        found
    }

    /// Where somebody at an address would be sent, and everything that was reckoned with. Sends nobody.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Ended`], [`Refusal::BadRequest`], [`Refusal::Unavailable`].
    pub(crate) async fn explain(&self, address: IpAddr, code: &str, from: &str) -> Result<Explanation, Refusal> {
        let meeting = match code {
            "" => None,
            code => Some(self.open_meeting(code).await?),
        };
        let known = self.learning.know(address);
        let mut client = match from {
            "" => Client {
                location: known.location(),
                measured: known.measured.clone(),
                ..Client::default()
            },
            from => self.client_from(from)?,
        };
        if let Some(meeting) = &meeting {
            client.residency.clone_from(&meeting.residency);
        }
        let room = meeting.as_ref().map_or("", |meeting| meeting.code.as_str());
        let reckoning = self.fleet.explain(&client, room, Instant::now());
        Ok(Explanation::new(
            address,
            known,
            client,
            &self.policy,
            meeting.as_ref(),
            &reckoning,
        ))
    }

    async fn open_meeting(&self, code: &str) -> Result<Meeting, Refusal> {
        let found = match normalise(code) {
            Some(code) => self.store.get(code.as_str()).await.map_err(unavailable)?,
            None => None,
        };
        let meeting = found.ok_or(Refusal::NotFound)?;
        if meeting.ended_at_ms.is_some() {
            Err(Refusal::Ended)
        } else {
            Ok(meeting)
        }
    }

    async fn check_passcode(&self, meeting: &Meeting, passcode: &str, now: Instant) -> Result<(), Refusal> {
        let Some(hash) = &meeting.passcode_hash else {
            return Ok(());
        };
        if passcode.is_empty() {
            return Err(Refusal::PasscodeRequired);
        }
        if passcode.len() > PASSWORD_BYTES_MAX {
            return Err(Refusal::WrongPasscode);
        }
        self.limits
            .wrong_passcodes
            .take(meeting.code.clone(), now)
            .map_err(too_many)?;
        if !self.passcodes.verify(passcode, hash).await.map_err(unavailable)? {
            return Err(Refusal::WrongPasscode);
        }
        self.limits.wrong_passcodes.give_back(&meeting.code);
        Ok(())
    }

    /// The edges that are best for somebody of `room` who has to leave `from`, and notes that they go to the first. None: nobody has room.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`].
    pub(crate) async fn relocate(
        &self,
        room: &str,
        address: IpAddr,
        from: String,
    ) -> Result<Vec<v1::EdgeAddress>, Refusal> {
        let mut client = self.client_at(address);
        client.avoid = vec![from.clone()];
        // A room of an API key is no meeting: the operator's rules alone hold.
        if let Some(code) = normalise(room)
            && let Some(meeting) = self.store.get(code.as_str()).await.map_err(unavailable)?
        {
            client.residency = meeting.residency;
        }
        let placement = self.fleet.place(&client, room, Note::Returning, Instant::now());
        let others = placement.edges.iter().filter(|edge| edge.id != from);
        Ok(others.map(edge_address).collect())
    }

    /// Whether `client` may have another list of regions to measure.
    pub(crate) fn may_list_probes(&self, client: IpAddr, now: Instant) -> bool {
        self.limits.probes.take(limit_key(client), now).is_ok()
    }

    /// Somebody of whom only the address is known.
    pub(crate) fn client_at(&self, address: IpAddr) -> Client {
        let known = self.learning.know(address);
        Client {
            location: known.location(),
            measured: known.measured,
            ..Client::default()
        }
    }

    /// Somebody who is said to be in a region: the demo's visitors.
    pub(crate) fn client_from(&self, region: &str) -> Result<Client, Refusal> {
        Ok(Client {
            location: Some(self.location_of(region)?),
            ..Client::default()
        })
    }

    fn client(&self, request: &v1::JoinRequest, address: IpAddr) -> Result<Client, Refusal> {
        let mut client = match self.demo && !request.from.is_empty() {
            true => self.client_from(&request.from)?,
            false => self.client_at(address),
        };
        let probe = |one: &v1::Probe| Probe {
            region: one.region.clone(),
            rtt_ms: f64::from(one.rtt_ms),
        };
        client.probes = request.probes.iter().take(PROBES_MAX).map(probe).collect();
        client.avoid = request.avoid.iter().take(AVOID_MAX).cloned().collect();
        Ok(client)
    }

    fn location_of(&self, region: &str) -> Result<Location, Refusal> {
        let known = regions::find(region).map(|region| region.location);
        let of_an_edge = || self.fleet.place_of(region, Instant::now());
        known.or_else(of_an_edge).ok_or_else(|| {
            let shown: String = region.chars().take(20).collect();
            Refusal::BadRequest(format!("`from={shown}` is no region. Try fra, iad or sin."))
        })
    }

    /// Where a meeting may be held binds its relays too: the regions of the configured ones that people may be told of, `None` for all.
    /// Those without a region may stand anywhere, so they are only for meetings that may be held anywhere: a promise about places is
    /// kept also where keeping it costs somebody a relay.
    fn relays(&self, meeting: &Meeting) -> Option<Vec<String>> {
        if meeting.residency.is_empty() {
            return None;
        }
        let within = |region: &&String| regions::lies_within(region, &meeting.residency);
        Some(self.turn.regions.keys().filter(within).cloned().collect())
    }

    /// The nearest edge's TURN server, then those of the configuration that are permitted, of the person's region first. All know the one
    /// secret.
    fn ice_servers(
        &self,
        identity: &str,
        edge: &NodeRecord,
        nearest: Option<&NodeRecord>,
        permitted: Option<&[String]>,
    ) -> Vec<v1::IceServer> {
        let expires_s = unix_now_s() + u64::from(self.turn.ttl_s);
        let mint = |urls: &[String]| {
            meridian_turn_credentials::ice_servers(urls, self.turn.secret.as_bytes(), identity, expires_s)
        };
        let mut servers = nearest.map(|edge| mint(&edge.turn)).unwrap_or_default();
        let anywhere = std::iter::once((String::new(), self.turn.urls.clone()));
        let regional = self.turn.regions.clone().into_iter().chain(anywhere);
        servers.extend(mint(&permitted_urls(regional, &edge.region, permitted)));
        let ice_server = |IceServer {
                              urls,
                              username,
                              credential,
                          }| v1::IceServer {
            urls,
            username,
            credential,
        };
        servers.into_iter().map(ice_server).collect()
    }

    fn info_of(&self, meeting: &Meeting) -> MeetingInfo {
        MeetingInfo {
            code: meeting.code.clone(),
            title: meeting.title.clone(),
            passcode_required: meeting.passcode_hash.is_some(),
            state: "open",
            max_participants: meeting.max_participants,
            participants: self.fleet.people_in(&meeting.code, Instant::now()),
            created_at_ms: meeting.created_at_ms,
            residency: meeting.residency.clone(),
        }
    }
}

pub(crate) fn too_many(retry_after_s: u32) -> Refusal {
    Refusal::TooManyTries { retry_after_s }
}

pub(crate) fn unavailable(error: impl std::fmt::Display) -> Refusal {
    tracing::error!(%error, "a request could not be answered");
    Refusal::Unavailable
}

pub(crate) fn sha256(text: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, text.as_bytes()).as_ref().to_vec()
}

fn edge_address(record: &NodeRecord) -> v1::EdgeAddress {
    v1::EdgeAddress {
        id: record.id.clone(),
        region: record.region.clone(),
        url: record.client_url.clone(),
    }
}

/// Identities are random: a name is no identity, and a guessed one could evict somebody.
fn new_identity() -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut rng = rand::rng();
    let random: String = (0..16)
        .map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]))
        .collect();
    format!("u-{random}")
}

/// A text that others will see: no control or direction-changing characters, no outer spaces, bounded. `None` if nothing is left.
pub(crate) fn clean(text: &str, chars_max: usize) -> Option<String> {
    let harmless = |c: &char| {
        !c.is_control() && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let kept: String = text.chars().take(chars_max * 4).filter(harmless).collect();
    let kept: String = kept.trim().chars().take(chars_max).collect();
    let kept = kept.trim_end().to_owned();
    (!kept.is_empty()).then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_and_bounded() {
        assert_eq!(clean("  Ana \u{202e}María\n", 64).as_deref(), Some("Ana María"));
        assert_eq!(clean(" \t\u{200f} ", 64), None);
        assert_eq!(clean(&"é".repeat(100), 64).unwrap().chars().count(), 64);
    }

    #[test]
    fn identities_do_not_repeat() {
        let many: std::collections::BTreeSet<String> = (0..1000).map(|_| new_identity()).collect();
        assert_eq!(many.len(), 1000);
    }
}
