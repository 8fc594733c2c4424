//! `/whip` (RFC 9725) and `/whep` (draft-ietf-wish-whep): a POST with an offer makes a member of the room that the bearer's token names, and a
//! resource under `/whip/ID` or `/whep/ID` of this edge: PATCH trickles candidates or restarts ICE, DELETE ends it. What a client sees is described
//! in `docs/whip.md`. Every refusal is text for whoever typed the command: what is wrong, and what to do.

use std::fmt::Write;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use meridian_access::token::{Claims, TokenError};
use meridian_conference::Purpose;
use meridian_room::Identity;
use meridian_serving::listener::ClientAddress;
use meridian_transport::sdp::{FRAGMENT_BYTES_MAX, Fragment, SdpError, Survey};
use serde::Deserialize;

use super::rtc::with_cors;
use super::{Parts, client_of};
use crate::rooms::{HttpSession, Offered, Owner, Refusal, Role, gone, newcomer};

/// An offer of Chromium with ten sections is 40 KB.
const OFFER_BYTES_MAX: usize = 64 * 1024;
const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";
/// What a client that came too early is told to wait.
const RETRY_S: u32 = 2;

#[derive(Deserialize)]
struct Wishes {
    /// WHEP: the identity of the publisher to watch.
    publisher: Option<String>,
}

pub(super) fn routes() -> Router<Arc<Parts>> {
    let mut router = Router::new();
    for (role, endpoint, resource) in [(Role::Whip, "/whip", "/whip/{id}"), (Role::Whep, "/whep", "/whep/{id}")] {
        let offered = move |State(edge): State<Arc<Parts>>,
                            ConnectInfo(peer): ConnectInfo<ClientAddress>,
                            Query(wishes): Query<Wishes>,
                            headers: HeaderMap,
                            body: Result<Bytes, BytesRejection>| async move {
            let address = client_of(&edge, peer, &headers);
            let made = offer(&edge, role, address, wishes, &headers, body).await;
            made.unwrap_or_else(|refusal| refuse(&edge, role, &refusal))
        };
        let asked = move |State(edge): State<Arc<Parts>>, headers: HeaderMap| async move {
            let claims = bearer(&headers).and_then(|token| verify(&edge, token).ok());
            options("POST, OPTIONS", claims.map(|claims| ice_servers(&edge, &claims)))
        };
        let refused = move || async move { method_not_allowed("POST, OPTIONS") };
        let endpoint_routes = post(offered)
            .options(asked)
            .fallback(refused)
            .layer(DefaultBodyLimit::max(OFFER_BYTES_MAX));
        let patched = move |State(edge): State<Arc<Parts>>,
                            Path(id): Path<String>,
                            headers: HeaderMap,
                            body: Result<Bytes, BytesRejection>| async move {
            let patched = patch(&edge, role, &id, &headers, body).await;
            patched.unwrap_or_else(|refusal| refuse(&edge, role, &refusal))
        };
        let deleted = move |State(edge): State<Arc<Parts>>, Path(id): Path<String>, headers: HeaderMap| async move {
            match find(&edge, role, &id, &headers) {
                Ok(session) => {
                    edge.http_sessions.close(&session).await;
                    exposed(StatusCode::OK.into_response())
                }
                Err(refusal) => refuse(&edge, role, &refusal),
            }
        };
        let resource_routes = axum::routing::patch(patched)
            .delete(deleted)
            .options(|| async { options("PATCH, DELETE, OPTIONS", None) })
            .fallback(|| async { method_not_allowed("PATCH, DELETE, OPTIONS") })
            .layer(DefaultBodyLimit::max(FRAGMENT_BYTES_MAX));
        router = router.route(endpoint, endpoint_routes).route(resource, resource_routes);
    }
    router
}

async fn offer(
    edge: &Arc<Parts>,
    role: Role,
    address: std::net::IpAddr,
    wishes: Wishes,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    if edge.lifecycle.is_stopped() {
        return Err(Refusal::new(503, "this edge is stopping: use another edge"));
    }
    let token = bearer(headers).ok_or_else(no_token)?;
    let claims = verify(edge, token)?;
    permit(role, &claims)?;
    content_type(headers, SDP)?;
    accepts(headers)?;
    let offer = text(body, OFFER_BYTES_MAX)?;
    let survey = Survey::of(&offer).map_err(|error| unfit(&error))?;
    fits(role, &survey)?;
    let purpose = match role {
        Role::Whip => Purpose::Publish,
        Role::Whep => Purpose::Play {
            publisher: wishes.publisher.map(Identity::from),
        },
    };
    let links = ice_servers(edge, &claims);
    let offered = Offered {
        owner: owner(&claims, token),
        client: meridian_conference::Connect {
            voice: newcomer(&claims.sub, purpose, offer),
            claims,
            address,
        },
        remote: survey.remote.ice,
    };
    let (session, answer) = edge.http_sessions.open(&edge.rooms, role, offered).await?;
    tracing::info!(
        identity = session.owner.identity,
        room = session.owner.room,
        protocol = role.name(),
        "offer answered"
    );
    let mut response = (StatusCode::CREATED, answer).into_response();
    let location = format!("/{}/{}", role.name(), session.id);
    set(&mut response, header::CONTENT_TYPE, SDP);
    set(&mut response, header::LOCATION, &location);
    set(&mut response, header::ETAG, &session.ice().etag);
    set(&mut response, HeaderName::from_static("accept-patch"), FRAGMENT);
    for link in links {
        add(&mut response, header::LINK, &link);
    }
    Ok(exposed(response))
}

