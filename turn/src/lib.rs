//! A STUN and TURN server over UDP, TCP, TLS and DTLS: threads, sockets, TLS and DTLS ([`io`]) around the protocol, which is
//! `meridian-turn-core` and stands here under its own names. `meridian turn` and the edge start [`io::TurnServer`] from [`settings`]; the
//! join API mints credentials with `meridian-turn-credentials`. WebRTC's own ICE and DTLS do not live here but in `meridian-transport`.

#![forbid(unsafe_code)]

pub mod io;
pub mod settings;

pub use meridian_turn_core::*;
