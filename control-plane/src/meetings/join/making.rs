//! Making a meeting.

use super::{JoinService, Meeting, MeetingInfo, clean, sha256, too_many, unavailable};
use crate::database::now_ms;
use crate::meetings::codes::MeetingCode;
use crate::passwords::PASSWORD_BYTES_MAX;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meridian_access::network::limit_key;
use meridian_geo::regions;
use meridian_wire::join::Refusal;
use rand::Rng as _;
use std::net::IpAddr;
use std::time::Instant;

/// Residency rules of one meeting, and the characters of one.
const RULES_MAX: usize = 16;
const RULE_CHARS_MAX: usize = 40;
/// Longest title of a meeting, in characters.
const TITLE_CHARS_MAX: usize = 120;

/// A request to make a meeting.
#[derive(Debug, Clone, Default, serde::Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct NewMeeting {
    pub title: String,
    pub passcode: Option<String>,
    pub max_participants: Option<u32>,
    /// Where it may be held: region names or areas (`eu`, `us`, …), on top of the operator's policy. Empty: wherever that allows.
    pub residency: Vec<String>,
}

impl JoinService {
    /// Makes a meeting, of the account `owner` if somebody has signed in; returns it and its host key, which is not stored and cannot be
    /// had again.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn create(
        &self,
        new: NewMeeting,
        owner: Option<&str>,
        client: IpAddr,
    ) -> Result<(MeetingInfo, String), Refusal> {
        self.limits
            .meetings
            .take(limit_key(client), Instant::now())
            .map_err(too_many)?;
        let title = clean(&new.title, TITLE_CHARS_MAX).unwrap_or_else(|| "Meeting".to_owned());
        let max_participants = new.max_participants.unwrap_or(self.people_max);
        if !(1..=self.people_max).contains(&max_participants) {
            return Err(Refusal::BadRequest(format!(
                "max_participants must be between 1 and {}.",
                self.people_max
            )));
        }
        let residency = self.residency_rules(&new.residency)?;
        let passcode_hash = match new.passcode.as_deref().filter(|passcode| !passcode.is_empty()) {
            Some(passcode) if passcode.len() > PASSWORD_BYTES_MAX => {
                return Err(Refusal::BadRequest(format!(
                    "The passcode must be at most {PASSWORD_BYTES_MAX} bytes long."
                )));
            }
            Some(passcode) => Some(self.passcodes.hash(passcode).await.map_err(unavailable)?),
            None => None,
        };
        let host_key = URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 32]>());
        loop {
            let now_ms = now_ms();
            let meeting = Meeting {
                code: MeetingCode::generate(&mut rand::rng()).to_string(),
                title: title.clone(),
                passcode_hash: passcode_hash.clone(),
                host_key_hash: sha256(&host_key),
                max_participants,
                created_at_ms: now_ms,
                ended_at_ms: None,
                used_at_ms: now_ms,
                residency: residency.clone(),
                owner: owner.map(str::to_owned),
            };
            // A code that is taken (one in 2^45) is tried again with another.
            if self.store.insert(&meeting).await.map_err(unavailable)? {
                self.metrics.count("meridian_meetings_created_total", "");
                return Ok((self.info_of(&meeting), host_key));
            }
        }
    }

    /// What a meeting's residency rules mean; a rule that no region satisfies is more likely misspelt than meant.
    fn residency_rules(&self, rules: &[String]) -> Result<Vec<String>, Refusal> {
        if rules.len() > RULES_MAX {
            return Err(Refusal::BadRequest(format!("residency: at most {RULES_MAX} rules.")));
        }
        let view = self.fleet.view();
        let rule = |text: &String| {
            let rule = text.trim().to_lowercase();
            let known = regions::is_rule(&rule) || view.records().any(|node| node.region.eq_ignore_ascii_case(&rule));
            let sane = rule.len() <= RULE_CHARS_MAX && !rule.contains(',');
            (known && sane).then_some(rule).ok_or_else(|| {
                let shown: String = text.chars().take(RULE_CHARS_MAX).collect();
                Refusal::BadRequest(format!(
                    "residency: `{shown}` is neither a region nor an area. Try eu, us or fra."
                ))
            })
        };
        rules.iter().map(rule).collect()
    }
}
