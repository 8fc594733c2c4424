//! Candidates kept ready for many questions: the same answers as [`assign`](super::assign()), without looking at every edge.
//!
//! Edges whose round trip follows from distance hang in a k-d tree of points on the sphere. A search walks it nearest first and stops
//! where even an idle edge, in the region that the operator likes best, could no longer come near the best found. Edges whose round trip
//! was measured, and those that have the room, are few and are scored one by one. Loads are not part of the tree: they may change as
//! often as they like.

use super::choose::{self, reach_ms, sort};
use super::score::{Question, Ranked, Terms};
use super::{Assignment, Candidate, Client, Excluded, Policy, rank_all};
use crate::place::{Unit, chord_squared_within};
use crate::{Location, regions};
use std::collections::HashMap;

/// Edges of a leaf of the tree.
const LEAF: usize = 8;
/// With fewer edges than this nothing is pruned, and the whole list is ranked.
const PRUNED_FROM: usize = 64;
/// Ranked edges in a pruned answer, at most: the chosen one, its alternates, and enough to see why.
const RANKED_MAX: usize = 16;
/// Ranked edges in a pruned answer that are sure to be the best ones: the chosen one and two alternates.
pub const EXACT: usize = 3;

/// Edges, prepared. Built when the set of edges changes; loads and states are updated in place.
#[derive(Debug, Clone)]
pub struct Candidates {
    list: Vec<Candidate>,
    terms: Vec<Terms>,
    /// Region of each candidate, into `regions`.
    region: Vec<u32>,
    regions: Vec<Region>,
    by_name: HashMap<String, u32>,
    tree: Tree,
    /// Nowhere: distance says nothing about them.
    unplaced: Vec<u32>,
    /// The lowest weight of any region in use, ms.
    weight_min_ms: f64,
    /// Joins of all edges together that this replica sent them lately, and edges that are a crowd by themselves: without either there is
    /// no burst anywhere.
    lately: u64,
    crowds: usize,
    policy: Policy,
}

#[derive(Debug, Clone)]
struct Region {
    name: String,
    location: Option<Location>,
    members: Vec<u32>,
}

impl Candidates {
    pub fn new(list: Vec<Candidate>, policy: &Policy) -> Self {
        let terms: Vec<Terms> = list.iter().map(|one| Terms::new(one, policy)).collect();
        let mut regions: Vec<Region> = Vec::new();
        let mut by_name: HashMap<String, u32> = HashMap::new();
        let mut region = Vec::with_capacity(list.len());
        for (index, one) in list.iter().enumerate() {
            let id = *by_name.entry(one.region.clone()).or_insert_with(|| {
                regions.push(Region {
                    name: one.region.clone(),
                    location: None,
                    members: Vec::new(),
                });
                regions.len() as u32 - 1
            });
            let home = &mut regions[id as usize];
            home.location = home.location.or(one.location);
            home.members.push(index as u32);
            region.push(id);
        }
        let placed = (0..list.len() as u32).filter_map(|index| Some((terms[index as usize].at?, index)));
        let weight_min_ms = terms.iter().map(|one| one.weight_ms).fold(0.0, f64::min);
        Candidates {
            tree: Tree::new(placed.collect()),
            unplaced: (0..list.len() as u32)
                .filter(|index| terms[*index as usize].at.is_none())
                .collect(),
            terms,
            region,
            regions,
            by_name,
            weight_min_ms,
            lately: list.iter().map(|one| u64::from(one.lately)).sum(),
            crowds: list.iter().filter(|one| choose::is_crowd(one)).count(),
            list,
            policy: policy.clone(),
        }
    }

    pub fn list(&self) -> &[Candidate] {
        &self.list
    }

    /// Changes an edge's state or load. Id, region and place must stay: they need a new [`Self::new`].
    pub fn update(&mut self, index: usize, change: impl FnOnce(&mut Candidate)) {
        if let Some(candidate) = self.list.get_mut(index) {
            self.lately -= u64::from(candidate.lately);
            self.crowds -= usize::from(choose::is_crowd(candidate));
            change(candidate);
            self.lately += u64::from(candidate.lately);
            self.crowds += usize::from(choose::is_crowd(candidate));
            self.terms[index].refresh(candidate, &self.policy);
        }
    }

