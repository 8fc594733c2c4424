//! One publishing peer: which track and encoding a datagram belongs to (RFC 8843 §9.2: SSRC, else mid and rid), and the
//! transport-wide feedback about its packets. What happens inside a track is `uplink`'s.

use crate::media::{Encoding, ExtensionMap, TrackId, UplinkMedia};
use crate::packet::RtpHeader;
use crate::twcc::TwccReceiver;
use std::time::Instant;

/// Most media sections one peer can publish; SDP allows fewer.
const SECTIONS_MAX: usize = 64;

/// Where a received packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    pub track: TrackId,
    pub encoding: Encoding,
    /// A retransmission (RFC 4588) on its own SSRC.
    pub repair: bool,
    pub header: RtpHeader,
}

#[derive(Clone, Copy, Debug)]
struct Route {
    ssrc: u32,
    track: TrackId,
    encoding: Encoding,
    repair: bool,
}

/// Demultiplexer of one peer's incoming RTP.
pub struct UplinkReceiver {
    feedback_ssrc: u32,
    /// A client latches at most two SSRCs per encoding, so this stays short enough to scan.
    routes: Vec<Route>,
    sections: Vec<(TrackId, UplinkMedia)>,
    /// Ids are the same in all sections of a BUNDLE group (RFC 8843 §10).
    extensions: ExtensionMap,
    twcc: TwccReceiver,
    unrouted: u64,
}

impl UplinkReceiver {
    /// `feedback_ssrc` is the sender SSRC of our RTCP to this peer.
    pub fn new(now: Instant, feedback_ssrc: u32) -> Self {
        UplinkReceiver {
            feedback_ssrc,
            routes: Vec::new(),
            sections: Vec::new(),
            extensions: ExtensionMap::default(),
            twcc: TwccReceiver::new(now),
            unrouted: 0,
        }
    }

    pub fn feedback_ssrc(&self) -> u32 {
        self.feedback_ssrc
    }

    /// Adds a track, or changes it; what was latched stays as long as mid and rids do. A track that had this mid before
    /// is gone. Ignored beyond 64 tracks.
    pub fn publish(&mut self, track: TrackId, media: &UplinkMedia) {
        let same = |m: &UplinkMedia| m.mid == media.mid && m.rids == media.rids;
        if let Some((_, known)) = self.sections.iter_mut().find(|(t, m)| *t == track && same(m)) {
            *known = media.clone();
        } else {
            self.unpublish(track);
            if let Some((other, _)) = self.sections.iter().find(|(_, m)| m.mid == media.mid) {
                self.unpublish(*other);
            }
            if self.sections.len() >= SECTIONS_MAX {
                return;
            }
            self.sections.push((track, media.clone()));
        }
        self.note_extensions(&media.extensions);
    }

    pub fn unpublish(&mut self, track: TrackId) {
        self.sections.retain(|(t, _)| *t != track);
        self.routes.retain(|route| route.track != track);
    }

    /// Reads a decrypted RTP packet: latches its SSRC, notes it for TWCC. `None` = malformed or of no known track (counted).
    pub fn handle_rtp(&mut self, now: Instant, data: &[u8]) -> Option<Incoming> {
        let header = RtpHeader::parse(data).ok()?;
        self.note_transport_sequence(now, data, &header);
        let route = match self.routes.iter().find(|route| route.ssrc == header.ssrc) {
            Some(route) => *route,
            None => {
                let Some(route) = self.find_route(data, &header) else {
                    self.unrouted += 1;
                    return None;
                };
                self.latch(route);
                route
            }
        };
        Some(Incoming {
            track: route.track,
            encoding: route.encoding,
            repair: route.repair,
            header,
        })
    }

    /// The track and encoding of a media SSRC: for incoming sender reports.
    pub fn route(&self, ssrc: u32) -> Option<(TrackId, Encoding)> {
        let route = self.routes.iter().find(|route| route.ssrc == ssrc && !route.repair)?;
        Some((route.track, route.encoding))
    }

    /// Appends one TWCC feedback packet when it is due (≤ 100 ms after the first unreported packet). Call until `false`.
    pub fn poll_twcc(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        self.twcc.poll(now, self.feedback_ssrc, out)
    }

