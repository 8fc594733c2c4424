//! The Prometheus text format (version 0.0.4), as far as every process writes it alike.

use std::fmt::Write as _;

/// What stands once above the values of a metric. `kind`: `counter`, `gauge` or `histogram`. `help`: one line.
pub fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}
