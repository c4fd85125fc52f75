//! `check --envoy`: the shipped configs are good, and each rule finds its fault alone. `envoy/checked.rs` asks a real
//! Envoy whether the findings are true.

mod dumps;
mod faults;
mod filters;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use responses_router::config::Config;
use responses_router::envoy_config::{Finding, OurListener, OurTenancy, Ours, Report, Severity, Unreadable, check};
use serde_json::{Value, json};

use self::faults::{FAULTS, FAULTS_FOR_A_CONFIG, http_filter, insert_filter};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

pub(crate) fn ours() -> Ours {
    Ours::of(&Config::default(), false)
}

/// envoy/envoy.yaml.
pub(crate) fn good() -> Value {
    serde_yaml::from_str(&std::fs::read_to_string(Path::new(ROOT).join("envoy/envoy.yaml")).unwrap()).unwrap()
}

pub(crate) fn manager(config: &mut Value) -> &mut Value {
    &mut config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
}

pub(crate) fn filter(config: &mut Value) -> &mut Value {
    &mut manager(config)["http_filters"][0]["typed_config"]
}

pub(crate) fn routes(config: &mut Value) -> &mut Value {
    &mut manager(config)["route_config"]["virtual_hosts"][0]["routes"]
}

pub(crate) fn cluster(config: &mut Value, index: usize) -> &mut Value {
    &mut config["static_resources"]["clusters"][index]
}

pub(crate) fn remove(object: &mut Value, key: &str) {
    object.as_object_mut().unwrap().remove(key).unwrap();
}

/// What Envoy takes as booleans in YAML; JSON has the words in quotes.
pub(crate) const TRUE_WORDS: [&str; 17] = [
    "true", "True", "TRUE", "yes", "Yes", "YES", "y", "Y", "on", "On", "ON", "tRUE", "t", "\"true\"", "\"Yes\"",
    "\"y\"", "\"1\"",
];
pub(crate) const FALSE_WORDS: [&str; 17] = [
    "false",
    "False",
    "FALSE",
    "no",
    "No",
    "NO",
    "n",
    "N",
    "off",
    "Off",
    "OFF",
    "fALSE",
    "f",
    "\"false\"",
    "\"No\"",
    "\"n\"",
    "\"0\"",
];

fn checked(config: &Value, ours: &Ours) -> Report {
    check(config.to_string().as_bytes(), ours).unwrap()
}

/// The rules that find something in a config.
pub(crate) fn findings(config: &Value) -> Vec<&'static str> {
    checked(config, &ours()).findings.iter().map(|finding| finding.rule).collect()
}

const MANAGER: &str = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";

#[test]
fn each_fault_is_found_where_it_is_and_nothing_else_is() {
    for (rule, path, fault) in FAULTS {
        let mut config = good();
        fault(&mut config);
        let report = checked(&config, &ours());
        let found: Vec<_> = report.findings.iter().map(|Finding { rule, path, .. }| (*rule, path.as_str())).collect();
        let path = path.strip_prefix('/').map_or_else(|| format!("{MANAGER}.{path}"), str::to_owned);
        assert_eq!(found, [(*rule, path.as_str())], "{report}");
    }
}

#[test]
fn each_fault_against_the_routers_config_is_found() {
    for (rule, listen, tls, fault) in FAULTS_FOR_A_CONFIG {
        let mut config = good();
        fault(&mut config);
        let ours = Ours { listener: Some(OurListener { listen: listen.parse().unwrap(), tls: *tls }), ..ours() };
        let found: Vec<_> = checked(&config, &ours).findings.iter().map(|finding| finding.rule).collect();
        assert_eq!(found, [*rule], "{listen}");
    }
}

#[test]
fn the_routers_account_is_looked_for_where_the_access_log_prints_it_by_the_name_of_the_config() {
    let found = |config: &Value, namespace: &str| -> Vec<_> {
        let findings = checked(config, &Ours { metadata_namespace: namespace.to_owned(), ..ours() }).findings;
        findings.into_iter().map(|finding| finding.rule).collect()
    };
    let mut config = good();
    filter(&mut config)["metadata_options"]["receiving_namespaces"] = json!({"untyped": ["other"]});
    assert_eq!(found(&config, "responses_router"), ["metadata_not_received"]);
    // A name that begins alike, and a router that tells nothing.
    assert_eq!(found(&config, "responses"), Vec::<&str>::new());
    assert_eq!(found(&config, ""), Vec::<&str>::new());
    let by_key = json!([{"format": "%DYNAMIC_METADATA(mine:model)%"}]);
    manager(&mut config)["access_log"] = by_key;
    assert_eq!(found(&config, "responses_router"), Vec::<&str>::new());
    assert_eq!(found(&config, "mine"), ["metadata_not_received"]);
}