    /// When `poll_twcc` has something.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.twcc.poll_timeout()
    }

    /// Packets that belonged to no track.
    pub fn unrouted(&self) -> u64 {
        self.unrouted
    }

    fn note_extensions(&mut self, map: &ExtensionMap) {
        let own = &mut self.extensions;
        own.mid = map.mid.or(own.mid);
        own.rid = map.rid.or(own.rid);
        own.repaired_rid = map.repaired_rid.or(own.repaired_rid);
        own.transport_cc = map.transport_cc.or(own.transport_cc);
    }

    /// Every packet with a transport-wide number counts, of whatever track: the sender's estimate is of the path.
    fn note_transport_sequence(&mut self, now: Instant, data: &[u8], header: &RtpHeader) {
        let Some(id) = self.extensions.transport_cc else { return };
        if let Some((_, value)) = header.elements(data).find(|(element, _)| *element == id)
            && let Some(bytes) = value.first_chunk::<2>()
        {
            self.twcc.record(now, u16::from_be_bytes(*bytes), header.ssrc);
        }
    }

    fn find_route(&self, data: &[u8], header: &RtpHeader) -> Option<Route> {
        let (mut mid, mut rid, mut repaired) = (None, None, None);
        for (id, value) in header.elements(data) {
            match Some(id) {
                id if id == self.extensions.mid => mid = Some(value),
                id if id == self.extensions.rid => rid = Some(value),
                id if id == self.extensions.repaired_rid => repaired = Some(value),
                _ => {}
            }
        }
        let route = |track, index: usize, repair| Route {
            ssrc: header.ssrc,
            track,
            encoding: Encoding(index as u8),
            repair,
        };
        let (track, media) = match mid {
            Some(mid) => self.sections.iter().find(|(_, m)| m.mid.as_bytes() == mid)?,
            None => {
                if let Some((track, index, repair)) = self.by_announced_ssrc(header.ssrc) {
                    return Some(route(track, index, repair));
                }
                self.by_payload_type(header.payload_type)?
            }
        };
        if media.rids.is_empty() {
            return Some(route(*track, 0, is_rtx(media, header.payload_type)));
        }
        let encoding_of = |rid: &[u8]| {
            media
                .rids
                .iter()
                .take(Encoding::COUNT)
                .position(|r| r.as_bytes() == rid)
        };
        if let Some(index) = repaired.and_then(encoding_of) {
            return Some(route(*track, index, true));
        }
        if let Some(index) = rid.and_then(encoding_of) {
            return Some(route(*track, index, is_rtx(media, header.payload_type)));
        }
        let (track, index, repair) = self.by_announced_ssrc(header.ssrc)?;
        Some(route(track, index, repair))
    }

    fn by_announced_ssrc(&self, ssrc: u32) -> Option<(TrackId, usize, bool)> {
        self.sections.iter().find_map(|(track, media)| {
            let index = |repair: bool| {
                let own = |info: &crate::media::SsrcInfo| {
                    if repair {
                        info.rtx == Some(ssrc)
                    } else {
                        info.ssrc == ssrc
                    }
                };
                media
                    .ssrcs
                    .iter()
                    .take(Encoding::COUNT)
                    .position(own)
                    .map(|index| (*track, index, repair))
            };
            index(false).or_else(|| index(true))
        })
    }

    /// Last resort (RFC 8843 §9.2): the one section without simulcast that has this payload type.
    fn by_payload_type(&self, payload_type: u8) -> Option<&(TrackId, UplinkMedia)> {
        let carries = |m: &UplinkMedia| m.payloads.iter().any(|p| p.pt == payload_type) || is_rtx(m, payload_type);
        let mut candidates = self.sections.iter().filter(|(_, m)| carries(m));
        let only = candidates.next()?;
        (candidates.next().is_none() && only.1.rids.is_empty()).then_some(only)
    }

    /// A new SSRC replaces the old one of its encoding, so that routes stay bounded.
    fn latch(&mut self, route: Route) {
        let same = |r: &&mut Route| r.track == route.track && r.encoding == route.encoding && r.repair == route.repair;
        match self.routes.iter_mut().find(same) {
            Some(old) => *old = route,
            None => self.routes.push(route),
        }
    }
}

