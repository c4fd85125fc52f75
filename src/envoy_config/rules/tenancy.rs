//! Tenants: who Envoy says a client is, when the router's config leaves that to Envoy.

use super::super::finding::{Findings, Rule, Severity};
use super::super::model::{Filter, Manager};
use super::super::node::At;
use super::super::routing::OurRoutes;
use super::super::{OurTenancy, Ours};

const OPEN_HEADER: Rule = Rule {
    name: "tenant_header_from_clients",
    severity: Severity::Error,
    users_see: "each other's responses: a client names whichever tenant it likes in the header",
    fix: "early_header_mutation_extensions that removes the header, as in envoy/filter-stanza.yaml, and a filter that sets it",
};

const NOT_FORWARDED: Rule = Rule {
    name: "tenant_metadata_not_forwarded",
    severity: Severity::Error,
    users_see: "401 missing_tenant for every request; with tenancy.required: false answers that are never kept",
    fix: "the namespace in metadata_options: {forwarding_namespaces: {untyped: […]}} of the ext_proc filter",
};

const NOT_VERIFIED: Rule = Rule {
    name: "tenant_jwt_not_verified",
    severity: Severity::Error,
    users_see: "401 missing_tenant for every request; with tenancy.required: false answers that are never kept",
    fix: "a jwt_authn filter with payload_in_metadata before the ext_proc filter",
};

/// All rules of tenants.
pub(in super::super) fn check(manager: &Manager<'_>, filter: &Filter<'_>, ours: &Ours, findings: &mut Findings) {
    match &ours.tenancy {
        OurTenancy::Untold => {}
        OurTenancy::Header(name) => header(manager, filter, name, ours, findings),
        OurTenancy::Metadata(namespace) => forwarded(filter, namespace, findings),
        OurTenancy::JwtClaim => {
            forwarded(filter, "envoy.filters.http.jwt_authn", findings);
            verified(manager, filter, ours, findings);
        }
    }
}

/// The filters that a request passes before ours.
fn before<'m, 'a>(manager: &'m Manager<'a>, filter: &'m Filter<'a>) -> impl Iterator<Item = &'m Filter<'a>> {
    manager.filters.iter().take_while(|other| other.at.path() != filter.at.path())
}

fn header(manager: &Manager<'_>, filter: &Filter<'_>, name: &str, ours: &Ours, findings: &mut Findings) {
    let early = manager.at.get("early_header_mutation_extensions");
    let taken_away = early.is_some_and(|early| early.node().mentions_header(name));
    let routes = OurRoutes::of(manager, filter, &ours.responses_path);
    // A filter that knows the header is taken at its word: Lua, ext_authz and the like set or remove it. One that some requests
    // pass by leaves theirs to them.
    let knows = |at: &At<'_>| at.node().mentions_header(name);
    let guards = |other: &Filter<'_>| {
        let by_chain = knows(&other.at);
        routes.always_meet(other, |settings| by_chain || settings.is_some_and(knows))
    };
    if !taken_away && !before(manager, filter).any(guards) {
        let path = manager.at.path_of("early_header_mutation_extensions");
        findings.add(&OPEN_HEADER, path, format!("nothing takes {name} away from clients before the ext_proc filter"));
    }
}

fn forwarded(filter: &Filter<'_>, namespace: &str, findings: &mut Findings) {
    let untyped = filter.config.at(&["metadata_options", "forwarding_namespaces", "untyped"]);
    if !untyped.is_some_and(|names| names.items().any(|name| name.text() == Some(namespace))) {
        let path = filter.config.path_of("metadata_options");
        findings.add(&NOT_FORWARDED, path, format!("the router does not get the metadata of `{namespace}`"));
    }
}

fn verified(manager: &Manager<'_>, filter: &Filter<'_>, ours: &Ours, findings: &mut Findings) {
    let routes = OurRoutes::of(manager, filter, &ours.responses_path);
    let verifies = |other: &Filter<'_>| other.kind.contains(".http.jwt_authn.") && !routes.meet(other).is_empty();
    if !before(manager, filter).any(verifies) {
        findings.add(&NOT_VERIFIED, filter.at.path(), "no jwt_authn filter stands before the ext_proc filter");
    }
}