#[test]
fn what_tenants_need_of_envoy_is_looked_for_when_the_config_has_them() {
    let found = |config: &Value, tenancy: OurTenancy| -> Vec<_> {
        let findings = checked(config, &Ours { tenancy, ..ours() }).findings;
        findings.into_iter().map(|finding| finding.rule).collect()
    };
    let header = || OurTenancy::Header("x-tenant-id".to_owned());
    let metadata = || OurTenancy::Metadata("tenant".to_owned());
    assert_eq!(found(&good(), header()), Vec::<&str>::new());
    assert_eq!(found(&good(), metadata()), Vec::<&str>::new());
    assert_eq!(found(&good(), OurTenancy::Header("x-other".to_owned())), ["tenant_header_from_clients"]);
    assert_eq!(found(&good(), OurTenancy::Metadata("other".to_owned())), ["tenant_metadata_not_forwarded"]);
    assert_eq!(found(&good(), OurTenancy::JwtClaim), ["tenant_jwt_not_verified"]);

    let mut config = good();
    remove(manager(&mut config), "early_header_mutation_extensions");
    remove(&mut filter(&mut config)["metadata_options"], "forwarding_namespaces");
    assert_eq!(found(&config, header()), ["tenant_header_from_clients"]);
    assert_eq!(found(&config, metadata()), ["tenant_metadata_not_forwarded"]);
    assert_eq!(found(&config, OurTenancy::Untold), Vec::<&str>::new());
    // Names of headers have no case.
    let mut shouted = good();
    let mutation = &mut manager(&mut shouted)["early_header_mutation_extensions"][0]["typed_config"]["mutations"][0];
    assert_eq!(*mutation, json!({"remove": "x-tenant-id"}));
    mutation["remove"] = json!("X-Tenant-Id");
    assert_eq!(found(&shouted, header()), Vec::<&str>::new());
    // A filter before ours that knows the header, or one that verifies tokens.
    insert_filter(&mut config, 0, http_filter("lua.v3.Lua", json!({"inline_code": "headers:remove('X-Tenant-ID')"})));
    assert_eq!(found(&config, header()), Vec::<&str>::new());
    let mut config = good();
    insert_filter(&mut config, 0, http_filter("jwt_authn.v3.JwtAuthentication", json!({})));
    assert_eq!(found(&config, OurTenancy::JwtClaim), Vec::<&str>::new());
    // Behind ours it is too late.
    manager(&mut config)["http_filters"].as_array_mut().unwrap().swap(0, 1);
    assert_eq!(found(&config, OurTenancy::JwtClaim), ["authentication_after_filter", "tenant_jwt_not_verified"]);
}

