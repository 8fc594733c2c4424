//! The client's WebSocket: `/rtc/v1` and its `/validate`. This file owns the socket and nothing else: frames in go to the
//! room's task, frames out come from a bounded queue that the room's task fills.
//!
//! Two bounds keep one client from costing another: at most [`FRAMES_IN_FLIGHT`] of a client's frames wait for its
//! room, and a client that lets [`FRAMES_QUEUED`] frames pile up unread loses its socket (and may resume).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, StatusCode, header, request};
use meridian_access::token::Claims;
use meridian_conference::{Input, Newcomer, SessionKey};
use meridian_serving::listener::{ClientAddress, query};
use meridian_signalling::proto::IceServer;
use meridian_signalling::{ConnectRequest, FRAME_BYTES_MAX, Frame, Knock, Refusal};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};

use super::{Parts, client_of};
use crate::handles::{Connect, Outgoing, RoomHandle, ToRoom, ToSocket};
use crate::rooms::{FrameLoss, Slowness};

/// A client's frames that may wait for the room's task before its socket is read again.
const FRAMES_IN_FLIGHT: usize = 16;
/// Frames a client may leave unread before its socket is closed.
pub(crate) const FRAMES_QUEUED: usize = 512;
/// RFC 6455 §7.4.1.
const CLOSE_NORMAL: u16 = 1000;
const CLOSE_PROTOCOL_ERROR: u16 = 1002;
const CLOSE_INVALID_PAYLOAD: u16 = 1007;
const CLOSE_TOO_BIG: u16 = 1009;
/// A write that makes no progress for this long means the client is gone. What is left in the queue when the room has given the
/// socket up gets no longer than this altogether.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client that was sent a close frame may take to close in turn.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// `GET /rtc/v1`: checks the token, then upgrades. Every refusal is readable by a browser (CORS) and says why.
pub(crate) async fn connect(
    State(edge): State<Arc<Parts>>,
    ConnectInfo(peer): ConnectInfo<ClientAddress>,
    request: Request,
) -> Response {
    let (mut parts, _body) = request.into_parts();
    let (connect, claims) = match admit(&edge, &parts) {
        Ok(admitted) => admitted,
        Err(refusal) => return *refusal,
    };
    if !connect.reconnect
        && let Err(wait_s) = edge.admission.may_join(&claims)
    {
        return too_often(wait_s);
    }
    let address = client_of(&edge, peer, &parts.headers);
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade,
        Err(error) => return with_cors(error.into_response()),
    };
    upgrade
        .max_message_size(FRAME_BYTES_MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .read_buffer_size(4 * 1024)
        .write_buffer_size(4 * 1024)
        .on_upgrade(move |socket| serve(edge, socket, connect, claims, address))
}

/// `GET /rtc/v1/validate`: what the SDKs call after a failed upgrade to learn the reason.
pub(crate) async fn validate(State(edge): State<Arc<Parts>>, request: Request) -> Response {
    match admit(&edge, &request.into_parts().0) {
        Ok(_) => with_cors((StatusCode::OK, "success").into_response()),
        Err(refusal) => *refusal,
    }
}

/// Any path under `/rtc` this server does not speak. 404 with CORS makes newer clients say so instead of retrying.
pub(crate) async fn unsupported() -> Response {
    refuse(
        StatusCode::NOT_FOUND,
        "this server speaks /rtc/v1; use an SDK with single peer connection support",
    )
}

