//! What is found, and how it is told.

use std::collections::HashSet;
use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Requests fail, or go where they must not.
    Error,
    /// Works until there is load, an outage or a slow model.
    Warning,
    /// Good to know.
    Info,
}

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.pad(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        })
    }
}

/// What is looked for.
#[derive(Debug)]
pub(super) struct Rule {
    /// Its name, in `snake_case`.
    pub(super) name: &'static str,
    pub(super) severity: Severity,
    /// What becomes of requests.
    pub(super) users_see: &'static str,
    pub(super) fix: &'static str,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The name of the rule.
    pub rule: &'static str,
    /// Where it stands: `static_resources.clusters[1].type`.
    pub path: String,
    /// What is wrong for us.
    pub problem: String,
    /// What becomes of requests.
    pub users_see: &'static str,
    /// What to write instead.
    pub fix: &'static str,
}

/// Findings while they are gathered.
#[derive(Debug, Default)]
pub(super) struct Findings {
    findings: Vec<Finding>,
    /// Rule and path of each: what several routes share is told once.
    told: HashSet<(&'static str, String)>,
}

impl Findings {
    pub(super) fn add(&mut self, rule: &Rule, path: impl Into<String>, problem: impl Into<String>) {
        let Rule { name, severity, users_see, fix } = *rule;
        let path = path.into();
        if self.told.insert((name, path.clone())) {
            self.findings.push(Finding { severity, rule: name, path, problem: problem.into(), users_see, fix });
        }
    }

    pub(super) fn into_report(mut self) -> Report {
        self.findings.sort_by_key(|finding| finding.severity);
        let count = |severity| self.findings.iter().filter(|finding| finding.severity == severity).count();
        let (errors, warnings, infos) = (count(Severity::Error), count(Severity::Warning), count(Severity::Info));
        Report { errors, warnings, infos, findings: self.findings }
    }
}

/// All findings, the worst first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How many are errors.
    pub errors: usize,
    /// How many are warnings.
    pub warnings: usize,
    /// How many are for information.
    pub infos: usize,
    /// The findings.
    pub findings: Vec<Finding>,
}

/// For people.
impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        for Finding { severity, rule, path, problem, users_see, fix } in &self.findings {
            writeln!(formatter, "{severity}: {problem} [{rule}]")?;
            writeln!(formatter, "  at:        {path}\n  users see: {users_see}\n  fix:       {fix}\n")?;
        }
        let Report { errors, warnings, infos, .. } = self;
        write!(formatter, "errors: {errors}, warnings: {warnings}, for information: {infos}")
    }
}