    /// As [`assign`](super::assign()) of these candidates, of which those in `with_room` have the room (their own `has_room` is not
    /// looked at). Among 64 edges or more, only the first [`EXACT`] of `ranked` are sure to be the ones that the plain scorer gives,
    /// `excluded` names none, and a long tail is left out.
    pub fn assign(&self, client: &Client, with_room: &[usize]) -> Assignment {
        let question = Question::new(client, &self.policy, |region| self.place_of(region));
        if self.list.len() < PRUNED_FROM || question.here.is_none() {
            return self.plain(&question, with_room);
        }
        let mut search = Search::new(self, &question, with_room);
        search.run();
        let mut ranked = search.found;
        if ranked.is_empty() {
            return self.plain(&question, with_room);
        }
        let within_ms = search.within_ms;
        ranked.retain(|one| one.without_bonus() <= within_ms || one.score_ms <= within_ms);
        sort(&mut ranked, |index| &self.list[index]);
        let choice = choose::choose(&question, &mut ranked, |index| &self.list[index]);
        ranked.truncate(RANKED_MAX);
        Assignment {
            ranked,
            excluded: Vec::new(),
            choice,
            belief: question.belief,
        }
    }

    fn plain(&self, question: &Question<'_>, with_room: &[usize]) -> Assignment {
        rank_all(question, &self.list, &self.terms, |index| with_room.contains(&index))
    }

    /// Why edges are left out for this client: what [`Self::assign`] does not list.
    pub fn excluded(&self, client: &Client) -> Vec<Excluded> {
        let question = Question::new(client, &self.policy, |region| self.place_of(region));
        let why = |index: usize| {
            let candidate = &self.list[index];
            let excluded = question.exclusion(candidate, &self.terms[index]);
            excluded
                .or_else(|| question.doubt(candidate))
                .map(|why| Excluded { index, why })
        };
        (0..self.list.len()).filter_map(why).collect()
    }

    fn place_of(&self, region: &str) -> Option<Location> {
        let known = self
            .by_name
            .get(region)
            .and_then(|id| self.regions[*id as usize].location);
        known.or_else(|| regions::find(region).map(|one| one.location))
    }
}

/// One walk through the tree.
struct Search<'a> {
    all: &'a Candidates,
    question: &'a Question<'a>,
    with_room: &'a [usize],
    /// Scored apart, because distance does not tell their round trip.
    measured: Vec<u32>,
    /// Whether each region may be used; empty: all may.
    allowed: Vec<bool>,
    found: Vec<Ranked>,
    /// The best scores so far, best first, and the best without the room's bonus.
    best: [f64; EXACT],
    best_plain: f64,
    /// Who scores more than this, ms, with no bonus, cannot matter any more.
    within_ms: f64,
    /// The same as a squared chord in the tree.
    within_chord: f64,
    /// How far above the best an edge may lie and still be chosen, ms.
    reach_ms: Option<f64>,
}

impl<'a> Search<'a> {
    fn new(all: &'a Candidates, question: &'a Question<'a>, with_room: &'a [usize]) -> Self {
        let mut measured: Vec<u32> = question
            .measured_regions()
            .filter_map(|region| all.by_name.get(region).copied())
            .collect();
        measured.sort_unstable();
        measured.dedup();
        let rules = &question.client.residency;
        let allowed = match rules.is_empty() {
            true => Vec::new(),
            false => all
                .regions
                .iter()
                .map(|one| regions::lies_within(&one.name, rules))
                .collect(),
        };
        Search {
            all,
            question,
            with_room,
            measured,
            allowed,
            found: Vec::with_capacity(64),
            best: [f64::INFINITY; EXACT],
            best_plain: f64::INFINITY,
            within_ms: f64::INFINITY,
            within_chord: f64::INFINITY,
            reach_ms: reach_ms(
                question,
                all.crowds > 0 || choose::are_many(all.lately, question.policy),
            ),
        }
    }

    fn run(&mut self) {
        for (nth, index) in self.with_room.iter().enumerate() {
            if *index < self.all.list.len() && !self.with_room[..nth].contains(index) {
                self.score(*index as u32, true);
            }
        }
        for id in 0..self.measured.len() {
            let region = self.measured[id] as usize;
            self.each(&self.all.regions[region].members);
        }
        for index in &self.all.unplaced {
            if !self.measured.contains(&self.all.region[*index as usize]) {
                self.each(std::slice::from_ref(index));
            }
        }
        if let Some(here) = self.question.here {
            self.walk(0, here, 0.0);
        }
    }

    fn each(&mut self, members: &'a [u32]) {
        for index in members {
            if !self.with_room.contains(&(*index as usize)) {
                self.score(*index, false);
            }
        }
    }

