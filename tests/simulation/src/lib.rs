//! One world that drives the real `Conference`, `Carriage` (with `Mesh`) and link engines in virtual time, from a seed: edges in
//! regions, links that delay, jitter, lose and break, deaths and returns, clocks that differ, and people who come and go as
//! clients do. What holds of every edge and every person is checked while it runs ([`check`]).
//!
//! What lives here: the network, the media threads' and the clients' stand-ins. What does not: any decision of the product.
//! The same seed gives the same world, to the last event.
#![forbid(unsafe_code)]

pub mod check;
pub mod edge;
pub mod layout;
mod links;
pub mod net;
mod people;
pub mod person;
pub mod plane;
pub mod world;

pub use people::{Person, Place};
pub use world::{Layout, World};
