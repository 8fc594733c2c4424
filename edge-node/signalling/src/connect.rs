//! Reading the HTTP request that opens a session: path, query and token first ([`Knock`]), then the JoinRequest inside. Checks form and size only;
//! whether the token is good is `meridian_access::token`'s matter.

use std::collections::BTreeMap;
use std::io::Read;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use livekit_protocol::{
    AddTrackRequest, ClientInfo, JoinRequest, SessionDescription, SyncState, WrappedJoinRequest, wrapped_join_request,
};
use meridian_room::ParticipantSid;
use prost::Message;

use crate::counts;

/// Bytes of a JoinRequest once decompressed.
pub const JOIN_REQUEST_BYTES_MAX: usize = 256 * 1024;
/// Bytes of the query string: base64 of an uncompressed request.
pub const QUERY_BYTES_MAX: usize = 384 * 1024;

/// An HTTP answer instead of the upgrade. To be sent with `Access-Control-Allow-Origin: *`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {text}")]
pub struct Refusal {
    pub status: u16,
    pub text: String,
}

impl Refusal {
    fn new(status: u16, text: impl Into<String>) -> Self {
        Refusal {
            status,
            text: text.into(),
        }
    }
}

/// What a client asks for when it connects.
#[derive(Clone, Debug, Default)]
pub struct ConnectRequest {
    pub token: String,
    pub client: ClientInfo,
    pub auto_subscribe: bool,
    pub adaptive_stream: bool,
    pub subscriber_allow_pause: Option<bool>,
    pub metadata: String,
    pub attributes: BTreeMap<String, String>,
    pub add_tracks: Vec<AddTrackRequest>,
    pub offer: Option<SessionDescription>,
    /// The client says that this is no new join but the continuation of a session.
    pub reconnect: bool,
    /// Which session it continues.
    pub resume_sid: Option<ParticipantSid>,
    pub reconnect_reason: i32,
    pub sync_state: Option<SyncState>,
}

/// A request at the door: what is needed to know who it is. What it wants stands in bytes that are opened once the token is found good,
/// because they may be many.
#[derive(Clone, Debug)]
pub struct Knock {
    /// Not verified yet.
    pub token: String,
    join_request: String,
    reconnect: bool,
    sid: Option<String>,
}

impl Knock {
    /// `query` without the question mark, percent-encoded; `authorization` the header's value.
    ///
    /// # Errors
    /// 404 for anything but `/rtc/v1` and its `/validate` (with CORS, so that clients say what they miss), 401 without a
    /// token, 400 without a JoinRequest, 413 for a query that is too long.
    pub fn parse(path: &str, query: &str, authorization: Option<&str>) -> Result<Knock, Refusal> {
        if !matches!(path.trim_end_matches('/'), "/rtc/v1" | "/rtc/v1/validate") {
            return Err(Refusal::new(404, "this server speaks /rtc/v1 (single peer connection)"));
        }
        if query.len() > QUERY_BYTES_MAX {
            return Err(Refusal::new(
                413,
                format!("the query is longer than {QUERY_BYTES_MAX} bytes"),
            ));
        }
        let mut token = authorization.and_then(bearer).map(str::to_owned);
        let (mut join_request, mut reconnect, mut sid) = (None, false, None);
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "access_token" if token.is_none() && !value.is_empty() => token = Some(value.into_owned()),
                "join_request" => join_request = Some(value.into_owned()),
                "reconnect" => reconnect = matches!(&*value, "1" | "true"),
                "sid" if !value.is_empty() => sid = Some(value.into_owned()),
                _ => {}
            }
        }
        Ok(Knock {
            token: token.ok_or_else(|| Refusal::new(401, "no access token: send Authorization or access_token"))?,
            join_request: join_request.ok_or_else(|| Refusal::new(400, "join_request is missing"))?,
            reconnect,
            sid,
        })
    }

    /// # Errors
    /// 400 for a JoinRequest that cannot be read or holds too many of something, 413 for one that is too large.
    pub fn open(self) -> Result<ConnectRequest, Refusal> {
        let join = decode_join_request(&self.join_request)?;
        let settings = join.connection_settings.unwrap_or_default();
        let sid = Some(join.participant_sid).filter(|sid| !sid.is_empty()).or(self.sid);
        Ok(ConnectRequest {
            token: self.token,
            client: join.client_info.unwrap_or_default(),
            auto_subscribe: settings.auto_subscribe,
            adaptive_stream: settings.adaptive_stream,
            subscriber_allow_pause: settings.subscriber_allow_pause,
            metadata: join.metadata,
            attributes: join.participant_attributes.into_iter().collect(),
            add_tracks: join.add_track_requests,
            offer: join.publisher_offer,
            reconnect: self.reconnect || join.reconnect,
            resume_sid: sid.map(ParticipantSid::new),
            reconnect_reason: join.reconnect_reason,
            sync_state: join.sync_state,
        })
    }
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    Some(token.trim()).filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
}

