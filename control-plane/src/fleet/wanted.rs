//! What operators want of each edge: to take people, to take nobody new, or to be emptied by a deadline. Kept in the database, shared
//! between replicas (the latest wins), said to the edge after each Hello, and heeded in placement whatever the edge itself says.

use super::{Edge, Fleet, State};
use crate::database::{Database, StoreError, to_i64, to_u64};
use meridian_geo::{Candidate, CandidateState};
use meridian_wire::v1;
use meridian_wire::v1::edge_command::Command;
use serde::Serialize;
use sqlx::Row as _;
use std::time::Instant;

/// Edges of which something is wanted, at most.
const WANTED_MAX: usize = 10_000;
/// An edge whose drain has passed its deadline is told to be done by now; 0 would mean no deadline.
const NOW_MS: u64 = 1;

/// What an operator may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    Cordon,
    Uncordon,
    Drain { within_s: u64, force: bool },
    Undrain,
}

/// Why it is not done; each says what to do instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotDone {
    #[error("There is no PoP {0}. `meridian pop list` names those there are.")]
    NoSuchPop(String),
    #[error(
        "{pop} is the last PoP of region {region} that takes people: whoever is near it would be sent further away. Start another one \
         there first, or use --force."
    )]
    LastOfRegion { pop: String, region: String },
    #[error("{0} is being drained: `meridian pop undrain` stops that.")]
    IsDraining(String),
    #[error("{0} is not being drained.")]
    IsNotDraining(String),
    #[error("Something is wanted of {WANTED_MAX} edges already; that is more than this control plane keeps.")]
    TooMany,
}

/// One edge's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(super) stage: v1::NodeState,
    /// Milliseconds since 1970; 0 = no deadline.
    until_ms: u64,
    changed_ms: u64,
    /// On the edge when its drain began.
    people: u32,
    /// Counts changes here, for telling other replicas.
    number: u64,
}

/// One PoP for operators. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(crate) struct Pop {
    pub(crate) id: String,
    region: String,
    url: String,
    /// `active`, `cordoned`, `draining`, `leaving`: what counts for placement now.
    state: &'static str,
    /// The edge has taken that over, as far as the registry tells.
    settled: bool,
    healthy: bool,
    /// It takes new people, by its own word.
    accepting: bool,
    participants: u32,
    /// Sent there and not there yet.
    coming: u32,
    capacity: u32,
    /// 0..: share of capacity, or CPU if that is higher.
    load: f64,
    /// Meetings with people there.
    rooms: usize,
    /// 0..1 of all cores.
    cpu: f64,
    /// Media, now.
    tx_mbps: f32,
    rx_mbps: f32,
    tx_packets_per_s: u64,
    software: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    drain: Option<Drain>,
}

/// How far a drain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(crate) struct Drain {
    /// Milliseconds since 1970.
    since_ms: u64,
    deadline_ms: u64,
    people_at_start: u32,
    people_left: u32,
    /// Until nobody is left at the rate so far, seconds; the deadline while nobody has gone yet.
    eta_s: u64,
}

impl From<Pop> for v1::Pop {
    fn from(pop: Pop) -> v1::Pop {
        v1::Pop {
            id: pop.id,
            region: pop.region,
            url: pop.url,
            state: pop.state.to_owned(),
            settled: pop.settled,
            healthy: pop.healthy,
            accepting: pop.accepting,
            participants: pop.participants,
            coming: pop.coming,
            capacity: pop.capacity,
            load: pop.load,
            software: pop.software,
            drain: pop.drain.map(|drain| v1::PopDrain {
                since_ms: drain.since_ms,
                deadline_ms: drain.deadline_ms,
                people_at_start: drain.people_at_start,
                people_left: drain.people_left,
                eta_s: drain.eta_s,
            }),
        }
    }
}

impl Wanted {
    pub(super) fn command(&self, now_ms: u64) -> v1::SetState {
        let left = match (self.stage, self.until_ms) {
            (v1::NodeState::Draining, until_ms) if until_ms > 0 => until_ms.saturating_sub(now_ms).max(NOW_MS),
            _ => 0,
        };
        v1::SetState {
            state: self.stage.into(),
            drain_deadline_ms: left,
            reason: "an operator wants it so".to_owned(),
        }
    }

    /// An operator's word counts at once, but makes nobody active who says otherwise.
    pub(super) fn apply(&self, candidate: &mut Candidate) {
        let wanted = match self.stage {
            v1::NodeState::Draining => CandidateState::Draining,
            v1::NodeState::Cordoned => CandidateState::Cordoned,
            v1::NodeState::Active | v1::NodeState::Unspecified => return,
        };
        if candidate.state == CandidateState::Active || wanted == CandidateState::Draining {
            candidate.state = wanted;
        }
    }

