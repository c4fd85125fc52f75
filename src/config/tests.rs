//! The loader as a whole: files in, config or error out.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::*;
use crate::translate::settings::{
    DeveloperRole, ForwardUnknown, MaxTokensField, ReasoningReplay, Settings, SystemMessages,
};

/// A directory of config files that is gone with the test.
struct Files(PathBuf);

impl Files {
    fn new() -> Files {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("responses-router-config-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        Files(directory)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn load_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let files = Files::new();
    let path = files.write("c.yaml", text);
    load_file(&files, &path, variables)
}

/// Loads a file; an error is rendered, with the directory taken out.
fn load_file(files: &Files, path: &Path, variables: &[(&str, &str)]) -> Result<Config, String> {
    let variables: HashMap<_, _> = variables.iter().copied().collect();
    let environment = |name: &str| variables.get(name).map(|value| (*value).to_owned());
    let directory = format!("{}/", files.0.display());
    Config::load(Some(path), &environment).map_err(|error| error.to_string().replace(&directory, ""))
}

fn load(text: &str) -> Result<Config, String> {
    load_with(text, &[])
}

fn assert_same(config: &Config, expected: &Config) {
    assert_eq!(format!("{config:#?}"), format!("{expected:#?}"));
}

/// Each text, and how its error begins.
fn assert_errors(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        match load(text) {
            Ok(_) => panic!("accepted:\n{text}"),
            Err(error) => {
                assert!(error.starts_with(expected), "{text}\nexpected {expected}\n     got {error}");
                assert!(!error.contains(" at line "), "a second position in {error}");
            }
        }
    }
}

#[test]
fn no_file_an_empty_one_and_empty_blocks_are_all_default() {
    let defaults = Config::load(None, &|_| None).unwrap();
    let blocks = "server:\nresponse_api:\n  redis:\nupstream: {}\nstream: null\nlimits: ~\ntelemetry:\n";
    for text in ["", "\n\n", "# only a comment\n", "---\n", "---\n...\n", "{}", "null", "\u{feff}", blocks] {
        assert_same(&load(text).unwrap(), &defaults);
    }
}

#[test]
fn config_yaml_equals_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/config.yaml");
    assert_same(&Config::load(Some(&path), &|_| None).unwrap(), &Config::default());
}

#[test]
fn config_yaml_has_every_key() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/config.yaml")).unwrap();
    let shown = format!("{:#?}", Config::default());
    let fields = shown.lines().filter_map(|line| line.trim().split_once(": ")).map(|(field, _)| field);
    let inner = ["host", "port"];
    let mut count = 0;
    for field in fields.filter(|field| !inner.contains(field)) {
        assert!(text.lines().any(|line| line.trim().starts_with(&format!("{field}:"))), "{field}");
        count += 1;
    }
    assert!(count > 45, "{count}");
}

#[test]
fn defaults_of_config_and_core_are_the_same() {
    assert_eq!(Config::default().translation(), Settings::default());
}

