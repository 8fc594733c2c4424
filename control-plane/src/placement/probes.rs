//! Which regions a client should measure before it joins: the likeliest by the same scores as the join itself.

use crate::meetings::join::JoinService;
use meridian_geo::assign;
use meridian_wire::probes::{TARGETS_MAX, probe_url};
use meridian_wire::v1;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

impl JoinService {
    /// At most [`TARGETS_MAX`] regions with an edge each that answers `GET /probe`, the likeliest first; none if there is no choice.
    /// `from` is a region that stands in for the client's place, in the demo.
    pub(crate) fn probes(&self, client: IpAddr, from: &str) -> v1::ProbesAnswer {
        let now = Instant::now();
        if !self.may_list_probes(client, now) {
            // Nobody needs one to join.
            return v1::ProbesAnswer::default();
        }
        let client = match self.is_demo() && !from.is_empty() {
            true => self.client_from(from).unwrap_or_default(),
            false => self.client_at(client),
        };
        let (records, candidates) = self.fleet.candidates("", now);
        let assignment = assign(&client, &candidates, &self.policy);
        let mut seen = BTreeSet::new();
        let regions: Vec<v1::ProbeTarget> = assignment
            .ranked
            .iter()
            .filter_map(|ranked| records.get(ranked.index))
            .filter(|record| seen.insert(record.region.as_str()))
            .filter_map(|record| {
                Some(v1::ProbeTarget {
                    region: record.region.clone(),
                    url: probe_url(&record.client_url)?,
                })
            })
            .take(TARGETS_MAX)
            .collect();
        // With one region, measuring it changes nothing.
        let choice = regions.len() > 1;
        v1::ProbesAnswer {
            regions: if choice { regions } else { Vec::new() },
        }
    }
}