fn is_rtx(media: &UplinkMedia, payload_type: u8) -> bool {
    media.payloads.iter().any(|p| p.rtx_pt == Some(payload_type))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{Codec, MediaKind, PayloadType, SsrcInfo};

    fn rtp(payload_type: u8, ssrc: u32, elements: &[(u8, &[u8])]) -> Vec<u8> {
        let mut data = vec![0x90, payload_type, 0, 1, 0, 0, 0, 0];
        data.extend(ssrc.to_be_bytes());
        let mut block = Vec::new();
        for (id, value) in elements {
            block.push(id << 4 | (value.len() as u8 - 1));
            block.extend(*value);
        }
        block.resize(block.len().next_multiple_of(4), 0);
        data.extend([0xBE, 0xDE, 0, (block.len() / 4) as u8]);
        data.extend(block);
        data.push(1);
        data
    }

    fn video(mid: &str, rids: &[&str]) -> UplinkMedia {
        UplinkMedia {
            mid: mid.into(),
            kind: MediaKind::Video,
            rids: rids.iter().map(ToString::to_string).collect(),
            ssrcs: vec![],
            payloads: vec![PayloadType {
                pt: 96,
                codec: Codec::Vp8,
                rtx_pt: Some(97),
            }],
            extensions: ExtensionMap {
                mid: Some(3),
                rid: Some(10),
                repaired_rid: Some(11),
                transport_cc: Some(4),
                ..ExtensionMap::default()
            },
        }
    }

    fn routed(receiver: &mut UplinkReceiver, data: &[u8]) -> Option<(u64, u8, bool)> {
        receiver
            .handle_rtp(Instant::now(), data)
            .map(|i| (i.track.0, i.encoding.0, i.repair))
    }

    #[test]
    fn simulcast_encodings_and_their_repairs_latch_by_rid() {
        let mut receiver = UplinkReceiver::new(Instant::now(), 1);
        receiver.publish(TrackId(1), &video("0", &["q", "h", "f"]));
        receiver.publish(TrackId(2), &video("1", &[]));
        assert_eq!(
            routed(&mut receiver, &rtp(96, 12, &[])),
            None,
            "nothing says where it belongs"
        );
        let f = rtp(96, 12, &[(3, b"0"), (10, b"f")]);
        assert_eq!(routed(&mut receiver, &f), Some((1, 2, false)));
        assert_eq!(routed(&mut receiver, &rtp(96, 12, &[])), Some((1, 2, false)), "latched");
        let repair = rtp(97, 13, &[(3, b"0"), (11, b"f")]);
        assert_eq!(routed(&mut receiver, &repair), Some((1, 2, true)));
        assert_eq!(routed(&mut receiver, &rtp(96, 20, &[(3, b"1")])), Some((2, 0, false)));
        assert_eq!(routed(&mut receiver, &rtp(97, 21, &[(3, b"1")])), Some((2, 0, true)));
        assert_eq!(receiver.route(12), Some((TrackId(1), Encoding(2))));
        assert_eq!(
            receiver.route(13),
            None,
            "a repair stream has no sender reports of its own"
        );
        assert_eq!(receiver.unrouted(), 1);

        receiver.publish(TrackId(1), &video("0", &["q", "h", "f"]));
        assert_eq!(
            routed(&mut receiver, &rtp(96, 12, &[])),
            Some((1, 2, false)),
            "renegotiation keeps what was latched"
        );
        receiver.publish(TrackId(3), &video("0", &["q"]));
        assert_eq!(
            routed(&mut receiver, &rtp(96, 12, &[])),
            None,
            "the mid was given to another track"
        );
    }

    #[test]
    fn announced_ssrcs_and_unambiguous_payload_types_are_enough() {
        let mut receiver = UplinkReceiver::new(Instant::now(), 1);
        let mut media = video("0", &[]);
        media.ssrcs = vec![SsrcInfo { ssrc: 5, rtx: Some(6) }, SsrcInfo { ssrc: 7, rtx: None }];
        receiver.publish(TrackId(1), &media);
        assert_eq!(routed(&mut receiver, &rtp(96, 7, &[])), Some((1, 1, false)));
        assert_eq!(routed(&mut receiver, &rtp(97, 6, &[])), Some((1, 0, true)));
        assert_eq!(routed(&mut receiver, &rtp(96, 99, &[])), Some((1, 0, false)));
        assert_eq!(routed(&mut receiver, &rtp(100, 98, &[])), None);
    }

    #[test]
    fn a_stranger_cannot_grow_the_table() {
        let mut receiver = UplinkReceiver::new(Instant::now(), 1);
        for track in 0..200 {
            receiver.publish(TrackId(track), &video(&track.to_string(), &[]));
        }
        for ssrc in 0..10_000 {
            routed(&mut receiver, &rtp(96, ssrc, &[(3, b"0")]));
        }
        assert_eq!((receiver.sections.len(), receiver.routes.len()), (SECTIONS_MAX, 1));
    }

    #[test]
    fn every_packet_with_a_transport_number_is_reported() {
        let now = Instant::now();
        let mut receiver = UplinkReceiver::new(now, 1);
        receiver.publish(TrackId(1), &video("0", &[]));
        receiver.handle_rtp(now, &rtp(96, 5, &[(3, b"0"), (4, &[0, 9])]));
        receiver.handle_rtp(now, &rtp(96, 6, &[(3, b"7"), (4, &[0, 10])]));
        let due = receiver.poll_timeout().unwrap();
        let mut out = Vec::new();
        assert!(receiver.poll_twcc(due, &mut out));
        let Some(crate::rtcp::Rtcp::TransportFeedback(feedback)) = crate::rtcp::parse(&out).next() else {
            panic!()
        };
        assert_eq!((feedback.base_sequence, feedback.count), (9, 2));
    }
}
