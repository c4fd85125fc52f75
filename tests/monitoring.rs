//! The dashboard and the alert rules of `config/` name what there is: each metric of their PromQL is one that a real router,
//! or a real Envoy, prints; each link leads somewhere.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use responses_router::config::Redis;
use responses_router::store::{AtRest, DiskSettings, DiskStore, RecordCodec, RedisStore, ResponseStore};
use responses_router::telemetry::metrics::Metrics;
use serde_json::{Value, json};

use crate::support::stack::chat;
use crate::support::stack::http::{Connection, request};
use crate::support::stack::upstream::Answer;
use crate::support::stack::{Stack, StackOptions};

/// What Prometheus says of itself.
const OF_PROMETHEUS: [&str; 1] = ["up"];

/// Words of PromQL that stand where names may.
const WORDS: [&str; 12] =
    ["and", "or", "unless", "bool", "offset", "on", "ignoring", "group_left", "group_right", "by", "without", "inf"];

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The metrics that an expression names: what is no text, no label, no function and no number.
fn metrics_of(expression: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut rest = expression;
    // The label lists behind these are in parentheses.
    let mut labels_come = false;
    while let Some(first) = rest.chars().next() {
        let closed_by = match first {
            '"' => Some('"'),
            '{' => Some('}'),
            '[' => Some(']'),
            '(' if labels_come => Some(')'),
            _ => None,
        };
        if let Some(close) = closed_by {
            let end = rest[1..].find(close).unwrap_or_else(|| panic!("no {close} in {expression}"));
            rest = &rest[end + 2..];
            labels_come = false;
            continue;
        }
        if !(first.is_ascii_alphanumeric() || first == '_') {
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_:.".contains(c))).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        labels_come = ["by", "without", "on", "ignoring", "group_left", "group_right"].contains(&word);
        let is_function = after.trim_start().starts_with('(') && !labels_come;
        // `sum by (le) (…)`: an aggregation has its labels before what it is of.
        let is_aggregation = ["by", "without"].iter().any(|word| after.trim_start().starts_with(word));
        if !is_function && !is_aggregation && !WORDS.contains(&word) && !first.is_ascii_digit() {
            names.insert(word.to_owned());
        }
    }
    names
}

/// Whether a row of docs/failures.md has a metric in backticks, with no labels but those that an expression may meet.
fn tells_of(row: &str, metric: &str, expression: &str) -> bool {
    let of_envoy = ["envoy_cluster_", "envoy_http_ext_proc_"].iter().find_map(|prefix| metric.strip_prefix(prefix));
    // `cluster.<name>.upstream_…`, as Envoy itself names it.
    let name = of_envoy.map_or_else(|| format!("`{}", metric.trim_end_matches("_bucket")), |name| format!(".{name}"));
    row.match_indices(&name).any(|(at, _)| match row[at + name.len()..].split_once('`') {
        Some(("", _)) => true,
        Some((labels, _)) => {
            let label = labels.strip_prefix('{').and_then(|labels| labels.strip_suffix("\"}")?.split_once("=\""));
            label.is_some_and(|(label, value)| match asked(expression, metric, label) {
                Some(values) => values.split('|').any(|asked| asked == value),
                None => true,
            })
        }
        None => false,
    })
}

/// What an expression wants this label of a metric to be, alternatives with a bar between them.
fn asked<'a>(expression: &'a str, metric: &str, label: &str) -> Option<&'a str> {
    let (_, labels) = expression.split_once(&format!("{metric}{{"))?;
    let (_, value) = labels.split_once('}')?.0.split_once(&format!("{label}="))?;
    value.trim_start_matches('~').strip_prefix('"')?.split('"').next()
}

/// The names of all samples of a Prometheus text.
fn samples(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect()
}

