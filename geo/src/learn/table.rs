//! The table of everything learned, bounded in rows.
//!
//! It has no clock: seconds since 1970 come in. Replicas exchange rows ([`Learned::changes_since`], [`Learned::merge`]); merging is
//! commutative and may be repeated. The same rows are what is saved.

use super::measured::{Measured, RegionMeasured, Stat};
use super::prefix::Key;
use super::sketch::{Observation, Sketch};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// Regions a row remembers; beyond, the one measured longest ago goes.
const REGIONS_PER_ROW: usize = 12;
/// Region names known at once. They come from edges' certificates and configuration, not from strangers.
const REGIONS_MAX: usize = 4_096;
/// Wider rows speak only when so many different prefixes have reported.
const WIDE_SOURCES_MIN: usize = 3;
/// A row from another replica whose sessions lie farther in the future is not believed: its clock is wrong, and would win forever.
const CLOCK_SKEW_S: u32 = 300;
/// Round trips that are learned, ms.
const LEARNABLE_MS: std::ops::RangeInclusive<f64> = 0.05..=5_000.0;

/// How much is remembered, and for how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LearnConfig {
    /// After so many hours a measured session counts half.
    pub half_life_h: f64,
    /// Rows (prefixes and autonomous systems) remembered; beyond, the least useful go. A row takes up to 2 KB, usually 300 bytes.
    pub rows_max: u32,
}

impl Default for LearnConfig {
    fn default() -> Self {
        LearnConfig {
            half_life_h: 168.0,
            rows_max: 32_768,
        }
    }
}

impl LearnConfig {
    /// Values that make no sense, as (key, what it should be).
    pub fn problems(&self) -> Vec<(&'static str, &'static str)> {
        let mut problems = Vec::new();
        if !(0.1..=8_760.0).contains(&self.half_life_h) {
            problems.push(("half_life_h", "must be 0.1 to 8760 hours"));
        }
        if !(16..=4_000_000).contains(&self.rows_max) {
            problems.push(("rows_max", "must be 16 to 4000000"));
        }
        problems
    }
}

/// One session's end, as a server measured it. Never a client's own word.
#[derive(Debug, Clone, Copy)]
pub struct Session<'a> {
    pub address: IpAddr,
    /// A keyed hash of the address: tells users of a prefix apart without keeping their addresses.
    pub source: u32,
    pub asn: Option<u32>,
    /// Of the edge that measured.
    pub region: &'a str,
    /// Median over the session, ms.
    pub rtt_ms: f64,
    /// What [`crate::predicted_rtt_ms`] says for the database's place of the address, if it has one.
    pub expected_ms: Option<f64>,
}

/// One row as replicas exchange and databases keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub key: Key,
    pub regions: Vec<(String, Vec<Observation>)>,
}

/// The table.
#[derive(Debug)]
pub struct Learned {
    half_life_s: f64,
    rows_max: usize,
    names: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, u16>,
    index: HashMap<Key, u32>,
    slots: Vec<Slot>,
    /// Where the search for the next row to give up goes on (the clock algorithm).
    hand: usize,
    /// Rows by their last change. One entry per row.
    log: BTreeMap<u64, u32>,
    changes: u64,
}

#[derive(Debug)]
struct Slot {
    key: Key,
    regions: Vec<(u16, Sketch)>,
    /// Asked for or added to since the hand last passed.
    useful: bool,
    changed: u64,
}

impl Learned {
    pub fn new(config: &LearnConfig) -> Self {
        Learned {
            half_life_s: config.half_life_h * 3600.0,
            rows_max: config.rows_max as usize,
            names: Vec::new(),
            ids: HashMap::new(),
            index: HashMap::new(),
            slots: Vec::new(),
            hand: 0,
            log: BTreeMap::new(),
            changes: 0,
        }
    }

    /// Rows held.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Learns from one session; whether anything changed.
    pub fn record(&mut self, session: &Session<'_>, now_s: u32) -> bool {
        let Some([own, wide]) = Key::prefixes(session.address).filter(|_| LEARNABLE_MS.contains(&session.rtt_ms))
        else {
            return false;
        };
        let Some(region) = self.region_id(session.region) else {
            return false;
        };
        let tenths = |ms: f64| (ms * 10.0).round().clamp(1.0, f64::from(u16::MAX)) as u16;
        let observation = |source| Observation {
            at_s: now_s,
            source,
            rtt_dms: tenths(session.rtt_ms),
            expected_dms: session.expected_ms.map_or(0, tenths),
        };
        let mut changed = self.add(own, region, &[observation(session.source)]);
        changed |= self.add(wide, region, &[observation(own.tag())]);
        if let Some(asn) = session.asn {
            changed |= self.add(Key::Asn(asn), region, &[observation(own.tag())]);
        }
        changed
    }

