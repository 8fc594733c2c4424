//! Writing RTCP. Appends to a buffer that the caller reuses.

use super::{ReportBlock, SenderReport};

/// Appends RTCP packets to `out`; together they form one compound datagram. A compound starts with `sender_report` or
/// `receiver_report`, unless reduced-size RTCP (RFC 5506) was negotiated, as all WebRTC clients do.
pub struct Writer<'a> {
    pub out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Writer { out }
    }
    /// At most 31 blocks are written.
    pub fn sender_report(&mut self, _report: &SenderReport, _blocks: &[ReportBlock]) -> &mut Self {
        self
    }
    pub fn receiver_report(&mut self, _ssrc: u32, _blocks: &[ReportBlock]) -> &mut Self {
        self
    }
    pub fn cname(&mut self, _ssrc: u32, _cname: &str) -> &mut Self {
        self
    }
    pub fn bye(&mut self, _ssrc: u32) -> &mut Self {
        self
    }
    /// `sequences` ascending; packed into PID/BLP pairs.
    pub fn nack(&mut self, _sender_ssrc: u32, _media_ssrc: u32, _sequences: &[u16]) -> &mut Self {
        self
    }
    pub fn pli(&mut self, _sender_ssrc: u32, _media_ssrc: u32) -> &mut Self {
        self
    }
    pub fn fir(&mut self, _sender_ssrc: u32, _media_ssrc: u32, _command: u8) -> &mut Self {
        self
    }
}
