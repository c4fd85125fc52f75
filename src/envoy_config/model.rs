//! What of an Envoy config matters here: connection managers with their filters and routes, and clusters.
//!
//! Found by the types of messages wherever they stand: a bootstrap, a listener by itself, resources of a control plane,
//! a config dump, and the pieces of `envoy/filter-stanza.yaml`.

use std::collections::HashMap;

use super::node::{At, Node};

/// A config.
#[derive(Debug, Default)]
pub(super) struct EnvoyConfig<'a> {
    pub(super) managers: Vec<Manager<'a>>,
    clusters: HashMap<&'a str, At<'a>>,
    pub(super) listeners: Vec<At<'a>>,
    /// ext_proc filters that stand by themselves: in an Istio EnvoyFilter, say.
    pub(super) loose: Vec<Filter<'a>>,
}

/// An HTTP connection manager.
#[derive(Debug)]
pub(super) struct Manager<'a> {
    pub(super) at: At<'a>,
    pub(super) filters: Vec<Filter<'a>>,
    /// Empty when the routes are not in the file.
    pub(super) hosts: Vec<Host<'a>>,
    /// It is the pieces of one, to be put into another.
    pub(super) pieces: bool,
}

/// An HTTP filter.
#[derive(Debug, Clone)]
pub(super) struct Filter<'a> {
    pub(super) at: At<'a>,
    pub(super) name: &'a str,
    /// The type of its configuration; empty when it has none.
    pub(super) kind: &'a str,
    /// Its configuration, or the filter itself.
    pub(super) config: At<'a>,
    /// Whether it is off where no route switches it on.
    pub(super) disabled: bool,
}

/// A virtual host.
#[derive(Debug)]
pub(super) struct Host<'a> {
    pub(super) at: At<'a>,
    /// The route configuration around it.
    pub(super) around: Option<At<'a>>,
    pub(super) routes: Vec<At<'a>>,
}

impl<'a> Filter<'a> {
    fn new(at: At<'a>) -> Self {
        let typed = at.get("typed_config").and_then(|config| config.typed());
        let (kind, config) = typed.unwrap_or(("", at.clone()));
        let (name, disabled) = (at.text_of("name").unwrap_or_default(), at.is_true("disabled"));
        Self { name, kind, config, disabled, at }
    }

    pub(super) fn is_ext_proc(&self) -> bool {
        self.kind.ends_with(".ExternalProcessor")
    }

    /// The cluster that it calls.
    pub(super) fn cluster(&self) -> Option<At<'a>> {
        self.config.at(&["grpc_service", "envoy_grpc", "cluster_name"])
    }
}

impl<'a> EnvoyConfig<'a> {
    /// The cluster of this name.
    pub(super) fn cluster(&self, name: &str) -> Option<&At<'a>> {
        self.clusters.get(name)
    }

    /// Finds them in all documents of a file.
    pub(super) fn of(documents: &'a [Node]) -> Self {
        let mut found = Found::default();
        for (index, document) in documents.iter().enumerate() {
            let path = if documents.len() > 1 { format!("document {}: ", index + 1) } else { String::new() };
            let before = found.managers.len();
            found.walk(&At::new(document, path.clone()));
            let root = At::new(document, path);
            if found.managers.len() == before && root.get("http_filters").is_some() {
                found.pieces.push(root);
            }
        }
        found.into_config()
    }
}

#[derive(Default)]
struct Found<'a> {
    managers: Vec<At<'a>>,
    pieces: Vec<At<'a>>,
    route_configs: Vec<At<'a>>,
    clusters: Vec<At<'a>>,
    listeners: Vec<At<'a>>,
    loose: Vec<Filter<'a>>,
}