fn admit(edge: &Parts, request: &request::Parts) -> Result<(ConnectRequest, Claims), Box<Response>> {
    if edge.lifecycle.is_stopped() {
        return Err(boxed(StatusCode::SERVICE_UNAVAILABLE, "this edge is stopping"));
    }
    let authorization = request.headers.get(header::AUTHORIZATION);
    let authorization = authorization.and_then(|value| value.to_str().ok());
    let knock = Knock::parse(request.uri.path(), query(request), authorization).map_err(said)?;
    let keys = edge.admission.keys();
    let claims = meridian_access::token::verify(&knock.token, &keys)
        .map_err(|error| boxed(StatusCode::UNAUTHORIZED, &format!("invalid token: {error}")))?;
    if !claims
        .video
        .as_ref()
        .is_some_and(|grants| grants.room_join && !grants.room.is_empty())
    {
        return Err(boxed(
            StatusCode::FORBIDDEN,
            "the token does not allow joining a room: it needs roomJoin and room",
        ));
    }
    if claims.sub.is_empty() {
        return Err(boxed(StatusCode::UNAUTHORIZED, "the token names no identity (sub)"));
    }
    Ok((knock.open().map_err(said)?, claims))
}

fn said(refusal: Refusal) -> Box<Response> {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
    boxed(status, &refusal.text)
}

fn too_often(wait_s: u32) -> Response {
    let text = format!("this identity joins too often: try again in {wait_s} s, or resume with reconnect=1");
    let mut response = refuse(StatusCode::TOO_MANY_REQUESTS, &text);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from(wait_s));
    response
}

fn boxed(status: StatusCode, text: &str) -> Box<Response> {
    Box::new(refuse(status, text))
}

fn refuse(status: StatusCode, text: &str) -> Response {
    with_cors((status, text.to_owned()).into_response())
}

pub(crate) fn with_cors(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

async fn serve(edge: Arc<Parts>, socket: WebSocket, request: ConnectRequest, claims: Claims, address: IpAddr) {
    let (frames, queued) = mpsc::channel(FRAMES_QUEUED);
    let (sink, stream) = socket.split();
    let given_up = Arc::new(Notify::new());
    let mut writer = tokio::spawn(write(edge.clone(), sink, queued, given_up.clone()));
    let connect = Connect {
        client: meridian_conference::Connect {
            voice: Newcomer::LiveKit {
                request: Box::new(request),
                ice_servers: ice_servers(&edge, &claims),
            },
            claims,
            address,
        },
        socket: ToSocket { frames, given_up },
    };
    match edge.rooms.connect(connect).await {
        Ok((session, room)) => {
            let mut reading = std::pin::pin!(read(stream, session, &room));
            let ended = tokio::select! {
                ended = &mut reading => ended,
                written = &mut writer => {
                    if matches!(written, Ok(Written::ToTheEnd)) {
                        let _ = tokio::time::timeout(CLOSE_GRACE, reading).await;
                    }
                    // Dropping both halves closes a socket whose client does not read.
                    let _ = room.send(ToRoom::SocketClosed { session }).await;
                    tracing::debug!(?session, "socket closed by the room");
                    return;
                }
            };
            let said = match &ended {
                Ended::Closed(how) => how,
                Ended::Violation(_, reason) => reason.as_str(),
            };
            tracing::debug!(?session, said, "socket closed");
            if let Ended::Violation(code, reason) = ended {
                let socket = session;
                let violation = Input::Violation { socket, code, reason };
                let _ = room.send(ToRoom::Input(violation)).await;
                // What the client still sends is not read, and closing over it would take back what it is told.
                if matches!((&mut writer).await, Ok(Written::ToTheEnd)) {
                    tokio::time::sleep(CLOSE_GRACE).await;
                }
                return;
            }
            let _ = room.send(ToRoom::SocketClosed { session }).await;
        }
        Err(error) => tracing::info!(%error, "join refused"),
    }
    // The room has dropped its sender, or will: the writer then flushes what is queued and ends.
    let _ = writer.await;
}

/// How this client gets past firewalls.
fn ice_servers(edge: &Parts, claims: &Claims) -> Vec<IceServer> {
    let relays = claims.meridian.as_ref().and_then(|meridian| meridian.relays.as_deref());
    let servers = edge.turn.ice_servers(&claims.sub, &edge.region, relays);
    let told = servers.into_iter().map(|server| IceServer {
        urls: server.urls,
        username: server.username,
        credential: server.credential,
    });
    told.collect()
}

/// Why a socket is read no more.
enum Ended {
    Closed(&'static str),
    /// Its client broke the WebSocket protocol: the status code and what is wrong.
    Violation(u16, String),
}

/// `None`: the connection broke, nobody is at fault.
fn violation(error: axum::Error) -> Option<Ended> {
    let error = error.into_inner().downcast::<tungstenite::Error>().ok()?;
    let code = match *error {
        tungstenite::Error::Capacity(_) => CLOSE_TOO_BIG,
        tungstenite::Error::Utf8(_) => CLOSE_INVALID_PAYLOAD,
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => return None,
        tungstenite::Error::Protocol(_) => CLOSE_PROTOCOL_ERROR,
        _ => return None,
    };
    Some(Ended::Violation(code, error.to_string()))
}

async fn read(
    mut stream: futures_util::stream::SplitStream<WebSocket>,
    session: SessionKey,
    room: &RoomHandle,
) -> Ended {
    let in_flight = Arc::new(Semaphore::new(FRAMES_IN_FLIGHT));
    loop {
        let frame = match stream.next().await {
            Some(Ok(Message::Binary(bytes))) => Frame::Binary(bytes),
            Some(Ok(Message::Text(text))) => Frame::Text(text.to_string()),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(Message::Close(_))) => return Ended::Closed("closed by the client"),
            Some(Err(error)) => return violation(error).unwrap_or(Ended::Closed("broken")),
            None => return Ended::Closed("ended"),
        };
        let Ok(permit) = in_flight.clone().acquire_owned().await else {
            return Ended::Closed("ended");
        };
        if room.send(ToRoom::Frame { session, frame, permit }).await.is_err() {
            return Ended::Closed("the room ended");
        }
    }
}

/// How the writing of a socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// Everything was written, the close frame too.
    ToTheEnd,
    /// The socket broke, or its client did not read.
    InPart,
}

