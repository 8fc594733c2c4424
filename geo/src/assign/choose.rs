//! Which of the ranked edges comes first. Usually the best; the exceptions are here: bursts, explorations, and places in doubt.

use super::score::{Question, Ranked, RttSource};
use super::{Candidate, LATELY, Policy};
use crate::learn::{BeliefSource, unit_interval};

/// When the client's place is in doubt, an edge never tried must promise to be this much nearer than one that was.
const UNTRIED_MARGIN_MS: f64 = 10.0;

/// So many recent joins, and this part of what an edge has left, are a burst for it.
const CROWD_MIN: u32 = 8;
const CROWD_PART: u32 = 20;

/// How the first edge came to be first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// It has the lowest score.
    #[default]
    Best,
    /// It is about as near as the best, and its turn to be measured.
    Explored,
    /// Many are joining at once, and it has the most free capacity of those about as near as the best.
    Spread,
    /// It was measured; the one with the lowest score was not, and promises little more.
    Known,
}

/// An edge's order among others: score, then name, so that every replica agrees.
pub(crate) fn sort<'c>(ranked: &mut [Ranked], candidate: impl Fn(usize) -> &'c Candidate) {
    ranked.sort_by(|a, b| {
        a.score_ms
            .total_cmp(&b.score_ms)
            .then_with(|| candidate(a.index).id.cmp(&candidate(b.index).id))
    });
}

/// How far above the best score, with or without the room's bonus, an edge may lie and still be chosen, ms. `None`: the best edges are
/// all that matters. `burst`: there may be one.
pub(crate) fn reach_ms(question: &Question<'_>, burst: bool) -> Option<f64> {
    let inferred = matches!(question.belief.source, BeliefSource::Inferred { .. });
    let exploring = exploring(question).is_some();
    match (burst || exploring, inferred) {
        (true, _) => Some(question.policy.near_ms.max(UNTRIED_MARGIN_MS)),
        (false, true) => Some(UNTRIED_MARGIN_MS),
        (false, false) => None,
    }
}

/// Whether so many recent joins are a burst wherever they go.
pub(crate) fn are_many(lately: u64, policy: &Policy) -> bool {
    lately >= u64::from(policy.burst_joins_per_s).saturating_mul(LATELY.as_secs())
}

/// Few for a large edge may be a crowd for a small one.
pub(crate) fn is_crowd(candidate: &Candidate) -> bool {
    let left = candidate.room_left().unwrap_or(u32::MAX);
    candidate.lately >= CROWD_MIN.max(left / CROWD_PART)
}

/// Moves the chosen edge to the front of the sorted list.
pub(crate) fn choose<'c>(
    question: &Question<'_>,
    ranked: &mut [Ranked],
    candidate: impl Fn(usize) -> &'c Candidate,
) -> Choice {
    let found = spread(question, ranked, &candidate)
        .map(|at| (at, Choice::Spread))
        .or_else(|| known(question, ranked).map(|at| (at, Choice::Known)))
        .or_else(|| explore(question, ranked, &candidate).map(|at| (at, Choice::Explored)));
    match found {
        Some((at, choice)) if at > 0 => {
            ranked[..=at].rotate_right(1);
            choice
        }
        _ => Choice::Best,
    }
}

/// In a burst: the edge near the best that has had the fewest of this replica's recent joins for its free capacity.
///
/// Every replica keeps its own joins in proportion to what all of them leave free. So the shares come out right however late replicas
/// hear of each other, and none of them corrects what another corrects as well.
fn spread<'c>(
    question: &Question<'_>,
    ranked: &[Ranked],
    candidate: &impl Fn(usize) -> &'c Candidate,
) -> Option<usize> {
    let best = ranked.iter().map(Ranked::without_bonus).min_by(f64::total_cmp)?;
    let near: Vec<usize> = (0..ranked.len())
        .filter(|at| ranked[*at].without_bonus() <= best + question.policy.near_ms)
        .collect();
    let of = |at: &usize| candidate(ranked[*at].index);
    let lately: u64 = near.iter().map(|at| u64::from(of(at).lately)).sum();
    let burst = are_many(lately, question.policy) || near.iter().any(|at| is_crowd(of(at)));
    if near.len() < 2 || !burst {
        return None;
    }
    // Who does not tell a capacity counts as the others do on average.
    let told: Vec<u32> = near.iter().filter_map(|at| of(at).room_left()).collect();
    let average = told.iter().map(|left| u64::from(*left)).sum::<u64>() / (told.len() as u64).max(1);
    let share = |at: &usize| {
        let left = of(at).room_left().map_or(average, u64::from).max(1);
        (f64::from(of(at).lately) + 1.0) / left as f64
    };
    near.into_iter()
        .min_by(|a, b| share(a).total_cmp(&share(b)).then(a.cmp(b)))
}

/// A place in doubt is tried out only where it promises something.
fn known(question: &Question<'_>, ranked: &[Ranked]) -> Option<usize> {
    if !matches!(question.belief.source, BeliefSource::Inferred { .. }) {
        return None;
    }
    let tried = |one: &Ranked| !matches!(one.source, RttSource::Distance | RttSource::Assumed);
    let first = ranked.first().filter(|first| !tried(first))?;
    ranked
        .iter()
        .position(tried)
        .filter(|at| ranked[*at].score_ms <= first.score_ms + UNTRIED_MARGIN_MS)
}

/// Whether it is the turn of an exploration, and its draw.
fn exploring(question: &Question<'_>) -> Option<u64> {
    let draw = mix(question.client.draw?);
    (unit_interval(draw) < question.policy.explore_share).then_some(draw)
}

/// Now and then, another region that is about as near as the best.
fn explore<'c>(
    question: &Question<'_>,
    ranked: &[Ranked],
    candidate: &impl Fn(usize) -> &'c Candidate,
) -> Option<usize> {
    let draw = exploring(question)?;
    let first = ranked.first()?;
    let others: Vec<usize> = (1..ranked.len())
        .take_while(|at| ranked[*at].score_ms <= first.score_ms + question.policy.near_ms)
        .filter(|at| candidate(ranked[*at].index).region != candidate(first.index).region)
        .collect();
    let nth = (unit_interval(mix(draw)) * others.len() as f64) as usize;
    others.get(nth).copied()
}

/// Another draw from a draw (splitmix64's finaliser): belief, exploration and its target must not depend on each other.
fn mix(draw: u64) -> u64 {
    let mut z = draw.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
