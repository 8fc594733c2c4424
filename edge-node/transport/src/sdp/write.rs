//! The text of an answer (RFC 8866, RFC 9429 §5.3).

use std::fmt::Write;
use std::net::SocketAddr;

use meridian_sfu::media::{MediaKind, PayloadType};

use super::offer::{Direction, OfferedExtension, OfferedLayer, OfferedSection};
use super::{AudioPreferences, LocalMedia, MESSAGE_BYTES_MAX, codecs};
use crate::DtlsRole;

/// What we send on a section.
pub(super) struct SentStream<'a> {
    pub(super) stream_id: &'a str,
    pub(super) track_sid: &'a str,
    pub(super) ssrc: u32,
    pub(super) rtx_ssrc: u32,
}

/// An accepted audio or video section of the answer.
pub(super) struct MediaSection<'a> {
    pub(super) offered: &'a OfferedSection<'a>,
    pub(super) kind: MediaKind,
    pub(super) mid: &'a str,
    /// Ours: never `SendRecv`.
    pub(super) direction: Direction,
    pub(super) payloads: &'a [PayloadType],
    pub(super) extensions: &'a [OfferedExtension<'a>],
    pub(super) with_transport_cc: bool,
    /// Simulcast layers that we receive, as they were offered.
    pub(super) layers: &'a [OfferedLayer<'a>],
    pub(super) sent: Option<SentStream<'a>>,
    pub(super) preferences: AudioPreferences,
}

pub(super) struct AnswerWriter<'a> {
    out: String,
    local: &'a LocalMedia,
    /// The first accepted section of the bundle: it alone carries the candidates (RFC 9143 §7.3.2).
    tagged_mid: &'a str,
    setup: &'static str,
}

impl<'a> AnswerWriter<'a> {
    /// Starts an answer. `mids` are the accepted sections, the tagged one first.
    pub(super) fn new(
        local: &'a LocalMedia,
        session_id: u64,
        version: u64,
        mids: &[&'a str],
        extmap_allow_mixed: bool,
    ) -> AnswerWriter<'a> {
        let mut out = String::with_capacity(4096);
        let _ = write!(
            out,
            "v=0\r\no=- {session_id} {version} IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
        );
        let _ = write!(
            out,
            "a=ice-lite\r\na=group:BUNDLE {}\r\na=msid-semantic: WMS *\r\n",
            mids.join(" ")
        );
        if extmap_allow_mixed {
            out.push_str("a=extmap-allow-mixed\r\n");
        }
        AnswerWriter {
            out,
            local,
            tagged_mid: mids.first().copied().unwrap_or(""),
            setup: "passive",
        }
    }

    /// Ours in DTLS; [`DtlsRole::Server`] if nothing is said.
    pub(super) fn take_role(&mut self, role: DtlsRole) {
        self.setup = match role {
            DtlsRole::Server => "passive",
            DtlsRole::Client => "active",
        };
    }

    pub(super) fn finish(self) -> String {
        self.out
    }

    pub(super) fn rejected(&mut self, offered: &OfferedSection<'_>) {
        let _ = write!(
            self.out,
            "m={} 0 {} {}\r\n",
            offered.media, offered.protocol, offered.formats_text
        );
        self.out.push_str("c=IN IP4 0.0.0.0\r\n");
        if let Some(mid) = offered.mid {
            let _ = write!(self.out, "a=mid:{mid}\r\n");
        }
        self.out.push_str("a=inactive\r\n");
    }

    pub(super) fn data(&mut self, offered: &OfferedSection<'_>, mid: &str) {
        let _ = write!(self.out, "m=application 9 {} webrtc-datachannel\r\n", offered.protocol);
        self.transport(mid);
        let _ = write!(
            self.out,
            "a=sctp-port:5000\r\na=max-message-size:{MESSAGE_BYTES_MAX}\r\n"
        );
    }

