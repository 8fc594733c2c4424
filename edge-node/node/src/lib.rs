#![forbid(unsafe_code)]
pub mod link;
