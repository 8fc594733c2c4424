//! Socket addresses as the kernel lays them out, and the one control buffer type both directions use.

use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Room for one IPv4 or IPv6 socket address in the kernel's layout. Smaller than `sockaddr_storage`: sixty-four of them
/// are touched on every flush.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) union RawAddress {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl RawAddress {
    pub(crate) const SIZE: libc::socklen_t = mem::size_of::<RawAddress>() as libc::socklen_t;

    pub(crate) fn zeroed() -> RawAddress {
        // SAFETY: all members are plain integers and arrays of integers, for which all-zero bytes are a value.
        unsafe { mem::zeroed() }
    }

    pub(crate) fn new(address: SocketAddr) -> (RawAddress, libc::socklen_t) {
        let mut raw = RawAddress::zeroed();
        match address {
            SocketAddr::V4(a) => {
                raw.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: a.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(a.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                (raw, mem::size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            SocketAddr::V6(a) => {
                raw.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: a.port().to_be(),
                    sin6_flowinfo: a.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: a.ip().octets(),
                    },
                    sin6_scope_id: a.scope_id(),
                };
                (raw, mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }

    /// `None` for a family that is neither IPv4 nor IPv6 (the kernel filled nothing in).
    pub(crate) fn get(&self) -> Option<SocketAddr> {
        // SAFETY: every member starts with the family, and all bytes are initialised (`zeroed`), so reading any
        // member reads initialised integers.
        unsafe {
            match i32::from(self.family) {
                libc::AF_INET => {
                    let ip = Ipv4Addr::from(self.v4.sin_addr.s_addr.to_ne_bytes());
                    Some((ip, u16::from_be(self.v4.sin_port)).into())
                }
                libc::AF_INET6 => {
                    let ip = Ipv6Addr::from(self.v6.sin6_addr.s6_addr);
                    let port = u16::from_be(self.v6.sin6_port);
                    Some(SocketAddrV6::new(ip, port, self.v6.sin6_flowinfo, self.v6.sin6_scope_id).into())
                }
                _ => None,
            }
        }
    }
}

/// Control messages of one datagram: at most a packet-info (16 or 20 bytes) and a segment size, each behind a header.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Control(pub(crate) [u8; 96]);

impl Control {
    pub(crate) const ZERO: Control = Control([0; 96]);
}

/// Appends control messages to a `msghdr` whose control buffer is a [`Control`].
pub(crate) struct ControlWriter<'a> {
    control: &'a mut Control,
    len: usize,
}

impl<'a> ControlWriter<'a> {
    pub(crate) fn new(control: &'a mut Control) -> Self {
        ControlWriter { control, len: 0 }
    }

    fn push<T: Copy>(&mut self, level: libc::c_int, kind: libc::c_int, value: T) {
        let size = mem::size_of::<T>() as u32;
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute.
        let (space, cmsg_len) = unsafe { (libc::CMSG_SPACE(size) as usize, libc::CMSG_LEN(size) as usize) };
        assert!(
            self.len + space <= self.control.0.len(),
            "control buffer holds every message this crate writes"
        );
        // SAFETY: `len + space` lies inside the buffer (asserted), whose start is 8-aligned and whose `len` stays a
        // multiple of CMSG_ALIGN, so the header is aligned; the value is written unaligned right behind it.
        unsafe {
            let header = self.control.0.as_mut_ptr().add(self.len).cast::<libc::cmsghdr>();
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = cmsg_len as _;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        }
        self.len += space;
    }

    /// Splits what is sent into datagrams of `bytes` each, the last one shorter (udp(7), UDP_SEGMENT).
    pub(crate) fn segment_size(&mut self, bytes: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, bytes);
    }

    /// Sends from this local address instead of the one the routing table would choose.
    pub(crate) fn source(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => {
                let address = libc::in_addr {
                    s_addr: u32::from_ne_bytes(ip.octets()),
                };
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: address,
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            IpAddr::V6(ip) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: ip.octets() },
                    ipi6_ifindex: 0,
                };
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// What the kernel said about one received buffer.
#[derive(Clone, Copy, Default)]
pub(crate) struct Received {
    pub(crate) local: Option<IpAddr>,
    /// Size of each coalesced datagram (UDP_GRO); `None` = one datagram.
    pub(crate) segment: Option<usize>,
}

pub(crate) fn parse_control(header: &libc::msghdr) -> Received {
    let mut out = Received::default();
    // SAFETY: the kernel filled `msg_control[..msg_controllen]` of a buffer that outlives this call; CMSG_FIRSTHDR and
    // CMSG_NXTHDR stay inside it, and values are read unaligned with the size the kernel documents for their type.
    unsafe {
        let mut cmsg = libc::CMSG_FIRSTHDR(header);
        while let Some(c) = cmsg.as_ref() {
            let data = libc::CMSG_DATA(cmsg);
            match (c.cmsg_level, c.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    out.local = Some(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    out.local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = data.cast::<libc::c_int>().read_unaligned();
                    out.segment = usize::try_from(size).ok().filter(|&s| s > 0);
                }
                _ => {}
            }
            cmsg = libc::CMSG_NXTHDR(header, cmsg);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernel_layout() {
        for text in ["127.0.0.3:4000", "[::1]:9", "[fe80::1%7]:65535", "0.0.0.0:0"] {
            let address: SocketAddr = text.parse().expect("literal");
            assert_eq!(RawAddress::new(address).0.get(), Some(address));
        }
        assert_eq!(RawAddress::zeroed().get(), None);
    }
}
