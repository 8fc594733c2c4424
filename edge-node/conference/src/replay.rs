//! Reliable data packets of the last seconds, kept for clients that could not take them: those whose data channel is not open
//! yet, and those that resume and say what they have not received.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_room::ParticipantSid;

/// How long a packet is kept. Clients forget after 30 s what they have received of somebody, and would show a packet twice that is
/// repeated later.
const AGE: Duration = Duration::from_secs(20);
/// Packets kept of one sender, and their bytes.
const PACKETS_MAX: usize = 256;
const BYTES_MAX: usize = 1 << 20;
/// Bytes kept of all senders of a room.
const ROOM_BYTES_MAX: usize = 16 << 20;

/// One packet, stamped with its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Place among all packets of the room that this edge has seen.
    pub(crate) serial: u64,
    /// The sender's own number of it; 0 = it does not number them.
    pub(crate) sequence: u32,
    pub(crate) packet: Bytes,
    /// Identities it is for; `None` = everybody.
    pub(crate) destinations: Option<Vec<String>>,
    at: Instant,
}

impl Kept {
    pub(crate) fn is_for(&self, identity: &str) -> bool {
        self.destinations
            .as_ref()
            .is_none_or(|list| list.iter().any(|one| one == identity))
    }
}

#[derive(Default)]
struct Sender {
    packets: VecDeque<Kept>,
    bytes: usize,
}

impl Sender {
    fn drop_oldest(&mut self) -> usize {
        let bytes = self.packets.pop_front().map_or(0, |kept| kept.packet.len());
        self.bytes -= bytes;
        bytes
    }
}

/// The packets of one room.
#[derive(Default)]
pub(crate) struct Replay {
    senders: BTreeMap<ParticipantSid, Sender>,
    bytes: usize,
    next: u64,
}

impl Replay {
    /// The serial that the next packet gets: who joins now has missed nothing before it.
    pub(crate) fn next_serial(&self) -> u64 {
        self.next
    }

    pub(crate) fn keep(
        &mut self,
        now: Instant,
        sender: &ParticipantSid,
        sequence: u32,
        packet: Bytes,
        destinations: Option<Vec<String>>,
    ) {
        let held = self.senders.entry(sender.clone()).or_default();
        held.bytes += packet.len();
        self.bytes += packet.len();
        held.packets.push_back(Kept {
            serial: self.next,
            sequence,
            packet,
            destinations,
            at: now,
        });
        self.next += 1;
        while held.packets.len() > PACKETS_MAX || held.bytes > BYTES_MAX {
            self.bytes -= held.drop_oldest();
        }
        while self.bytes > ROOM_BYTES_MAX
            && let Some(largest) = self.senders.values_mut().max_by_key(|held| held.bytes)
        {
            self.bytes -= largest.drop_oldest();
        }
    }

    /// Forgets what is too old.
    pub(crate) fn expire(&mut self, now: Instant) {
        for held in self.senders.values_mut() {
            let old = |kept: &Kept| now.saturating_duration_since(kept.at) > AGE;
            while held.packets.front().is_some_and(old) {
                self.bytes -= held.drop_oldest();
            }
        }
        self.senders.retain(|_, held| !held.packets.is_empty());
    }

    /// What somebody who came at serial `since` lacks, in the order it arrived: everything from serial `unheard` on, and, where
    /// the client has said which number it last received of each sender, what follows that. Nothing of its own (`not_of`).
    pub(crate) fn lacking(
        &self,
        not_of: &ParticipantSid,
        since: u64,
        unheard: u64,
        received: Option<&HashMap<ParticipantSid, u32>>,
    ) -> Vec<Kept> {
        let mut lacking: Vec<Kept> = Vec::new();
        for (sender, held) in self.senders.iter().filter(|(sender, _)| *sender != not_of) {
            let last = received.map(|received| received.get(sender).copied().unwrap_or(0));
            let lacks = |kept: &&Kept| {
                kept.serial >= since && (kept.serial >= unheard || last.is_some_and(|last| kept.sequence > last))
            };
            lacking.extend(held.packets.iter().filter(lacks).cloned());
        }
        lacking.sort_by_key(|kept| kept.serial);
        lacking
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sid(name: &str) -> ParticipantSid {
        ParticipantSid::from(name)
    }

    fn serials(kept: &[Kept]) -> Vec<u64> {
        kept.iter().map(|kept| kept.serial).collect()
    }

    fn full(packets: &[(&str, u32)], now: Instant) -> Replay {
        let mut replay = Replay::default();
        for (sender, sequence) in packets {
            replay.keep(now, &sid(sender), *sequence, Bytes::from_static(b"x"), None);
        }
        replay
    }

    #[test]
    fn a_client_gets_what_follows_the_last_packet_it_has_of_each_sender_and_nothing_of_its_own() {
        let replay = full(
            &[
                ("PA_a", 1),
                ("PA_b", 1),
                ("PA_a", 2),
                ("PA_me", 1),
                ("PA_a", 3),
                ("PA_c", 0),
            ],
            Instant::now(),
        );
        let received = HashMap::from([(sid("PA_a"), 1)]);
        let lacking = replay.lacking(&sid("PA_me"), 0, replay.next_serial(), Some(&received));
        assert_eq!(serials(&lacking), [1, 2, 4], "unnumbered packets cannot be told apart");
        assert!(
            replay.lacking(&sid("PA_me"), 0, replay.next_serial(), None).is_empty(),
            "a client that says nothing may not tell repetitions apart"
        );
    }

    #[test]
    fn a_newcomer_gets_what_came_while_its_channel_was_closed_but_no_history() {
        let mut replay = full(&[("PA_a", 1), ("PA_a", 2)], Instant::now());
        let since = replay.next_serial();
        replay.keep(Instant::now(), &sid("PA_a"), 0, Bytes::from_static(b"y"), None);
        let nothing_received = HashMap::from([(sid("PA_x"), 1)]);
        for received in [None, Some(&nothing_received)] {
            assert_eq!(serials(&replay.lacking(&sid("PA_me"), since, since, received)), [2]);
        }
    }

    #[test]
    fn count_bytes_and_age_are_bounded_per_sender_and_one_sender_does_not_push_out_another() {
        let now = Instant::now();
        let mut replay = Replay::default();
        replay.keep(now, &sid("PA_quiet"), 1, Bytes::from_static(b"q"), None);
        for sequence in 1..=1000 {
            replay.keep(now, &sid("PA_loud"), sequence, Bytes::from_static(b"l"), None);
        }
        let all = replay.lacking(&sid("PA_me"), 0, 0, None);
        assert_eq!(all.len(), PACKETS_MAX + 1);
        assert_eq!(all[0].sequence, 1);
        let large = Bytes::from(vec![0; 60_000]);
        for sender in 0..40 {
            for sequence in 1..=40 {
                replay.keep(now, &sid(&format!("PA_{sender}")), sequence, large.clone(), None);
            }
        }
        assert!(replay.bytes <= ROOM_BYTES_MAX);
        let held: usize = replay.senders.values().map(|held| held.bytes).sum();
        assert_eq!(held, replay.bytes);
        assert!(replay.senders.values().all(|held| held.bytes <= BYTES_MAX));
        assert!(replay.senders.contains_key(&sid("PA_quiet")));
        replay.expire(now + AGE + Duration::from_millis(1));
        assert_eq!((replay.bytes, replay.senders.len()), (0, 0));
    }
}
