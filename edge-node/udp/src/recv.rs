//! Receiving: one `recvmmsg` fills many buffers, each of which may hold many coalesced datagrams.

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use crate::Socket;
use crate::address::{Control, RawAddress, Received, parse_control};

/// A coalesced buffer never exceeds one IP packet's length field.
const BUFFER_BYTES: usize = 65_536;
const BUFFERS_MAX: usize = 64;

/// One received datagram, to be worked on in place.
#[derive(Debug)]
pub struct Datagram<'a> {
    pub from: SocketAddr,
    /// The address it was sent to (the bound one, or the packet's own on a wildcard socket), with the bound port.
    pub local: SocketAddr,
    pub data: &'a mut [u8],
}

struct Filled {
    from: SocketAddr,
    local: SocketAddr,
    len: usize,
    segment: usize,
}

/// Where one buffer begins behind the one before: datagrams mostly fill only the beginning, and beginnings a power of
/// two apart would share a few sets of the processor's caches.
const STRIDE: usize = BUFFER_BYTES + 21 * 64;

/// What the kernel is told about one buffer, written once; it changes only lengths and flags.
struct Place {
    name: RawAddress,
    control: Control,
    iov: libc::iovec,
}

/// Buffers for one receive call, allocated once: `buffers` × 65 KB of address space (pages are touched only as data
/// arrives).
pub struct RecvBatch {
    /// `count` buffers, [`STRIDE`] apart. Held by pointer, like the next two, because `headers` points into all of them.
    bytes: *mut [u8],
    places: *mut [Place],
    headers: *mut [libc::mmsghdr],
    count: usize,
    filled: Vec<Filled>,
    truncated: u64,
}

// SAFETY: the three allocations belong to this value alone, and the pointers in `headers` point only into them.
unsafe impl Send for RecvBatch {}

impl RecvBatch {
    /// `buffers`: 1 to 64 messages taken per system call.
    pub fn new(buffers: usize) -> RecvBatch {
        let count = buffers.clamp(1, BUFFERS_MAX);
        let bytes = Box::into_raw(vec![0u8; count * STRIDE].into_boxed_slice());
        let place = |i: usize| Place {
            name: RawAddress::zeroed(),
            control: Control::ZERO,
            iov: libc::iovec {
                iov_base: bytes.cast::<u8>().wrapping_add(i * STRIDE).cast(),
                iov_len: BUFFER_BYTES,
            },
        };
        let places = Box::into_raw((0..count).map(place).collect::<Box<[Place]>>());
        let header = |i: usize| {
            // SAFETY: `mmsghdr` is plain data: null pointers and zero lengths are values of it.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            // SAFETY: `i < count`, the length of `places`, which was just allocated.
            let place = unsafe { places.cast::<Place>().add(i) };
            // SAFETY: only addresses of fields of that place are taken.
            unsafe {
                header.msg_hdr.msg_name = (&raw mut (*place).name).cast();
                header.msg_hdr.msg_iov = &raw mut (*place).iov;
                header.msg_hdr.msg_control = (&raw mut (*place).control).cast();
            }
            header.msg_hdr.msg_iovlen = 1;
            rearm(&mut header);
            header
        };
        RecvBatch {
            bytes,
            places,
            headers: Box::into_raw((0..count).map(header).collect::<Box<[libc::mmsghdr]>>()),
            count,
            filled: Vec::with_capacity(count),
            truncated: 0,
        }
    }

