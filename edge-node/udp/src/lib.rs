//! UDP as the Linux kernel does it best: many datagrams per system call. `recvmmsg` with `UDP_GRO` on the way in,
//! `sendmmsg` with `UDP_SEGMENT` on the way out, the local address of every datagram known also on a wildcard socket,
//! and a wait with sub-millisecond deadlines.
//!
//! What lives here: system calls, their buffers, and what their errors mean. What does not: any protocol, any thread,
//! any clock. This is the only crate of the project that contains `unsafe`; every block says why it is sound. Callers are
//! `meridian-shard` and `meridian-turn`.
//!
//! The usual loop: [`wait`] until [`Socket`] is readable → [`Socket::recv`] into a [`RecvBatch`] until it returns 0 →
//! write answers into a [`Batch`] → [`Socket::send`].

mod address;
mod cpu;
mod descriptors;
mod local;
mod recv;
mod send;
mod socket;
mod wait;

pub use cpu::process_cpu_time;
pub use descriptors::raise_descriptor_limit;
pub use local::{Handed, Handover, LocalPorts};
pub use recv::{Datagram, RecvBatch};
pub use send::{Batch, SEGMENTS_MAX, SendStats};
pub use socket::{Socket, SocketOptions};
pub use wait::{Ready, Waker, wait};