impl<'a> Found<'a> {
    /// As deep as the parsers let documents be, which is 128 levels.
    fn walk(&mut self, at: &At<'a>) {
        let kind = at.kind().unwrap_or_default();
        if kind.ends_with(".HttpConnectionManager") {
            // A patch of one has neither.
            if at.get("http_filters").is_some() {
                self.managers.push(at.clone());
            }
            return;
        }
        if kind.ends_with(".RouteConfiguration") {
            self.route_configs.push(at.clone());
            return;
        }
        if kind.ends_with(".cluster.v3.Cluster") {
            self.clusters.push(at.clone());
            return;
        }
        if at.get("typed_config").is_some() && Filter::new(at.clone()).is_ext_proc() {
            self.loose.push(Filter::new(at.clone()));
            return;
        }
        if at.get("filter_chains").is_some() {
            self.listeners.push(at.clone());
        }
        let items: Vec<_> = at.items().collect();
        for item in &items {
            match item.kind() {
                Some(kind) if kind.ends_with(".BootstrapConfigDump") => self.walk_bootstrap(item, &items),
                _ => self.walk(item),
            }
        }
        for (key, member) in at.members().filter(|(key, _)| serves(at, key)) {
            self.walk_member(key, &member);
        }
    }

    fn walk_member(&mut self, key: &str, member: &At<'a>) {
        if key == "clusters" && member.items().any(|cluster| cluster.get("name").is_some()) {
            self.clusters.extend(member.items().filter(|cluster| cluster.kind().is_none()));
        }
        self.walk(member);
    }

    /// The bootstrap in a config dump, whose other parts mostly show what is in it once more: as `static_listeners` and
    /// `static_clusters`. What they lack, where somebody asked for a part of the dump, is taken from here.
    fn walk_bootstrap(&mut self, bootstrap: &At<'a>, dumps: &[At<'a>]) {
        let Some(resources) = bootstrap.at(&["bootstrap", "static_resources"]) else { return };
        for (key, member) in resources.members() {
            let field = format!("static_{key}");
            if dumps.iter().all(|dump| dump.list(&field).is_empty()) {
                self.walk_member(key, &member);
            }
        }
    }

    fn into_config(self) -> EnvoyConfig<'a> {
        let Found { managers, pieces, route_configs, clusters, listeners, mut loose } = self;
        let manager = |at: &At<'a>, pieces: bool| {
            let filters = at.list("http_filters").into_iter().map(Filter::new).collect();
            let hosts = if pieces {
                let routes = at.list("routes");
                let host = Host { at: at.clone(), around: None, routes };
                if host.routes.is_empty() { Vec::new() } else { vec![host] }
            } else {
                hosts(at, &route_configs)
            };
            Manager { at: at.clone(), filters, hosts, pieces }
        };
        let whole: Vec<_> = managers.iter().map(|at| manager(at, false)).collect();
        let pieces: Vec<_> = pieces.iter().map(|at| manager(at, true)).collect();
        // The walk has seen the filters of the pieces as well.
        loose.retain(|filter| {
            !pieces.iter().any(|manager| filter.at.path().starts_with(&manager.at.path_of("http_filters")))
        });
        // Of a name that is there twice Envoy takes the first, or refuses both.
        let clusters =
            clusters.into_iter().rev().filter_map(|cluster| Some((cluster.text_of("name")?, cluster))).collect();
        EnvoyConfig { managers: whole.into_iter().chain(pieces).collect(), clusters, listeners, loose }
    }
}

/// Whether a member of a config dump's entry is there for requests: of a listener the dump also has the version that an update
/// has replaced, the one that Envoy has refused, and the one that is to replace the present one.
fn serves(entry: &At<'_>, key: &str) -> bool {
    match key {
        "draining_state" | "error_state" => false,
        "warming_state" => entry.get("active_state").is_none(),
        _ => true,
    }
}

/// The virtual hosts of a manager: its own, or those of the route configuration that it asks for.
fn hosts<'a>(manager: &At<'a>, route_configs: &[At<'a>]) -> Vec<Host<'a>> {
    let own = manager.get("route_config");
    let named = manager.at(&["rds", "route_config_name"]).and_then(|name| name.text());
    let asked = || route_configs.iter().find(|config| named.is_some() && config.text_of("name") == named).cloned();
    let Some(around) = own.or_else(asked) else { return Vec::new() };
    let host = |at: At<'a>| Host { routes: at.list("routes"), around: Some(around.clone()), at };
    around.list("virtual_hosts").into_iter().map(host).collect()
}
