//! Sending: datagrams are written one behind the other into one buffer; neighbours for the same destination become one
//! message that the kernel segments, and one `sendmmsg` hands over 64 such messages.

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use crate::Socket;
use crate::address::{Control, ControlWriter, RawAddress};
use crate::wait::wait_writable;

/// Datagrams the kernel takes in one segmented message (UDP_MAX_SEGMENTS).
pub const SEGMENTS_MAX: usize = 64;
/// Messages handed over per system call. [`Batch::slot`] refuses to begin another one beyond it.
const MESSAGES_MAX: usize = 64;
/// Largest UDP payload over IPv4, which also limits a segmented message.
const MESSAGE_BYTES_MAX: usize = 65_507;
/// A full socket buffer is waited for this long, once per flush; then what is left of the batch is dropped. Media that
/// waits longer is late anyway, and nobody else on this thread is served meanwhile.
const FULL_WAIT: Duration = Duration::from_millis(2);

#[derive(Clone, Copy)]
struct Message {
    to: SocketAddr,
    source: Option<IpAddr>,
    start: usize,
    len: usize,
    /// Size of every segment but the last.
    segment: usize,
    segments: usize,
    /// A shorter segment ended it.
    closed: bool,
}

/// What happened to batches since the beginning; only ever grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendStats {
    /// System calls: one per batch, or one per datagram where it leaves by itself.
    pub calls: u64,
    /// Messages handed to the kernel, each of one or more segments.
    pub messages: u64,
    /// Datagrams handed to the kernel.
    pub datagrams: u64,
    pub bytes: u64,
    /// Datagrams dropped because the socket's buffer stayed full (EAGAIN, ENOBUFS).
    pub dropped_full: u64,
    /// Datagrams dropped because not even fragments can carry them (EMSGSIZE).
    pub dropped_too_big: u64,
    /// Datagrams dropped because the destination cannot be reached (ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EPERM …).
    pub dropped_unreachable: u64,
    /// Messages whose segmentation was refused, sent again datagram by datagram.
    pub gso_refused: u64,
}

impl SendStats {
    pub fn dropped(&self) -> u64 {
        self.dropped_full + self.dropped_too_big + self.dropped_unreachable
    }
}

/// Outgoing datagrams, collected in place: take a [`Batch::slot`], write into it, [`Batch::commit`] its length. Allocates
/// nothing after creation.
pub struct Batch {
    buffer: Box<[u8]>,
    used: usize,
    messages: Vec<Message>,
    pending: Option<(SocketAddr, Option<IpAddr>)>,
    coalesces: bool,
    stats: SendStats,
}

impl Batch {
    /// `bytes` of buffer; 64 messages of four full packets each fit into 320 KB.
    pub fn new(bytes: usize) -> Batch {
        Batch {
            buffer: vec![0; bytes.max(2_048)].into_boxed_slice(),
            used: 0,
            messages: Vec::with_capacity(MESSAGES_MAX + 1),
            pending: None,
            coalesces: true,
            stats: SendStats::default(),
        }
    }

    /// A batch in which every datagram stays a message of its own: for load generators that stand for many ordinary
    /// senders. 64 datagrams per system call at most.
    pub fn without_segmentation(bytes: usize) -> Batch {
        Batch {
            coalesces: false,
            ..Batch::new(bytes)
        }
    }

    /// Room for one datagram of at most `room` bytes to `to`. `None` = send first, then ask again (a `room` beyond the
    /// buffer's size is never granted). `source` chooses the local address on a wildcard socket. Taking a slot again
    /// without committing abandons the first.
    #[inline]
    pub fn slot(&mut self, to: SocketAddr, source: Option<IpAddr>, room: usize) -> Option<&mut [u8]> {
        if self.buffer.len() - self.used < room {
            return None;
        }
        let full = self.messages.len() >= MESSAGES_MAX;
        if full && !(self.coalesces && self.messages.last().is_some_and(|m| m.takes(to, source, 1))) {
            return None;
        }
        self.pending = Some((to, source));
        Some(&mut self.buffer[self.used..self.used + room])
    }

    /// The datagram in the current slot is its first `len` bytes. Consecutive datagrams to one destination share a
    /// message as long as they are equally long; a shorter one ends the message, a longer one begins the next.
    #[inline]
    pub fn commit(&mut self, len: usize) {
        let Some((to, source)) = self.pending.take() else {
            return;
        };
        let start = self.used;
        if len == 0 || len > self.buffer.len() - start {
            return;
        }
        self.used += len;
        if self.coalesces
            && let Some(last) = self.messages.last_mut()
            && last.takes(to, source, len)
        {
            last.len += len;
            last.segments += 1;
            last.closed = len < last.segment;
            return;
        }
        self.messages.push(Message {
            to,
            source,
            start,
            len,
            segment: len,
            segments: 1,
            closed: false,
        });
    }

