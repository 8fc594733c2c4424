//! A world of real sockets on loopback: shards, and clients made of the transport's client half.
#![allow(dead_code, unreachable_pub)]

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_sfu::packet::RtpHeader;
use meridian_sfu::rtcp::{Rtcp, Writer, parse};
use meridian_sfu::{Codec, ExtensionMap, MediaKind, PayloadType, TrackId};
use meridian_shard::{Command, Event, PeerId, Shards, ShardsConfig, TapBatch, TapSenders};
use meridian_transport::client::{Client, ClientConfig};
use meridian_transport::sdp::{Publication, SubscriptionMedia};
use meridian_transport::{Channel, DtlsIdentity, DtlsRole, IceCredentials, Output, PeerEvent, Received, SrtpStream};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;

pub const EXTENSIONS: ExtensionMap = ExtensionMap {
    mid: Some(4),
    rid: Some(10),
    repaired_rid: Some(11),
    audio_level: Some(1),
    abs_send_time: None,
    transport_cc: Some(3),
    abs_capture_time: None,
    dependency_descriptor: None,
    playout_delay: None,
    video_orientation: None,
};
pub const OPUS: PayloadType = PayloadType {
    pt: 111,
    codec: Codec::Opus,
    rtx_pt: None,
};
pub const VP8: PayloadType = PayloadType {
    pt: 96,
    codec: Codec::Vp8,
    rtx_pt: Some(97),
};
pub const RIDS: [&str; 3] = ["q", "h", "f"];

pub struct World {
    pub shards: Shards,
    pub events: mpsc::Receiver<Event>,
    pub taps: mpsc::Receiver<TapBatch>,
    pub recorder: mpsc::Receiver<TapBatch>,
    pub seen: Vec<Event>,
    identity: Arc<DtlsIdentity>,
    rng: StdRng,
}

/// A decrypted packet a client received.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub header: RtpHeader,
    pub payload: Vec<u8>,
    pub data: Vec<u8>,
}

pub struct TestClient {
    pub peer: PeerId,
    pub client: Client,
    pub server: SocketAddr,
    pub connected: bool,
    pub channels: Vec<Channel>,
    pub rtp: Vec<Arrived>,
    pub rtcp: Vec<Vec<u8>>,
    pub data: VecDeque<(Channel, Bytes)>,
    socket: UdpSocket,
    transport_sequence: u16,
}

impl World {
    pub fn new(shards: usize) -> World {
        World::bound_to(shards, &["127.0.0.1:0"], &[])
    }

    pub fn bound_to(shards: usize, bind: &[&str], advertise: &[&str]) -> World {
        let identity = Arc::new(DtlsIdentity::generate().expect("certificate"));
        let (events_tx, events) = mpsc::channel(1024);
        let (taps_tx, taps) = mpsc::channel(1024);
        let (recorder_tx, recorder) = mpsc::channel(1024);
        let config = ShardsConfig {
            bind: bind.iter().map(|a| a.parse().expect("literal")).collect(),
            advertise: advertise.iter().map(|a| a.parse().expect("literal")).collect(),
            shards,
            ..ShardsConfig::default()
        };
        let taps_tx = TapSenders {
            mesh: taps_tx,
            recorder: recorder_tx,
        };
        let shards = Shards::start(config, identity.clone(), events_tx, taps_tx).expect("start");
        World {
            shards,
            events,
            taps,
            recorder,
            seen: Vec::new(),
            identity,
            rng: StdRng::seed_from_u64(7),
        }
    }

    /// A client that has begun to connect.
    pub fn client(&mut self, shard: u16) -> TestClient {
        self.client_via(shard, 0)
    }

    /// A client that uses the server's candidate of this number.
    pub fn client_via(&mut self, shard: u16, candidate: usize) -> TestClient {
        let peer = self.shards.allocate_peer_on(shard);
        let server = self.shards.candidates(peer)[candidate];
        let socket = UdpSocket::bind(if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).expect("bind");
        socket.set_nonblocking(true).expect("non-blocking");
        let identity = Arc::new(DtlsIdentity::generate().expect("certificate"));
        let (ours, theirs) = self.credentials();
        self.shards.send(Command::AddPeer {
            peer,
            local: ours.clone(),
            remote: theirs.clone(),
            remote_fingerprint: identity.fingerprint(),
            role: DtlsRole::Server,
        });
        let config = ClientConfig {
            identity,
            local: theirs,
            remote: ours,
            remote_fingerprint: self.identity.fingerprint(),
            channels: vec![Channel::Reliable, Channel::Lossy],
            seed: self.rng.random(),
        };
        let local = socket.local_addr().expect("address");
        let client = Client::new(config, local, server, Instant::now()).expect("client");
        TestClient {
            peer,
            client,
            server,
            connected: false,
            channels: Vec::new(),
            rtp: Vec::new(),
            rtcp: Vec::new(),
            data: VecDeque::new(),
            socket,
            transport_sequence: 0,
        }
    }

