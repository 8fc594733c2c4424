//! The last line of a benchmark: rows as measured, and marks that hold or do not.

use serde_json::{Value, json};

/// A figure that was promised.
pub(crate) struct Mark {
    name: String,
    value: f64,
    goal: Goal,
}

#[derive(Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Mark {
    pub(crate) fn new(name: impl Into<String>, value: f64, goal: Goal) -> Mark {
        let name = name.into();
        Mark { name, value, goal }
    }

    fn holds(&self) -> bool {
        match self.goal {
            Goal::AtLeast(least) => self.value >= least,
            Goal::AtMost(most) => self.value <= most,
        }
    }

    fn goal(&self) -> String {
        match self.goal {
            Goal::AtLeast(least) => format!(">= {least}"),
            Goal::AtMost(most) => format!("<= {most}"),
        }
    }
}

/// Prints each mark for people, and all as one line of JSON.
pub(crate) fn finish(bench: &str, rows: &[Value], marks: &[Mark]) {
    println!();
    for mark in marks {
        let verdict = if mark.holds() { "holds" } else { "DOES NOT HOLD" };
        println!("{:<24} {:>12.3}   {:<10} {verdict}", mark.name, mark.value, mark.goal());
    }
    let marks: Vec<Value> = (marks.iter())
        .map(|mark| json!({ "name": mark.name, "value": mark.value, "goal": mark.goal(), "holds": mark.holds() }))
        .collect();
    println!("{}", json!({ "bench": bench, "rows": rows, "marks": marks }));
}
