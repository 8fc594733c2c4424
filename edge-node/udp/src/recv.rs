//! Receiving: one `recvmmsg` fills many buffers, each of which may hold many coalesced datagrams.

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};

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

/// Buffers for one receive call, allocated once: `buffers` × 64 KB of address space (pages are touched only as data
/// arrives).
pub struct RecvBatch {
    buffers: Vec<Box<[u8]>>,
    filled: Vec<Filled>,
    truncated: u64,
}

impl RecvBatch {
    /// `buffers`: 1 to 64 messages taken per system call.
    pub fn new(buffers: usize) -> RecvBatch {
        let count = buffers.clamp(1, BUFFERS_MAX);
        RecvBatch {
            buffers: (0..count).map(|_| vec![0; BUFFER_BYTES].into_boxed_slice()).collect(),
            filled: Vec::with_capacity(count),
            truncated: 0,
        }
    }

    /// The datagrams of the last [`Socket::recv`], in order of arrival.
    pub fn datagrams(&mut self) -> impl Iterator<Item = Datagram<'_>> {
        self.buffers.iter_mut().zip(&self.filled).flat_map(|(buffer, filled)| {
            buffer[..filled.len].chunks_mut(filled.segment).map(|data| Datagram {
                from: filled.from,
                local: filled.local,
                data,
            })
        })
    }

    /// Buffers dropped because they did not fit, since creation.
    pub fn truncated(&self) -> u64 {
        self.truncated
    }
}

impl Socket {
    /// Receives what is there, without blocking; returns the number of filled buffers (0 = nothing was waiting). If it is
    /// fewer than the batch has, the socket is drained. Errors are those of the socket itself; pending ICMP errors are
    /// swallowed, they concern some earlier datagram.
    pub fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        batch.filled.clear();
        let count = batch.buffers.len();
        let mut names = [const { mem::MaybeUninit::<RawAddress>::uninit() }; BUFFERS_MAX];
        let mut controls = [const { mem::MaybeUninit::<Control>::uninit() }; BUFFERS_MAX];
        let mut iovs = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; BUFFERS_MAX];
        // SAFETY: `mmsghdr` is plain data: null pointers and zero lengths are values of it.
        let mut headers: [libc::mmsghdr; BUFFERS_MAX] = unsafe { mem::zeroed() };
        for (i, buffer) in batch.buffers.iter_mut().enumerate() {
            iovs[i] = libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            };
            let name = names[i].write(RawAddress::zeroed());
            let control = controls[i].write(Control::ZERO);
            let header = &mut headers[i].msg_hdr;
            header.msg_name = (&raw mut *name).cast();
            header.msg_namelen = RawAddress::SIZE;
            header.msg_iov = &raw mut iovs[i];
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = control.0.len() as _;
        }
        let received = loop {
            // SAFETY: the first `count` headers point at buffers, names and control areas that live in this frame or in
            // `batch`, are exclusively borrowed, and have the lengths given.
            let n = unsafe {
                libc::recvmmsg(
                    self.raw_fd(),
                    headers.as_mut_ptr(),
                    count as libc::c_uint,
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
        for (header, name) in headers.iter().zip(&names).take(received) {
            // SAFETY: the loop above initialised the first `count >= received` names.
            let from = unsafe { name.assume_init_ref() }.get();
            self.note(batch, header, from);
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