    /// What is known about a client's ways. Rows that answer are kept longer.
    pub fn measured(&mut self, address: IpAddr, source: Option<u32>, asn: Option<u32>, now_s: u32) -> Measured {
        let Some([own, wide]) = Key::prefixes(address) else {
            return Measured::default();
        };
        let mut measured = Measured::default();
        self.answer(own, now_s, 1, source, &mut measured, |one| &mut one.prefix);
        self.answer(wide, now_s, WIDE_SOURCES_MIN, None, &mut measured, |one| &mut one.wide);
        if let Some(asn) = asn {
            let asn = Key::Asn(asn);
            self.answer(asn, now_s, WIDE_SOURCES_MIN, None, &mut measured, |one| &mut one.asn);
        }
        measured
    }

    fn answer(
        &mut self,
        key: Key,
        now_s: u32,
        sources_min: usize,
        own: Option<u32>,
        measured: &mut Measured,
        place: impl Fn(&mut RegionMeasured) -> &mut Option<Stat>,
    ) {
        let Some(at) = self.index.get(&key) else { return };
        let slot = &mut self.slots[*at as usize];
        slot.useful = true;
        for (region, sketch) in &slot.regions {
            let Some(stat) = sketch.stat(now_s, self.half_life_s, sources_min, own) else {
                continue;
            };
            let name = &self.names[usize::from(*region)];
            let known = measured.regions.iter().position(|one| one.region == *name);
            let at = known.unwrap_or_else(|| {
                measured.regions.push(RegionMeasured {
                    region: name.clone(),
                    prefix: None,
                    wide: None,
                    asn: None,
                });
                measured.regions.len() - 1
            });
            *place(&mut measured.regions[at]) = Some(stat);
        }
    }

    /// Takes another replica's row, or a saved one, in; whether anything changed.
    pub fn merge(&mut self, row: &Row, now_s: u32) -> bool {
        let mut changed = false;
        for (name, observations) in &row.regions {
            let sane: Vec<Observation> = observations
                .iter()
                .filter(|one| one.rtt_dms > 0 && one.at_s <= now_s.saturating_add(CLOCK_SKEW_S))
                .copied()
                .collect();
            if sane.is_empty() {
                continue;
            }
            if let Some(region) = self.region_id(name) {
                changed |= self.add(row.key, region, &sane);
            }
        }
        changed
    }

    /// Rows changed after `cursor` (0: all), oldest change first, at most `rows_max`, and the cursor for the next call.
    pub fn changes_since(&self, cursor: u64, rows_max: usize) -> (Vec<Row>, u64) {
        let mut next = cursor;
        let changed = self.log.range(cursor + 1..).take(rows_max);
        let rows = changed
            .map(|(change, at)| {
                next = *change;
                self.row(&self.slots[*at as usize])
            })
            .collect();
        (rows, next)
    }

    fn row(&self, slot: &Slot) -> Row {
        let named = |(region, sketch): &(u16, Sketch)| {
            let name = self.names[usize::from(*region)].to_string();
            (name, sketch.observations().to_vec())
        };
        Row {
            key: slot.key,
            regions: slot.regions.iter().map(named).collect(),
        }
    }

    fn region_id(&mut self, name: &str) -> Option<u16> {
        if let Some(id) = self.ids.get(name) {
            return Some(*id);
        }
        if name.is_empty() || name.len() > 64 || self.names.len() >= REGIONS_MAX {
            return None;
        }
        let id = u16::try_from(self.names.len()).ok()?;
        let name: Arc<str> = name.into();
        self.names.push(name.clone());
        self.ids.insert(name, id);
        Some(id)
    }

    fn add(&mut self, key: Key, region: u16, observations: &[Observation]) -> bool {
        let (at, known) = match self.index.get(&key) {
            Some(at) => (*at, true),
            None => (self.new_row(key), false),
        };
        let slot = &mut self.slots[at as usize];
        slot.useful |= known;
        let known = slot.regions.iter().position(|(held, _)| *held == region);
        let position = known.unwrap_or_else(|| {
            slot.regions.push((region, Sketch::default()));
            slot.regions.len() - 1
        });
        let mut changed = false;
        for one in observations {
            changed |= slot.regions[position].1.insert(*one);
        }
        if slot.regions.len() > REGIONS_PER_ROW
            && let Some(oldest) =
                (0..slot.regions.len()).min_by_key(|at| (slot.regions[*at].1.newest_s(), slot.regions[*at].0))
        {
            slot.regions.swap_remove(oldest);
            changed &= oldest != position;
        }
        if changed {
            self.log.remove(&slot.changed);
            self.changes += 1;
            slot.changed = self.changes;
            self.log.insert(slot.changed, at);
        }
        changed
    }