    fn score(&mut self, index: u32, has_room: bool) {
        let at = index as usize;
        let (candidate, terms) = (&self.all.list[at], &self.all.terms[at]);
        let allowed = self.allowed.is_empty() || self.allowed[self.all.region[at] as usize];
        if terms.closed.is_some() || !allowed || self.question.doubt(candidate).is_some() {
            return;
        }
        let ranked = self.question.rank(at, candidate, terms, has_room);
        let (score, plain) = (ranked.score_ms, ranked.without_bonus());
        if score > self.within_ms && plain > self.within_ms {
            return;
        }
        self.found.push(ranked);
        let worst = self.best[EXACT - 1];
        if score < worst {
            self.best[EXACT - 1] = score;
            self.best.sort_by(f64::total_cmp);
        }
        self.best_plain = self.best_plain.min(plain);
        self.narrow();
    }

    /// What may still matter: the best few, and all that lie near the best with or without the bonus.
    fn narrow(&mut self) {
        let mut within_ms = self.best[EXACT - 1];
        if let Some(reach) = self.reach_ms {
            within_ms = within_ms.max(self.best[0] + reach).max(self.best_plain + reach);
        }
        if within_ms < self.within_ms {
            self.within_ms = within_ms;
            // An idle edge in the most attractive region at this distance scores just that. A hair more, because of rounding.
            let rtt_ms = within_ms - self.all.weight_min_ms - self.question.belief.access_ms;
            self.within_chord = chord_squared_within(rtt_ms + 1e-6) + 1e-12;
        }
    }

    /// `nearest`: squared chord from here to the node's box.
    fn walk(&mut self, node: usize, here: Unit, nearest: f64) {
        if nearest > self.within_chord {
            return;
        }
        let Some(node) = self.all.tree.nodes.get(node) else {
            return;
        };
        match node.children {
            None => {
                for (at, index) in &self.all.tree.points[node.from..node.to] {
                    let apart = self.measured.contains(&self.all.region[*index as usize])
                        || self.with_room.contains(&(*index as usize));
                    if !apart && here.chord_squared(*at) <= self.within_chord {
                        self.score(*index, false);
                    }
                }
            }
            Some((left, right)) => {
                let (a, b) = (self.distance(left, here), self.distance(right, here));
                let [first, second] = if a <= b {
                    [(left, a), (right, b)]
                } else {
                    [(right, b), (left, a)]
                };
                self.walk(first.0, here, first.1);
                self.walk(second.0, here, second.1);
            }
        }
    }

    fn distance(&self, node: usize, here: Unit) -> f64 {
        self.all.tree.nodes[node].distance_squared(here)
    }
}

/// A k-d tree over points of the unit sphere.
#[derive(Debug, Clone, Default)]
struct Tree {
    nodes: Vec<Node>,
    points: Vec<(Unit, u32)>,
}

#[derive(Debug, Clone)]
struct Node {
    low: [f64; 3],
    high: [f64; 3],
    children: Option<(usize, usize)>,
    /// Of a leaf, into the points.
    from: usize,
    to: usize,
}

impl Node {
    fn distance_squared(&self, point: Unit) -> f64 {
        let beyond = |axis: usize| {
            let at = point.0[axis];
            (self.low[axis] - at).max(at - self.high[axis]).max(0.0).powi(2)
        };
        beyond(0) + beyond(1) + beyond(2)
    }
}

impl Tree {
    fn new(points: Vec<(Unit, u32)>) -> Self {
        let mut tree = Tree {
            nodes: Vec::new(),
            points,
        };
        let all = tree.points.len();
        if all > 0 {
            tree.build(0, all);
        }
        tree
    }

    /// Halves by the longest side: the depth is the logarithm of the number of edges.
    fn build(&mut self, from: usize, to: usize) -> usize {
        let points = &mut self.points[from..to];
        let fold = |start: f64, pick: fn(f64, f64) -> f64| {
            let mut out = [start; 3];
            for (point, _) in points.iter() {
                for (bound, at) in out.iter_mut().zip(point.0) {
                    *bound = pick(*bound, at);
                }
            }
            out
        };
        let (low, high) = (fold(f64::INFINITY, f64::min), fold(f64::NEG_INFINITY, f64::max));
        let node = self.nodes.len();
        self.nodes.push(Node {
            low,
            high,
            children: None,
            from,
            to,
        });
        if to - from > LEAF {
            let side = |axis: usize| high[axis] - low[axis];
            let axis = (1..3).fold(
                0,
                |longest, axis| if side(axis) > side(longest) { axis } else { longest },
            );
            let middle = points.len() / 2;
            points.select_nth_unstable_by(middle, |a, b| a.0.0[axis].total_cmp(&b.0.0[axis]));
            let left = self.build(from, from + middle);
            let right = self.build(from + middle, to);
            self.nodes[node].children = Some((left, right));
        }
        node
    }
}