#[test]
fn every_rule_has_a_fault() {
    let mut rules = BTreeSet::new();
    for entry in std::fs::read_dir(Path::new(ROOT).join("src/envoy_config/rules")).unwrap() {
        let source = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let names = source.split("\n    name: \"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
        rules.extend(names);
    }
    let of_tenants = ["tenant_header_from_clients", "tenant_metadata_not_forwarded", "tenant_jwt_not_verified"];
    let against_ours = FAULTS_FOR_A_CONFIG.iter().map(|(rule, ..)| *rule).chain(of_tenants);
    let with_fault = FAULTS.iter().map(|(rule, ..)| *rule).chain(against_ours);
    assert_eq!(rules, with_fault.map(str::to_owned).collect());
}

#[test]
fn shipped_configs_have_no_error_and_no_warning() {
    let mut checked = 0;
    for folder in ["envoy", "deploy"] {
        for path in yaml_files(&Path::new(ROOT).join(folder)) {
            let bytes = std::fs::read(&path).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            match check(&bytes, &ours()) {
                Ok(report) => {
                    assert_eq!((report.errors, report.warnings), (0, 0), "{}\n{report}", path.display());
                    checked += 1;
                }
                Err(Unreadable::NothingToCheck) => assert!(!text.contains("ExternalProcessor"), "{}", path.display()),
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
    }
    assert!(checked >= 5, "{checked}");
    assert_eq!(findings(&good()), Vec::<&str>::new());
}

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(yaml_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    files
}

#[test]
fn a_prefix_and_another_chat_path_are_looked_for_as_the_config_has_them() {
    let mut config = Config::default();
    config.response_api.path_prefix = "/openai".to_owned();
    config.upstream.chat_path = "/v2/chat?x=y".to_owned();
    let ours = Ours::of(&config, false);
    let mut envoy = good();
    let found = |envoy: &Value| checked(envoy, &ours).findings.iter().map(|finding| finding.rule).collect::<Vec<_>>();
    assert_eq!(found(&envoy), ["filter_off_for_responses"; 2][..1], "{}", checked(&envoy, &ours));
    routes(&mut envoy)[0]["match"] = json!({"path_separated_prefix": "/openai/v1/responses"});
    assert_eq!(found(&envoy), Vec::<&str>::new());
    routes(&mut envoy)[1]["match"] = json!({"path": "/openai/v2/chat"});
    assert_eq!(found(&envoy), Vec::<&str>::new());
    routes(&mut envoy)[1]["match"] = json!({"path": "/openai/v1/chat/completions"});
    assert_eq!(found(&envoy), ["chat_route_missing"]);
    config.upstream.clear_route_cache = false;
    assert_eq!(checked(&envoy, &Ours::of(&config, false)).findings.len(), 0);
}

#[test]
fn other_spellings_of_the_same_config_are_read_alike() {
    let mut config = good();
    remove(&mut routes(&mut config)[0]["route"], "timeout");
    let expected = findings(&config);
    // camelCase, as protobuf's JSON has it by default; keys of maps and types stay.
    fn camel(value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                let word = |key: &str| {
                    let mut parts = key.split('_');
                    let first = parts.next().unwrap_or_default().to_owned();
                    parts.fold(first, |word, part| word + &part[..1].to_uppercase() + &part[1..])
                };
                let key = |key: &String| if key.contains('.') || key.contains('@') { key.clone() } else { word(key) };
                Value::Object(members.iter().map(|(name, value)| (key(name), camel(value))).collect())
            }
            Value::Array(items) => items.iter().map(camel).collect(),
            other => other.clone(),
        }
    }
    assert_eq!(findings(&camel(&config)), expected);
    // YAML, and a document beside it.
    let yaml = serde_yaml::to_string(&config).unwrap();
    let report = check(format!("a: b\n---\n{yaml}").as_bytes(), &ours()).unwrap();
    assert_eq!(report.findings.iter().map(|finding| finding.rule).collect::<Vec<_>>(), expected);
    assert!(report.findings[0].path.starts_with("document 2: static_resources."), "{report}");
    // A listener alone, and its clusters with their type, as a control plane sends them.
    let listener = &config["static_resources"]["listeners"][0];
    let rules: Vec<_> = checked(listener, &ours()).findings.iter().map(|finding| finding.rule).collect();
    assert_eq!(rules, ["route_timeout", "cluster_not_in_file", "cluster_not_in_file"]);
    let mut clusters = config["static_resources"]["clusters"].clone();
    for cluster in clusters.as_array_mut().unwrap() {
        cluster["@type"] = json!("type.googleapis.com/envoy.config.cluster.v3.Cluster");
    }
    assert_eq!(findings(&json!({"resources": [listener, {"inner": clusters}]})), expected);
    // Routes by name.
    let mut by_name = config.clone();
    let mut routes = manager(&mut by_name)["route_config"].take();
    routes["@type"] = json!("type.googleapis.com/envoy.config.route.v3.RouteConfiguration");
    manager(&mut by_name)["rds"] = json!({"route_config_name": "responses"});
    by_name["route_configs"] = json!([{"route_config": routes}]);
    assert_eq!(findings(&by_name), expected);
}

#[test]
fn the_words_for_booleans_are_read_as_envoy_reads_them() {
    let text = std::fs::read_to_string(Path::new(ROOT).join("envoy/envoy.yaml")).unwrap();
    let found = |field: &str, word: &str| -> Vec<_> {
        let old = if field == "disabled" { "disabled: true" } else { "failure_mode_allow: false" };
        let changed = text.replacen(old, &format!("{field}: {word}"), 1);
        assert!(text.contains(old), "{old}");
        let findings = check(changed.as_bytes(), &ours()).unwrap().findings;
        findings.into_iter().map(|finding| finding.rule).collect()
    };
    for word in TRUE_WORDS {
        assert_eq!(found("failure_mode_allow", word), ["failure_mode_allow"], "{word}");
        assert_eq!(found("disabled", word), Vec::<&str>::new(), "{word}");
    }
    for word in FALSE_WORDS {
        assert_eq!(found("failure_mode_allow", word), Vec::<&str>::new(), "{word}");
        assert_eq!(found("disabled", word), ["filter_on_for_chat"], "{word}");
    }
}

#[test]
fn what_is_no_envoy_config_is_refused_in_words() {
    let bomb: String = (1..30).fold("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, level| {
        let last = level - 1;
        text + &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{last}"); 9].join(", "))
    });
    for (text, problem) in [
        ("", "no HTTP connection manager"),
        ("{}", "no HTTP connection manager"),
        ("a: [", "neither YAML nor JSON"),
        ("{\"a\": ", "neither YAML nor JSON"),
        ("a: !tag b", "neither YAML nor JSON"),
        (&bomb, "neither YAML nor JSON"),
        (&"[".repeat(100_000), "neither YAML nor JSON"),
        (&format!("{}{}", "{\"a\":".repeat(100_000), "}".repeat(100_000)), "neither YAML nor JSON"),
        (&format!("{{\"a\": [{}1]}}", "1,".repeat(1_000_000)), "more than 1000000 values"),
        (&" ".repeat((64 << 20) + 1), "is larger than 64 MiB"),
    ] {
        let error = check(text.as_bytes(), &ours()).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
    assert_eq!(check(b"\xff\xfe", &ours()).unwrap_err().to_string(), "is not UTF-8");
}

#[test]
fn a_large_config_is_checked_in_one_walk() {
    let mut config = good();
    let host = manager(&mut config)["route_config"]["virtual_hosts"][0].clone();
    let many = (0..3000).map(|number| {
        let mut host = host.clone();
        host["name"] = json!(format!("host-{number}"));
        host["routes"][0]["route"]["cluster"] = json!(format!("missing-{number}"));
        remove(&mut host["routes"][1]["route"], "timeout");
        host
    });
    manager(&mut config)["route_config"]["virtual_hosts"] = many.collect();
    let report = checked(&config, &ours());
    assert_eq!((report.errors, report.findings.len()), (3000, 3000));
}

#[test]
fn the_command_prints_and_exits_as_it_promises() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("envoy.json");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_responses-router"));
        let output = command.args(["check", "--envoy"]).arg(&file).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let write = |config: &Value| std::fs::write(&file, config.to_string()).unwrap();
    write(&good());
    assert_eq!(run(&[]), (Some(0), "errors: 0, warnings: 0, for information: 0\n".to_owned(), String::new()));

    let mut bad = good();
    remove(&mut routes(&mut bad)[0]["route"], "timeout");
    remove(filter(&mut bad), "status_on_error");
    write(&bad);
    let (code, text, _) = run(&[]);
    assert_eq!(code, Some(1));
    insta::with_settings!({snapshot_path => "golden", prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!("check_envoy_prints", text);
    });
    let (code, text, _) = run(&["--format", "json"]);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &report["errors"], &report["warnings"]), (Some(1), &json!(1), &json!(1)));
    assert_eq!(report["findings"][0]["severity"], "error");

    write(&json!("text"));
    let (code, _, error) = run(&[]);
    assert!(code == Some(64) && error.contains("envoy.json: has no HTTP connection manager"), "{error}");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(run(&[]).0, Some(64));

    // The router's config is checked first, and says where Envoy should go.
    let config = folder.path().join("c.yaml");
    std::fs::write(&config, "server: {listen: 127.0.0.1:1}\n").unwrap();
    write(&good());
    let (code, text, _) = run(&["--config", config.to_str().unwrap()]);
    assert!(code == Some(0) && text.contains("[router_address]"), "{text}");
    std::fs::write(&config, "server: {lisen: x}\n").unwrap();
    assert_eq!(run(&["--config", config.to_str().unwrap()]).0, Some(64));
}