    /// An empty row, in place of one that was of no use since the hand last passed if the table is full.
    fn new_row(&mut self, key: Key) -> u32 {
        let fresh = Slot {
            key,
            regions: Vec::new(),
            // Not before it has proved useful: a flood of new prefixes pushes out its own rows first.
            useful: false,
            changed: 0,
        };
        if self.slots.len() < self.rows_max {
            let at = self.slots.len() as u32;
            self.slots.push(fresh);
            self.index.insert(key, at);
            return at;
        }
        while std::mem::take(&mut self.slots[self.hand].useful) {
            self.hand = (self.hand + 1) % self.slots.len();
        }
        let at = self.hand;
        self.hand = (self.hand + 1) % self.slots.len();
        let old = std::mem::replace(&mut self.slots[at], fresh);
        self.index.remove(&old.key);
        self.log.remove(&old.changed);
        self.index.insert(key, at as u32);
        at as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u32 = 1_800_000_000;

    fn session(address: &str, region: &'static str, rtt_ms: f64) -> Session<'static> {
        let address: IpAddr = address.parse().unwrap();
        Session {
            address,
            source: match address {
                IpAddr::V4(v4) => u32::from(v4),
                IpAddr::V6(_) => 6,
            },
            asn: Some(64_500),
            region,
            rtt_ms,
            expected_ms: Some(8.0),
        }
    }

    fn small(rows_max: u32) -> Learned {
        Learned::new(&LearnConfig {
            rows_max,
            ..LearnConfig::default()
        })
    }

    fn of(learned: &mut Learned, address: &str) -> Measured {
        learned.measured(address.parse().unwrap(), None, Some(64_500), NOW)
    }

    #[test]
    fn a_prefix_answers_at_once_and_wider_rows_when_three_prefixes_agree() {
        let mut learned = small(100);
        for (n, address) in ["198.51.100.1", "198.51.101.1", "198.51.102.1"].into_iter().enumerate() {
            assert!(learned.record(&session(address, "fra", 30.0 + n as f64), NOW));
        }
        let own = of(&mut learned, "198.51.100.9").regions[0].clone();
        assert_eq!(
            (own.prefix.unwrap().median_ms, own.wide.unwrap().median_ms),
            (30.0, 31.0)
        );
        let neighbour = of(&mut learned, "198.51.103.1").regions[0].clone();
        assert!(neighbour.prefix.is_none() && neighbour.wide.unwrap().residual_ms == Some(23.0));
        let stranger = of(&mut learned, "203.0.113.1").regions[0].clone();
        assert!(stranger.wide.is_none() && stranger.asn.is_some());
        assert!(of(&mut learned, "127.0.0.1").regions.is_empty());
    }

    #[test]
    fn the_table_keeps_what_is_asked_for_under_a_flood_of_prefixes() {
        let mut learned = small(64);
        learned.record(&session("203.0.113.1", "fra", 20.0), NOW);
        for n in 0u32..20_000 {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 + n * 256).to_string();
            learned.record(&session(&address, "fra", 50.0), NOW);
            assert!(of(&mut learned, "203.0.113.1").regions[0].prefix.is_some(), "after {n}");
        }
        assert!(learned.len() <= 64 && learned.log.len() <= 64 && learned.index.len() <= 64);
    }

    #[test]
    fn what_one_replica_learned_the_other_knows_and_nothing_echoes() {
        let (mut a, mut b) = (small(1_000), small(1_000));
        for n in 0..50u8 {
            a.record(&session(&format!("198.51.{n}.1"), "fra", 20.0), NOW + u32::from(n));
            b.record(&session(&format!("198.51.{n}.2"), "sin", 160.0), NOW + u32::from(n));
        }
        let (mut seen_a, mut seen_b) = (0, 0);
        for _ in 0..40 {
            let (rows, next) = a.changes_since(seen_a, 7);
            seen_a = next;
            for row in &rows {
                b.merge(row, NOW + 60);
            }
            let (rows, next) = b.changes_since(seen_b, 7);
            seen_b = next;
            for row in &rows {
                a.merge(row, NOW + 60);
            }
        }
        assert!(a.changes_since(seen_a, 9).0.is_empty() && b.changes_since(seen_b, 9).0.is_empty());
        let sorted = |learned: &Learned| {
            let mut rows = learned.changes_since(0, usize::MAX).0;
            rows.iter_mut().for_each(|row| row.regions.sort());
            rows.sort_by_key(|row| row.key);
            rows
        };
        assert_eq!(sorted(&a), sorted(&b));
        assert_eq!(of(&mut b, "198.51.7.7").regions.len(), 2);
    }

    #[test]
    fn a_replica_whose_clock_is_wrong_teaches_nothing() {
        let (mut a, mut b) = (small(10), small(10));
        a.record(&session("203.0.113.1", "fra", 20.0), NOW + 86_400);
        assert!(!a.changes_since(0, 10).0.iter().any(|row| b.merge(row, NOW)));
    }

    #[test]
    fn round_trips_that_cannot_be_are_not_learned() {
        let mut learned = small(10);
        for rtt_ms in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e6] {
            assert!(!learned.record(&session("203.0.113.1", "fra", rtt_ms), NOW));
        }
        assert!(!learned.record(&session("203.0.113.1", "", 20.0), NOW) && learned.is_empty());
    }
}