async fn patch(
    edge: &Arc<Parts>,
    role: Role,
    id: &str,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let session = find(edge, role, id, headers)?;
    content_type(headers, FRAGMENT)?;
    let tags = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok());
    let tags = tags.ok_or_else(|| {
        Refusal::new(
            428,
            "send If-Match: the ETag of the last answer to trickle candidates, or * to restart ICE",
        )
    })?;
    let fragment = text(body, FRAGMENT_BYTES_MAX)?;
    let fragment = Fragment::parse(&fragment).map_err(|error| unfit(&error))?;
    let now = session.ice();
    let fresh = fragment.ice.filter(|ice| *ice != now.remote);
    if tags.trim() == "*" {
        if let Some(remote) = fresh {
            let answer = session.restart(remote).await?;
            let mut response = (StatusCode::OK, answer).into_response();
            set(&mut response, header::CONTENT_TYPE, FRAGMENT);
            set(&mut response, header::ETAG, &session.ice().etag);
            return Ok(exposed(response));
        }
    } else if !tags.split(',').any(|tag| tag.trim() == now.etag) {
        let text = "If-Match names another ICE session than the present one: its ETag came with the last answer; a restart sends *";
        return Err(Refusal::new(412, text));
    } else if fresh.is_some() {
        let text = "the fragment's ice-ufrag is not that of the offer: an ICE restart sends If-Match: *";
        return Err(Refusal::new(412, text));
    }
    // An ICE-lite server waits for the client's checks: it needs none of its candidates.
    Ok(exposed(StatusCode::NO_CONTENT.into_response()))
}

/// The resource, if the request comes from whoever made it.
fn find(edge: &Parts, role: Role, id: &str, headers: &HeaderMap) -> Result<Arc<HttpSession>, Refusal> {
    let token = bearer(headers).ok_or_else(no_token)?;
    let session = edge.http_sessions.get(role, id);
    let made_with = session
        .as_ref()
        .is_some_and(|session| session.owner.token_sha256 == sha256(token));
    if !made_with {
        let owner = owner(&verify(edge, token)?, token);
        if let Some(session) = &session
            && (&session.owner.identity, &session.owner.room) != (&owner.identity, &owner.room)
        {
            return Err(Refusal::new(
                403,
                "the token is somebody else's: use that of the POST, or one of the same identity and room",
            ));
        }
    }
    session.ok_or_else(gone)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn no_token() -> Refusal {
    Refusal::new(
        401,
        "send a token as Authorization: Bearer TOKEN (a join token, or one made with an API key, with roomJoin and room)",
    )
}

fn verify(edge: &Parts, token: &str) -> Result<Claims, Refusal> {
    meridian_access::token::verify(token, &edge.admission.keys())
        .map_err(|error: TokenError| Refusal::new(401, format!("invalid token: {error}")))
}

fn permit(role: Role, claims: &Claims) -> Result<(), Refusal> {
    let grants = claims.video.as_ref();
    let Some(grants) = grants.filter(|grants| grants.room_join && !grants.room.is_empty()) else {
        return Err(Refusal::new(
            403,
            "the token does not allow joining a room: it needs roomJoin and room",
        ));
    };
    if claims.sub.is_empty() {
        return Err(Refusal::new(401, "the token names no identity (sub)"));
    }
    match role {
        Role::Whip if !grants.may_publish() => Err(Refusal::new(
            403,
            "the token does not allow publishing: it needs canPublish",
        )),
        Role::Whep if !grants.may_subscribe() => Err(Refusal::new(
            403,
            "the token does not allow watching: it needs canSubscribe",
        )),
        _ => Ok(()),
    }
}

fn owner(claims: &Claims, token: &str) -> Owner {
    Owner {
        identity: claims.sub.clone(),
        room: claims
            .video
            .as_ref()
            .map(|grants| grants.room.clone())
            .unwrap_or_default(),
        token_sha256: sha256(token),
    }
}

fn sha256(text: &str) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

fn content_type(headers: &HeaderMap, wanted: &str) -> Result<(), Refusal> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.unwrap_or("").split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case(wanted) {
        return Ok(());
    }
    Err(Refusal::new(415, format!("send Content-Type: {wanted}")))
}

