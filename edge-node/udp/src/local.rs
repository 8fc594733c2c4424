//! Datagrams between two parts of one process, without the kernel: each part says which ports are its own ([`LocalPorts`]), and takes
//! what arrives for them out of a [`Handover`].

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::Datagram;

/// What may wait in one [`Handover`]: messages, and their bytes.
const MESSAGES_MAX: usize = 4_096;
const BYTES_MAX: usize = 4 << 20;

/// UDP ports of this process that can be reached from inside it.
pub trait LocalPorts: fmt::Debug + Send + Sync {
    /// Hands over datagrams of `segment` bytes each, the last perhaps shorter, as `from` would have sent them to `to`. `false`: nobody
    /// has that port, or too much waits there; they are dropped.
    fn deliver(&self, from: SocketAddr, to: SocketAddr, segment: usize, bytes: &[u8]) -> bool;

    /// Wakes whoever something was delivered to. Call it after a burst.
    fn wake(&self);
}

/// A bounded queue in front of one thread. Neither end allocates once its buffers have grown.
#[derive(Debug, Default)]
pub struct Handover {
    waiting: Mutex<Handed>,
    /// Whether something came since the receiver was last woken.
    news: AtomicBool,
}

/// What was taken out of a [`Handover`].
#[derive(Debug, Default)]
pub struct Handed {
    bytes: Vec<u8>,
    messages: Vec<Message>,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    from: SocketAddr,
    to: SocketAddr,
    len: usize,
    segment: usize,
}

impl Handover {
    /// See [`LocalPorts::deliver`]. `false`: full.
    pub fn push(&self, from: SocketAddr, to: SocketAddr, segment: usize, bytes: &[u8]) -> bool {
        if segment == 0 || bytes.is_empty() {
            return true;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.messages.len() >= MESSAGES_MAX || waiting.bytes.len() + bytes.len() > BYTES_MAX {
            return false;
        }
        waiting.bytes.extend_from_slice(bytes);
        waiting.messages.push(Message {
            from,
            to,
            len: bytes.len(),
            segment,
        });
        self.news.store(true, Ordering::Release);
        true
    }

    /// Whether the receiver has not been woken for what came; it is the caller who does that.
    pub fn take_news(&self) -> bool {
        self.news.load(Ordering::Acquire) && self.news.swap(false, Ordering::AcqRel)
    }

    /// Everything that waits, in exchange for the emptied buffers of the last time. `false`: nothing.
    pub fn take(&self, last: &mut Handed) -> bool {
        last.bytes.clear();
        last.messages.clear();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *waiting, last);
        !last.messages.is_empty()
    }
}

impl Handed {
    /// In order of arrival.
    pub fn datagrams(&mut self) -> impl Iterator<Item = Datagram<'_>> {
        let mut rest = self.bytes.as_mut_slice();
        self.messages.iter().flat_map(move |message| {
            let (bytes, behind) = std::mem::take(&mut rest).split_at_mut(message.len);
            rest = behind;
            bytes.chunks_mut(message.segment).map(|data| Datagram {
                from: message.from,
                local: message.to,
                data,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn datagrams_come_out_as_they_went_in_and_news_are_told_once() {
        let (handover, mut handed) = (Handover::default(), Handed::default());
        assert!(!handover.take(&mut handed) && !handover.take_news());
        assert!(handover.push(at(1), at(2), 3, b"abcdefgh"));
        assert!(handover.push(at(3), at(4), 9, b"xyz"));
        assert!(handover.take_news() && !handover.take_news());
        assert!(handover.take(&mut handed));
        let all: Vec<_> = handed
            .datagrams()
            .map(|d| (d.from.port(), d.local.port(), d.data.to_vec()))
            .collect();
        let expected = [
            (1, 2, b"abc".to_vec()),
            (1, 2, b"def".to_vec()),
            (1, 2, b"gh".to_vec()),
            (3, 4, b"xyz".to_vec()),
        ];
        assert_eq!(all, expected);
        assert!(!handover.take(&mut handed) && handed.datagrams().count() == 0);
    }

    #[test]
    fn what_nobody_takes_out_does_not_grow_without_end() {
        let handover = Handover::default();
        let taken = (0..10_000)
            .filter(|_| handover.push(at(1), at(2), 1_200, &[0; 1_200]))
            .count();
        assert_eq!(taken, BYTES_MAX / 1_200);
        let handover = Handover::default();
        assert_eq!(
            (0..10_000).filter(|_| handover.push(at(1), at(2), 1, &[0])).count(),
            MESSAGES_MAX
        );
    }
}
