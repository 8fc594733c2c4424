//! The right to record a meeting, which its host has: a token for `/api/v1/rooms/{room}/recording` of the edges, and for nothing else.

use super::{Host, JoinService, unavailable};
use meridian_access::token::{Claims, Grants};
use meridian_wire::join::Refusal;
use std::net::IpAddr;

/// What the host of a meeting shows to an edge.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct RecordingToken {
    pub token: String,
    /// Seconds since 1970.
    pub expires: u64,
}

impl JoinService {
    /// A token that begins and ends the recording of this meeting. It lets nobody join.
    ///
    /// # Errors
    /// As [`Self::info`], and [`Refusal::NotHost`].
    pub async fn recording_token(&self, code: &str, host: Host<'_>, client: IpAddr) -> Result<RecordingToken, Refusal> {
        let meeting = self.hosted(code, host, client).await?;
        let mut claims = Claims::join("host", "", &meeting.code);
        claims.video = Some(Grants {
            room_record: true,
            room: meeting.code,
            ..Grants::default()
        });
        Ok(RecordingToken {
            token: self.signing_key.mint(&claims).map_err(unavailable)?,
            expires: claims.exp.unwrap_or_default(),
        })
    }
}
