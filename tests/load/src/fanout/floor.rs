//! The floor: what no SFU can do without. The same segments, encrypted with the same cipher under N keys and handed to
//! the kernel for N destinations in the same batches. No parsing, no rewriting, no copying, no bookkeeping.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use meridian_transport::SrtpProfile;
use meridian_udp::{Batch, Socket, SocketOptions, process_cpu_time};

use super::media::{PACKETS_PER_FRAME, payload_len};

/// RTP header with the extensions of this benchmark, and the tag behind the payload.
const HEADER: usize = 24;
const TAG: usize = 16;

pub(crate) struct Floor {
    socket: Socket,
    batch: Batch,
    keys: Vec<LessSafeKey>,
    destinations: Vec<SocketAddr>,
    counter: u64,
}

impl Floor {
    pub(crate) fn new(profile: SrtpProfile, destinations: Vec<SocketAddr>) -> anyhow::Result<Floor> {
        let algorithm = match profile {
            SrtpProfile::AeadAes128Gcm => &AES_128_GCM,
            SrtpProfile::AeadAes256Gcm => &AES_256_GCM,
            SrtpProfile::AesCm128HmacSha1_80 => return Err(anyhow!("the clients offered an AEAD profile")),
        };
        let keys = (0..destinations.len())
            .map(|i| {
                let mut key = vec![0x42; algorithm.key_len()];
                key[..8].copy_from_slice(&(i as u64).to_le_bytes());
                UnboundKey::new(algorithm, &key)
                    .map(LessSafeKey::new)
                    .map_err(|_| anyhow!("key"))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let socket = Socket::bind(([127, 0, 0, 1], 0).into(), &SocketOptions::default())?;
        Ok(Floor {
            socket,
            batch: Batch::new(384 * 1024),
            keys,
            destinations,
            counter: 0,
        })
    }

    /// Sends `frames` frames to everybody, one per `interval`; returns the CPU time and the packets sent.
    pub(crate) fn run(&mut self, seed: u64, frames: u32, interval: Duration) -> anyhow::Result<(Duration, u64)> {
        let cpu = process_cpu_time();
        let before = self.batch.stats().datagrams;
        let start = Instant::now();
        for frame in 0..frames {
            if let Some(early) = (start + interval * frame).checked_duration_since(Instant::now()) {
                std::thread::sleep(early);
            }
            self.frame(seed, frame)?;
        }
        Ok((process_cpu_time() - cpu, self.batch.stats().datagrams - before))
    }

    fn frame(&mut self, seed: u64, frame: u32) -> anyhow::Result<()> {
        // Of equal length, like the SFU's: the kernel segments nothing else.
        let payload = (0..PACKETS_PER_FRAME)
            .map(|i| payload_len(seed, frame, i))
            .max()
            .unwrap_or(0);
        let len = HEADER + payload + TAG;
        for (key, &to) in self.keys.iter().zip(&self.destinations) {
            for _ in 0..PACKETS_PER_FRAME {
                if self.batch.slot(to, None, len).is_none() {
                    self.socket.send(&mut self.batch);
                }
                let slot = self.batch.slot(to, None, len).context("an empty batch has room")?;
                self.counter += 1;
                let mut nonce = [0; 12];
                nonce[4..].copy_from_slice(&self.counter.to_be_bytes());
                let (header, body) = slot.split_at_mut(HEADER);
                let (body, tag_room) = body.split_at_mut(payload);
                let tag = key
                    .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(header), body)
                    .map_err(|_| anyhow!("seal"))?;
                tag_room.copy_from_slice(tag.as_ref());
                self.batch.commit(len);
            }
        }
        self.socket.send(&mut self.batch);
        Ok(())
    }
}
