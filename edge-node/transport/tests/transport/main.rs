//! The transport against its client half, in virtual time over a seeded network.

mod arbitrary;
mod close;
mod data;
mod flood;
mod join;
mod media;
mod network;
mod path;