    /// Fresh ICE credentials: the server's and the client's.
    pub fn credentials(&mut self) -> (IceCredentials, IceCredentials) {
        (
            IceCredentials::generate(&mut self.rng),
            IceCredentials::generate(&mut self.rng),
        )
    }

    /// Moves everybody until `done`, or fails after five seconds.
    pub fn until(
        &mut self,
        clients: &mut [&mut TestClient],
        what: &str,
        mut done: impl FnMut(&mut World, &mut [&mut TestClient]) -> bool,
    ) {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            for client in clients.iter_mut() {
                client.turn();
            }
            while let Ok(event) = self.events.try_recv() {
                self.seen.push(event);
            }
            if done(self, clients) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "waited in vain: {what}; events: {:?}",
                self.seen
            );
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    pub fn connect(&mut self, clients: &mut [&mut TestClient]) {
        self.until(clients, "everybody connected", |world, clients| {
            clients.iter().all(|c| {
                c.connected
                    && c.channels.len() == 2
                    && world
                        .seen
                        .iter()
                        .any(|e| matches!(e, Event::PeerConnected { peer, .. } if *peer == c.peer))
            })
        });
    }

    pub fn count(&self, matches: impl Fn(&Event) -> bool) -> usize {
        self.seen.iter().filter(|e| matches(e)).count()
    }
}

impl TestClient {
    /// Reads the socket, lets time pass, sends what is to be sent.
    pub fn turn(&mut self) {
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
            let local = self.client.path().local;
            let data = &mut buffer[..len];
            match self.client.handle_datagram(Instant::now(), from, local, data) {
                Received::Rtp { len } => {
                    let data = data[..len].to_vec();
                    let header = RtpHeader::parse(&data).expect("we send valid RTP");
                    let payload = data[header.payload.clone()].to_vec();
                    self.rtp.push(Arrived { header, payload, data });
                }
                Received::Rtcp { len } => self.rtcp.push(data[..len].to_vec()),
                Received::Nothing => {}
            }
            self.drain();
        }
        if self.client.poll_timeout().is_some_and(|at| at <= Instant::now()) {
            self.client.handle_timeout(Instant::now());
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Transmit { to, payload, .. } => self.transmit(&payload, to),
                Output::Event(PeerEvent::Connected { .. }) => self.connected = true,
                Output::Event(PeerEvent::ChannelOpen(channel)) => self.channels.push(channel),
                Output::Event(PeerEvent::Data { channel, payload, .. }) => self.data.push_back((channel, payload)),
                Output::Event(_) => {}
            }
        }
    }

    fn transmit(&self, payload: &[u8], to: SocketAddr) {
        self.socket.send_to(payload, to).expect("loopback takes everything");
    }

    /// The network changes under the client.
    pub fn move_away(&mut self) {
        self.socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        self.socket.set_nonblocking(true).expect("non-blocking");
        self.client
            .change_address(Instant::now(), self.socket.local_addr().expect("address"));
        self.drain();
    }

    pub fn send_rtp(&mut self, stream: &mut SrtpStream, packet: &RtpOut<'_>) {
        let (mut buffer, header_len) = packet.write(self.transport_sequence);
        self.transport_sequence = self.transport_sequence.wrapping_add(1);
        let len = buffer.len();
        buffer.resize(len + 32, 0);
        let srtp = self.client.srtp().expect("connected");
        let len = srtp.protect_rtp(stream, &mut buffer, header_len, len).expect("protect");
        self.transmit(&buffer[..len], self.server);
    }

    pub fn send_rtcp(&mut self, write: impl FnOnce(&mut Writer<'_>)) {
        let mut out = Vec::new();
        write(&mut Writer::new(&mut out));
        self.client
            .srtp()
            .expect("connected")
            .protect_rtcp(&mut out)
            .expect("protect");
        self.transmit(&out, self.server);
    }

    /// Any bytes from the client's own address, without protection.
    pub fn send_raw(&mut self, datagram: &[u8]) {
        self.transmit(datagram, self.server);
    }

    /// An RTP packet whose header and extensions are whatever `packet` says, properly encrypted.
    pub fn send_odd_rtp(&mut self, stream: &mut SrtpStream, packet: &[u8], header_len: usize) {
        let mut buffer = packet.to_vec();
        buffer.resize(packet.len() + 32, 0);
        let srtp = self.client.srtp().expect("connected");
        if let Ok(len) = srtp.protect_rtp(stream, &mut buffer, header_len, packet.len()) {
            self.transmit(&buffer[..len], self.server);
        }
    }

    /// Any RTCP, properly encrypted.
    pub fn send_odd_rtcp(&mut self, packet: &[u8]) {
        let mut out = packet.to_vec();
        if self.client.srtp().expect("connected").protect_rtcp(&mut out).is_ok() {
            self.transmit(&out, self.server);
        }
    }

    pub fn of_ssrc(&self, ssrc: u32) -> Vec<&Arrived> {
        self.rtp
            .iter()
            .filter(|p| p.header.ssrc == ssrc && !p.payload.is_empty())
            .collect()
    }

    pub fn plis(&self, ssrc: u32) -> usize {
        let all = self.rtcp.iter().flat_map(|data| parse(data));
        all.filter(|p| matches!(p, Rtcp::Pli { media_ssrc } if *media_ssrc == ssrc))
            .count()
    }

    pub fn nacked(&self, ssrc: u32) -> Vec<u16> {
        let mut out = Vec::new();
        for packet in self.rtcp.iter().flat_map(|data| parse(data)) {
            if let Rtcp::Nack { media_ssrc, sequences } = packet
                && media_ssrc == ssrc
            {
                out.extend(sequences);
            }
        }
        out
    }
}

