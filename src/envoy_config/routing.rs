//! Which route a request takes, as Envoy chooses it: the first that matches.

use regex::RegexBuilder;

use super::model::{Filter, Host, Manager};
use super::node::At;

/// A request, as far as routes look at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'p> {
    pub(super) method: &'static str,
    pub(super) path: &'p str,
}

impl<'p> Request<'p> {
    /// Those of the Responses API, which is at this path and has items such as this one.
    pub(super) fn all(responses: &'p str, item: &'p str) -> [Self; 3] {
        [("POST", responses), ("GET", item), ("DELETE", item)].map(|(method, path)| Request { method, path })
    }
}

/// The path of an item below that of the Responses API.
pub(super) fn item_path(responses: &str) -> String {
    format!("{responses}/resp_0")
}

/// The routes that a request may take.
#[derive(Debug, Default)]
pub(super) struct Choice<'a> {
    /// Those that match under conditions that are not known here (headers, a fraction), before the one that does.
    pub(super) perhaps: Vec<At<'a>>,
    /// The first that matches whatever else the request has.
    pub(super) surely: Option<At<'a>>,
}

impl<'a> Choice<'a> {
    pub(super) fn of(host: &Host<'a>, request: Request<'_>) -> Self {
        let mut choice = Choice::default();
        for route in &host.routes {
            let Some(matcher) = route.get("match") else { continue };
            match matches(&matcher, request) {
                Match::No => {}
                Match::Perhaps => choice.perhaps.push(route.clone()),
                Match::Yes => {
                    choice.surely = Some(route.clone());
                    break;
                }
            }
        }
        choice
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &At<'a>> {
        self.perhaps.iter().chain(&self.surely)
    }

    /// The route that matters most: the sure one, or else the first.
    pub(super) fn first(&self) -> Option<&At<'a>> {
        self.surely.as_ref().or(self.perhaps.first())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    No,
    Perhaps,
    Yes,
}

fn matches(matcher: &At<'_>, request: Request<'_>) -> Match {
    let path = path_matches(matcher, request.path);
    if path == Match::No || matcher.get("grpc").is_some() {
        return Match::No;
    }
    let headers = matcher.list("headers");
    let headers = headers.iter().map(|header| header_matches(header, request)).min().unwrap_or(Match::Yes);
    let conditions = ["query_parameters", "runtime_fraction", "tls_context", "dynamic_metadata", "filter_state"];
    let conditional = conditions.iter().any(|condition| matcher.get(condition).is_some());
    let others = if conditional { Match::Perhaps } else { Match::Yes };
    path.min(headers).min(others)
}

fn path_matches(matcher: &At<'_>, path: &str) -> Match {
    let ignores_case = matcher.get("case_sensitive").is_some() && !matcher.is_true("case_sensitive");
    let fold = |text: &str| if ignores_case { text.to_lowercase() } else { text.to_owned() };
    let whole = fold(path);
    let text = |field| matcher.text_of(field).map(fold);
    let found = if let Some(prefix) = text("prefix") {
        whole.starts_with(&prefix)
    } else if let Some(exact) = text("path") {
        whole == exact
    } else if let Some(prefix) = text("path_separated_prefix") {
        whole.strip_prefix(&prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    } else if let Some(regex) = matcher.get("safe_regex") {
        return regex.text_of("regex").map_or(Match::Perhaps, |regex| regex_matches(regex, path));
    } else {
        // A URI template, an extension; or CONNECT, which no request of ours is.
        let other = ["path_match_policy", "path_template"].iter().any(|field| matcher.get(field).is_some());
        return if other { Match::Perhaps } else { Match::No };
    };
    if found { Match::Yes } else { Match::No }
}

/// RE2, which Envoy has, and this library understand the same but for rarities.
fn regex_matches(regex: &str, text: &str) -> Match {
    match RegexBuilder::new(&format!("^(?:{regex})$")).size_limit(1 << 20).build() {
        Ok(regex) if regex.is_match(text) => Match::Yes,
        Ok(_) => Match::No,
        Err(_) => Match::Perhaps,
    }
}

/// Of headers only the method is known.
fn header_matches(header: &At<'_>, request: Request<'_>) -> Match {
    if header.text_of("name") != Some(":method") {
        return Match::Perhaps;
    }
    let exact = header.text_of("exact_match").or_else(|| header.at(&["string_match", "exact"])?.text());
    let regex = header.at(&["string_match", "safe_regex", "regex"]).and_then(|regex| regex.text());
    let found = match (exact, regex) {
        (Some(exact), _) if exact == request.method => Match::Yes,
        (Some(_), _) => Match::No,
        (None, Some(regex)) => regex_matches(regex, request.method),
        (None, None) => return Match::Perhaps,
    };
    match (header.is_true("invert_match"), found) {
        (true, Match::Yes) => Match::No,
        (true, Match::No) => Match::Yes,
        (_, found) => found,
    }
}

/// What the routes say of a filter.
#[derive(Debug)]
pub(super) enum Switch<'a> {
    /// Nothing: it is as in the chain.
    Unsaid,
    Off,
    /// On, with these settings of the route's own.
    On(Option<At<'a>>),
}

/// What a route says of a filter, or else its virtual host, or else the whole route configuration.
pub(super) fn switch<'a>(route: &At<'a>, host: &Host<'a>, filter: &Filter<'_>) -> Switch<'a> {
    let levels = [Some(route), Some(&host.at), host.around.as_ref()];
    let said = levels.into_iter().flatten().find_map(|level| {
        let settings = level.get("typed_per_filter_config")?;
        settings.members().find(|(name, _)| *name == filter.name).map(|(_, setting)| setting)
    });
    let Some(setting) = said else { return Switch::Unsaid };
    let Some((kind, message)) = setting.typed() else { return Switch::Unsaid };
    if message.is_true("disabled") {
        return Switch::Off;
    }
    // The wrapper of any filter's settings.
    Switch::On(if kind.ends_with(".FilterConfig") { message.get("config") } else { Some(message) })
}

