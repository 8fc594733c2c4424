//! One TURN client's way to an allocation and its channels: request, challenge, request (RFC 8656 §7, §12).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use meridian_turn::credentials::{IntegrityKey, PasswordAlgorithm};
use meridian_turn::stun::{
    Class, Integrity, Message, MessageWriter, Method, TransactionId, attribute, decode_xor_address,
};
use meridian_turn_credentials::time_limited_credential;
use meridian_udp::{RecvBatch, Socket};

use super::server::{REALM, SECRET};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const UDP: u32 = 17 << 24;

pub(super) struct Client {
    /// On a wildcard socket that all clients share.
    pub(super) ip: IpAddr,
    server: SocketAddr,
    username: String,
    key: IntegrityKey,
    nonce: Vec<u8>,
    transactions: u64,
}

impl Client {
    pub(super) fn new(index: usize, ip: IpAddr, server: SocketAddr) -> anyhow::Result<Client> {
        let expires = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3_600;
        let (username, password) = time_limited_credential(SECRET.as_bytes(), &format!("user{index}"), expires);
        Ok(Client {
            ip,
            server,
            key: IntegrityKey::long_term(PasswordAlgorithm::Md5, &username, REALM, &password),
            username,
            nonce: Vec::new(),
            transactions: 0,
        })
    }

    /// The relayed address.
    pub(super) fn allocate(&mut self, socket: &Socket, recv: &mut RecvBatch) -> anyhow::Result<SocketAddr> {
        let answer = self.call(socket, recv, Method::ALLOCATE, |w| {
            w.u32(attribute::REQUESTED_TRANSPORT, UDP)
        })?;
        let message = Message::parse(&answer).ok().context("a STUN message")?;
        let value = message
            .get(attribute::XOR_RELAYED_ADDRESS)
            .context("a relayed address")?;
        decode_xor_address(value, &message.transaction).context("a relayed address")
    }

    pub(super) fn bind(
        &mut self,
        socket: &Socket,
        recv: &mut RecvBatch,
        channel: u16,
        peer: SocketAddr,
    ) -> anyhow::Result<()> {
        self.call(socket, recv, Method::CHANNEL_BIND, |w| {
            w.u32(attribute::CHANNEL_NUMBER, u32::from(channel) << 16)
                .address(attribute::XOR_PEER_ADDRESS, peer)
        })?;
        Ok(())
    }

    /// The success response to a request with these attributes.
    fn call(
        &mut self,
        socket: &Socket,
        recv: &mut RecvBatch,
        method: Method,
        attributes: impl Fn(MessageWriter) -> MessageWriter,
    ) -> anyhow::Result<Vec<u8>> {
        for _ in 0..3 {
            self.transactions += 1;
            let mut transaction = [1; 12];
            transaction[..8].copy_from_slice(&self.transactions.to_be_bytes());
            let transaction = TransactionId(transaction);
            let mut writer = attributes(MessageWriter::new(Class::Request, method, transaction));
            if !self.nonce.is_empty() {
                writer = writer
                    .attribute(attribute::USERNAME, self.username.as_bytes())
                    .attribute(attribute::REALM, REALM.as_bytes())
                    .attribute(attribute::NONCE, &self.nonce)
                    .sign(Integrity::Sha1, &self.key);
            }
            let answer = self.ask(socket, recv, &writer.finish(), transaction)?;
            let message = Message::parse(&answer).ok().context("a STUN message")?;
            if message.class == Class::Success {
                return Ok(answer);
            }
            let code = message.get(attribute::ERROR_CODE).context("an error says which")?;
            match (code, message.get(attribute::NONCE)) {
                ([_, _, 4, 1 | 38, ..], Some(nonce)) => self.nonce = nonce.to_vec(),
                _ => bail!("{method:?} refused: {}", String::from_utf8_lossy(code)),
            }
        }
        bail!("{method:?} refused again and again")
    }

    fn ask(
        &self,
        socket: &Socket,
        recv: &mut RecvBatch,
        request: &[u8],
        transaction: TransactionId,
    ) -> anyhow::Result<Vec<u8>> {
        socket.send_to(request, self.server, Some(self.ip))?;
        let end = Instant::now() + ANSWER_TIMEOUT;
        while Instant::now() < end {
            if socket.recv(recv)? == 0 {
                std::thread::sleep(Duration::from_micros(200));
            }
            let answer = recv.datagrams().find(|d| {
                d.from == self.server
                    && d.local.ip() == self.ip
                    && Message::parse(d.data).is_ok_and(|m| m.transaction == transaction)
            });
            if let Some(answer) = answer {
                return Ok(answer.data.to_vec());
            }
        }
        bail!("no answer from {}", self.server)
    }
}