/// An RTP packet as a client sends it, with one-byte header extensions.
pub struct RtpOut<'a> {
    pub ssrc: u32,
    pub pt: u8,
    pub sequence: u16,
    pub timestamp: u32,
    pub marker: bool,
    pub mid: &'a str,
    pub rid: Option<&'a str>,
    pub audio_level: Option<u8>,
    pub payload: &'a [u8],
}

impl RtpOut<'_> {
    fn write(&self, transport_sequence: u16) -> (Vec<u8>, usize) {
        let mut elements = Vec::new();
        let mut element = |id: Option<u8>, value: &[u8]| {
            if let Some(id) = id {
                elements.push(id << 4 | (value.len() - 1) as u8);
                elements.extend_from_slice(value);
            }
        };
        element(EXTENSIONS.mid, self.mid.as_bytes());
        element(EXTENSIONS.transport_cc, &transport_sequence.to_be_bytes());
        if let Some(rid) = self.rid {
            element(EXTENSIONS.rid, rid.as_bytes());
        }
        if let Some(level) = self.audio_level {
            element(EXTENSIONS.audio_level, &[0x80 | level]);
        }
        while elements.len() % 4 != 0 {
            elements.push(0);
        }
        let mut out = vec![0x90, u8::from(self.marker) << 7 | self.pt];
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        out.extend_from_slice(&self.ssrc.to_be_bytes());
        out.extend_from_slice(&[0xbe, 0xde]);
        out.extend_from_slice(&((elements.len() / 4) as u16).to_be_bytes());
        out.extend_from_slice(&elements);
        let header_len = out.len();
        out.extend_from_slice(self.payload);
        (out, header_len)
    }
}

pub fn audio_publication() -> Publication {
    Publication {
        mid: "0".into(),
        kind: MediaKind::Audio,
        stream_id: "-".into(),
        cid: "mic".into(),
        rids: Vec::new(),
        ssrcs: Vec::new(),
        payloads: vec![OPUS],
        extensions: EXTENSIONS,
        active: true,
    }
}

pub fn video_publication() -> Publication {
    Publication {
        mid: "1".into(),
        kind: MediaKind::Video,
        cid: "camera".into(),
        rids: RIDS.iter().map(|r| r.to_string()).collect(),
        payloads: vec![VP8],
        ..audio_publication()
    }
}

