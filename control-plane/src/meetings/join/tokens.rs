//! The tokens of people in a meeting: what they say, and what a new one says.

use super::{JoinService, Meeting, unavailable};
use meridian_access::token::{Claims, MeridianClaims, TokenError, unix_now_s, verify_at};
use meridian_wire::join::Refusal;
use meridian_wire::v1;

/// A token this long expired still proves who somebody was.
const PREVIOUS_TOKEN_S: u64 = 24 * 3600;

impl JoinService {
    /// Whom a token of ours for this room, valid now or lately, names.
    pub(super) fn identity_of(&self, token: &str, room: &str) -> Option<String> {
        let claims = self.own_claims(token)?;
        (claims.join_grants().ok()?.room == room).then_some(claims.sub)
    }

    /// What a token of the join API says, valid now or lately.
    fn own_claims(&self, token: &str) -> Option<Claims> {
        let now_s = unix_now_s();
        let claims = match verify_at(token, &self.keys, now_s) {
            Err(TokenError::Expired { seconds_ago }) if seconds_ago < PREVIOUS_TOKEN_S => {
                verify_at(token, &self.keys, now_s.saturating_sub(seconds_ago)).ok()?
            }
            result => result.ok()?,
        };
        // Only the join API writes this claim: a token minted with an API key does not pass for a passcode.
        (claims.meridian.is_some() && claims.iss == "meridian").then_some(claims)
    }

    /// A token as the join API would give it now, for somebody who is in the meeting and has this one. `None`: it is not the join
    /// API's, or expired for long.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Ended`]: there is nothing to come back to. [`Refusal::Unavailable`].
    pub(crate) async fn renew(&self, token: &str) -> Result<Option<v1::RenewAnswer>, Refusal> {
        let Some(known) = self.own_claims(token) else {
            return Ok(None);
        };
        let Ok(grants) = known.join_grants() else {
            return Ok(None);
        };
        let meeting = self.open_meeting(&grants.room).await?;
        let claims = self.claims(&known.sub, &known.name, &meeting, self.relays(&meeting));
        Ok(Some(v1::RenewAnswer {
            token: self.signing_key.mint(&claims).map_err(unavailable)?,
            expires: claims.exp.unwrap_or_default(),
        }))
    }

    pub(super) fn claims(&self, identity: &str, name: &str, meeting: &Meeting, relays: Option<Vec<String>>) -> Claims {
        let mut claims = Claims::join(identity, name, &meeting.code);
        claims.meridian = Some(MeridianClaims {
            home_region: None,
            max_participants: Some(meeting.max_participants),
            relays,
        });
        claims
    }
}
