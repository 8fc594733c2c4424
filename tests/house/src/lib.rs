//! The rules of the house, as tests: which crate may lean on which, what a sans-IO crate may not touch, which crypto
//! provider ships. No code lives here; see `tests/rules.rs`.
#![forbid(unsafe_code)]