    fn drain(&self, people_left: u32, now_ms: u64) -> Option<Drain> {
        (self.stage == v1::NodeState::Draining).then(|| {
            let gone = u64::from(self.people.saturating_sub(people_left));
            let spent_ms = now_ms.saturating_sub(self.changed_ms);
            let to_deadline_ms = self.until_ms.saturating_sub(now_ms);
            let eta_ms = match (people_left, gone) {
                (0, _) => 0,
                (_, 0) => to_deadline_ms,
                (left, gone) => (spent_ms * u64::from(left) / gone).min(to_deadline_ms),
            };
            Drain {
                since_ms: self.changed_ms,
                deadline_ms: self.until_ms,
                people_at_start: self.people,
                people_left,
                eta_s: eta_ms.div_ceil(1000),
            }
        })
    }

    fn to_wire(self, edge: &str) -> v1::WantedStage {
        v1::WantedStage {
            edge: edge.to_owned(),
            stage: self.stage.into(),
            until_ms: self.until_ms,
            changed_ms: self.changed_ms,
            people: self.people,
        }
    }

    fn of_wire(row: &v1::WantedStage) -> Wanted {
        Wanted {
            stage: row.stage(),
            until_ms: row.until_ms,
            changed_ms: row.changed_ms,
            people: row.people,
            number: 0,
        }
    }
}

impl Fleet {
    /// What the row of `edge` becomes if an operator asks this. Nothing is changed: save it, then [`Self::take_wanted`].
    pub(crate) fn asked(&self, edge: &str, ask: Ask, now: Instant, now_ms: u64) -> Result<v1::WantedStage, NotDone> {
        let state = self.refreshed(now);
        let at = state.roster.index_of(edge);
        let at = at.ok_or_else(|| NotDone::NoSuchPop(edge.chars().take(40).collect()))?;
        let before = state.wanted.get(edge);
        let draining = before.is_some_and(|wanted| wanted.stage == v1::NodeState::Draining);
        let (stage, until_ms) = match ask {
            Ask::Cordon | Ask::Uncordon if draining => return Err(NotDone::IsDraining(edge.to_owned())),
            Ask::Undrain if !draining => return Err(NotDone::IsNotDraining(edge.to_owned())),
            Ask::Cordon => (v1::NodeState::Cordoned, 0),
            Ask::Uncordon | Ask::Undrain => (v1::NodeState::Active, 0),
            Ask::Drain { force: false, .. } if !draining && state.is_last_of_region(at) => {
                return Err(NotDone::LastOfRegion {
                    pop: edge.to_owned(),
                    region: state.roster.records[at].region.clone(),
                });
            }
            Ask::Drain { within_s, .. } => (
                v1::NodeState::Draining,
                now_ms.saturating_add(within_s.saturating_mul(1000)),
            ),
        };
        if before.is_none() && state.wanted.len() >= WANTED_MAX {
            return Err(NotDone::TooMany);
        }
        // Clocks of replicas differ: what is asked now is later than what is known.
        let changed_ms = before.map_or(now_ms, |before| now_ms.max(before.changed_ms + 1));
        let people = state.edges.get(edge).map_or(0, |edge| edge.participants);
        Ok(v1::WantedStage {
            edge: edge.to_owned(),
            stage: stage.into(),
            until_ms,
            changed_ms,
            people,
        })
    }

    /// Heeds rows that an operator asked for, that were saved, or that another replica told. Gives those that were news.
    pub(crate) fn take_wanted(&self, rows: Vec<v1::WantedStage>, now: Instant, now_ms: u64) -> Vec<v1::WantedStage> {
        let mut state = self.lock();
        let news: Vec<v1::WantedStage> = rows.into_iter().filter(|row| state.wants(row)).collect();
        for row in &news {
            state.touch(&row.edge, now);
            state.say_wanted(&row.edge, now_ms);
        }
        news
    }

    /// Tells an edge that has just said Hello what is wanted of it.
    pub(crate) fn remind(&self, edge: &str, now_ms: u64) {
        self.lock().say_wanted(edge, now_ms);
    }

