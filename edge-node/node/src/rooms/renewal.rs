//! Where another token comes from: those of API keys are minted by this edge, those of the join API by the control plane.

use meridian_access::token::{Claims, KeyRing, mint, unix_now_s};
use meridian_conference::{Input, Renewed, SessionKey};
use meridian_wire::v1::RenewAnswer;
use tonic::Code;

use super::Around;
use crate::handles::{RoomHandle, ToRoom};

/// Tokens that this edge mints are valid for so long.
const TTL_S: u64 = 15 * 60;

/// Answers the room with [`Input::Renewed`].
pub(super) fn renew(around: &Around, room: &RoomHandle, client: SessionKey, token: String, claims: &Claims) {
    let minted = longer(claims, &around.admission.keys(), unix_now_s());
    let (control, room) = (around.control.clone(), room.clone());
    tokio::spawn(async move {
        let renewed = match (minted, control) {
            (Some(renewed), _) => renewed,
            (None, Some(control)) => renewed(control.renew(token).await),
            (None, None) => Renewed::Never,
        };
        let _ = room.send(ToRoom::Input(Input::Renewed { client, renewed })).await;
    });
}

fn renewed(answer: Result<RenewAnswer, tonic::Status>) -> Renewed {
    match answer {
        Ok(RenewAnswer { token, expires }) if !token.is_empty() => Renewed::Yes {
            token,
            expires_s: expires,
        },
        Err(status) if matches!(status.code(), Code::PermissionDenied | Code::NotFound) => Renewed::Never,
        _ => Renewed::Unanswered,
    }
}

/// The same claims, for longer; `None`: they were not signed with an API key that still counts.
fn longer(claims: &Claims, keys: &KeyRing, now_s: u64) -> Option<Renewed> {
    let secret = keys.secret(&claims.iss)?;
    let expires_s = now_s + TTL_S;
    let mut longer = claims.clone();
    longer.exp = Some(expires_s);
    let token = mint(&longer, &claims.iss, secret).ok()?;
    Some(Renewed::Yes { token, expires_s })
}
