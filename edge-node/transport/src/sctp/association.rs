//! One SCTP association and the data channels on it (RFC 8831, RFC 8832), over `rtc-sctp`.
//!
//! On the server it begins with the client's INIT; the library's faults stay in here: packets pass `guard` first, and a
//! panic costs this client its channels, nobody else anything.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use bytes::Bytes;
use rtc_datachannel::message::Message;
use rtc_datachannel::message::message_channel_ack::DataChannelAck;
use rtc_datachannel::message::message_channel_open::{ChannelType, DataChannelOpen};
use rtc_sctp::{
    Association, AssociationHandle, ClientConfig, DatagramEvent, Endpoint, EndpointConfig, Event, Payload,
    PayloadProtocolIdentifier as Ppi, ReliabilityType, ServerConfig, StreamEvent, StreamId, TransportConfig,
};
use rtc_shared::TransportProtocol;
use rtc_shared::marshal::{Marshal, Unmarshal};

use super::guard::{MAX_STREAMS, PacketGuard, RECEIVE_BUFFER_LEN, Verdict, is_only_data};
use super::{Channel, MAX_MESSAGE_LEN, SendDataError};

/// Bytes queued for a client that does not acknowledge, per channel. Whoever sends reliable data is held back long before
/// (see [`DataChannels::hold`]): what comes nevertheless is already on its way.
const RELIABLE_QUEUE_LEN: usize = 8 << 20;
const LOSSY_QUEUE_LEN: usize = 128 * 1024;

/// Channels that a client may open, again or anew: each is told to the node.
const OPENS_MAX: u32 = 64;

/// The library wants addresses; inside DTLS there are none.
const ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5_000));

static ENDPOINT: LazyLock<Arc<EndpointConfig>> = LazyLock::new(|| Arc::new(EndpointConfig::new()));
static TRANSPORT: LazyLock<Arc<TransportConfig>> = LazyLock::new(|| {
    Arc::new(
        TransportConfig::default()
            .with_max_receive_buffer_size(RECEIVE_BUFFER_LEN)
            .with_max_message_size(MAX_MESSAGE_LEN as u32)
            .with_max_num_inbound_streams(MAX_STREAMS)
            .with_max_num_outbound_streams(MAX_STREAMS),
    )
});
static SERVER: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    let mut config = ServerConfig::default();
    config.transport = Arc::clone(&TRANSPORT);
    Arc::new(config)
});

#[derive(Debug)]
pub(crate) enum DataEvent {
    Open(Channel),
    Message {
        channel: Channel,
        payload: Bytes,
        binary: bool,
    },
}

/// Counters of one association.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DataStats {
    /// Packets the guard refused.
    pub(crate) refused: u64,
    /// Messages ignored: unknown channel, too long, or DCEP we do not understand.
    pub(crate) ignored: u64,
    /// The library panicked; the channels are gone.
    pub(crate) panicked: bool,
}

/// The data channels of one client. Drain `poll_packet` and `poll_event` after every call.
pub(crate) struct DataChannels {
    inner: Option<Inner>,
    guard: PacketGuard,
    packets: VecDeque<Bytes>,
    events: VecDeque<DataEvent>,
    stats: DataStats,
}

struct Inner {
    endpoint: Endpoint,
    association: Option<(AssociationHandle, Association)>,
    connected: bool,
    /// The INIT ACKs sent for an initiate tag: a repeated INIT gets the same answer, not a second association.
    answered_init: Option<(u32, Vec<Bytes>)>,
    /// Open channels by stream.
    channels: Vec<(StreamId, Channel)>,
    /// Channels to open once connected (client half only).
    to_open: Vec<Channel>,
    /// Channels that the client has opened so far.
    opened: u32,
    /// The reliable channel is not read.
    held: bool,
    /// A packet of data that came meanwhile.
    came_while_held: Option<Bytes>,
}

impl DataChannels {
    /// Waits for the client's INIT.
    pub(crate) fn server() -> DataChannels {
        DataChannels::new(Inner::new(Some(Arc::clone(&SERVER))))
    }

    /// Sends INIT and opens `channels` once connected.
    pub(crate) fn client(now: Instant, channels: &[Channel]) -> DataChannels {
        let mut inner = Inner::new(None);
        inner.to_open = channels.to_vec();
        inner.association = inner
            .endpoint
            .connect(
                now,
                ClientConfig {
                    transport: Arc::clone(&TRANSPORT),
                },
                ADDRESS,
            )
            .ok();
        let mut channels = DataChannels::new(inner);
        channels.contained(|inner, out| inner.pump(now, out));
        channels
    }