#[test]
fn every_setting_is_read() {
    let config = load(
        r#"
server: {listen: "unix:/run/router.sock", admin_listen: "", drain_seconds: 0, threads: 4}
response_api:
  enabled: false
  store_backend: memory
  ttl_seconds: 60
  max_responses: 5
  max_memory_bytes: 1024
  on_store_error: degrade
  store_deadline_ms: 250
  path_prefix: /openai
  redis:
    address: "[::1]:7000"
    password: 0123
    username: app
    db: 0
    key_prefix: mine
    cluster_mode: true
    cluster_addresses: ["a:1", b:2]
    pool_size: 20
    min_idle_conns: 0
    max_retries: 0
    dial_timeout: 10
    read_timeout: 5
    write_timeout: 6
    tls_enabled: true
    tls_cert_path: /c
    tls_key_path: /k
    tls_ca_path: /ca
upstream:
  chat_path: /chat?v=1
  default_model: qwen3
  forward_unknown: [top_k, min_p]
  system_messages: keep
  developer_role: developer
  max_tokens_field: max_completion_tokens
  reasoning_replay: always
  clear_route_cache: false
stream: {heartbeat_seconds: 0}
limits:
  max_request_bytes: 1
  max_answer_bytes: 2
  max_sse_frame_bytes: 3
  max_chain_depth: 4
  max_history_bytes: 5
  request_body_seconds: 6
  exchange_seconds: 7
telemetry: {log_format: json, log_level: "warn,responses_router=debug"}
"#,
    )
    .unwrap();

    let Config { server, response_api, stream, limits, telemetry, .. } = &config;
    assert_eq!(server.listen, Listen::Unix("/run/router.sock".into()));
    assert_eq!(server.admin_listen, None);
    assert_eq!(server.drain_seconds, Duration::ZERO);
    assert_eq!(server.threads.unwrap().get(), 4);
    assert!(!response_api.enabled);
    assert_eq!(response_api.ttl_seconds, Duration::from_secs(60));
    assert_eq!(response_api.max_responses.get(), 5);
    assert_eq!(response_api.max_memory_bytes, 1024);
    assert_eq!(response_api.on_store_error, OnStoreError::Degrade);
    assert_eq!(response_api.store_deadline_ms, Duration::from_millis(250));
    assert_eq!(response_api.path_prefix, "/openai");
    assert_eq!(stream.heartbeat_seconds, None);
    assert_eq!((limits.max_request_bytes, limits.max_chain_depth, limits.max_history_bytes), (1, 4, 5));
    assert_eq!(limits.request_body_seconds, Duration::from_secs(6));
    assert_eq!(limits.exchange_seconds, Duration::from_secs(7));
    assert_eq!(telemetry.log_format, LogFormat::Json);
    assert_eq!(telemetry.log_level, "warn,responses_router=debug");

    let redis = &response_api.redis;
    assert_eq!(redis.address.to_string(), "[::1]:7000");
    assert_eq!(redis.password.as_ref().unwrap().expose_secret(), "0123");
    assert_eq!(redis.username.as_deref(), Some("app"));
    assert_eq!(redis.key_prefix, "mine:");
    assert!(redis.cluster_mode && redis.tls_enabled);
    assert_eq!(redis.cluster_addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:1", "b:2"]);
    assert_eq!((redis.pool_size.get(), redis.min_idle_conns, redis.max_retries), (20, 0, 0));
    assert_eq!([redis.dial_timeout, redis.read_timeout, redis.write_timeout].map(|time| time.as_secs()), [10, 5, 6]);
    assert_eq!(redis.tls_cert_path, Some("/c".into()));
    assert_eq!(redis.tls_key_path, Some("/k".into()));
    assert_eq!(redis.tls_ca_path, Some("/ca".into()));

    assert_eq!(config.upstream.chat_path, "/chat?v=1");
    assert!(!config.upstream.clear_route_cache);
    assert_eq!(
        config.translation(),
        Settings {
            default_model: Some("qwen3".to_owned()),
            forward_unknown: ForwardUnknown::Only(vec!["top_k".to_owned(), "min_p".to_owned()]),
            system_messages: SystemMessages::Keep,
            developer_role: DeveloperRole::Developer,
            max_tokens_field: MaxTokensField::MaxCompletionTokens,
            reasoning_replay: ReasoningReplay::Always,
            max_answer_bytes: 2,
            max_sse_frame_bytes: 3,
        }
    );
}

#[test]
fn unknown_key_names_its_line_and_column() {
    assert_errors(&[
        ("sever:\n", "c.yaml:1:1: unknown field `sever`, expected one of `server`, "),
        ("# a\nserver:\n  listen: 127.0.0.1:1\n  lisen: x\n", "c.yaml:4:3: server: unknown field `lisen`, "),
        ("stream: {heartbeat: 3}\n", "c.yaml:1:10: stream: unknown field `heartbeat`, "),
        (
            "response_api:\n  redis:\n    db: 0\n    adress: x\n",
            "c.yaml:4:5: response_api.redis: unknown field `adress`, ",
        ),
        ("tenancy: {}\n", "c.yaml:1:1: unknown field `tenancy`"),
        ("server:\n  ${X}: 1\n", "c.yaml:2:3: server: unknown field `${X}`"),
        ("1: 2\n", "c.yaml:1:1: unknown field `1`"),
    ]);
}

#[test]
fn duplicate_key_names_the_line_and_column_of_the_second() {
    assert_errors(&[
        ("stream:\nstream:\n", "c.yaml:2:1: duplicate key `stream`"),
        (
            "limits:\n  max_chain_depth: 1\n  max_chain_depth: 1\n",
            "c.yaml:3:3: limits: duplicate key `max_chain_depth`",
        ),
        ("stream: {heartbeat_seconds: 1, 'heartbeat_seconds': 2}", "c.yaml:1:32: stream: duplicate key `heartbeat_sec"),
        ("response_api: {redis: {db: 0, db: 0}}", "c.yaml:1:31: response_api.redis: duplicate key `db`"),
    ]);
}

#[test]
fn wrong_type_names_its_line_and_column() {
    assert_errors(&[
        ("- a\n", "c.yaml:1:1: invalid type: sequence, expected a mapping of the config's blocks"),
        ("text\n", "c.yaml:1:1: invalid type: string \"text\", expected a mapping of the config's blocks"),
        ("server: 3\n", "c.yaml:1:9: server: invalid type: integer `3`, expected a mapping of the server settings"),
        (
            "response_api:\n  ttl_seconds: soon\n",
            "c.yaml:2:16: response_api.ttl_seconds: invalid type: string \"soon\"",
        ),
        ("response_api:\n  ttl_seconds: \"60\"\n", "c.yaml:2:16: response_api.ttl_seconds: invalid type: string"),
        ("response_api:\n  ttl_seconds: 1.5\n", "c.yaml:2:16: response_api.ttl_seconds: invalid type: floating"),
        ("response_api:\n  ttl_seconds:\n", "c.yaml:2:15: response_api.ttl_seconds: invalid type: unit value"),
        ("response_api:\n  enabled: 1\n", "c.yaml:2:12: response_api.enabled: invalid type: integer"),
        ("response_api:\n  enabled: yes\n", "c.yaml:2:12: response_api.enabled: invalid type: string"),
        (
            "response_api:\n  store_backend: milvus\n",
            "c.yaml:2:18: response_api.store_backend: unknown variant `milvus`",
        ),
        (
            "response_api:\n  store_backend: [memory]\n",
            "c.yaml:2:18: response_api.store_backend: invalid type: sequence",
        ),
        ("response_api: {redis: {password: [a]}}", "c.yaml:1:34: response_api.redis.password: invalid type: sequence"),
        ("response_api: {redis: {cluster_addresses: a}}", "c.yaml:1:43: response_api.redis.cluster_addresses: invalid"),
        ("upstream:\n  forward_unknown: some\n", "c.yaml:2:20: upstream.forward_unknown: invalid type: string"),
        ("upstream:\n  forward_unknown: [{}]\n", "c.yaml:2:21: upstream.forward_unknown[0]: invalid type: map"),
        ("upstream:\n  chat_path: {}\n", "c.yaml:2:14: upstream.chat_path: invalid type: map"),
        ("server:\n  threads: many\n", "c.yaml:2:12: server.threads: invalid type: text, expected a number of threads"),
        ("server: !x {}\n", "c.yaml:1:9: server: invalid type: enum"),
    ]);
}

#[test]
fn value_out_of_bounds_names_its_line_and_column() {
    assert_errors(&[
        ("server: {listen: 'localhost:1'}", "c.yaml:1:18: server.listen: must be an IP address and a port"),
        ("server: {listen: }", "c.yaml:1:18: server.listen: must be an IP address"),
        ("server: {admin_listen: x}", "c.yaml:1:24: server.admin_listen: must be an IP address"),
        (
            "server: {threads: 0}",
            "c.yaml:1:19: server.threads: invalid value: integer `0`, expected a number of threads",
        ),
        ("server: {threads: 4000}", "c.yaml:1:19: server.threads: invalid value"),
        ("server: {drain_seconds: -1}", "c.yaml:1:25: server.drain_seconds: must be at least 0"),
        ("response_api: {ttl_seconds: 0}", "c.yaml:1:29: response_api.ttl_seconds: must be at least 1"),
        ("response_api: {ttl_seconds: 9999999999}", "c.yaml:1:29: response_api.ttl_seconds: must be at most 31536"),
        ("response_api: {max_responses: 0}", "c.yaml:1:31: response_api.max_responses: must be at least 1"),
        ("response_api: {max_memory_bytes: 0}", "c.yaml:1:34: response_api.max_memory_bytes: must be at least 1"),
        ("response_api: {store_deadline_ms: 0}", "c.yaml:1:35: response_api.store_deadline_ms: must be at least 1"),
        ("response_api: {path_prefix: /a/}", "c.yaml:1:29: response_api.path_prefix: must not end with `/`"),
        ("response_api: {path_prefix: a}", "c.yaml:1:29: response_api.path_prefix: must begin with `/`"),
        ("response_api: {redis: {db: 16}}", "c.yaml:1:28: response_api.redis.db: must be at most 15"),
        ("response_api: {redis: {pool_size: 0}}", "c.yaml:1:35: response_api.redis.pool_size: must be at least 1"),
        ("response_api: {redis: {dial_timeout: 0}}", "c.yaml:1:38: response_api.redis.dial_timeout: must be at least"),
        ("response_api: {redis: {address: localhost}}", "c.yaml:1:33: response_api.redis.address: must be `host:port`"),
        (
            "response_api: {redis: {cluster_addresses: ['a:1', b]}}",
            "c.yaml:1:51: response_api.redis.cluster_addresses[1]",
        ),
        ("upstream: {chat_path: v1}", "c.yaml:1:23: upstream.chat_path: must begin with `/`"),
        ("limits: {max_chain_depth: 0}", "c.yaml:1:27: limits.max_chain_depth: must be at least 1"),
        ("limits: {exchange_seconds: 0}", "c.yaml:1:28: limits.exchange_seconds: must be at least 1"),
        ("telemetry: {log_level: verbose}", "c.yaml:1:24: telemetry.log_level: must be off, error, warn"),
    ]);
}

#[test]
fn contradiction_names_the_line_and_column_of_a_value_in_it() {
    let cluster = "response_api:\n  store_backend: redis\n  redis:\n    cluster_mode: true\n";
    assert_errors(&[
        (
            "server:\n  listen: 127.0.0.1:80\n  admin_listen: 127.0.0.1:80\n",
            "c.yaml:3:17: server.admin_listen: must not be the same as `listen`",
        ),
        ("server:\n  listen: 127.0.0.1:9190\n", "c.yaml:2:11: server.listen: must not be the same as `admin_listen`"),
        (&format!("{cluster}    db: 3\n"), "c.yaml:5:9: response_api.redis.db: must be 0 in cluster mode"),
        (cluster, "c.yaml:4:19: response_api.redis.cluster_mode: is true, so `cluster_addresses` must name a node"),
        (&format!("{cluster}    cluster_addresses: []\n"), "c.yaml:4:19: response_api.redis.cluster_mode: is true"),
        (
            "response_api:\n  redis:\n    cluster_mode: true\n    db: 1\n",
            "c.yaml:4:9: response_api.redis.db: must be 0 in cluster mode",
        ),
        (
            "response_api:\n  redis: {min_idle_conns: 9,\n    pool_size: 8}\n",
            "c.yaml:2:27: response_api.redis.min_idle_conns: must not be more than `pool_size`",
        ),
        (
            "response_api:\n  redis:\n    tls_cert_path: a\n",
            "c.yaml:3:20: response_api.redis.tls_cert_path: needs `tls_key_path` beside it",
        ),
        (
            "response_api:\n  redis:\n    tls_cert_path: ''\n    tls_key_path: a\n",
            "c.yaml:4:19: response_api.redis.tls_key_path: needs `tls_cert_path` beside it",
        ),
    ]);
}

#[test]
fn what_only_looks_like_a_contradiction_is_taken() {
    for text in [
        "server: {listen: '127.0.0.1:0', admin_listen: '127.0.0.1:0'}",
        "response_api: {redis: {cluster_mode: true}}",
        "response_api: {redis: {cluster_mode: false, db: 3}}",
    ] {
        load(text).unwrap();
    }
    assert_eq!(load("response_api: {redis: {pool_size: 1}}").unwrap().response_api.redis.min_idle_conns, 1);
}

#[test]
fn backends_that_are_not_offered_yet_are_refused_by_name() {
    assert_errors(&[
        (
            "response_api:\n  store_backend: redis\n",
            "c.yaml:2:18: response_api.store_backend: redis is not offered by this version yet",
        ),
        (
            "response_api:\n  store_backend: disk\n",
            "c.yaml:2:18: response_api.store_backend: disk is not offered by this version yet",
        ),
    ]);
}

#[test]
fn broken_yaml_names_its_line_and_column() {
    assert_errors(&[
        ("upstream:\n  forward_unknown: [\n", "c.yaml:3:1: "),
        ("server:\n\tlisten: x\n", "c.yaml:2:1: found character that cannot start any token"),
        ("@", "c.yaml:1:1: "),
        ("server: {}\n  x: 1\n", "c.yaml:2:"),
        ("stream: {heartbeat_seconds: *none}\n", "c.yaml:1:29: "),
        ("stream: {}\n---\nstream: {}\n", "c.yaml:3:1: "),
    ]);
}

#[test]
fn a_byte_order_mark_is_no_column() {
    assert_errors(&[("\u{feff}sever: 1\n", "c.yaml:1:1: unknown field `sever`")]);
}

#[test]
fn files_that_cannot_be_read_or_decoded_are_named() {
    let files = Files::new();
    let error = load_file(&files, &files.0.join("none.yaml"), &[]).unwrap_err();
    assert!(error.starts_with("none.yaml:1:1: none.yaml cannot be read: "), "{error}");
    let path = files.write("latin1.yaml", b"stream: {}\n# \xc3\xa4 \xe4\n");
    assert_eq!(load_file(&files, &path, &[]).unwrap_err(), "latin1.yaml:2:5: the file is not UTF-8 here");
}

#[test]
fn variables_become_what_the_setting_needs() {
    let text = "server: {listen: '${LISTEN}', threads: '${THREADS}'}\nresponse_api:\n  enabled: ${ON}\n  ttl_seconds: ${TTL}\n  \
                store_backend: ${BACKEND}\n  redis:\n    db: \"${DB:-7}\"\n    address: ${HOST}:${PORT:-6379}\nupstream:\n  \
                forward_unknown: ${FORWARD}\n  default_model: ${TTL}\n";
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
    assert_eq!(config.upstream.forward_unknown, ForwardUnknown::None);
    assert_eq!(config.upstream.default_model.as_deref(), Some("60"));
}

#[test]
fn variables_that_are_empty_leave_optional_settings_out() {
    let text = "server: {admin_listen: '${A:-}', threads: '${A:-}'}\nupstream: {default_model: '${A:-}'}\nresponse_api:\n  \
                redis: {password: '${A:-}', address: '${A:-}'}\n";
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

#[test]
fn redis_file_wins_over_inline_values() {
    let files = Files::new();
    let redis = files.write("redis.yaml", "address: file:1\npassword: ${P}\npool_size: 50\n");
    let text = format!(
        "response_api:\n  redis:\n    address: inline:1\n    username: app\n    config_path: '{}'\n",
        redis.display()
    );
    let redis = load_file(&files, &files.write("c.yaml", text), &[("P", "s3cret")]).unwrap().response_api.redis;
    assert_eq!(redis.address.to_string(), "file:1");
    assert_eq!(redis.password.unwrap().expose_secret(), "s3cret");
    assert_eq!(redis.username.as_deref(), Some("app"));
    assert_eq!(redis.pool_size.get(), 50);
    assert!(redis.config_path.unwrap().ends_with("redis.yaml"));
}

#[test]
fn errors_of_the_redis_file_name_it() {
    let inline = "response_api:\n  redis:\n    db: 3\n    config_path: ${FILE}\n";
    for (file, expected) in [
        ("pool_size: 0\n", "redis.yaml:1:12: pool_size: must be at least 1"),
        ("db: 0\nredis: {}\n", "redis.yaml:2:1: unknown field `redis`, expected one of `address`, "),
        ("db: 1\ndb: 1\n", "redis.yaml:2:1: duplicate key `db`"),
        ("# x\npassword: ${NOPE}\n", "redis.yaml:2:11: password: the environment variable `NOPE` is not set"),
        ("cluster_mode: true\ndb: 5\n", "redis.yaml:2:5: response_api.redis.db: must be 0 in cluster mode"),
        ("cluster_mode: true\n", "c.yaml:3:9: response_api.redis.db: must be 0 in cluster mode"),
        ("config_path: other.yaml\n", "redis.yaml:1:14: response_api.redis.config_path: must not stand in the file"),
    ] {
        let files = Files::new();
        let redis = files.write("redis.yaml", file);
        let error = load_file(&files, &files.write("c.yaml", inline), &[("FILE", &redis.display().to_string())]);
        let error = error.unwrap_err();
        assert!(error.starts_with(expected), "{file}\nexpected {expected}\n     got {error}");
    }
}

#[test]
fn redis_file_that_cannot_be_read_is_reported_where_it_is_named() {
    let files = Files::new();
    let main = files.write("c.yaml", "response_api:\n  redis:\n    config_path: \"${DIR}none.yaml\"\n");
    let error = load_file(&files, &main, &[("DIR", &format!("{}/", files.0.display()))]).unwrap_err();
    assert!(error.starts_with("c.yaml:3:18: none.yaml cannot be read: "), "{error}");
}

#[test]
fn the_guides_own_example_is_read() {
    let config = load(
        "response_api:\n  enabled: true\n  store_backend: \"memory\"\n  ttl_seconds: 86400\n  max_responses: 1000\n  redis:\n    \
         cluster_mode: true\n    cluster_addresses:\n      - \"127.0.0.1:7001\"\n      - \"127.0.0.1:7002\"\n    db: 0  # MUST \
         be 0\n    key_prefix: \"sr:\"\n    pool_size: 20\n    max_retries: 5\n    dial_timeout: 10\n",
    );
    assert_eq!(config.unwrap().response_api.redis.cluster_addresses.len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn no_text_panics_the_loader(text in "\\PC*|[-a-c:{}\\[\\]&*!|>'\"%@`#?, \n\t$<~0-9]{0,60}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_damage_to_the_shipped_file_panics_the_loader(at in 0usize..6000, cut in 0usize..40, insert in "[:{}\\[\\]&*!|>'\"#,\n\t$x -]{0,4}") {
        let text = include_str!("../../config/config.yaml");
        let start = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let end = (start + cut..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        let damaged = format!("{}{insert}{}", &text[..start], &text[end..]);
        if let Err(error) = parse(&damaged) {
            let place = error.place();
            prop_assert!(place.line >= 1 && place.line <= damaged.lines().count() + 1 && place.column >= 1, "{}", error);
        }
    }

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

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::of(&Source::of("c.yaml", text), Environment(&|_| Some("7".to_owned())))
}
