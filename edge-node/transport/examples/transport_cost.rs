//! What one packet and one peer cost:
//! `cargo run --release -p meridian-transport --example transport_cost`
//!
//! `protect_rtp` of 1,200-byte packets per profile, `unprotect_rtp` beside it, a whole join (both halves), and resident
//! memory per connected peer without and with data channels.

use std::sync::Arc;
use std::time::{Duration, Instant};

use meridian_transport::client::{Client, ClientConfig};
use meridian_transport::srtp::{MasterKeys, SrtpReceiver, SrtpSender};
use meridian_transport::{
    Channel, DtlsIdentity, DtlsRole, IceCredentials, Output, Peer, PeerConfig, SrtpProfile, SrtpStream,
};
use rand::SeedableRng;
use rand::rngs::StdRng;

const PACKETS: usize = 400_000;
const PACKET_LEN: usize = 1_200;
const PEERS: usize = 1_000;

fn main() -> anyhow_free::Result {
    for profile in [
        SrtpProfile::AeadAes128Gcm,
        SrtpProfile::AeadAes256Gcm,
        SrtpProfile::AesCm128HmacSha1_80,
    ] {
        packets(profile)?;
    }
    peers(&[])?;
    peers(&[Channel::Reliable, Channel::Lossy, Channel::DataTrack])?;
    Ok(())
}

mod anyhow_free {
    pub(crate) type Result = std::result::Result<(), Box<dyn std::error::Error>>;
}

fn packets(profile: SrtpProfile) -> anyhow_free::Result {
    let master = MasterKeys::new(profile, &vec![7; profile.key_len()], &vec![9; profile.salt_len()]).ok_or("keys")?;
    let mut sender = SrtpSender::new(&master, 1)?;
    let mut receiver = SrtpReceiver::new(&master)?;
    let mut stream = SrtpStream::new(5);
    let mut best = (Duration::MAX, Duration::MAX);
    let mut sequence = 0u16;
    for _ in 0..5 {
        let (mut sealing, mut opening) = (Duration::ZERO, Duration::ZERO);
        let mut batch = vec![[0u8; 1_280]; 64];
        for _ in 0..PACKETS / 5 / batch.len() {
            for packet in &mut batch {
                packet[..12].copy_from_slice(&[0x80, 96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
                packet[2..4].copy_from_slice(&sequence.to_be_bytes());
                sequence = sequence.wrapping_add(1);
            }
            let start = Instant::now();
            let mut len = 0;
            for packet in &mut batch {
                len = sender.protect_rtp(&mut stream, packet, 12, PACKET_LEN)?;
            }
            sealing += start.elapsed();
            let start = Instant::now();
            for packet in &mut batch {
                receiver.unprotect_rtp(&mut packet[..len])?;
            }
            opening += start.elapsed();
        }
        best = (best.0.min(sealing), best.1.min(opening));
    }
    let each = |total: Duration| total.as_nanos() as f64 / (PACKETS / 5 / 64 * 64) as f64;
    println!(
        "{profile:?}: protect_rtp {:.0} ns, unprotect_rtp {:.0} ns",
        each(best.0),
        each(best.1)
    );
    Ok(())
}

fn resident_bytes() -> Result<usize, Box<dyn std::error::Error>> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    Ok(statm.split_whitespace().nth(1).ok_or("statm")?.parse::<usize>()? * 4096)
}

/// Joins peers one after the other; each client is dropped when done, so that growth is the peers'.
fn peers(channels: &[Channel]) -> anyhow_free::Result {
    let identity = Arc::new(DtlsIdentity::generate()?);
    let mut rng = StdRng::seed_from_u64(1);
    let now = Instant::now();
    let mut peers = Vec::with_capacity(PEERS);
    for _ in 0..50 {
        peers.push(join(&identity, &mut rng, now, channels)?);
    }
    let (before, start) = (resident_bytes()?, Instant::now());
    for _ in 0..PEERS {
        peers.push(join(&identity, &mut rng, now, channels)?);
    }
    let (grown, took) = (resident_bytes()? - before, start.elapsed());
    println!(
        "{} channels: {} B resident per peer ({} B of it inline), {:.2} ms a join (both halves)",
        channels.len(),
        grown / PEERS,
        size_of::<Peer>(),
        took.as_secs_f64() * 1e3 / PEERS as f64
    );
    // Freed memory would be reused by the next row and make it look cheap.
    std::mem::forget(peers);
    Ok(())
}

fn join(
    identity: &Arc<DtlsIdentity>,
    rng: &mut StdRng,
    now: Instant,
    channels: &[Channel],
) -> Result<Peer, Box<dyn std::error::Error>> {
    let (local, remote) = (IceCredentials::generate(rng), IceCredentials::generate(rng));
    let fingerprint = identity.fingerprint();
    let config = PeerConfig {
        identity: Arc::clone(identity),
        local: local.clone(),
        remote: remote.clone(),
        remote_fingerprint: fingerprint,
        role: DtlsRole::Server,
        seed: rand::Rng::random(rng),
    };
    let mut peer = Peer::new(config, now)?;
    let config = ClientConfig {
        identity: Arc::clone(identity),
        local: remote,
        remote: local,
        remote_fingerprint: fingerprint,
        channels: channels.to_vec(),
        seed: rand::Rng::random(rng),
    };
    let (server_address, client_address) = ("10.0.0.1:7000".parse()?, "10.0.0.2:7000".parse()?);
    let mut client = Client::new(config, client_address, server_address, now)?;
    loop {
        let mut quiet = true;
        while let Some(output) = client.poll_output() {
            if let Output::Transmit { from, to, mut payload } = output {
                peer.handle_datagram(now, from, to, &mut payload);
                quiet = false;
            }
        }
        while let Some(output) = peer.poll_output() {
            if let Output::Transmit { from, to, mut payload } = output {
                client.handle_datagram(now, from, to, &mut payload);
                quiet = false;
            }
        }
        if quiet {
            break;
        }
    }
    if !peer.is_connected() {
        return Err("not connected".into());
    }
    Ok(peer)
}
