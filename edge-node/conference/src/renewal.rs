//! Tokens that expire soon are replaced, so that whoever loses the connection can come back. Where another comes from is the
//! driver's affair ([`Output::RenewToken`]); clients are told by RefreshToken.

use crate::conference::Conference;
use crate::io::{Output, SessionKey};

/// A token is replaced so long before it expires.
const AHEAD_S: u64 = 10 * 60;
/// Until it is asked for again, when there was no answer.
const RETRY_S: u64 = 60;
/// Questions that one room begins to ask in one tick: a webinar's viewers came together.
const ASKED_PER_TICK: usize = 32;

/// What a client would come back with.
#[derive(Debug)]
pub(crate) struct ExpiringToken {
    text: String,
    /// When to replace it, seconds since 1970.
    due_s: u64,
}

impl ExpiringToken {
    /// `None` for one that does not expire.
    pub(crate) fn new(text: &str, expires_s: Option<u64>) -> Option<ExpiringToken> {
        Some(ExpiringToken {
            text: text.to_owned(),
            due_s: expires_s?.saturating_sub(AHEAD_S),
        })
    }
}

/// What became of asking for another token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewed {
    Yes {
        token: String,
        /// Seconds since 1970.
        expires_s: u64,
    },
    /// Nobody comes back with this token.
    Never,
    /// To be asked again.
    Unanswered,
}

impl Conference {
    pub(crate) fn renew_tokens(&mut self) {
        let now_s = self.wall_s();
        let mut asked = 0;
        for member in self.members.values_mut() {
            let Some(token) = member.token.as_mut().filter(|token| token.due_s < now_s) else {
                continue;
            };
            if asked == ASKED_PER_TICK {
                return;
            }
            asked += 1;
            token.due_s = now_s + RETRY_S;
            self.out.put(Output::RenewToken {
                client: member.key,
                token: token.text.clone(),
                claims: Box::new(member.stay.claims.clone()),
            });
        }
    }

    pub(crate) fn renewed(&mut self, key: SessionKey, renewed: Renewed) {
        let now_s = self.wall_s();
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        match renewed {
            Renewed::Yes { token, expires_s } => {
                // Should the two clocks be far apart, it is not asked again at once, and for ever.
                let expires_s = expires_s.max(now_s + AHEAD_S + RETRY_S);
                member.token = ExpiringToken::new(&token, Some(expires_s));
                member.voice.refresh_token(token);
                self.dirty.insert(key);
            }
            Renewed::Never => {
                tracing::info!(room = %self.name, identity = %member.stay.identity, "there is no other token");
                member.token = None;
            }
            Renewed::Unanswered => {}
        }
    }
}