    /// Copies one datagram in; `false` = send first.
    pub fn push(&mut self, to: SocketAddr, source: Option<IpAddr>, payload: &[u8]) -> bool {
        let Some(slot) = self.slot(to, source, payload.len()) else {
            return false;
        };
        slot.copy_from_slice(payload);
        self.commit(payload.len());
        true
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub fn stats(&self) -> &SendStats {
        &self.stats
    }

    /// Ends the last message: what is written from now on goes to another socket, see [`Socket::send_part`]. Returns the number of
    /// messages so far.
    pub fn seal(&mut self) -> usize {
        if let Some(last) = self.messages.last_mut() {
            last.closed = true;
        }
        self.messages.len()
    }

    /// Empties the batch without the kernel: each message's destination, source, segment size and bytes.
    pub fn hand_out(&mut self, mut take: impl FnMut(SocketAddr, Option<IpAddr>, usize, &[u8])) {
        for message in &self.messages {
            let bytes = &self.buffer[message.start..message.start + message.len];
            take(message.to, message.source, message.segment, bytes);
        }
        self.clear();
    }

    /// Forgets everything that was not sent.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.used = 0;
        self.pending = None;
    }
}

impl Message {
    #[inline]
    fn takes(&self, to: SocketAddr, source: Option<IpAddr>, len: usize) -> bool {
        !self.closed
            && len <= self.segment
            && self.segments < SEGMENTS_MAX
            && self.len + len <= MESSAGE_BYTES_MAX
            && self.to == to
            && self.source == source
    }
}

/// What to do about one message that the kernel stopped at.
enum Verdict {
    Retry,
    Full,
    Singly,
    Drop,
}

impl Socket {
    /// Hands the whole batch to the kernel and empties it. Never blocks longer than 2 ms; what could not be sent is
    /// dropped and counted in [`Batch::stats`], as UDP does.
    pub fn send(&self, batch: &mut Batch) {
        self.send_part(batch, 0..batch.messages.len());
        batch.clear();
    }

    /// The same for some of its messages ([`Batch::seal`] tells their numbers), which stay in the batch: for batches that are
    /// written in one go and sent through several sockets. [`Batch::clear`] it afterwards.
    pub fn send_part(&self, batch: &mut Batch, messages: Range<usize>) {
        let end = messages.end.min(batch.messages.len());
        let mut at = messages.start;
        let mut waited = false;
        let mut retried = false;
        while at < end {
            let error = match self.send_some(batch, at..end) {
                Ok(sent) => {
                    at += sent;
                    retried = false;
                    continue;
                }
                Err(error) => error,
            };
            match self.judge(&error, &batch.messages[at], retried) {
                Verdict::Retry => retried = true,
                Verdict::Full if !waited && wait_writable(self, FULL_WAIT) => waited = true,
                Verdict::Full => {
                    let lost: usize = batch.messages[at..end].iter().map(|m| m.segments).sum();
                    batch.stats.dropped_full += lost as u64;
                    break;
                }
                Verdict::Singly => {
                    self.send_singly(batch, at);
                    at += 1;
                }
                Verdict::Drop => {
                    count_drop(&mut batch.stats, &error, batch.messages[at].segments);
                    at += 1;
                }
            }
        }
    }

    fn judge(&self, error: &io::Error, message: &Message, retried: bool) -> Verdict {
        match error.raw_os_error() {
            Some(libc::EINTR) => Verdict::Retry,
            Some(libc::EAGAIN | libc::ENOBUFS) => Verdict::Full,
            // A pending error of some earlier datagram is reported once, and clears itself.
            Some(libc::ECONNREFUSED) if !retried => Verdict::Retry,
            Some(libc::EIO) if message.segments > 1 => {
                // The device has no checksum offload, which segmentation needs: it will not learn it.
                self.disable_gso();
                Verdict::Singly
            }
            Some(libc::EINVAL | libc::EOPNOTSUPP) if message.segments > 1 => Verdict::Singly,
            Some(libc::EMSGSIZE) => Verdict::Singly,
            _ => Verdict::Drop,
        }
    }

