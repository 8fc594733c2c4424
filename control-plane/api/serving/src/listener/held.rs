//! Counting connections, for as long as their streams live: also after an upgrade to WebSocket, when HTTP is done with them.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

/// A connection's places: among all, and among those of its address.
pub(super) type Slots = (OwnedSemaphorePermit, Counted);

/// A stream that gives its places back when it is dropped, whoever owns it by then.
pub(super) struct Held<S> {
    stream: S,
    _slots: Slots,
}

impl<S> Held<S> {
    pub(super) fn new(stream: S, slots: Slots) -> Held<S> {
        Held { stream, _slots: slots }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Held<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Held<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// How many connections each address has. As small as the number of connections.
pub(super) struct PerAddress {
    counts: Mutex<HashMap<IpAddr, usize>>,
    max: usize,
}

pub(super) struct Counted {
    table: Arc<PerAddress>,
    address: IpAddr,
}

impl PerAddress {
    pub(super) fn new(max: usize) -> PerAddress {
        PerAddress {
            counts: Mutex::default(),
            max,
        }
    }

    /// One more, unless it would be too many.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, exempt: bool) -> Option<Counted> {
        let address = meridian_access::network::limit_key(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= self.max && !exempt {
            return None;
        }
        *count += 1;
        Some(Counted {
            table: self.clone(),
            address,
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.table.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_gets_so_many_connections_and_a_proxy_any() {
        let (table, address) = (Arc::new(PerAddress::new(3)), IpAddr::from([203, 0, 113, 1]));
        let mut held: Vec<_> = (0..3).map(|_| table.enter(address, false).unwrap()).collect();
        assert!(table.enter(address, false).is_none() && table.enter(address, true).is_some());
        assert!(table.enter(IpAddr::from([203, 0, 113, 2]), false).is_some());
        held.pop();
        assert!(table.enter(address, false).is_some());
        held.clear();
        assert!(table.counts.lock().unwrap().is_empty());
    }
}