    fn new(inner: Inner) -> DataChannels {
        DataChannels {
            inner: Some(inner),
            guard: PacketGuard::default(),
            packets: VecDeque::new(),
            events: VecDeque::new(),
            stats: DataStats::default(),
        }
    }

    pub(crate) fn stats(&self) -> DataStats {
        self.stats
    }

    pub(crate) fn handle_packet(&mut self, now: Instant, packet: &[u8]) {
        match self.guard.inbound(packet) {
            Verdict::Pass { init } => {
                let packet = Bytes::copy_from_slice(packet);
                self.contained(|inner, out| inner.handle_packet(now, packet, init, out));
            }
            Verdict::Abort => self.inner = None,
            Verdict::Drop => self.stats.refused += 1,
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.contained(|inner, out| {
            if let Some((_, association)) = &mut inner.association {
                association.handle_timeout(now);
            }
            inner.pump(now, out);
        });
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.inner.as_ref()?.association.as_ref()?.1.poll_timeout()
    }

    pub(crate) fn send(
        &mut self,
        now: Instant,
        channel: Channel,
        payload: &[u8],
        binary: bool,
    ) -> Result<(), SendDataError> {
        if payload.len() > MAX_MESSAGE_LEN {
            return Err(SendDataError::TooLarge { len: payload.len() });
        }
        self.contained(|inner, out| {
            inner.send(now, channel, payload, binary)?;
            inner.pump(now, out);
            Ok(())
        })
        .unwrap_or(Err(SendDataError::NotOpen))
    }

    /// Stops reading the reliable channel, or goes on. Meanwhile our receive window closes, which stops the client's sending.
    pub(crate) fn hold(&mut self, now: Instant, held: bool) {
        self.contained(|inner, out| inner.hold(now, held, out));
    }

    /// Bytes that wait for the client on this channel, acknowledged ones not counted.
    pub(crate) fn queued(&mut self, channel: Channel) -> usize {
        self.contained(|inner, _| inner.queued(channel)).unwrap_or(0)
    }

    /// The next SCTP packet: one DTLS record each.
    pub(crate) fn poll_packet(&mut self) -> Option<Bytes> {
        self.packets.pop_front()
    }

    pub(crate) fn poll_event(&mut self) -> Option<DataEvent> {
        self.events.pop_front()
    }

    /// Runs `call` on the association; if the library panics, the channels are gone and nothing else.
    fn contained<R>(&mut self, call: impl FnOnce(&mut Inner, &mut Sink<'_>) -> R) -> Option<R> {
        let inner = self.inner.as_mut()?;
        let mut sink = Sink {
            guard: &mut self.guard,
            packets: &mut self.packets,
            events: &mut self.events,
            ignored: &mut self.stats.ignored,
        };
        match catch_unwind(AssertUnwindSafe(|| call(inner, &mut sink))) {
            Ok(result) => Some(result),
            Err(_) => {
                tracing::error!("SCTP library panicked; this client's data channels are closed");
                self.stats.panicked = true;
                self.inner = None;
                None
            }
        }
    }
}

/// Where an association's output goes.
struct Sink<'a> {
    guard: &'a mut PacketGuard,
    packets: &'a mut VecDeque<Bytes>,
    events: &'a mut VecDeque<DataEvent>,
    ignored: &'a mut u64,
}

impl Inner {
    fn new(server: Option<Arc<ServerConfig>>) -> Inner {
        Inner {
            endpoint: Endpoint::new(ADDRESS, TransportProtocol::UDP, Arc::clone(&ENDPOINT), server),
            association: None,
            connected: false,
            answered_init: None,
            channels: Vec::new(),
            to_open: Vec::new(),
            opened: 0,
            held: false,
            came_while_held: None,
        }
    }

    fn handle_packet(&mut self, now: Instant, packet: Bytes, init: Option<u32>, out: &mut Sink<'_>) {
        match (init, &self.answered_init) {
            (Some(tag), Some((answered, answer))) if tag == *answered => {
                out.packets.extend(answer.iter().cloned());
                return;
            }
            // Another INIT before the first led anywhere: begin again, with nothing left of the old one.
            (Some(_), _) => {
                let held = self.held;
                *self = Inner::new(Some(Arc::clone(&SERVER)));
                self.held = held;
            }
            (None, _) => {}
        }
        if self.held && is_only_data(&packet) {
            self.came_while_held = Some(packet.clone());
        }
        self.take_in(now, packet);
        let before = out.packets.len();
        self.pump(now, out);
        if let Some(tag) = init {
            self.answered_init = Some((tag, out.packets.range(before..).cloned().collect()));
        }
    }

