//! One writer's records as a replica holds them: which changes are known without a gap, which arrived ahead of one, and
//! which differ from what another replica has. No policy: when a silent writer counts as gone is [`crate::Room`]'s matter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use prost::Message;

use crate::facts::Participant;
use crate::ids::{Identity, NodeId};
use crate::limits;
use crate::wire::{self, Roster, WriterDelta};

pub(crate) struct Record {
    pub(crate) stamp: u64,
    pub(crate) facts: Arc<Participant>,
}

#[derive(Default)]
pub(crate) struct Writer {
    /// Every change up to this stamp is held. For the local writer: its count of changes.
    pub(crate) known: u64,
    /// Ranges `(base, stamp]` held beyond a gap after `known`.
    pub(crate) ahead: BTreeMap<u64, u64>,
    /// Departures up to this stamp are forgotten.
    pub(crate) floor: u64,
    pub(crate) beat: u64,
    pub(crate) records: BTreeMap<Identity, Record>,
    /// Set while no link of ours hears this writer: when its people are gone unless evidence of it comes.
    pub(crate) deadline: Option<Instant>,
    pub(crate) dead_since: Option<Instant>,
    /// A later life of the same node is known: nothing revives this one.
    pub(crate) superseded: bool,
    /// What it had when we first heard of it is still arriving.
    pub(crate) fresh: bool,
}

/// What a merge did.
#[derive(Default)]
pub(crate) struct Merged {
    /// Records changed or knowledge grew: worth passing on.
    pub(crate) news: bool,
    /// The writer was alive after what we knew.
    pub(crate) evidence: bool,
    pub(crate) rejected: usize,
    pub(crate) epoch: u64,
}

impl Writer {
    pub(crate) fn is_dead(&self) -> bool {
        self.dead_since.is_some()
    }

    /// Takes over what `delta` says of this writer; `touched` gets the identities whose record changed.
    pub(crate) fn merge(
        &mut self,
        node: &NodeId,
        clock: u64,
        delta: WriterDelta,
        touched: &mut BTreeSet<Identity>,
    ) -> Merged {
        let mut merged = Merged::default();
        for wire in delta.records {
            let (stamp, epoch) = (wire.stamp, wire.epoch);
            if epoch > clock.saturating_add(limits::EPOCH_LEAP) {
                merged.rejected += 1;
                continue;
            }
            let identity = Identity::from(wire.identity.as_str());
            let stale = match self.records.get(&identity) {
                Some(held) => held.stamp >= stamp,
                // Known and not held: its departure is already forgotten.
                None => stamp <= self.known,
            };
            if stale {
                continue;
            }
            let full = self.records.len() >= limits::PARTICIPANTS_PER_NODE && !self.records.contains_key(&identity);
            match wire::participant_from_wire(node, wire) {
                Ok(facts) if !full => {
                    merged.epoch = merged.epoch.max(epoch);
                    self.records.insert(
                        identity.clone(),
                        Record {
                            stamp,
                            facts: Arc::new(facts),
                        },
                    );
                    touched.insert(identity);
                    merged.news = true;
                }
                _ => merged.rejected += 1,
            }
        }
        if let Some(roster) = delta.roster {
            merged.news |= self.drop_missing(delta.base, roster, touched);
        }
        let before = self.known;
        self.advance(delta.base, delta.stamp);
        merged.news |= self.known > before;
        self.forget(delta.floor.min(self.known));
        merged.evidence = merged.news || delta.beat > self.beat;
        self.beat = self.beat.max(delta.beat);
        merged
    }

    /// Whoever was known up to `base` and is not on the roster has left, and the writer no longer remembers when.
    fn drop_missing(&mut self, base: u64, roster: Roster, touched: &mut BTreeSet<Identity>) -> bool {
        let present: BTreeSet<&str> = roster.identities.iter().map(String::as_str).collect();
        let before = self.records.len();
        self.records.retain(|identity, record| {
            let keep = record.stamp > base || present.contains(identity.as_str());
            if !keep {
                touched.insert(identity.clone());
            }
            keep
        });
        before != self.records.len()
    }

    fn advance(&mut self, base: u64, stamp: u64) {
        if stamp > self.known {
            let end = self.ahead.entry(base).or_insert(stamp);
            *end = (*end).max(stamp);
        }
        while let Some((&base, &end)) = self.ahead.first_key_value() {
            if base > self.known {
                break;
            }
            self.known = self.known.max(end);
            self.ahead.remove(&base);
        }
        // The farthest ranges are the cheapest to ask for again.
        while self.ahead.len() > limits::RANGES_AHEAD {
            self.ahead.pop_last();
        }
    }

    /// Drops departures up to `floor`; their records cannot come back, because everything up to `known` that is not held is stale.
    pub(crate) fn forget(&mut self, floor: u64) {
        if floor > self.floor {
            self.floor = floor;
            self.records
                .retain(|_, record| record.stamp > floor || record.facts.is_live());
        }
    }

    /// What a replica that knows this writer up to `base` lacks, in pages. At least one page, which may hold no records.
    pub(crate) fn pages_since(&self, node: &NodeId, incarnation: u64, base: u64) -> Vec<WriterDelta> {
        let mut records: Vec<&Record> = self
            .records
            .values()
            .filter(|r| r.stamp > base && r.stamp <= self.known)
            .collect();
        records.sort_unstable_by_key(|r| r.stamp);
        let roster = (base < self.floor).then(|| Roster {
            identities: self
                .records
                .iter()
                .filter(|(_, r)| r.facts.is_live())
                .map(|(identity, _)| identity.as_str().to_owned())
                .collect(),
        });
        let mut pages = Vec::new();
        let mut page = WriterDelta {
            node: node.as_str().to_owned(),
            incarnation,
            base,
            stamp: base,
            floor: self.floor,
            beat: self.beat,
            records: Vec::new(),
            roster,
            more: false,
        };
        let mut size = 0;
        for record in records {
            let wire = wire::participant_to_wire(&record.facts, record.stamp);
            size += wire.encoded_len();
            page.stamp = record.stamp;
            page.records.push(wire);
            if size >= limits::DELTA_BYTES {
                size = 0;
                let next = WriterDelta {
                    base: page.stamp,
                    records: Vec::new(),
                    roster: None,
                    ..page.clone()
                };
                let full = std::mem::replace(&mut page, next);
                pages.push(WriterDelta { more: true, ..full });
            }
        }
        // Also claims the stamps of records that were overwritten since.
        page.stamp = self.known.max(base);
        pages.push(page);
        pages
    }
}
