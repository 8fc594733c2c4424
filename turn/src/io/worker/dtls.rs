//! Datagrams of DTLS clients: like those of UDP clients, through a session.

use super::{CLIENT_BUFFERS, DTLS, ROUNDS, Worker, execute, token};
use meridian_turn_core::server::Relayed;
use meridian_turn_core::{ClientSocket, Transport};

impl Worker {
    pub(super) fn receive_from_dtls(&mut self, index: usize) {
        for _ in 0..ROUNDS {
            let Some(listener) = self.out.listeners.get(index) else {
                return;
            };
            let filled = match listener.socket.recv(&mut self.from_clients) {
                Ok(filled) => filled,
                Err(error) => return tracing::warn!(%error, "receiving from TURN clients over DTLS failed"),
            };
            for datagram in self.from_clients.datagrams() {
                let client = ClientSocket {
                    remote: datagram.from,
                    local: datagram.local,
                    transport: Transport::Dtls,
                };
                let server = &mut self.server;
                let ended = self
                    .out
                    .unseal(self.now, client, datagram.data, || server.may_answer(client));
                let frames = self.out.dtls.take_frames();
                for frame in frames.iter() {
                    match self.server.handle_client(self.now, client, frame) {
                        Relayed::ToPeer(packet) => self.out.relay_to_peer(packet),
                        Relayed::ToClient(packet) => self.out.relay_to_client(packet),
                        Relayed::Nothing => execute(&mut self.server, &mut self.out, &self.poll, self.now),
                    }
                }
                self.out.dtls.return_frames(frames);
                if ended {
                    self.server.client_gone(self.now, client);
                    execute(&mut self.server, &mut self.out, &self.poll, self.now);
                }
            }
            if filled < CLIENT_BUFFERS {
                return;
            }
        }
        self.again.push(token(DTLS, index));
    }
}
