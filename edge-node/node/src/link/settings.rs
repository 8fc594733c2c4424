//! quinn settings of a link (spec/links.md, "Settings") and the two MTU profiles.

use std::sync::Arc;
use std::time::Duration;

use meridian_cascade::link::hello::Purpose;
use quinn::congestion::ControllerFactory;
use quinn::{AckFrequencyConfig, ConnectionId, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use rand::Rng;

pub(super) const ALPN: &[u8] = b"meridian-link/1";
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the 1,350-byte profile may take before the path is taken for a smaller one: covers two lost flights.
pub(super) const PROFILE_WAIT: Duration = Duration::from_millis(1500);
/// How long a peer's path is remembered as small.
pub(super) const SMALL_PATH_MEMORY: Duration = Duration::from_secs(600);
pub(super) const HELLO_WAIT: Duration = Duration::from_secs(4);
/// What a control connection may take, in bit/s: room state never needs more, and media shares the path.
pub(super) const CONTROL_CEILING_BPS: u64 = 20_000_000;
const MTU_UPPER_BOUND: u16 = 1452;
const DATAGRAM_RECEIVE_BUFFER: usize = 4 << 20;
const CONTROL_KEEP_ALIVE: Duration = Duration::from_millis(750);

/// Which UDP payload sizes a connection counts on. With QUIC's own minimum of 1,200, 5 % loss looks like a black hole and
/// every media datagram becomes too large for a minute; so media asks for 1,350 and falls back where the path is smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MtuProfile {
    Full,
    Small,
}

impl MtuProfile {
    fn bytes(self) -> u16 {
        match self {
            MtuProfile::Full => 1350,
            MtuProfile::Small => 1200,
        }
    }

    /// The dialler tells the acceptor its profile by the length of the first destination connection id (RFC 9000 §7.2
    /// leaves it free from 8 to 20 bytes): the acceptor must know before it sends its first packet.
    pub(super) fn of_first_id(id: &ConnectionId) -> MtuProfile {
        if id.len() == Self::Full.first_id_len() {
            MtuProfile::Full
        } else {
            MtuProfile::Small
        }
    }

    fn first_id_len(self) -> usize {
        match self {
            MtuProfile::Full => 18,
            MtuProfile::Small => 16,
        }
    }

    pub(super) fn first_id(self) -> ConnectionId {
        let mut bytes = [0u8; 20];
        rand::rng().fill(&mut bytes);
        ConnectionId::new(bytes.get(..self.first_id_len()).unwrap_or(&bytes))
    }
}

/// Bytes quinn may hold of datagrams not yet sent: 64 kB per 20 Mbit/s.
pub(super) fn datagram_send_buffer(ceiling_bps: u64) -> usize {
    ((ceiling_bps / 20_000_000).clamp(1, 64) as usize) * 64 * 1024
}

/// Before the hello is read, an acceptor knows only the MTU profile: it sets both purposes' limits at once, so `purpose` is
/// what the dialler knows.
pub(super) fn transport(
    purpose: Option<Purpose>,
    profile: MtuProfile,
    ceiling_bps: u64,
    factory: Arc<dyn ControllerFactory + Send + Sync>,
) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    let mut discovery = MtuDiscoveryConfig::default();
    discovery
        .upper_bound(MTU_UPPER_BOUND)
        .black_hole_cooldown(Duration::from_secs(5));
    let mut acks = AckFrequencyConfig::default();
    // A lone heartbeat's ACK must not wait 25 ms: it would read as a queue.
    acks.max_ack_delay(Some(Duration::from_millis(5)))
        .ack_eliciting_threshold(VarInt::from_u32(4));
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(
            IDLE_TIMEOUT.as_millis() as u32
        ))))
        .stream_receive_window(VarInt::from_u32(2 << 20))
        .receive_window(VarInt::from_u32(2 << 20))
        .send_window(4 << 20)
        .initial_rtt(Duration::from_millis(100))
        .initial_mtu(profile.bytes())
        .min_mtu(profile.bytes())
        .mtu_discovery_config(Some(discovery))
        .ack_frequency_config(Some(acks))
        .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BUFFER))
        .datagram_send_buffer_size(datagram_send_buffer(ceiling_bps))
        .congestion_controller_factory(factory);
    if purpose == Some(Purpose::Control) {
        // Media connections live by their heartbeats.
        transport.keep_alive_interval(Some(CONTROL_KEEP_ALIVE));
    }
    Arc::new(transport)
}