fn accepts(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(accept) = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()) else {
        return Ok(());
    };
    let mut ranges = accept
        .split(',')
        .map(|range| range.split(';').next().unwrap_or("").trim());
    if accept.trim().is_empty() || ranges.any(|range| matches!(range, "*/*" | "application/*") || range == SDP) {
        return Ok(());
    }
    Err(Refusal::new(
        406,
        format!("the answer is {SDP}: accept that, or send no Accept"),
    ))
}

fn text(body: Result<Bytes, BytesRejection>, bytes_max: usize) -> Result<String, Refusal> {
    let body = body.map_err(|_| Refusal::new(413, format!("the body has more than {bytes_max} bytes")))?;
    String::from_utf8(body.to_vec()).map_err(|_| Refusal::new(400, "the body is not UTF-8 text"))
}

/// RFC 9725 §4.2: SDP that cannot be read is 400, SDP that cannot be served is 422.
fn unfit(error: &SdpError) -> Refusal {
    let status = match error {
        SdpError::NotSdp | SdpError::Malformed { .. } | SdpError::DuplicateMid(_) => 400,
        SdpError::TooLong(_) => 413,
        _ => 422,
    };
    Refusal::new(status, error.to_string())
}

/// No section is refused on its own: the client cannot offer again (RFC 9725 §4.2).
fn fits(role: Role, survey: &Survey) -> Result<(), Refusal> {
    if !survey.refused.is_empty() {
        let text = format!(
            "cannot be accepted: {}. Each section needs a codec that is known here (Opus; VP8, VP9, H264, AV1), rtcp-mux, and a place in the bundle: set \
             the bundle policy max-bundle (in GStreamer bundle-policy=max-bundle)",
            survey.refused.join(", ")
        );
        return Err(Refusal::new(422, text));
    }
    match role {
        Role::Whip if survey.sends.is_empty() && survey.both.is_empty() => Err(Refusal::new(
            422,
            "the offer sends nothing: offer audio or video as sendonly (to watch, POST to /whep)",
        )),
        Role::Whep if survey.receives.is_empty() => Err(Refusal::new(
            422,
            "the offer would receive nothing: offer audio and video as recvonly (to publish, POST to /whip)",
        )),
        _ => Ok(()),
    }
}

/// RFC 9725 §4.5.
fn ice_servers(edge: &Parts, claims: &Claims) -> Vec<String> {
    let relays = claims.meridian.as_ref().and_then(|meridian| meridian.relays.as_deref());
    let mut links = Vec::new();
    for server in edge.turn.ice_servers(&claims.sub, &edge.region, relays) {
        for url in &server.urls {
            let mut link = format!("<{url}>; rel=\"ice-server\"");
            if !server.username.is_empty() {
                let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
                let _ = write!(
                    link,
                    "; username=\"{}\"; credential=\"{}\"; credential-type=\"password\"",
                    quoted(&server.username),
                    quoted(&server.credential)
                );
            }
            links.push(link);
        }
    }
    links
}

fn options(methods: &'static str, links: Option<Vec<String>>) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    set(&mut response, header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    set(
        &mut response,
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        "authorization, content-type, if-match",
    );
    set(&mut response, header::ACCESS_CONTROL_MAX_AGE, "600");
    set(&mut response, HeaderName::from_static("accept-post"), SDP);
    for link in links.into_iter().flatten() {
        add(&mut response, header::LINK, &link);
    }
    exposed(response)
}

fn method_not_allowed(methods: &'static str) -> Response {
    let text = format!("this address takes {methods}\n");
    let mut response = (StatusCode::METHOD_NOT_ALLOWED, text).into_response();
    set(&mut response, header::ALLOW, methods);
    exposed(response)
}

fn refuse(edge: &Parts, role: Role, refusal: &Refusal) -> Response {
    edge.http_sessions.count_refusal(role, refusal.status);
    tracing::info!(
        protocol = role.name(),
        status = refusal.status,
        why = refusal.text,
        "request refused"
    );
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, format!("{}\n", refusal.text)).into_response();
    match status {
        StatusCode::UNAUTHORIZED => set(&mut response, header::WWW_AUTHENTICATE, "Bearer"),
        StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE => {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_S.into());
        }
        _ => {}
    }
    exposed(response)
}

/// Readable by pages of any origin; one client's, once.
fn exposed(mut response: Response) -> Response {
    set(
        &mut response,
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        "location, etag, link, accept-patch, retry-after",
    );
    set(&mut response, header::CACHE_CONTROL, "no-store");
    with_cors(response)
}

fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn add(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().append(name, value);
    }
}
