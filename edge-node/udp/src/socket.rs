//! One non-blocking UDP socket with everything switched on that the kernel grants.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, Protocol, Type};

use crate::address::{Control, ControlWriter, RawAddress};

/// What a socket asks of the kernel.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// SO_REUSEPORT: several sockets share one port, the kernel hashes senders over them.
    pub reuse_port: bool,
    /// Bytes asked for with SO_RCVBUFFORCE, else SO_RCVBUF (the kernel doubles the number, and caps the latter at
    /// `net.core.rmem_max`).
    pub recv_buffer_bytes: usize,
    /// Bytes asked for with SO_SNDBUFFORCE, else SO_SNDBUF.
    pub send_buffer_bytes: usize,
    /// Let the kernel coalesce arriving datagrams of one sender (UDP_GRO).
    pub gro: bool,
}

impl Default for SocketOptions {
    fn default() -> Self {
        SocketOptions {
            reuse_port: false,
            recv_buffer_bytes: 4 << 20,
            send_buffer_bytes: 4 << 20,
            gro: true,
        }
    }
}

/// A bound, non-blocking UDP socket. Shared references suffice for all operations.
#[derive(Debug)]
pub struct Socket {
    inner: socket2::Socket,
    local: SocketAddr,
    /// Cleared for good when the device behind it refuses segmentation.
    gso: AtomicBool,
}

impl Socket {
    /// Binds. An IPv6 socket takes IPv6 only, so that one port can be bound for both families.
    pub fn bind(address: SocketAddr, options: &SocketOptions) -> io::Result<Socket> {
        let inner = socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        inner.set_nonblocking(true)?;
        if address.is_ipv6() {
            inner.set_only_v6(true)?;
        }
        if options.reuse_port {
            set_int(inner.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }
        let fd = inner.as_raw_fd();
        force_buffer(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, options.recv_buffer_bytes)?;
        force_buffer(fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, options.send_buffer_bytes)?;
        inner.bind(&address.into())?;
        let local = inner.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        if local.ip().is_unspecified() {
            match local {
                SocketAddr::V4(_) => set_int(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?,
                SocketAddr::V6(_) => set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?,
            }
        }
        if address.is_ipv4() {
            // Whole datagrams need no identification (RFC 6864 §4), which the kernel makes otherwise, one by one.
            set_int(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
        }
        // Both exist since Linux 5.0; without them everything still works, one datagram at a time.
        if options.gro {
            let _ = set_int(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
        }
        let gso = set_int(fd, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
        Ok(Socket {
            inner,
            local,
            gso: AtomicBool::new(gso),
        })
    }

    /// The bound address; its IP is unspecified on a wildcard socket.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Sends one datagram now, from `source` if the socket is a wildcard.
    pub fn send_to(&self, payload: &[u8], to: SocketAddr, source: Option<IpAddr>) -> io::Result<()> {
        match source.filter(|_| self.is_wildcard()) {
            Some(source) => self.send_from(payload, to, source),
            None => self.send_plainly(payload, to),
        }
    }

    /// Without any header for the kernel to fetch: less work than a batch of one.
    fn send_plainly(&self, payload: &[u8], to: SocketAddr) -> io::Result<()> {
        let (name, name_len) = RawAddress::new(to);
        // SAFETY: the kernel only reads the payload, and as much of the local `name` as `name_len` says.
        let sent = unsafe {
            libc::sendto(
                self.raw_fd(),
                payload.as_ptr().cast(),
                payload.len(),
                libc::MSG_NOSIGNAL,
                (&raw const name).cast(),
                name_len,
            )
        };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    fn send_from(&self, payload: &[u8], to: SocketAddr, source: IpAddr) -> io::Result<()> {
        let (mut name, name_len) = RawAddress::new(to);
        let mut control = Control::ZERO;
        let mut writer = ControlWriter::new(&mut control);
        writer.source(source);
        let control_len = writer.len();
        let mut iov = libc::iovec {
            iov_base: payload.as_ptr().cast_mut().cast(),
            iov_len: payload.len(),
        };
        // SAFETY: `msghdr` is plain data; every pointer in it refers to a local that outlives the call, and the kernel
        // only reads through them.
        let sent = unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_name = (&raw mut name).cast();
            header.msg_namelen = name_len;
            header.msg_iov = &raw mut iov;
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = control_len as _;
            libc::sendmsg(self.raw_fd(), &header, libc::MSG_NOSIGNAL)
        };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Sends what exceeds the path's MTU. Should another thread do the same at this moment, one of the two may still get
    /// EMSGSIZE.
    pub(crate) fn send_fragmented(&self, payload: &[u8], to: SocketAddr, source: Option<IpAddr>) -> io::Result<()> {
        if self.local.is_ipv6() {
            // Has no such bit: its sockets fragment.
            return self.send_to(payload, to, source);
        }
        let fd = self.raw_fd();
        set_int(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_WANT)?;
        let sent = self.send_to(payload, to, source);
        set_int(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
        sent
    }

    pub(crate) fn is_wildcard(&self) -> bool {
        self.local.ip().is_unspecified()
    }

    /// Whether sends are segmented by the kernel (or the device below it).
    pub fn has_gso(&self) -> bool {
        self.gso.load(Ordering::Relaxed)
    }

    /// Stops using segmentation on this socket; datagrams then go one by one. Also called on EIO.
    pub fn disable_gso(&self) {
        self.gso.store(false, Ordering::Relaxed);
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

fn set_int(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option value is a c_int on our stack, and its size is passed along.
    let done = unsafe {
        let size = std::mem::size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(fd, level, name, (&raw const value).cast(), size)
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The forcing option needs CAP_NET_ADMIN; the ordinary one silently grants less.
fn force_buffer(fd: RawFd, forced: libc::c_int, ordinary: libc::c_int, bytes: usize) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_int(fd, libc::SOL_SOCKET, forced, value).or_else(|_| set_int(fd, libc::SOL_SOCKET, ordinary, value))
}