    /// Every PoP of the view, by id.
    pub(crate) fn pops(&self, now: Instant, now_ms: u64) -> Vec<Pop> {
        let (records, candidates) = self.candidates("", now);
        let state = self.lock();
        let pairs = records.into_iter().zip(candidates);
        let mut pops: Vec<Pop> = pairs
            .map(|(record, candidate)| {
                let edge = state.edges.get(&record.id);
                let traffic = edge.map(|edge| edge.traffic).unwrap_or_default();
                let registered = super::edge::state_of(&record);
                Pop {
                    state: match (record.state, candidate.state) {
                        (meridian_registry::nodes::NodeState::Leaving, _) => "leaving",
                        (_, CandidateState::Active) => "active",
                        (_, CandidateState::Cordoned) => "cordoned",
                        (_, CandidateState::Draining) => "draining",
                    },
                    settled: registered == candidate.state,
                    healthy: candidate.healthy,
                    accepting: candidate.accepting,
                    participants: candidate.participants,
                    coming: candidate.recent,
                    capacity: candidate.capacity,
                    load: candidate.load(),
                    rooms: edge.map_or(0, |edge| edge.rooms.len()),
                    cpu: candidate.cpu,
                    tx_mbps: traffic.tx_mbps,
                    rx_mbps: traffic.rx_mbps,
                    tx_packets_per_s: traffic.tx_packets_per_s,
                    drain: state
                        .wanted
                        .get(&record.id)
                        .and_then(|wanted| wanted.drain(candidate.participants, now_ms)),
                    id: record.id,
                    region: record.region,
                    url: record.client_url,
                    software: record.software,
                }
            })
            .collect();
        pops.sort_by(|a, b| a.id.cmp(&b.id));
        pops
    }
}

impl State {
    /// Whether nobody else in its region would take people in its place.
    fn is_last_of_region(&self, at: usize) -> bool {
        let all = self.roster.candidates.list();
        let takes = |candidate: &Candidate| {
            candidate.state == CandidateState::Active && candidate.healthy && candidate.accepting
        };
        let mut others = all.iter().enumerate().filter(|(other, _)| *other != at);
        !others.any(|(_, candidate)| candidate.region == all[at].region && takes(candidate))
    }

    /// Takes one row in, if it is later than what is known.
    fn wants(&mut self, row: &v1::WantedStage) -> bool {
        let known = self.wanted.get(&row.edge);
        let room = known.is_some() || self.wanted.len() < WANTED_MAX;
        if !room || known.is_some_and(|known| known.changed_ms >= row.changed_ms) {
            return false;
        }
        self.wants += 1;
        let wanted = Wanted {
            number: self.wants,
            ..Wanted::of_wire(row)
        };
        self.wanted.insert(row.edge.clone(), wanted);
        true
    }

    fn say_wanted(&self, edge: &str, now_ms: u64) {
        let stream = self.edges.get(edge).and_then(|edge: &Edge| edge.stream.as_ref());
        if let (Some(stream), Some(wanted)) = (stream, self.wanted.get(edge)) {
            // An edge that does not read its commands is told when it comes back.
            stream.say(Command::SetState(wanted.command(now_ms)));
        }
    }

    /// Rows that changed after the one of this number, and the number to go on from.
    pub(super) fn wanted_since(&self, number: u64) -> (Vec<v1::WantedStage>, u64) {
        let changed = self.wanted.iter().filter(|(_, wanted)| wanted.number > number);
        let rows = changed.map(|(edge, wanted)| wanted.to_wire(edge)).collect();
        (rows, self.wants)
    }
}

impl Database {
    /// Writes rows over what was saved of them.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) async fn save_wanted(&self, rows: &[v1::WantedStage]) -> Result<(), StoreError> {
        for row in rows {
            sqlx::query(
                "INSERT INTO wanted_stages (edge, stage, until_ms, changed_ms, people) VALUES (?, ?, ?, ?, ?) ON CONFLICT (edge) DO \
                 UPDATE SET stage = excluded.stage, until_ms = excluded.until_ms, changed_ms = excluded.changed_ms, people = \
                 excluded.people WHERE excluded.changed_ms > changed_ms",
            )
            .bind(&row.edge)
            .bind(row.stage)
            .bind(to_i64(row.until_ms))
            .bind(to_i64(row.changed_ms))
            .bind(i64::from(row.people))
            .execute(self.pool())
            .await?;
        }
        Ok(())
    }

    /// All rows, the latest changed first, as many as are kept.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) async fn load_wanted(&self) -> Result<Vec<v1::WantedStage>, StoreError> {
        let rows = sqlx::query("SELECT * FROM wanted_stages ORDER BY changed_ms DESC LIMIT ?")
            .bind(to_i64(WANTED_MAX as u64))
            .fetch_all(self.pool())
            .await?;
        let row = |row: &sqlx::sqlite::SqliteRow| {
            Ok(v1::WantedStage {
                edge: row.try_get("edge")?,
                stage: row.try_get("stage")?,
                until_ms: to_u64(row.try_get("until_ms")?),
                changed_ms: to_u64(row.try_get("changed_ms")?),
                people: u32::try_from(row.try_get::<i64, _>("people")?).unwrap_or(u32::MAX),
            })
        };
        Ok(rows.iter().map(row).collect::<Result<_, sqlx::Error>>()?)
    }
}

#[cfg(test)]
mod tests;
