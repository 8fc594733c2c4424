//! What was found, and how it is told: a line for each thing, and below it what to do.

use std::fmt::Write as _;

use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    /// Could not be looked at, for a reason that is nobody's fault.
    Skipped,
    /// Works, but not for long, not for everybody or not as well as it could.
    Warning,
    /// Does not work.
    Problem,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Good => "good",
            Verdict::Skipped => "skipped",
            Verdict::Warning => "warning",
            Verdict::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// The same from version to version: what a monitoring system would key on.
    pub(super) check: &'static str,
    pub(super) verdict: Verdict,
    /// A sentence about what is so.
    pub(super) says: String,
    /// What to do about it; empty if nothing.
    pub(super) remedy: String,
}

impl Finding {
    pub(super) fn good(check: &'static str, says: impl Into<String>) -> Finding {
        Finding::new(check, Verdict::Good, says, "")
    }

    pub(super) fn skipped(check: &'static str, says: impl Into<String>) -> Finding {
        Finding::new(check, Verdict::Skipped, says, "")
    }

    pub(super) fn warning(check: &'static str, says: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding::new(check, Verdict::Warning, says, remedy)
    }

    pub(super) fn problem(check: &'static str, says: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding::new(check, Verdict::Problem, says, remedy)
    }

    fn new(check: &'static str, verdict: Verdict, says: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding {
            check,
            verdict,
            says: says.into(),
            remedy: remedy.into(),
        }
    }
}

pub(super) struct Report {
    pub(super) role: &'static str,
    pub(super) findings: Vec<Finding>,
}

impl Report {
    pub(super) fn problems(&self) -> usize {
        self.count(Verdict::Problem)
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.verdict == verdict)
            .count()
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let Finding {
                check, says, remedy, ..
            } = finding;
            let _ = writeln!(text, "{:<8} {check:<15} {says}", finding.verdict.word());
            if !remedy.is_empty() {
                let _ = writeln!(text, "{:24} → {remedy}", "");
            }
        }
        let _ = writeln!(
            text,
            "\ngood: {}, warnings: {}, problems: {}, skipped: {}",
            self.count(Verdict::Good),
            self.count(Verdict::Warning),
            self.problems(),
            self.count(Verdict::Skipped)
        );
        text
    }

    /// For machines.
    pub(super) fn json(&self) -> Value {
        let finding = |finding: &Finding| {
            json!({
                "check": finding.check,
                "verdict": finding.verdict.word(),
                "says": finding.says,
                "do": finding.remedy,
            })
        };
        json!({
            "role": self.role,
            "version": env!("CARGO_PKG_VERSION"),
            "problems": self.problems(),
            "warnings": self.count(Verdict::Warning),
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
        })
    }
}
