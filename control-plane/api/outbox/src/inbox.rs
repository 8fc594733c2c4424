//! The control plane's side: each entry of each life of an edge once.

use std::collections::VecDeque;

/// Lives of one edge whose late connections are still understood.
const LIVES: usize = 4;

/// What has come of one edge.
#[derive(Clone, Debug, Default)]
pub struct Inbox {
    /// The life that spoke last is first.
    lives: VecDeque<Life>,
}

#[derive(Clone, Copy, Debug)]
struct Life {
    incarnation: u64,
    through: u64,
}

/// What an entry turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Seen for the first time: act on it.
    New,
    /// Seen before: only acknowledge it.
    Known,
}

impl Inbox {
    /// An entry has come, in order on its connection. Numbers between the last and this one were dropped by the edge.
    pub fn take(&mut self, incarnation: u64, number: u64) -> Taken {
        let life = self.life(incarnation);
        if number <= life.through {
            return Taken::Known;
        }
        life.through = number;
        Taken::New
    }

    /// The highest number that has come of this life; 0: none. This is what is acknowledged.
    #[must_use]
    pub fn through(&self, incarnation: u64) -> u64 {
        let life = self.lives.iter().find(|life| life.incarnation == incarnation);
        life.map_or(0, |life| life.through)
    }

    fn life(&mut self, incarnation: u64) -> &mut Life {
        let known = self.lives.iter().position(|life| life.incarnation == incarnation);
        let life = known.and_then(|at| self.lives.remove(at)).unwrap_or(Life {
            incarnation,
            through: 0,
        });
        self.lives.truncate(LIVES - 1);
        self.lives.push_front(life);
        &mut self.lives[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_new_once_and_gaps_are_stepped_over() {
        let mut inbox = Inbox::default();
        let taken = [1, 2, 2, 5, 4, 1, 6].map(|number| inbox.take(7, number) == Taken::New);
        assert_eq!(taken, [true, true, false, true, false, false, true]);
        assert_eq!((inbox.through(7), inbox.through(8)), (6, 0));
    }

    #[test]
    fn a_restarted_edge_counts_from_one_and_its_former_lives_late_words_change_nothing_of_it() {
        let mut inbox = Inbox::default();
        // The clock may have gone back between two lives.
        for incarnation in [30, 10, 20] {
            assert_eq!(inbox.take(incarnation, 1), Taken::New);
        }
        assert_eq!(inbox.take(30, 1), Taken::Known);
        assert_eq!(inbox.take(30, 2), Taken::New);
        assert_eq!(inbox.through(20), 1);
    }

    #[test]
    fn only_a_few_lives_are_remembered() {
        let mut inbox = Inbox::default();
        for incarnation in 0..1_000 {
            inbox.take(incarnation, 1);
        }
        assert_eq!(inbox.lives.len(), LIVES);
    }
}
