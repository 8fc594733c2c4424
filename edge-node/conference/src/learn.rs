//! The first moments of a conference, when it takes in what the room's other edges know before anybody joins here.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use meridian_room::NodeId;

use crate::conference::Conference;
use crate::io::{FromMesh, Input, Output};

/// How long a first join waits for what other edges know of the room.
const PATIENCE: Duration = Duration::from_millis(500);
/// Inputs that wait meanwhile.
const EARLY_MAX: usize = 512;

/// An identity that is on another edge already must be outranked, and the first JoinResponse should show everybody. Does not wait
/// long, and not for an edge that has fallen silent: people come here because it did. A room can live with less.
pub(crate) struct Learning {
    /// Edges with people in the room that have not told yet what they know.
    unheard: BTreeSet<NodeId>,
    audible: BTreeSet<NodeId>,
    early: Vec<Input>,
    pub(crate) until: Instant,
}

impl Learning {
    /// `None`: there is nobody to wait for.
    pub(crate) fn new(now: Instant, others: BTreeSet<NodeId>, audible: BTreeSet<NodeId>) -> Option<Learning> {
        let learning = Learning {
            unheard: others,
            audible,
            early: Vec::new(),
            until: now + PATIENCE,
        };
        (!learning.is_done()).then_some(learning)
    }

    fn is_done(&self) -> bool {
        self.unheard.is_disjoint(&self.audible)
    }
}

impl Conference {
    /// Takes inputs in its own way while the conference learns; gives back those that are to be handled now.
    pub(crate) fn while_learning(&mut self, input: Input) -> Option<Input> {
        let Some(learning) = &mut self.learning else {
            return Some(input);
        };
        match input {
            Input::Audible(audible) => learning.audible = audible,
            Input::Mesh(message) => {
                if let FromMesh::Delta { from, .. } = &message {
                    learning.unheard.remove(from);
                }
                self.apply(Input::Mesh(message));
            }
            input if learning.early.len() < EARLY_MAX => learning.early.push(input),
            Input::Connect { socket, .. } => self.out.put(Output::Refused { socket }),
            _ => {}
        }
        if self.learning.as_ref().is_some_and(Learning::is_done) {
            self.learnt();
        }
        None
    }

    /// Whoever waited at the door comes in.
    pub(crate) fn learnt(&mut self) {
        let Some(learning) = self.learning.take() else { return };
        for input in learning.early {
            self.apply(input);
        }
    }

    pub(crate) fn give_up_learning(&mut self) {
        tracing::warn!(room = %self.name, "the room's other edges have not told what they know: going on without");
        self.learnt();
    }
}
