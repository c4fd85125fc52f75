//! The config as `/config` shows it.

use super::*;

#[test]
fn what_is_shown_is_a_config_that_shows_the_same() {
    let example =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/upstream-presets.yaml")).unwrap();
    for text in [
        "",
        "server: {listen: 'unix:/run/r.sock', socket_mode: '0660', admin_listen: '', threads: 3}",
        "server: {tls: {cert_path: /c, key_path: /k, client_ca_path: /ca}, drain_delay_seconds: 5}",
        "response_api: {store_backend: redis, store_deadline_ms: 250, redis: {address: 'unix:/s', cluster_addresses: ['[::1]:2']}}",
        "upstream: {forward_unknown: [a], split_think: implied, think_tags: [a, b], reasoning_effort_map: {low: null}}",
        "stream: {heartbeat_seconds: 0}\ntelemetry: {log_format: json, log_level: 'info,h2=warn'}",
        "telemetry: {otlp: {endpoint: 'http://h:4317', sample_ratio: 0.25, timeout_seconds: 2, service_name: a}}",
        &example,
    ] {
        let config = load(text).unwrap();
        let shown = config.shown();
        let again = load(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));
        assert_same(&again, &config);
        assert_eq!(again.shown(), shown);
    }
}

#[test]
fn every_key_of_the_file_is_shown_with_its_default() {
    let shown = Config::default().shown();
    let values: serde_yaml::Value = serde_yaml::from_str(&shown).unwrap();
    let default = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/config.yaml")).unwrap();
    let default: serde_yaml::Value = serde_yaml::from_str(&default).unwrap();
    fn keys(value: &serde_yaml::Value, path: &str, found: &mut Vec<String>) {
        for (key, value) in value.as_mapping().into_iter().flatten() {
            let path = format!("{path}.{}", key.as_str().unwrap());
            keys(value, &path, found);
            found.push(path);
        }
    }
    let (mut there, mut expected) = (Vec::new(), Vec::new());
    keys(&values, "", &mut there);
    keys(&default, "", &mut expected);
    let missing: Vec<_> = expected.iter().filter(|key| !there.contains(key)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn no_secret_is_shown() {
    // Whoever adds a key that holds a secret adds it here.
    let marker = "TWFya2VyTWFya2VyTWFya2VyTWFya2VyTWFya2VyTWE=";
    let text = r#"
response_api:
  reasoning_encryption: {keys: [{id: a, key: "MARKER"}]}
  redis: {username: "MARKER", password: "MARKER", sentinel_username: "MARKER", sentinel_password: "MARKER"}
telemetry: {otlp: {headers: {authorization: "MARKER"}}}
"#;
    let config = load(&text.replace("MARKER", marker)).unwrap();
    let shown = config.shown();
    assert!(!shown.contains("TWFy") && !format!("{config:?}").contains("PASSWORD"), "{shown}");
    assert_eq!(shown.matches("<masked>").count(), text.matches("MARKER").count(), "{shown}");
}