async fn write(
    edge: Arc<Parts>,
    mut sink: futures_util::stream::SplitSink<WebSocket, Message>,
    mut queued: mpsc::Receiver<Outgoing>,
    given_up: Arc<Notify>,
) -> Written {
    let mut close = CloseFrame {
        code: CLOSE_NORMAL,
        reason: "".into(),
    };
    let mut last_call = None;
    while let Some(outgoing) = queued.recv().await {
        let message = match outgoing {
            Outgoing::Frame(Frame::Binary(bytes)) => Message::Binary(bytes),
            Outgoing::Frame(Frame::Text(text)) => Message::Text(text.into()),
            Outgoing::Close { code, reason } => {
                close = CloseFrame {
                    code,
                    reason: shorten(reason).into(),
                };
                break;
            }
        };
        let mut until = Instant::now() + WRITE_TIMEOUT;
        if queued.is_closed() {
            until = *last_call.get_or_insert(until);
        }
        let counters = &edge.rooms.counters;
        tokio::select! {
            sent = tokio::time::timeout_at(until, sink.send(message)) => match sent {
                Ok(Ok(())) => continue,
                Ok(Err(_)) => {}
                // Whom the room has given up is counted there.
                Err(_) if queued.is_closed() => {}
                Err(_) => counters.socket_dropped(Slowness::WriteTimeout),
            },
            () = given_up.notified() => {}
        }
        counters.frames_lost(FrameLoss::SocketClosed, queued.len() + 1);
        return Written::InPart;
    }
    match tokio::time::timeout(WRITE_TIMEOUT, sink.send(Message::Close(Some(close)))).await {
        Ok(Ok(())) => Written::ToTheEnd,
        Ok(Err(_)) | Err(_) => Written::InPart,
    }
}

/// A close frame holds 123 bytes of reason (RFC 6455 §5.5).
fn shorten(mut reason: String) -> String {
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    reason
}
