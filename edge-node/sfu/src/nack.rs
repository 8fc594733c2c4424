//! Upstream loss detection.