#[test]
fn errors_come_first() {
    let mut config = good();
    filter(&mut config)["message_timeout"] = json!("1s");
    remove(filter(&mut config), "status_on_error");
    filter(&mut config)["failure_mode_allow"] = json!(true);
    let severities: Vec<_> = checked(&config, &ours()).findings.iter().map(|finding| finding.severity).collect();
    assert_eq!(severities, [Severity::Error, Severity::Warning, Severity::Info]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn no_damage_to_a_config_panics_the_check(
        at in 0usize..12_000,
        cut in 0usize..200,
        insert in "[:{}\\[\\]&*!|>'\"#,\n\t$x0-9 -]{0,6}",
    ) {
        let text = include_str!("../envoy/envoy.yaml");
        let boundary = |from: usize| (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        let start = boundary(at.min(text.len()));
        let end = boundary((start + cut).min(text.len()));
        let _ = check(format!("{}{insert}{}", &text[..start], &text[end..]).as_bytes(), &ours());
    }

    #[test]
    fn no_value_in_the_place_of_another_panics_the_check(place in 0usize..400, with in 0usize..8) {
        fn replace(value: &mut Value, place: &mut usize, with: &Value) {
            if *place == 0 {
                *value = with.clone();
            }
            *place = place.wrapping_sub(1);
            match value {
                Value::Object(members) => members.values_mut().for_each(|member| replace(member, place, with)),
                Value::Array(items) => items.iter_mut().for_each(|item| replace(item, place, with)),
                _ => {}
            }
        }
        let values = [json!(null), json!(true), json!(-1), json!(1e300), json!(""), json!([]), json!({}), json!([[{"name": 1}]])];
        let mut config = good();
        replace(&mut config, &mut { place }, &values[with]);
        let _ = check(config.to_string().as_bytes(), &ours());
    }
}
