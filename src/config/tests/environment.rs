//! Variables of the environment in a file.

use super::*;

#[test]
fn variables_become_what_the_setting_needs() {
    let text = r#"
server: {listen: '${LISTEN}', threads: '${THREADS}'}
response_api:
  enabled: ${ON}
  ttl_seconds: ${TTL}
  store_backend: ${BACKEND}
  redis:
    db: "${DB:-7}"
    address: ${HOST}:${PORT:-6379}
upstream:
  forward_unknown: ${FORWARD}
  default_model: ${TTL}
"#;
    let variables = [
        ("LISTEN", "0.0.0.0:1"),
        ("THREADS", "2"),
        ("ON", "false"),
        ("TTL", "60"),
        ("BACKEND", "memory"),
        ("HOST", "redis.local"),
        ("FORWARD", "false"),
    ];
    let config = load_with(text, &variables).unwrap();
    assert_eq!(config.server.listen.to_string(), "0.0.0.0:1");
    assert_eq!(config.server.threads.unwrap().get(), 2);
    assert!(!config.response_api.enabled);
    assert_eq!(config.response_api.ttl_seconds, Duration::from_secs(60));
    assert_eq!(config.response_api.redis.db, 7);
    assert_eq!(config.response_api.redis.address.to_string(), "redis.local:6379");
    assert_eq!(config.upstream.forward_unknown, Some(ForwardUnknown::None));
    assert_eq!(config.upstream.default_model.as_deref(), Some("60"));
}

#[test]
fn variables_that_are_empty_leave_optional_settings_out() {
    let text = r#"
server: {admin_listen: '${A:-}', threads: '${A:-}'}
upstream: {default_model: '${A:-}'}
response_api: {redis: {password: '${A:-}', address: '${A:-}'}}
"#;
    let config = load(text).unwrap();
    assert_eq!((config.server.admin_listen, config.server.threads), (None, None));
    assert_eq!(config.upstream.default_model, None);
    assert!(config.response_api.redis.password.is_none());
    assert_eq!(config.response_api.redis.address, Redis::default().address);
}

#[test]
fn no_value_of_the_environment_becomes_structure() {
    for value in [
        "a: b",
        "a # b",
        "\"",
        "'",
        "x\ny: 1\n",
        "]}, {",
        "*a",
        "&a",
        "!t",
        "- a",
        "|",
        "%",
        "null",
        "60",
        "true",
        "${P}",
        "$${",
        "\\n",
        "ü\u{0}\u{2028}",
    ] {
        for written in ["${P}", "\"${P}\"", "'${P}'", ">-\n      ${P}", "|-\n      ${P}"] {
            let text = format!("response_api:\n  redis:\n    password: {written}\n    db: 4\n");
            let config = load_with(&text, &[("P", value)]).unwrap();
            let redis = config.response_api.redis;
            assert_eq!(redis.password.unwrap().expose_secret(), value, "{written}");
            assert_eq!(redis.db, 4);
        }
    }
}

#[test]
fn unset_and_malformed_variables_name_their_line_and_column() {
    assert_errors(&[
        (
            "response_api:\n  redis:\n    password: x${NOPE}\n",
            "c.yaml:3:15: response_api.redis.password: the environment variable `NOPE` is not set and has no default",
        ),
        (
            "limits:\n  max_chain_depth: ${NOPE}\n",
            "c.yaml:2:20: limits.max_chain_depth: the environment variable `NOPE`",
        ),
        ("upstream:\n  forward_unknown: ['${NOPE}']\n", "c.yaml:2:21: upstream.forward_unknown[0]: the environment"),
        ("response_api:\n  on_store_error: ${NOPE}\n", "c.yaml:2:19: response_api.on_store_error: the environment"),
        ("server:\n  listen: ${NOPE\n", "c.yaml:2:11: server.listen: `${` must be followed by"),
    ]);
}

#[test]
fn comments_and_escapes_are_not_expanded() {
    let config = load("# ${NOPE}\nstream: {} # ${NOPE}\nresponse_api: {redis: {password: 'a$${b}$c'}}\n").unwrap();
    assert_eq!(config.response_api.redis.password.unwrap().expose_secret(), "a${b}$c");
}

#[test]
fn places_after_a_variable_with_many_lines_are_right() {
    let text = "response_api: {redis: {password: \"${P}\", db: 99}}\n";
    let error = load_with(text, &[("P", "1\n2\n3: 4")]).unwrap_err();
    assert_eq!(error, "c.yaml:1:46: response_api.redis.db: must be at most 15");
}

#[test]
fn no_error_and_no_debug_shows_a_secret() {
    let secret = [("P", "hunter2")];
    assert_eq!(
        load_with("response_api: {enabled: '${P}'}", &[("P", "4711")]).unwrap_err(),
        "c.yaml:1:25: response_api.enabled: invalid type: what the variable gives is not a boolean"
    );
    assert_eq!(
        load_with("telemetry: {log_format: '${P}'}", &secret).unwrap_err(),
        "c.yaml:1:25: telemetry.log_format: what the variable gives is not one of `text`, `json`"
    );
    for setting in [
        "response_api: {ttl_seconds: '${P}'}",
        "response_api: {enabled: '${P}'}",
        "response_api: {redis: {address: '${P}'}}",
        "response_api: {redis: {db: '${P}'}}",
        "response_api: {redis: '${P}'}",
        "response_api: {store_backend: '${P}'}",
        "upstream: {forward_unknown: '${P}'}",
        "upstream: {chat_path: '${P}'}",
        "limits: {max_chain_depth: '-${P}'}",
        "response_api: {path_prefix: '${P}'}",
        "server: {listen: '${P}'}",
        "server: {threads: '${P}'}",
        "telemetry: {log_level: '${P}'}",
    ] {
        let error = load_with(setting, &secret).unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
    let config = load_with("response_api: {redis: {password: '${P}'}}", &secret).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn any_value_of_the_environment_arrives_intact(value in "(?s).+") {
        let text = "response_api: {redis: {password: \"${P}\"}}";
        let source = Source::of("c.yaml", text);
        let variables = |_: &str| Some(value.clone());
        let config: Config = source.parse(Environment(&variables)).unwrap();
        let password = config.response_api.redis.password.unwrap();
        prop_assert_eq!(password.expose_secret(), &value);
    }
}