    fn take_in(&mut self, now: Instant, packet: Bytes) {
        match self.endpoint.handle(now, ADDRESS, None, packet) {
            Some((handle, DatagramEvent::NewAssociation(association))) => {
                self.association = Some((handle, association))
            }
            Some((_, DatagramEvent::AssociationEvent(event))) => {
                if let Some((_, association)) = &mut self.association {
                    association.handle_event(event);
                }
            }
            _ => {}
        }
    }

    fn hold(&mut self, now: Instant, held: bool, out: &mut Sink<'_>) {
        let released = self.held && !held;
        self.held = held;
        if !released {
            return;
        }
        if let Some(id) = self.stream_of(Channel::Reliable) {
            self.read(now, id, out);
        }
        // Nothing in the library tells the client that the window is open again; until it asks, a minute may pass. A packet that came
        // before is answered with an acknowledgement, which does: the first time after a delay, the second at once.
        if let Some(packet) = self.came_while_held.take() {
            self.take_in(now, packet.clone());
            self.take_in(now, packet);
        }
        self.pump(now, out);
    }

    fn stream_of(&self, channel: Channel) -> Option<StreamId> {
        let known = self.channels.iter().find(|&&(_, known)| known == channel);
        known.map(|&(stream, _)| stream)
    }

    fn queued(&mut self, channel: Channel) -> usize {
        let stream = self.stream_of(channel);
        let association = self.association.as_mut().map(|(_, association)| association);
        let queued = stream
            .zip(association)
            .and_then(|(id, association)| association.stream(id).ok()?.buffered_amount().ok());
        queued.unwrap_or(0)
    }

    /// Events, channels, then packets, until nothing is left.
    fn pump(&mut self, now: Instant, out: &mut Sink<'_>) {
        loop {
            let Some((handle, association)) = &mut self.association else {
                return;
            };
            while association.accept_stream().is_some() {}
            let Some(event) = association.poll() else {
                while let Some(event) = association.poll_endpoint_event() {
                    self.endpoint.handle_event(*handle, event);
                }
                break;
            };
            match event {
                Event::Connected => {
                    // Whoever wants to begin again does so with a new DTLS.
                    out.guard.set_established();
                    self.on_connected(now);
                }
                Event::Stream(StreamEvent::Readable { id }) => self.read(now, id, out),
                // The library reports a stream the client reset as "lost".
                Event::AssociationLost { id, .. } => self.channels.retain(|&(stream, _)| stream != id),
                _ => {}
            }
        }
        if let Some((_, association)) = &mut self.association {
            while let Some(transmit) = association.poll_transmit(now) {
                let Payload::RawEncode(packets) = transmit.message else {
                    continue;
                };
                for packet in packets {
                    out.guard.outbound(&packet);
                    out.packets.push_back(packet);
                }
            }
            if self.connected && association.is_closed() {
                self.association = None;
                self.channels.clear();
            }
        }
    }

    fn on_connected(&mut self, now: Instant) {
        self.connected = true;
        self.answered_init = None;
        self.endpoint.reject_new_associations();
        // RFC 8832 §6: the DTLS client opens even streams.
        for (channel, stream) in std::mem::take(&mut self.to_open).into_iter().zip((0..).step_by(2)) {
            if self.open(now, channel, stream).is_none() {
                tracing::debug!(?channel, "could not open a data channel");
            }
        }
    }

    fn open(&mut self, now: Instant, channel: Channel, id: StreamId) -> Option<()> {
        let channel_type = match channel {
            Channel::Reliable => ChannelType::Reliable,
            Channel::Lossy | Channel::DataTrack => ChannelType::PartialReliableRexmitUnordered,
        };
        let open = Message::DataChannelOpen(DataChannelOpen {
            channel_type,
            priority: 256,
            reliability_parameter: 0,
            label: channel.label().as_bytes().to_vec(),
            protocol: Vec::new(),
        });
        let (_, association) = self.association.as_mut()?;
        let mut stream = association.open_stream(id, Ppi::Binary).ok()?;
        let (unordered, reliability) = reliability(channel_type);
        stream.set_reliability_params(unordered, reliability, 0).ok()?;
        stream.write_with_ppi(now, &open.marshal().ok()?, Ppi::Dcep).ok()?;
        self.channels.push((id, channel));
        Some(())
    }

