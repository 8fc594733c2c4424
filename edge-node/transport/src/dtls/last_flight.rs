//! The server's last flight. Nothing answers it: if it is lost, only the client's retransmission timer says so (RFC 6347 §4.2.4), which
//! doubles each time, so that at 20 % loss one join in five hundred ran out of time. Copies are sent unasked until the client shows that
//! it has the flight. To the client each is a datagram that the network has doubled.

use std::time::{Duration, Instant};

/// Until the first copy; doubles. A client that opens data channels has mostly shown itself by then.
const FIRST_COPY: Duration = Duration::from_millis(200);
/// The last one leaves 6.2 s after the flight.
const COPIES: u8 = 5;

#[derive(Debug, Default)]
pub(super) struct LastFlight {
    datagrams: Vec<Vec<u8>>,
    /// When the next copy leaves; `None`: the handshake is not done, or no other copy is needed.
    due: Option<Instant>,
    copies: u8,
}

impl LastFlight {
    /// What is sent from now on is another flight.
    pub(super) fn begin(&mut self) {
        self.datagrams.clear();
    }

    pub(super) fn push(&mut self, datagram: &[u8]) {
        self.datagrams.push(datagram.to_vec());
    }

    /// The handshake is done: it was the last.
    pub(super) fn sent(&mut self, now: Instant) {
        self.due = Some(now + FIRST_COPY);
    }

    /// The client has it, or is gone.
    pub(super) fn forget(&mut self) {
        *self = LastFlight::default();
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The datagrams to send once more, if it is time.
    pub(super) fn copy(&mut self, now: Instant) -> Vec<Vec<u8>> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.copies += 1;
        if self.copies == COPIES {
            let datagrams = std::mem::take(&mut self.datagrams);
            self.forget();
            return datagrams;
        }
        self.due = Some(now + FIRST_COPY * 2u32.pow(u32::from(self.copies)));
        self.datagrams.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_flight_is_sent_five_times_more_and_then_forgotten() {
        let start = Instant::now();
        let mut flight = LastFlight::default();
        flight.push(b"an earlier one");
        flight.begin();
        flight.push(b"finished");
        assert_eq!(flight.due(), None, "the handshake is not done");
        flight.sent(start);
        let mut at = Vec::new();
        while let Some(due) = flight.due() {
            assert!(flight.copy(due - Duration::from_millis(1)).is_empty());
            assert_eq!(flight.copy(due), [b"finished".to_vec()]);
            at.push((due - start).as_millis());
        }
        assert_eq!(at, [200, 600, 1_400, 3_000, 6_200]);
        assert!(flight.datagrams.is_empty());
    }

    #[test]
    fn a_client_that_has_it_gets_no_copies() {
        let start = Instant::now();
        let mut flight = LastFlight::default();
        flight.push(b"finished");
        flight.sent(start);
        flight.forget();
        assert!(flight.copy(start + Duration::from_secs(9)).is_empty());
    }
}
