//! The access log: whether what it prints of the router's account of an exchange gets there.

use super::super::Ours;
use super::super::finding::{Findings, Rule, Severity};
use super::super::model::{Filter, Manager};

const NOT_RECEIVED: Rule = Rule {
    name: "metadata_not_received",
    severity: Severity::Warning,
    users_see: "nothing; the access log has `-` or null where the router's account of the exchange should be",
    fix: "the namespace in metadata_options: {receiving_namespaces: {untyped: […]}} of the ext_proc filter",
};

/// All rules of access logs.
pub(in super::super) fn check(manager: &Manager<'_>, filter: &Filter<'_>, ours: &Ours, findings: &mut Findings) {
    let namespace = ours.metadata_namespace.as_str();
    let formats = [":", ")"].map(|end| format!("%DYNAMIC_METADATA({namespace}{end}"));
    let logs = manager.at.list("access_log");
    let printed = logs.iter().any(|log| formats.iter().any(|format| log.node().mentions(format)));
    let received = filter.config.at(&["metadata_options", "receiving_namespaces", "untyped"]);
    if printed && !received.is_some_and(|names| names.items().any(|name| name.text() == Some(namespace))) {
        let problem = format!("the access log prints `{namespace}`, which Envoy does not take from the router");
        findings.add(&NOT_RECEIVED, filter.config.path_of("metadata_options"), problem);
    }
}