/// Whether the filter sees the requests of a route.
pub(super) fn is_on(route: &At<'_>, host: &Host<'_>, filter: &Filter<'_>) -> bool {
    match switch(route, host, filter) {
        Switch::Unsaid => !filter.disabled,
        Switch::Off => false,
        Switch::On(_) => true,
    }
}

/// The routes by which requests of the Responses API come to our filter, as far as they are known.
pub(super) struct OurRoutes<'m, 'a>(Vec<(&'m Host<'a>, At<'a>)>);

impl<'m, 'a> OurRoutes<'m, 'a> {
    pub(super) fn of(manager: &'m Manager<'a>, filter: &Filter<'a>, responses_path: &str) -> Self {
        let item = item_path(responses_path);
        let requests = Request::all(responses_path, &item);
        let routes_of = |host: &'m Host<'a>| {
            let choices = requests.map(|request| Choice::of(host, request));
            let routes = choices.into_iter().flat_map(|choice| choice.perhaps.into_iter().chain(choice.surely));
            routes.filter(|route| is_on(route, host, filter)).map(move |route| (host, route)).collect::<Vec<_>>()
        };
        Self(manager.hosts.iter().flat_map(routes_of).collect())
    }

    /// What the routes on which these requests meet a filter of the chain say of it: an entry for each of them, with its
    /// settings. Where no route is known, the chain decides.
    pub(super) fn meet(&self, filter: &Filter<'_>) -> Vec<Option<At<'a>>> {
        let of_chain = || if filter.disabled { None } else { Some(None) };
        if self.0.is_empty() {
            return of_chain().into_iter().collect();
        }
        let of_route = |(host, route): &(&Host<'a>, At<'a>)| match switch(route, host, filter) {
            Switch::Unsaid => of_chain(),
            Switch::Off => None,
            Switch::On(settings) => Some(settings),
        };
        self.0.iter().filter_map(of_route).collect()
    }

    /// Whether the requests meet a filter on each of these routes, with settings for which this holds.
    pub(super) fn always_meet(&self, filter: &Filter<'_>, holds: impl Fn(Option<&At<'a>>) -> bool) -> bool {
        let met = self.meet(filter);
        met.len() == self.0.len().max(1) && met.iter().all(|settings| holds(settings.as_ref()))
    }
}

/// The clusters that a route sends to, as far as they have names.
pub(super) fn clusters_of<'a>(route: &At<'a>) -> Vec<&'a str> {
    let Some(action) = route.get("route") else { return Vec::new() };
    let weighted = action.get("weighted_clusters").map(|weighted| weighted.list("clusters")).unwrap_or_default();
    action.text_of("cluster").into_iter().chain(weighted.iter().filter_map(|cluster| cluster.text_of("name"))).collect()
}
