//! One edge on free ports of loopback, and clients that speak the wire protocol to it.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use futures_util::{SinkExt, StreamExt};
use meridian_access::token::{Claims, mint};
use meridian_node::Edge;
use meridian_node::config::EdgeConfig;
use meridian_pki::CertificateAuthority;
use meridian_registry::MemoryRegistry;
use meridian_registry::nodes::NODES_PREFIX;
use meridian_signalling::proto::{self, signal_request::Message as Ask, signal_response::Message as Say};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};

use crate::edges::{KEY, SECRET, announced, edge_config};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct House {
    edge: Edge,
    address: SocketAddr,
}

impl House {
    pub(crate) async fn open() -> House {
        House::with(edge_config(), &CertificateAuthority::create().unwrap()).await
    }

    /// Where people can be sent: with a control plane, it has its word.
    pub(crate) async fn with(config: EdgeConfig, authority: &CertificateAuthority) -> House {
        let identity = authority.issue_node("fra-1", &[]).unwrap();
        let registry = std::sync::Arc::new(MemoryRegistry::new());
        let mut nodes = meridian_registry::watch(registry.clone(), NODES_PREFIX);
        let edge = Edge::start(config, registry, identity).await.unwrap();
        announced(&mut nodes).await;
        let port = edge.url().rsplit(':').next().unwrap().parse().unwrap();
        House {
            edge,
            address: ([127, 0, 0, 1], port).into(),
        }
    }

    pub(crate) async fn close(self) {
        self.edge.stop().await;
    }

    pub(crate) async fn join(&self, identity: &str) -> Client {
        self.join_with(identity, None).await
    }

    /// `receive_buffer`: bytes the kernel takes for a client that does not read.
    pub(crate) async fn join_with(&self, identity: &str, receive_buffer: Option<u32>) -> Client {
        let mut client = self.connect(identity, receive_buffer, None).await;
        let Some(Say::Join(join)) = client.hear().await else {
            panic!("{identity} was not let in")
        };
        client.sid = join.participant.unwrap().sid;
        client
    }

    /// Opens a socket, to resume the session with that sid if there is one.
    pub(crate) async fn connect(&self, identity: &str, receive_buffer: Option<u32>, resume: Option<&str>) -> Client {
        let mut claims = Claims::join(identity, identity, "room");
        if let Some(grants) = &mut claims.video {
            grants.can_update_own_metadata = Some(true);
        }
        let token = mint(&claims, KEY, SECRET).unwrap();
        self.connect_as(&token, receive_buffer, resume).await
    }

    /// A token that expires after so many seconds.
    pub(crate) fn token(&self, identity: &str, seconds: u64) -> String {
        let mut claims = Claims::join(identity, identity, "room");
        claims.exp = Some(meridian_access::token::unix_now_s() + seconds);
        mint(&claims, KEY, SECRET).unwrap()
    }

    pub(crate) async fn connect_as(&self, token: &str, receive_buffer: Option<u32>, resume: Option<&str>) -> Client {
        let join = proto::JoinRequest {
            client_info: Some(proto::ClientInfo {
                // The last protocol without an answer to every request that went well: one message less to tell apart.
                protocol: 14,
                ..Default::default()
            }),
            connection_settings: Some(proto::ConnectionSettings {
                auto_subscribe: true,
                ..Default::default()
            }),
            reconnect: resume.is_some(),
            participant_sid: resume.unwrap_or_default().to_owned(),
            ..Default::default()
        };
        let wrapped = proto::WrappedJoinRequest {
            compression: 0,
            join_request: join.encode_to_vec(),
        };
        let wrapped = base64::engine::general_purpose::URL_SAFE.encode(wrapped.encode_to_vec());
        let mut request = format!("ws://{}/rtc/v1?join_request={wrapped}", self.address)
            .into_client_request()
            .unwrap();
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", bearer);
        let offered = "permessage-deflate; client_max_window_bits".parse().unwrap();
        request.headers_mut().insert("sec-websocket-extensions", offered);
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        let stream = socket.connect(self.address).await.unwrap();
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let upgraded = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
        let (socket, response) = upgraded.await.unwrap();
        assert!(
            !response.headers().contains_key("sec-websocket-extensions"),
            "compression is declined"
        );
        Client {
            socket,
            sid: String::new(),
            closed: None,
        }
    }

    /// The whole answer to a GET, as text.
    pub(crate) async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    /// The value of one line of `/metrics`.
    pub(crate) async fn metric(&self, line: &str) -> u64 {
        let text = self.get("/metrics").await;
        let found = text
            .lines()
            .find_map(|held| held.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("no {line} in\n{text}"))
    }
}

pub(crate) struct Client {
    socket: WebSocketStream<TcpStream>,
    pub(crate) sid: String,
    /// How the edge closed the socket: code and reason.
    pub(crate) closed: Option<(u16, String)>,
}

impl Client {
    pub(crate) async fn say(&mut self, ask: Ask) {
        let request = proto::SignalRequest { message: Some(ask) };
        self.send(Frame::Binary(request.encode_to_vec().into())).await;
    }

    pub(crate) async fn send(&mut self, frame: Frame) {
        // The edge may close while we write.
        let _ = self.socket.send(frame).await;
    }

    /// The next message; `None` once the socket is closed, broken or silent for too long.
    pub(crate) async fn hear(&mut self) -> Option<Say> {
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.socket.next())
                .await
                .expect("a message or the end, in time")?;
            match frame.ok()? {
                Frame::Binary(bytes) => return proto::SignalResponse::decode(bytes).unwrap().message,
                Frame::Close(frame) => {
                    self.closed = frame.map(|CloseFrame { code, reason }| (code.into(), reason.to_string()));
                }
                _ => {}
            }
        }
    }

    pub(crate) async fn hear_until<T>(&mut self, wanted: impl Fn(Say) -> Option<T>) -> Option<T> {
        while let Some(say) = self.hear().await {
            if let Some(found) = wanted(say) {
                return Some(found);
            }
        }
        None
    }

    /// The Leave with which the edge ends the session.
    pub(crate) async fn farewell(&mut self) -> Option<proto::LeaveRequest> {
        self.hear_until(|say| match say {
            Say::Leave(leave) => Some(leave),
            _ => None,
        })
        .await
    }

    /// A question that is answered at once by whoever still listens.
    pub(crate) async fn is_served(&mut self) -> bool {
        self.say(Ask::PingReq(proto::Ping { timestamp: 7, rtt: 0 })).await;
        self.hear_until(|say| match say {
            Say::PongResp(pong) => Some(pong.last_ping_timestamp == 7),
            _ => None,
        })
        .await
        .unwrap_or(false)
    }
}
