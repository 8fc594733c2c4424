//! The sockets that clients find a worker at.

use std::io;
use std::net::SocketAddr;

use meridian_udp::{Socket, SocketOptions};

use crate::io::{StartError, TurnConfig};
use meridian_turn_core::Transport;

/// Bound, not yet served.
pub(crate) struct Sockets {
    pub(super) udp: Vec<Socket>,
    pub(super) dtls: Vec<Socket>,
    pub(super) streams: Vec<(std::net::TcpListener, Transport)>,
}

impl Sockets {
    pub(crate) fn bind(config: &TurnConfig, reuse_port: bool) -> Result<Sockets, StartError> {
        let failed = |address: SocketAddr| move |error| StartError::Listen { address, error };
        let options = SocketOptions {
            reuse_port,
            ..SocketOptions::default()
        };
        let datagrams = |addresses: &[SocketAddr]| {
            let bound = addresses.iter();
            let bound = bound.map(|&address| Socket::bind(address, &options).map_err(failed(address)));
            bound.collect::<Result<_, StartError>>()
        };
        let tcp = config.tcp.iter().map(|&address| (address, Transport::Tcp));
        let tls = config.tls.iter().map(|&address| (address, Transport::Tls));
        let streams = tcp.chain(tls).map(|(address, transport)| {
            let socket = listen(address, reuse_port).map_err(failed(address))?;
            Ok((socket, transport))
        });
        Ok(Sockets {
            udp: datagrams(&config.udp)?,
            dtls: datagrams(&config.dtls)?,
            streams: streams.collect::<Result<_, StartError>>()?,
        })
    }

    /// UDP, TCP, TLS, DTLS.
    pub(crate) fn addresses(&self) -> [Vec<SocketAddr>; 4] {
        let of = |wanted| {
            let matching = self.streams.iter().filter(move |(_, transport)| *transport == wanted);
            matching.filter_map(|(socket, _)| socket.local_addr().ok()).collect()
        };
        [
            self.udp.iter().map(Socket::local_addr).collect(),
            of(Transport::Tcp),
            of(Transport::Tls),
            self.dtls.iter().map(Socket::local_addr).collect(),
        ]
    }
}

fn listen(address: SocketAddr, reuse_port: bool) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1_024)?;
    Ok(socket.into())
}