pub fn subscription(track: TrackId, payload: PayloadType, ssrc: u32) -> SubscriptionMedia {
    SubscriptionMedia {
        key: track.0,
        mid: track.0.to_string(),
        ssrc,
        rtx_ssrc: ssrc + 1,
        payloads: vec![payload],
        // These receivers send no feedback: without numbers nobody waits for it.
        extensions: ExtensionMap {
            transport_cc: None,
            ..EXTENSIONS
        },
    }
}

/// Sends audio: one packet per call.
pub struct Microphone {
    stream: SrtpStream,
    ssrc: u32,
    pub next: u16,
}

impl Microphone {
    pub fn new(ssrc: u32) -> Microphone {
        Microphone {
            stream: SrtpStream::new(ssrc),
            ssrc,
            next: 100,
        }
    }

    /// The payload's first two bytes are the packet's number.
    pub fn send(&mut self, client: &mut TestClient) {
        let mut payload = vec![0x55; 80];
        payload[..2].copy_from_slice(&self.next.to_be_bytes());
        let timestamp = u32::from(self.next) * 960;
        let packet = RtpOut {
            ssrc: self.ssrc,
            pt: OPUS.pt,
            sequence: self.next,
            timestamp,
            marker: false,
            mid: "0",
            rid: None,
            audio_level: Some(20),
            payload: &payload,
        };
        client.send_rtp(&mut self.stream, &packet);
        self.next += 1;
    }
}

/// Sends simulcast VP8: one frame of four packets on every layer per call.
pub struct Camera {
    streams: Vec<SrtpStream>,
    pub ssrcs: [u32; 3],
    next: [u16; 3],
    frame: u16,
}

impl Camera {
    pub fn new(ssrcs: [u32; 3]) -> Camera {
        Camera {
            streams: ssrcs.map(SrtpStream::new).into(),
            ssrcs,
            next: [1_000, 2_000, 3_000],
            frame: 0,
        }
    }

    /// Frames sent so far.
    pub fn frames(&self) -> u16 {
        self.frame
    }

    /// The next sequence number of a layer.
    pub fn sequence(&self, layer: usize) -> u16 {
        self.next[layer]
    }

    pub fn send_frame(&mut self, client: &mut TestClient, keyframe: bool) {
        self.send_frame_without(client, keyframe, None);
    }

    /// Leaves out the packet of this index of the low layer (it is numbered, but lost).
    pub fn send_frame_without(&mut self, client: &mut TestClient, keyframe: bool, lost: Option<usize>) {
        let timestamp = u32::from(self.frame) * 3_000;
        for (layer, rid) in RIDS.into_iter().enumerate() {
            for i in 0..4 {
                let payload = self.payload(layer, i, keyframe);
                let packet = RtpOut {
                    ssrc: self.ssrcs[layer],
                    pt: VP8.pt,
                    sequence: self.next[layer],
                    timestamp,
                    marker: i == 3,
                    mid: "1",
                    rid: Some(rid),
                    audio_level: None,
                    payload: &payload,
                };
                if !(layer == 0 && lost == Some(i)) {
                    client.send_rtp(&mut self.streams[layer], &packet);
                }
                self.next[layer] = self.next[layer].wrapping_add(1);
            }
        }
        self.frame += 1;
    }

    /// VP8 descriptor with a 15-bit picture id, then layer, frame and index, slightly unequal in size.
    fn payload(&self, layer: usize, index: usize, keyframe: bool) -> Vec<u8> {
        let start = if index == 0 { 0x10 } else { 0 };
        let mut payload = vec![
            0x80 | start,
            0x80,
            0x80 | (self.frame >> 8) as u8 & 0x7f,
            self.frame as u8,
        ];
        if index == 0 {
            payload.push(u8::from(!keyframe));
            payload.extend_from_slice(&[0, 0, 0x9d, 0x01, 0x2a, 64, 1, 240, 0]);
        }
        payload.extend_from_slice(&[layer as u8, (self.frame >> 8) as u8, self.frame as u8, index as u8]);
        payload.resize(1_000 + 10 * layer + index, 0xaa);
        payload
    }
}

/// Layer, frame and index that [`Camera`] wrote behind the descriptor.
pub fn video_tag(payload: &[u8]) -> (u8, u16, u8) {
    let at = if payload[0] & 0x10 != 0 { 4 + 10 } else { 4 };
    (
        payload[at],
        u16::from_be_bytes([payload[at + 1], payload[at + 2]]),
        payload[at + 3],
    )
}