    /// Readiness is edge-triggered: everything there is must be read now.
    fn read(&mut self, now: Instant, id: StreamId, out: &mut Sink<'_>) {
        if self.held && self.stream_of(Channel::Reliable) == Some(id) {
            return;
        }
        loop {
            let Some((_, association)) = &mut self.association else {
                return;
            };
            let Ok(mut stream) = association.stream(id) else { return };
            let Ok(Some(chunks)) = stream.read_sctp() else { return };
            out.guard.delivered(chunks.chunks.len());
            let (ppi, Ok(payload)) = (chunks.ppi, chunks.to_payload(MAX_MESSAGE_LEN)) else {
                *out.ignored += 1;
                continue;
            };
            let payload = payload.freeze();
            if ppi == Ppi::Dcep {
                self.handle_dcep(now, id, payload, out);
                continue;
            }
            let channel = self
                .channels
                .iter()
                .find(|&&(stream, _)| stream == id)
                .map(|&(_, channel)| channel);
            let (payload, binary) = match ppi {
                Ppi::String => (payload, false),
                Ppi::Binary => (payload, true),
                Ppi::StringEmpty => (Bytes::new(), false),
                Ppi::BinaryEmpty => (Bytes::new(), true),
                _ => {
                    *out.ignored += 1;
                    continue;
                }
            };
            match channel {
                Some(channel) => out.events.push_back(DataEvent::Message {
                    channel,
                    payload,
                    binary,
                }),
                None => *out.ignored += 1,
            }
        }
    }

    fn handle_dcep(&mut self, now: Instant, id: StreamId, mut payload: Bytes, out: &mut Sink<'_>) {
        match Message::unmarshal(&mut payload) {
            Ok(Message::DataChannelOpen(open)) => {
                if self.opened >= OPENS_MAX || self.accept(now, id, &open).is_none() {
                    *out.ignored += 1;
                    return;
                }
                let Some(channel) = Channel::from_label(&open.label) else {
                    return;
                };
                self.opened += 1;
                // A client that reopens a channel means the new stream from here on.
                self.channels
                    .retain(|&(stream, known)| known != channel && stream != id);
                self.channels.push((id, channel));
                out.events.push_back(DataEvent::Open(channel));
            }
            Ok(Message::DataChannelAck(_)) => {
                if let Some(&(_, channel)) = self.channels.iter().find(|&&(stream, _)| stream == id) {
                    out.events.push_back(DataEvent::Open(channel));
                }
            }
            _ => *out.ignored += 1,
        }
    }

    /// Takes on the reliability the client asked for in our direction too, and acknowledges (RFC 8832 §6).
    fn accept(&mut self, now: Instant, id: StreamId, open: &DataChannelOpen) -> Option<()> {
        let (unordered, kind) = reliability(open.channel_type);
        let (_, association) = self.association.as_mut()?;
        let mut stream = association.stream(id).ok()?;
        stream
            .set_reliability_params(unordered, kind, open.reliability_parameter)
            .ok()?;
        let ack = Message::DataChannelAck(DataChannelAck).marshal().ok()?;
        stream.write_with_ppi(now, &ack, Ppi::Dcep).ok()?;
        Some(())
    }

    fn send(&mut self, now: Instant, channel: Channel, payload: &[u8], binary: bool) -> Result<(), SendDataError> {
        let id = self.stream_of(channel).ok_or(SendDataError::NotOpen)?;
        let (_, association) = self.association.as_mut().ok_or(SendDataError::NotOpen)?;
        let mut stream = association.stream(id).map_err(|_| SendDataError::NotOpen)?;
        let limit = match channel {
            Channel::Reliable => RELIABLE_QUEUE_LEN,
            Channel::Lossy | Channel::DataTrack => LOSSY_QUEUE_LEN,
        };
        let queued = stream.buffered_amount().map_err(|_| SendDataError::NotOpen)?;
        if queued + payload.len() > limit {
            return Err(SendDataError::QueueFull);
        }
        // SCTP cannot carry an empty message: RFC 8831 §6.6 sends one zero byte under its own protocol number.
        let (payload, ppi) = match (payload.is_empty(), binary) {
            (false, true) => (payload, Ppi::Binary),
            (false, false) => (payload, Ppi::String),
            (true, true) => (&[0][..], Ppi::BinaryEmpty),
            (true, false) => (&[0][..], Ppi::StringEmpty),
        };
        stream
            .write_with_ppi(now, payload, ppi)
            .map_err(|_| SendDataError::NotOpen)?;
        Ok(())
    }
}

/// Unordered, and how often or long to retransmit (RFC 8832 §5.1).
fn reliability(channel_type: ChannelType) -> (bool, ReliabilityType) {
    match channel_type {
        ChannelType::ReliableUnordered => (true, ReliabilityType::Reliable),
        ChannelType::PartialReliableRexmit => (false, ReliabilityType::Rexmit),
        ChannelType::PartialReliableRexmitUnordered => (true, ReliabilityType::Rexmit),
        ChannelType::PartialReliableTimed => (false, ReliabilityType::Timed),
        ChannelType::PartialReliableTimedUnordered => (true, ReliabilityType::Timed),
        _ => (false, ReliabilityType::Reliable),
    }
}

#[cfg(test)]
#[path = "association_tests.rs"]
mod tests;
