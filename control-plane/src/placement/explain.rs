//! The whole reckoning of one assignment as JSON: what `meridian assign explain` prints.

use crate::fleet::Reckoning;
use crate::learning::Known;
use crate::meetings::Meeting;
use meridian_geo::{BeliefSource, Candidate, Client, Location, Measured, Policy, Ranked, RttSource, Stat, regions};
use serde::Serialize;
use std::net::IpAddr;

/// Version of this reply; fields are only ever added.
const VERSION: u32 = 1;

#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    version: u32,
    address: IpAddr,
    client: Whereabouts,
    /// Earlier sessions, by region.
    learned: Vec<LearnedRegion>,
    meeting: Option<String>,
    /// The operator's rules and the meeting's: both hold.
    residency: Residency,
    /// `best`, `spread` (a burst), `known` (an edge never tried promises little more); explanations never explore.
    choice: &'static str,
    /// Chosen edge first.
    ranked: Vec<Edge>,
    excluded: Vec<Excluded>,
    /// The same for people.
    text: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Whereabouts {
    /// The address database's word.
    database: Option<DatabasePlace>,
    asn: Option<u32>,
    /// Where the client is taken to be.
    location: Option<Location>,
    near: Option<String>,
    /// `database`, `inferred` (earlier sessions contradict it, or there is none), `told` (by who asks), `unknown`.
    source: &'static str,
    /// Of an inferred place.
    likelihood: Option<f64>,
    /// What its access network adds, as far as it was measured.
    access_ms: f64,
}

#[derive(Debug, Serialize)]
struct DatabasePlace {
    location: Option<Location>,
    city: Option<String>,
    country: Option<String>,
}

#[derive(Debug, Serialize)]
struct LearnedRegion {
    region: String,
    /// The client's own /24 or /48; its /16 or /32; its autonomous system.
    prefix: Option<LearnedStat>,
    wide: Option<LearnedStat>,
    asn: Option<LearnedStat>,
}

#[derive(Debug, Serialize)]
struct LearnedStat {
    median_ms: f64,
    sessions: u32,
    weight: f64,
}

#[derive(Debug, Serialize)]
struct Residency {
    policy: Vec<String>,
    meeting: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Edge {
    edge: String,
    region: String,
    score_ms: f64,
    rtt_ms: f64,
    /// `learned`, `distance`, `assumed`; a join may also have `probe`.
    source: &'static str,
    /// Of a learned round trip.
    sessions: u32,
    load: f64,
    load_penalty_ms: f64,
    room_bonus_ms: f64,
    weight_ms: f64,
    participants: u32,
    /// People sent there who have not arrived yet.
    coming: u32,
    capacity: u32,
}

#[derive(Debug, Serialize)]
struct Excluded {
    edge: String,
    region: String,
    why: &'static str,
    text: String,
}

impl Explanation {
    pub(crate) fn new(
        address: IpAddr,
        known: Known,
        client: Client,
        policy: &Policy,
        meeting: Option<&Meeting>,
        reckoning: &Reckoning,
    ) -> Self {
        let assignment = &reckoning.assignment;
        let told = known.location() != client.location;
        let of = |index: usize| reckoning.candidates.get(index);
        let excluded = reckoning.excluded.iter().filter_map(|one| {
            let candidate = of(one.index)?;
            Some(Excluded {
                edge: candidate.id.clone(),
                region: candidate.region.clone(),
                why: one.why.as_str(),
                text: format!("{} {}", candidate.id, one.why),
            })
        });
        let (source, likelihood) = match assignment.belief.source {
            BeliefSource::Unknown => ("unknown", None),
            BeliefSource::Database if told => ("told", None),
            BeliefSource::Database => ("database", None),
            BeliefSource::Inferred { likelihood } => ("inferred", Some(likelihood)),
        };
        Explanation {
            version: VERSION,
            address,
            client: Whereabouts {
                location: assignment.belief.location,
                near: assignment.belief.location.map(regions::name_near),
                source,
                likelihood,
                access_ms: assignment.belief.access_ms,
                asn: known.asn,
                database: known.place.map(|place| DatabasePlace {
                    location: place.location,
                    city: place.city.clone(),
                    country: place.country.clone(),
                }),
            },
            learned: learned(&client.measured),
            meeting: meeting.map(|meeting| meeting.code.clone()),
            residency: Residency {
                policy: policy.residency.clone(),
                meeting: client.residency,
            },
            choice: assignment.choice.as_str(),
            ranked: assignment
                .ranked
                .iter()
                .filter_map(|ranked| Some(edge(ranked, of(ranked.index)?)))
                .collect(),
            excluded: excluded.collect(),
            text: reckoning.reasons.iter().map(|reason| reason.text.clone()).collect(),
        }
    }
}

fn learned(measured: &Measured) -> Vec<LearnedRegion> {
    let stat = |stat: Stat| LearnedStat {
        median_ms: stat.median_ms,
        sessions: stat.sessions,
        weight: stat.weight,
    };
    let region = |one: &meridian_geo::RegionMeasured| LearnedRegion {
        region: one.region.to_string(),
        prefix: one.prefix.map(stat),
        wide: one.wide.map(stat),
        asn: one.asn.map(stat),
    };
    measured.regions.iter().map(region).collect()
}

fn edge(ranked: &Ranked, candidate: &Candidate) -> Edge {
    let (source, sessions) = match ranked.source {
        RttSource::Probe => ("probe", 0),
        RttSource::Learned { sessions } => ("learned", sessions),
        RttSource::Distance => ("distance", 0),
        RttSource::Assumed => ("assumed", 0),
    };
    Edge {
        edge: candidate.id.clone(),
        region: candidate.region.clone(),
        score_ms: ranked.score_ms,
        rtt_ms: ranked.rtt_ms,
        source,
        sessions,
        load: ranked.load,
        load_penalty_ms: ranked.load_penalty_ms,
        room_bonus_ms: ranked.room_bonus_ms,
        weight_ms: ranked.weight_ms,
        participants: candidate.participants,
        coming: candidate.recent,
        capacity: candidate.capacity,
    }
}