fn expressions(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

fn rules() -> Vec<Value> {
    let alerts: Value = serde_yaml::from_str(&file("config/prometheus/alerts.yaml")).unwrap();
    let groups = alerts["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// What routers print with every kind of store, once they have served a bit of everything; and what Envoy prints.
async fn all_samples() -> BTreeSet<String> {
    let settings = json!({"server": {"admin_listen": "127.0.0.1:0"}});
    let stack = Stack::start(StackOptions { settings, ..StackOptions::default() }).await;
    stack.upstream.answer("m-watched", |received| match received.json()["stream"].as_bool() {
        Some(true) => Answer::chunks(&[chat::text("a "), chat::text("b"), chat::finish("stop"), chat::usage_chunk()]),
        _ => Answer::completion("hi"),
    });
    let tools = json!([{"type": "web_search"}]);
    stack.created(&json!({"model": "m-watched", "input": "hi", "tools": tools})).await;
    let streamed = stack.create(&json!({"model": "m-watched", "input": "hi", "stream": true})).await;
    streamed.events().rest().await;
    let admin = stack.router.admin().await;
    let printed = Connection::http1(admin).await.send(request("GET", "/metrics")).await.bytes().await;
    let mut names = samples(std::str::from_utf8(&printed).unwrap());
    names.extend(samples(&stack.envoy.prometheus().await));

    // A store that is not there tells figures all the same.
    let away = Redis { address: "127.0.0.1:1".parse().unwrap(), ..Redis::default() };
    let ttl = Duration::from_secs(60);
    let redis = RedisStore::open(&away, ttl, Duration::from_secs(1), AtRest::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.redb");
    let disk = DiskStore::open(&DiskSettings {
        path,
        max_bytes: None,
        cache_bytes: 1 << 20,
        ttl,
        codec: RecordCodec::default(),
    })
    .unwrap();
    let stores: [Arc<dyn ResponseStore>; 2] = [Arc::new(redis), Arc::new(disk)];
    for store in stores {
        let mut metrics = Metrics::default();
        metrics.register_store(store);
        names.extend(samples(&metrics.text()));
    }
    names
}

#[tokio::test]
async fn every_metric_that_dashboard_and_alerts_name_is_printed() {
    let there = all_samples().await;
    let dashboard: Value = serde_json::from_str(&file("config/grafana/dashboard.json")).unwrap();
    let mut expressions = expressions(&dashboard);
    assert!(expressions.len() > 40, "{}", expressions.len());
    expressions.extend(rules().iter().map(|rule| rule["expr"].as_str().unwrap().to_owned()));
    let named: BTreeSet<String> = expressions.iter().flat_map(|expression| metrics_of(expression)).collect();
    assert!(named.len() > 30, "{named:?}");
    let missing: Vec<_> =
        named.iter().filter(|name| !there.contains(*name) && !OF_PROMETHEUS.contains(&name.as_str())).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    // The other way round: what is counted and shown nowhere. Envoy's own are too many for that.
    let ours = there.iter().filter(|name| name.starts_with("responses_router_"));
    let family = |name: &str| {
        let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        name.to_owned()
    };
    let shown: BTreeSet<_> = named.iter().map(|name| family(name)).collect();
    let unseen: BTreeSet<_> = ours.map(|name| family(name)).filter(|name| !shown.contains(name)).collect();
    assert!(unseen.is_empty(), "on no panel and in no alert: {unseen:?}");
}

#[test]
fn every_alert_says_how_bad_it_is_and_links_to_what_to_do() {
    let failures = file("docs/failures.md");
    let rules = rules();
    assert!(rules.len() > 10);
    let names: BTreeSet<_> = rules.iter().map(|rule| rule["alert"].as_str().unwrap()).collect();
    assert_eq!(names.len(), rules.len());
    for rule in &rules {
        assert!(["critical", "warning", "info"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{rule}");
        assert!(rule["annotations"]["summary"].as_str().unwrap().ends_with(['.', '?']), "{rule}");
        let anchor = rule["annotations"]["runbook"].as_str().unwrap().strip_prefix("docs/failures.md#").unwrap();
        let is_of_anchor = |line: &&str| line.contains(&format!("<a id=\"{anchor}\">"));
        let row = failures.lines().find(is_of_anchor).unwrap_or_else(|| panic!("no row {anchor}"));
        // The row is the right one if it has what the alert asks for among what rises.
        let expression = rule["expr"].as_str().unwrap();
        for metric in metrics_of(expression).iter().filter(|metric| !OF_PROMETHEUS.contains(&metric.as_str())) {
            assert!(tells_of(row, metric, expression), "{}: {anchor} does not tell of {metric}", rule["alert"]);
        }
    }
}

#[test]
fn a_row_tells_of_a_metric_by_its_name_and_by_labels_that_an_alert_asks_for() {
    let row = "| `responses_router_a_total{outcome=\"x\"}`, `responses_router_b_seconds`, `cluster.r.upstream_c` |";
    for (metric, expression, told) in [
        ("responses_router_a_total", "responses_router_a_total", true),
        ("responses_router_a_total", "responses_router_a_total{outcome=~\"x|y\"}", true),
        ("responses_router_a_total", "responses_router_a_total{outcome=\"y\"}", false),
        ("responses_router_a_total", "responses_router_a_total{route=\"y\"}", true),
        ("responses_router_a", "responses_router_a", false),
        ("responses_router_b_seconds_bucket", "responses_router_b_seconds_bucket", true),
        ("envoy_cluster_upstream_c", "envoy_cluster_upstream_c{envoy_cluster_name=\"r\"}", true),
        ("envoy_cluster_c", "envoy_cluster_c", false),
    ] {
        assert_eq!(tells_of(row, metric, expression), told, "{expression}");
    }
}

#[test]
fn the_dashboard_is_one_that_grafana_imports() {
    let dashboard: Value = serde_json::from_str(&file("config/grafana/dashboard.json")).unwrap();
    for key in ["uid", "title", "schemaVersion", "templating", "time", "panels"] {
        assert!(!dashboard[key].is_null(), "{key}");
    }
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut taken = BTreeSet::new();
    for panel in panels {
        assert!(!panel["title"].as_str().unwrap().is_empty());
        let of = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for (x, y) in (of("x")..of("x") + of("w")).flat_map(|x| (of("y")..of("y") + of("h")).map(move |y| (x, y))) {
            assert!(x < 24 && taken.insert((x, y)), "{} lies over another", panel["title"]);
        }
    }
}

#[test]
fn metrics_are_told_from_the_other_words_of_promql() {
    let names = |expression: &str| metrics_of(expression).into_iter().collect::<Vec<_>>();
    assert_eq!(names("histogram_quantile(0.99, sum by (le, op) (rate(a_bucket{job=~\"b\"}[5m]))) > 1.5"), ["a_bucket"]);
    assert_eq!(names("sum (rate(a[5m])) / on (x) group_left (y) sum without (z) (b) or c == 0"), ["a", "b", "c"]);
    assert_eq!(names("min by (instance) (a) == 0 and up{job=\"x\"} < 1e3"), ["a", "up"]);
}
