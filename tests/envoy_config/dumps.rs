//! Config dumps: each fault is told once, and only of what serves.

use serde_json::{Value, json};

use super::{checked, cluster, filter, findings, good, ours, remove};

/// A dump as Envoy's admin page has it: the bootstrap, and what became of it.
fn dump(config: &Value) -> Value {
    let typed = |kind: &str, value: &Value| {
        let mut value = value.clone();
        value["@type"] = json!(format!("type.googleapis.com/envoy.{kind}"));
        value
    };
    let all = |name: &str, kind: &str, values: &Value| -> Vec<_> {
        values.as_array().unwrap().iter().map(|value| json!({name: typed(kind, value)})).collect()
    };
    let listeners = all("listener", "config.listener.v3.Listener", &config["static_resources"]["listeners"]);
    let clusters = all("cluster", "config.cluster.v3.Cluster", &config["static_resources"]["clusters"]);
    json!({"configs": [
        typed("admin.v3.BootstrapConfigDump", &json!({"bootstrap": config})),
        typed("admin.v3.ClustersConfigDump", &json!({"static_clusters": clusters})),
        typed("admin.v3.ListenersConfigDump", &json!({"static_listeners": listeners})),
    ]})
}

/// A config with a fault in its listener and one in the router's cluster.
fn bad() -> Value {
    let mut config = good();
    filter(&mut config)["failure_mode_allow"] = json!(true);
    remove(cluster(&mut config, 1), "circuit_breakers");
    config
}

#[test]
fn a_dump_tells_each_fault_once() {
    let faults = ["failure_mode_allow", "router_circuit_breakers"];
    let all = dump(&bad());
    let report = checked(&all, &ours());
    assert_eq!(report.findings.iter().map(|finding| finding.rule).collect::<Vec<_>>(), faults, "{report}");
    let places = ["configs[2].static_listeners[0].listener.", "configs[1].static_clusters[1].cluster."];
    for (finding, place) in report.findings.iter().zip(places) {
        assert!(finding.path.starts_with(place), "{report}");
    }
    // A part of one, where the bootstrap is all that tells.
    for left in [&[0][..], &[0, 1], &[0, 2], &[1, 2]] {
        let part: Vec<_> = left.iter().map(|index| all["configs"][*index].clone()).collect();
        assert_eq!(findings(&json!({"configs": part})), faults, "{left:?}");
    }
    let mut filtered = all;
    filtered["configs"][2]["static_listeners"] = json!([]);
    filtered["configs"][1]["static_clusters"] = json!([]);
    assert_eq!(findings(&filtered), faults);
}

#[test]
fn listeners_that_serve_nobody_have_no_faults() {
    let dynamic = |states: &[(&str, &Value)]| {
        let mut dump = dump(&good());
        let listener = |config| json!({"listener": dump_of_listener(config)});
        let mut states: Value = states.iter().map(|(state, config)| ((*state).to_owned(), listener(config))).collect();
        if let Some(error) = states.get_mut("error_state") {
            *error = json!({"failed_configuration": error["listener"], "details": "no"});
        }
        dump["configs"][0]["bootstrap"]["static_resources"]["listeners"] = json!([]);
        dump["configs"][2] = json!({"@type": dump["configs"][2]["@type"], "dynamic_listeners": [states]});
        findings(&dump)
    };
    let (good, bad) = (&good(), &bad());
    for state in ["draining_state", "error_state", "warming_state"] {
        assert_eq!(dynamic(&[("active_state", good), (state, bad)]), Vec::<&str>::new(), "{state}");
        assert_eq!(dynamic(&[("active_state", bad), (state, good)]), ["failure_mode_allow"], "{state}");
    }
    // What is to serve first.
    assert_eq!(dynamic(&[("warming_state", bad)]), ["failure_mode_allow"]);
}

fn dump_of_listener(config: &Value) -> Value {
    dump(config)["configs"][2]["static_listeners"][0]["listener"].clone()
}