    pub(super) fn media(&mut self, section: &MediaSection<'_>) {
        let formats: Vec<String> = section
            .payloads
            .iter()
            .flat_map(|p| [Some(p.pt), p.rtx_pt])
            .flatten()
            .map(|pt| pt.to_string())
            .collect();
        let offered = section.offered;
        let _ = write!(
            self.out,
            "m={} 9 {} {}\r\n",
            offered.media,
            offered.protocol,
            formats.join(" ")
        );
        self.transport(section.mid);
        for extension in section.extensions {
            let direction = match extension.direction {
                Direction::SendOnly => "/recvonly",
                Direction::RecvOnly => "/sendonly",
                Direction::SendRecv | Direction::Inactive => "",
            };
            let _ = write!(self.out, "a=extmap:{}{direction} {}\r\n", extension.id, extension.uri);
        }
        if offered.extmap_allow_mixed {
            self.out.push_str("a=extmap-allow-mixed\r\n");
        }
        self.out.push_str(match section.direction {
            Direction::SendOnly => "a=sendonly\r\n",
            Direction::RecvOnly => "a=recvonly\r\n",
            Direction::Inactive | Direction::SendRecv => "a=inactive\r\n",
        });
        if let Some(sent) = &section.sent {
            let _ = write!(self.out, "a=msid:{} {}\r\n", sent.stream_id, sent.track_sid);
        }
        self.out.push_str("a=rtcp-mux\r\n");
        if offered.rtcp_rsize {
            self.out.push_str("a=rtcp-rsize\r\n");
        }
        codecs::write(
            &mut self.out,
            offered,
            section.payloads,
            section.with_transport_cc,
            section.preferences,
        );
        self.layers(section.layers);
        if let Some(sent) = &section.sent {
            let repaired = section.payloads.iter().any(|payload| payload.rtx_pt.is_some());
            self.streams(sent, section.kind == MediaKind::Video && repaired);
        }
    }

    /// Each layer as it was offered, in the offer's order and with its `~`: an answer that leaves the tilde out switches a layer on again that the
    /// client has paused (RFC 8853 §5.3.2).
    fn layers(&mut self, layers: &[OfferedLayer<'_>]) {
        for layer in layers {
            let _ = write!(self.out, "a=rid:{} recv\r\n", layer.rid);
        }
        for (index, layer) in layers.iter().enumerate() {
            let before = if index == 0 { "a=simulcast:recv " } else { ";" };
            let _ = write!(self.out, "{before}{}{}", if layer.paused { "~" } else { "" }, layer.rid);
        }
        if !layers.is_empty() {
            self.out.push_str("\r\n");
        }
    }

    /// Chromium and native libwebrtc make their receive streams from these lines; without them the first packets wait for
    /// the mid extension. Tracks of one msid stream are played in sync.
    fn streams(&mut self, sent: &SentStream<'_>, with_rtx: bool) {
        if with_rtx {
            let _ = write!(self.out, "a=ssrc-group:FID {} {}\r\n", sent.ssrc, sent.rtx_ssrc);
        }
        for ssrc in std::iter::once(sent.ssrc).chain(with_rtx.then_some(sent.rtx_ssrc)) {
            let (stream, track) = (sent.stream_id, sent.track_sid);
            let _ = write!(
                self.out,
                "a=ssrc:{ssrc} cname:{stream}\r\na=ssrc:{ssrc} msid:{stream} {track}\r\n"
            );
        }
    }

    fn transport(&mut self, mid: &str) {
        let LocalMedia {
            ice,
            fingerprint,
            candidates,
        } = self.local;
        let _ = write!(
            self.out,
            "c=IN IP4 0.0.0.0\r\na=ice-ufrag:{}\r\na=ice-pwd:{}\r\n",
            ice.ufrag, ice.pwd
        );
        let setup = self.setup;
        let _ = write!(
            self.out,
            "a=fingerprint:sha-256 {fingerprint}\r\na=setup:{setup}\r\na=mid:{mid}\r\n"
        );
        if mid == self.tagged_mid {
            for (index, candidate) in candidates.iter().enumerate() {
                self.candidate(index, candidate);
            }
            self.out.push_str("a=end-of-candidates\r\n");
        }
    }

    fn candidate(&mut self, index: usize, address: &SocketAddr) {
        // RFC 8445 §5.1.2.1: host type preference 126, local preference falling with the order, component 1.
        let local = 65_535u32.saturating_sub(index as u32);
        let priority = (126 << 24) | (local << 8) | 255;
        let (ip, port) = (address.ip(), address.port());
        let _ = write!(
            self.out,
            "a=candidate:{} 1 udp {priority} {ip} {port} typ host\r\n",
            index + 1
        );
    }
}
