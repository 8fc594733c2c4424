//! Tokens that expire soon are replaced, so that whoever loses the connection can come back: those of API keys by this edge, those of
//! the join API by the control plane. Clients are told by RefreshToken.

use meridian_access::token::{Claims, KeyRing, mint};
use meridian_wire::v1::RenewAnswer;
use tonic::Code;

use super::task::RoomTask;
use super::{SessionKey, ToRoom};

/// A token is replaced so long before it expires.
const AHEAD_S: u64 = 10 * 60;
/// Those that this edge mints are valid for so long.
const TTL_S: u64 = 15 * 60;
/// Until the control plane is asked again, when it has not answered.
const RETRY_S: u64 = 60;
/// Questions that one room begins to ask the control plane in one tick: a webinar's viewers came together.
const ASKED_PER_TICK: usize = 32;

/// What a client would come back with.
#[derive(Debug)]
pub(super) struct ExpiringToken {
    text: String,
    /// When to replace it, seconds since 1970.
    due_s: u64,
}

impl ExpiringToken {
    /// `None` for one that does not expire.
    pub(super) fn new(text: &str, expires_s: Option<u64>) -> Option<ExpiringToken> {
        Some(ExpiringToken {
            text: text.to_owned(),
            due_s: expires_s?.saturating_sub(AHEAD_S),
        })
    }
}

/// The control plane's word.
#[derive(Debug)]
pub(crate) enum Renewed {
    Yes {
        token: String,
        expires_s: u64,
    },
    /// Nobody comes back with this token.
    Never,
    /// To be asked again.
    Unanswered,
}

impl From<Result<RenewAnswer, tonic::Status>> for Renewed {
    fn from(answer: Result<RenewAnswer, tonic::Status>) -> Renewed {
        match answer {
            Ok(RenewAnswer { token, expires }) if !token.is_empty() => Renewed::Yes {
                token,
                expires_s: expires,
            },
            Err(status) if matches!(status.code(), Code::PermissionDenied | Code::NotFound) => Renewed::Never,
            _ => Renewed::Unanswered,
        }
    }
}

impl RoomTask {
    pub(super) fn renew_tokens(&mut self, now_s: u64) {
        let keys = self.edge.keys();
        let mut asked = 0;
        for client in self.clients.values_mut() {
            let Some(token) = client.token.as_mut().filter(|token| token.due_s < now_s) else {
                continue;
            };
            if let Some(text) = longer(client.signalling.claims(), &keys, now_s) {
                client.token = ExpiringToken::new(&text, Some(now_s + TTL_S));
                client.signalling.refresh_token(text);
                self.dirty.insert(client.key);
            } else if let Some(control) = self.edge.control.clone() {
                if asked == ASKED_PER_TICK {
                    continue;
                }
                asked += 1;
                token.due_s = now_s + RETRY_S;
                let (room, key, text) = (self.handle.clone(), client.key, token.text.clone());
                tokio::spawn(async move {
                    let renewed = Renewed::from(control.renew(text).await);
                    let _ = room.send(ToRoom::Renewed { client: key, renewed }).await;
                });
            } else {
                client.token = None;
            }
        }
    }

    pub(super) fn renewed(&mut self, now_s: u64, key: SessionKey, renewed: Renewed) {
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        match renewed {
            Renewed::Yes { token, expires_s } => {
                // Should the two clocks be far apart, it is not asked again at once, and for ever.
                let expires_s = expires_s.max(now_s + AHEAD_S + RETRY_S);
                client.token = ExpiringToken::new(&token, Some(expires_s));
                client.signalling.refresh_token(token);
                self.dirty.insert(key);
            }
            Renewed::Never => {
                tracing::info!(room = %self.name, identity = %client.identity, "the control plane gives no other token");
                client.token = None;
            }
            Renewed::Unanswered => {}
        }
    }
}

/// The same claims, for longer; `None`: they were not signed with an API key that still counts.
fn longer(claims: &Claims, keys: &KeyRing, now_s: u64) -> Option<String> {
    let secret = keys.secret(&claims.iss)?;
    let mut longer = claims.clone();
    longer.exp = Some(now_s + TTL_S);
    mint(&longer, &claims.iss, secret).ok()
}