fn decode_join_request(text: &str) -> Result<JoinRequest, Refusal> {
    let bytes = decode_base64(text).ok_or_else(|| Refusal::new(400, "join_request is not base64url"))?;
    let wrapped = WrappedJoinRequest::decode(bytes.as_slice())
        .map_err(|error| Refusal::new(400, format!("join_request is no WrappedJoinRequest: {error}")))?;
    let bytes = match wrapped_join_request::Compression::try_from(wrapped.compression) {
        Ok(wrapped_join_request::Compression::None) => wrapped.join_request,
        Ok(wrapped_join_request::Compression::Gzip) => gunzip(&wrapped.join_request)?,
        Err(_) => return Err(Refusal::new(400, "join_request has an unknown compression")),
    };
    if bytes.len() > JOIN_REQUEST_BYTES_MAX {
        return Err(too_large());
    }
    counts::check(&bytes, counts::JOIN_REQUEST, "JoinRequest").map_err(|fault| Refusal::new(400, fault.reason))?;
    JoinRequest::decode(bytes.as_slice())
        .map_err(|error| Refusal::new(400, format!("join_request holds no JoinRequest: {error}")))
}

/// Clients differ in alphabet and padding; form decoding may have turned a plus sign into a space.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let engine = GeneralPurpose::new(&base64::alphabet::URL_SAFE, config);
    let normal: String = text
        .chars()
        .map(|c| match c {
            '+' | ' ' => '-',
            '/' => '_',
            c => c,
        })
        .collect();
    engine.decode(normal).ok()
}

/// Reads no further than the limit, however much the compressed bytes would give.
fn gunzip(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes)
        .take(JOIN_REQUEST_BYTES_MAX as u64 + 1)
        .read_to_end(&mut out)
        .map_err(|error| Refusal::new(400, format!("join_request is not gzip: {error}")))?;
    if out.len() > JOIN_REQUEST_BYTES_MAX {
        Err(too_large())
    } else {
        Ok(out)
    }
}

fn too_large() -> Refusal {
    Refusal::new(
        413,
        format!("join_request is larger than {JOIN_REQUEST_BYTES_MAX} bytes"),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn wrap(compression: i32, join_request: Vec<u8>) -> String {
        let wrapped = WrappedJoinRequest {
            compression,
            join_request,
        }
        .encode_to_vec();
        base64::engine::general_purpose::URL_SAFE.encode(wrapped)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("in memory");
        encoder.finish().expect("in memory")
    }

    fn parse(query: &str) -> Result<ConnectRequest, Refusal> {
        Knock::parse("/rtc/v1", query, None)?.open()
    }

    fn join() -> JoinRequest {
        JoinRequest {
            client_info: Some(ClientInfo {
                protocol: 17,
                client_protocol: 2,
                ..Default::default()
            }),
            connection_settings: Some(livekit_protocol::ConnectionSettings {
                auto_subscribe: true,
                adaptive_stream: true,
                ..Default::default()
            }),
            publisher_offer: Some(SessionDescription {
                r#type: "offer".into(),
                sdp: "v=0".repeat(5000),
                id: 1,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_gzipped_join_request_is_read() {
        let text = wrap(1, gzip(&join().encode_to_vec()));
        let request = parse(&format!("access_token=t&join_request={}", text.replace('=', "%3D"))).expect("valid");
        assert_eq!(request.token, "t");
        assert!(request.auto_subscribe && request.adaptive_stream && !request.reconnect);
        assert_eq!(request.offer.map(|o| o.sdp.len()), Some(15_000));
        // Native clients send the header, and base64 without padding or in the other alphabet.
        let text = text.trim_end_matches('=').replace('-', "+").replace('_', "/");
        let bare = Knock::parse("/rtc/v1/validate", &format!("join_request={text}"), Some("Bearer  t2"));
        let bare = bare.expect("valid");
        assert_eq!(bare.token, "t2");
        assert!(bare.open().expect("valid").auto_subscribe);
    }

    #[test]
    fn a_resume_names_its_session() {
        let join = JoinRequest {
            reconnect: true,
            participant_sid: "PA_x".into(),
            ..join()
        };
        let request = parse(&format!(
            "access_token=t&join_request={}",
            wrap(0, join.encode_to_vec())
        ))
        .expect("valid");
        assert!(request.reconnect);
        assert_eq!(request.resume_sid, Some(ParticipantSid::from("PA_x")));
    }

    #[test]
    fn a_gzip_bomb_is_refused_without_being_inflated() {
        let bomb = gzip(&vec![0; 16 << 20]);
        let refused = parse(&format!("access_token=t&join_request={}", wrap(1, bomb))).expect_err("too large");
        assert_eq!(refused.status, 413);
    }

    #[test]
    fn every_refusal_has_its_status() {
        let status = |path: &str, query: &str| {
            let opened = Knock::parse(path, query, None).and_then(Knock::open);
            opened.expect_err("refused").status
        };
        assert_eq!(status("/rtc", "access_token=t"), 404);
        assert_eq!(status("/rtc/validate", "access_token=t"), 404);
        assert_eq!(status("/rtc/v1", "join_request=AA"), 401);
        assert_eq!(status("/rtc/v1", "access_token=t"), 400);
        assert_eq!(status("/rtc/v1", "access_token=t&join_request=%%%"), 400);
        assert_eq!(
            status(
                "/rtc/v1",
                &format!("access_token=t&join_request={}", wrap(1, vec![1, 2, 3]))
            ),
            400
        );
        assert_eq!(
            status("/rtc/v1", &format!("access_token=t&join_request={}", wrap(7, vec![]))),
            400
        );
        assert_eq!(
            status("/rtc/v1", &format!("access_token={}", "t".repeat(QUERY_BYTES_MAX))),
            413
        );
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_requests_never_panic(path in ".{0,20}", query in ".{0,200}", bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), compression in 0..3i32) {
            let _ = Knock::parse(&path, &query, Some(&query)).and_then(Knock::open);
            let _ = parse(&format!("access_token=t&join_request={}", wrap(compression, bytes)));
        }
    }
}
