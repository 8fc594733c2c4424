//! What placement is asked beside joins: why somebody would be sent where ([`Explanation`]), which regions to measure before joining,
//! and GeoDNS's ranking. The choice itself is `meridian_geo`'s, over the edges that `fleet` knows.

mod dns;
mod explain;
mod probes;

pub(crate) use dns::FleetWorld;
pub(crate) use explain::Explanation;