    /// The datagrams in all filled buffers, in order of arrival.
    pub fn datagrams(&mut self) -> impl Iterator<Item = Datagram<'_>> {
        self.datagrams_in(0..self.filled.len())
    }

    /// The datagrams in some of the filled buffers: those that one of several [`Socket::recv_more`] filled.
    pub fn datagrams_in(&mut self, buffers: Range<usize>) -> impl Iterator<Item = Datagram<'_>> {
        let buffers = buffers.start.min(self.filled.len())..buffers.end.min(self.filled.len());
        // SAFETY: the allocation lives as long as `self`, which is borrowed exclusively as long as the slice.
        let bytes = unsafe { &mut *self.bytes };
        let chunks = bytes.chunks_mut(STRIDE).skip(buffers.start);
        chunks.zip(&self.filled[buffers]).flat_map(|(buffer, filled)| {
            buffer[..filled.len].chunks_mut(filled.segment).map(|data| Datagram {
                from: filled.from,
                local: filled.local,
                data,
            })
        })
    }

    /// Buffers that hold something.
    pub fn filled(&self) -> usize {
        self.filled.len()
    }

    /// Buffers that [`Socket::recv_more`] may still fill.
    pub fn room(&self) -> usize {
        self.count - self.filled.len()
    }

    /// Empties all buffers.
    pub fn clear(&mut self) {
        self.filled.clear();
    }

    /// Buffers dropped because they did not fit, since creation.
    pub fn truncated(&self) -> u64 {
        self.truncated
    }
}

impl Drop for RecvBatch {
    fn drop(&mut self) {
        // SAFETY: all three came from `Box::into_raw` in `new`, and nobody uses them any more.
        unsafe {
            drop(Box::from_raw(self.headers));
            drop(Box::from_raw(self.places));
            drop(Box::from_raw(self.bytes));
        }
    }
}

/// What the kernel overwrote, as it must be before the next call.
fn rearm(header: &mut libc::mmsghdr) {
    header.msg_hdr.msg_namelen = RawAddress::SIZE;
    header.msg_hdr.msg_controllen = mem::size_of::<Control>() as _;
    header.msg_hdr.msg_flags = 0;
}

impl Socket {
    /// Receives what is there, without blocking; returns the number of filled buffers (0 = nothing was waiting). If it is
    /// fewer than the batch has, the socket is drained. Errors are those of the socket itself; pending ICMP errors are
    /// swallowed, they concern some earlier datagram.
    pub fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        batch.clear();
        self.recv_more(batch, batch.count)
    }

    /// The same behind what the batch holds already, at most so many buffers: what several sockets received can be worked
    /// on in one go. With no room left nothing is received.
    pub fn recv_more(&self, batch: &mut RecvBatch, at_most: usize) -> io::Result<usize> {
        let first = batch.filled.len();
        let wanted = at_most.min(batch.room());
        let received = loop {
            // SAFETY: `headers` has `count` entries, of which `first + wanted` at most are used, and each of which points at a
            // buffer, a name and a control area of the batch, which is exclusively borrowed, with their lengths.
            let n = unsafe {
                libc::recvmmsg(
                    self.raw_fd(),
                    batch.headers.cast::<libc::mmsghdr>().add(first),
                    wanted as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    std::ptr::null_mut(),
                )
            };
            if n >= 0 {
                break n as usize;
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(0),
                Some(libc::EINTR | libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH) => continue,
                _ => return Err(error),
            }
        };
        for i in first..first + received.min(wanted) {
            // SAFETY: `i < count`; the kernel has done with the batch, and nothing else refers to its headers and places.
            let (header, from) = unsafe {
                let header = &mut *batch.headers.cast::<libc::mmsghdr>().add(i);
                (header, (*batch.places.cast::<Place>().add(i)).name.get())
            };
            self.note(batch, header, from);
            rearm(header);
        }
        Ok(received)
    }

    fn note(&self, batch: &mut RecvBatch, header: &libc::mmsghdr, from: Option<SocketAddr>) {
        let Received { local, segment } = parse_control(&header.msg_hdr);
        let len = header.msg_len as usize;
        let usable = header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) == 0;
        let (len, from) = match from {
            Some(from) if usable => (len, from),
            other => {
                batch.truncated += 1;
                (0, other.unwrap_or(self.local_addr()))
            }
        };
        let local = local.map_or(self.local_addr(), |ip: IpAddr| {
            SocketAddr::new(ip, self.local_addr().port())
        });
        let segment = segment.unwrap_or(len).max(1);
        batch.filled.push(Filled {
            from,
            local,
            len,
            segment,
        });
    }
}