    /// One system call for the first of these messages; returns how many it took.
    fn send_some(&self, batch: &mut Batch, messages: Range<usize>) -> io::Result<usize> {
        let from = messages.start;
        if !self.has_gso() && batch.messages[from].segments > 1 {
            self.send_singly(batch, from);
            return Ok(1);
        }
        batch.stats.calls += 1;
        let sent = match &batch.messages[messages.clone()] {
            [lone] if lone.segments == 1 => {
                let data = &batch.buffer[lone.start..lone.start + lone.len];
                self.send_to(data, lone.to, lone.source).map(|()| 1)?
            }
            _ => self.send_many(batch, messages)?,
        };
        for message in &batch.messages[from..from + sent] {
            batch.stats.messages += 1;
            batch.stats.datagrams += message.segments as u64;
            batch.stats.bytes += message.len as u64;
        }
        Ok(sent)
    }

    /// One `sendmmsg`.
    fn send_many(&self, batch: &mut Batch, messages: Range<usize>) -> io::Result<usize> {
        let wildcard = self.is_wildcard();
        let mut names = [const { mem::MaybeUninit::<RawAddress>::uninit() }; MESSAGES_MAX];
        let mut controls = [const { mem::MaybeUninit::<Control>::uninit() }; MESSAGES_MAX];
        let mut iovs = [const { mem::MaybeUninit::<libc::iovec>::uninit() }; MESSAGES_MAX];
        let mut headers = [const { mem::MaybeUninit::<libc::mmsghdr>::uninit() }; MESSAGES_MAX];
        let mut count = 0;
        for (i, message) in batch.messages[messages].iter().take(MESSAGES_MAX).enumerate() {
            if i > 0 && message.segments > 1 && !self.has_gso() {
                break;
            }
            let data = &mut batch.buffer[message.start..message.start + message.len];
            let (address, name_len) = RawAddress::new(message.to);
            let name = names[i].write(address);
            let iov = iovs[i].write(libc::iovec {
                iov_base: data.as_mut_ptr().cast(),
                iov_len: data.len(),
            });
            // SAFETY: `mmsghdr` is plain data: null pointers and zero lengths are values of it.
            let header = headers[i].write(unsafe { mem::zeroed() });
            header.msg_hdr.msg_name = (&raw mut *name).cast();
            header.msg_hdr.msg_namelen = name_len;
            header.msg_hdr.msg_iov = &raw mut *iov;
            header.msg_hdr.msg_iovlen = 1;
            let source = message.source.filter(|_| wildcard);
            if message.segments > 1 || source.is_some() {
                let control = controls[i].write(Control::ZERO);
                let mut writer = ControlWriter::new(control);
                if message.segments > 1 {
                    writer.segment_size(message.segment as u16);
                }
                if let Some(ip) = source {
                    writer.source(ip);
                }
                let control_len = writer.len();
                header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = control_len as _;
            }
            count = i + 1;
        }
        // SAFETY: the first `count` headers are initialised; what they point at lives in this frame or in
        // `batch.buffer`, has the lengths given, and is not touched until the call returns.
        let sent = unsafe {
            libc::sendmmsg(
                self.raw_fd(),
                headers.as_mut_ptr().cast(),
                count as libc::c_uint,
                libc::MSG_NOSIGNAL as _,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(sent as usize)
    }

    /// Each datagram of the message by itself, those that the path is too narrow for in fragments.
    fn send_singly(&self, batch: &mut Batch, index: usize) {
        let message = batch.messages[index];
        if message.segments > 1 {
            batch.stats.gso_refused += 1;
        }
        for datagram in batch.buffer[message.start..message.start + message.len].chunks(message.segment) {
            let result = self.send_to(datagram, message.to, message.source);
            let result = match result.as_ref().err().and_then(io::Error::raw_os_error) {
                // A pending error of some earlier datagram, reported once.
                Some(libc::ECONNREFUSED) => self.send_to(datagram, message.to, message.source),
                Some(libc::EMSGSIZE) => self.send_fragmented(datagram, message.to, message.source),
                _ => result,
            };
            batch.stats.calls += 1;
            match result {
                Ok(()) => {
                    batch.stats.messages += 1;
                    batch.stats.datagrams += 1;
                    batch.stats.bytes += datagram.len() as u64;
                }
                Err(error) => count_drop(&mut batch.stats, &error, 1),
            }
        }
    }
}

fn count_drop(stats: &mut SendStats, error: &io::Error, datagrams: usize) {
    let counter = match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS) => &mut stats.dropped_full,
        Some(libc::EMSGSIZE) => &mut stats.dropped_too_big,
        _ => &mut stats.dropped_unreachable,
    };
    *counter += datagrams as u64;
}
