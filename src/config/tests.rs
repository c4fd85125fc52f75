//! The loader as a whole: files in, config or error out.

mod environment;
mod errors;
mod shown;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::*;
use crate::openai::dialect::ApiDialect;
use crate::openai::json_bounds::JsonBounds;
use crate::translate::presets::Preset;
use crate::translate::settings::{
    AssistantContent, DeveloperRole, EffortForm, EffortMap, ForwardUnknown, HistoryRepair, InputFiles, JsonSchemaForm,
    MaxTokensField, NamedToolChoice, ReasoningField, ReasoningReplay, RequestBounds, ResponseFormatWithTools,
    SendOrDrop, Settings, SplitThink, SystemMessages, ThinkTags, ToolOutputMedia, UnsupportedTools,
};
use crate::translate::upstream_dialect::UpstreamDialect;

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
fn sealing_keys_are_read_from_the_environment_and_from_files() {
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), format!("{key}\n")).unwrap();
    let text = format!(
        "response_api:\n  reasoning_encryption:\n    keys:\n      - {{id: new, key: \"${{KEY}}\"}}\n      - {{id: old, file: '{}'}}\n",
        file.path().display()
    );
    let config = Source::of("c.yaml", &text);
    let config = Config::of(&config, Environment(&|name| (name == "KEY").then(|| key.to_owned()))).unwrap();
    let keys = &config.response_api.reasoning_encryption.keys;
    assert_eq!(keys.iter().map(crate::sealing::SealingKey::id).collect::<Vec<_>>(), ["new", "old"]);
    assert!(!format!("{config:?}").contains(key));
}

#[test]
fn sealing_keys_that_cannot_be_used_are_refused_at_their_place_and_never_shown() {
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    for (entries, problem) in [
        (format!("[{{id: a, key: {key}}}, {{id: a, key: {key}}}]"), "an id of its own"),
        ("[{id: a}]".to_owned(), "either `key` or `file`"),
        (format!("[{{id: a, key: {key}, file: x}}]"), "either `key` or `file`"),
        ("[{id: a, key: c2VjcmV0}]".to_owned(), "base64 of 32 random bytes"),
        (format!("[{{id: 'a b', key: {key}}}]"), "an id must have"),
        ("[{id: a, file: /nowhere/at/all}]".to_owned(), "cannot be read"),
        (format!("[{{id: a, key: {key}, other: 1}}]"), "unknown field"),
        (key.to_owned(), "must be a list of keys"),
        (format!("[{key}]"), "must be a mapping"),
    ] {
        let text = format!("response_api:\n  reasoning_encryption:\n    keys: {entries}\n");
        let config = Source::of("c.yaml", &text);
        let error = Config::of(&config, Environment(&|_| None)).unwrap_err().to_string();
        assert!(error.starts_with("c.yaml:3:") && error.contains(problem), "{entries}: {error}");
        assert!(!error.contains(key) && !error.contains("c2VjcmV0"), "{error}");
    }
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
server: {listen: "unix:/run/router.sock", socket_mode: "0660", admin_listen: "", drain_seconds: 0, drain_delay_seconds: 3, threads: 4}
response_api:
  enabled: false
  dialect: semantic_router
  store_backend: memory
  ttl_seconds: 60
  max_responses: 5
  max_memory_bytes: 1024
  on_store_error: degrade
  store_deadline_ms: 250
  path_prefix: /openai
  unsupported_tools: refuse
  disk: {path: /var/lib/r.redb, max_bytes: 9, cache_bytes: 8}
  redis:
    address: "[::1]:7000"
    password: 0123
    username: app
    db: 0
    key_prefix: mine
    cluster_mode: true
    cluster_addresses: ["a:1", b:2]
    sentinel_username: watcher
    sentinel_password: 0456
    pool_size: 20
    min_idle_conns: 0
    max_retries: 0
    dial_timeout: 10
    read_timeout: 5
    write_timeout: 6
    max_pending_bytes: 1000
    breaker_seconds: 2
    compression: zstd
    min_replica_acks: 1
    on_missing_acks: fail
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
  reasoning_field: reasoning
  reasoning_effort: both
  reasoning_effort_map: {none: null, xhigh: high}
  response_format_with_tools: withhold
  json_schema: json_object
  strict_tools: drop
  parallel_tool_calls: drop
  named_tool_choice: required
  stream_options: drop
  assistant_content: string
  files: send
  tool_output_media: parts
  split_think: implied
  think_tags: ["<t>", "</t>"]
  clear_route_cache: false
history: {repair: repair}
stream: {heartbeat_seconds: 0}
limits:
  max_request_bytes: 1
  max_answer_bytes: 2
  max_sse_frame_bytes: 3
  max_stream_events: 8
  max_argument_bytes: 9
  max_json_depth: 10
  max_json_values: 11
  max_input_items: 12
  max_tools: 13
  max_metadata_pairs: 14
  max_metadata_key_chars: 15
  max_metadata_value_chars: 16
  max_live_exchanges: 17
  max_buffered_bytes: 18
  request_body_bytes_per_second: 0
  max_chain_depth: 4
  max_history_bytes: 5
  request_body_seconds: 6
  exchange_seconds: 7
tenancy:
  source: jwt_claim
  header: X-Org
  metadata: {namespace: n, path: [a, b]}
  jwt_claim: {payload: p, path: ["https://example.com/org", id]}
  required: false
  in_key: true
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
    let Disk { path, max_bytes, cache_bytes } = &response_api.disk;
    assert_eq!((path.to_str(), max_bytes.map(u64::from), *cache_bytes), (Some("/var/lib/r.redb"), Some(9), 8));
    assert_eq!(stream.heartbeat_seconds, None);
    assert_eq!((limits.max_request_bytes, limits.max_chain_depth, limits.max_history_bytes), (1, 4, 5));
    assert_eq!((limits.max_live_exchanges, limits.max_buffered_bytes), (17, 18));
    assert_eq!(limits.request_body_seconds, Duration::from_secs(6));
    assert_eq!(limits.request_body_bytes_per_second, None);
    assert_eq!(limits.exchange_seconds, Duration::from_secs(7));
    let Tenancy { source, header, metadata, jwt_claim, required, in_key, .. } = &config.tenancy;
    assert_eq!((*source, header.as_str(), *required, *in_key), (TenantSource::JwtClaim, "x-org", false, true));
    assert_eq!((&*metadata.namespace, metadata.path.join("/")), ("n", "a/b".to_owned()));
    assert_eq!((&*jwt_claim.payload, jwt_claim.path.join(" ")), ("p", "https://example.com/org id".to_owned()));
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
    assert_eq!(redis.sentinel_username.as_deref(), Some("watcher"));
    assert_eq!(redis.sentinel_password.as_ref().unwrap().expose_secret(), "0456");
    assert_eq!((redis.max_pending_bytes.get(), redis.breaker_seconds), (1000, Duration::from_secs(2)));
    assert_eq!((redis.compression, redis.min_replica_acks), (Compression::Zstd, 1));
    assert_eq!(redis.on_missing_acks, OnMissingAcks::Fail);
    assert_eq!(redis.tls_cert_path, Some("/c".into()));
    assert_eq!(redis.tls_key_path, Some("/k".into()));
    assert_eq!(redis.tls_ca_path, Some("/ca".into()));

    assert_eq!(config.upstream.chat_path, "/chat?v=1");
    assert!(!config.upstream.clear_route_cache);
    let effort_map = [("none".to_owned(), None), ("xhigh".to_owned(), Some("high".to_owned()))];
    assert_eq!(
        config.translation(),
        Settings {
            default_model: Some("qwen3".to_owned()),
            dialect: UpstreamDialect {
                forward_unknown: ForwardUnknown::Only(vec!["top_k".to_owned(), "min_p".to_owned()]),
                system_messages: SystemMessages::Keep,
                developer_role: DeveloperRole::Developer,
                max_tokens_field: MaxTokensField::MaxCompletionTokens,
                reasoning_replay: ReasoningReplay::Always,
                reasoning_field: ReasoningField::Reasoning,
                reasoning_effort: EffortForm::Both,
                reasoning_effort_map: EffortMap(effort_map.into_iter().collect()),
                response_format_with_tools: ResponseFormatWithTools::Withhold,
                json_schema: JsonSchemaForm::JsonObject,
                strict_tools: SendOrDrop::Drop,
                parallel_tool_calls: SendOrDrop::Drop,
                named_tool_choice: NamedToolChoice::Required,
                stream_options: SendOrDrop::Drop,
                assistant_content: AssistantContent::String,
                files: InputFiles::Send,
                tool_output_media: ToolOutputMedia::Parts,
                split_think: SplitThink::Implied,
                think_tags: ThinkTags { open: "<t>".to_owned(), close: "</t>".to_owned() },
            },
            models: Vec::new(),
            api: ApiDialect::SEMANTIC_ROUTER,
            history_repair: HistoryRepair::Repair,
            unsupported_tools: UnsupportedTools::Refuse,
            max_answer_bytes: 2,
            max_sse_frame_bytes: 3,
            max_stream_events: 8,
            max_argument_bytes: 9,
            request: RequestBounds {
                json: JsonBounds { max_depth: 10, max_values: 11 },
                max_input_items: 12,
                max_tools: 13,
                max_metadata_pairs: 14,
                max_metadata_key_chars: 15,
                max_metadata_value_chars: 16,
            },
        }
    );
}

#[test]
fn a_models_keys_win_over_its_preset_and_that_over_the_blocks_keys_and_their_preset() {
    let settings = load(
        r#"
upstream:
  preset: deepseek
  reasoning_replay: never
  models:
    - {match: "gpt-*", preset: openai, files: refuse}
    - {match: "gpt-oss*", reasoning_effort: drop}
    - match: "*"
      developer_role: developer
"#,
    )
    .unwrap()
    .translation();
    let of = |model| settings.for_model(model);

    // No entry says what the block and its preset say, unless the block has a key of its own.
    let block = &settings.dialect;
    assert_eq!(block.json_schema, JsonSchemaForm::JsonObject);
    assert_eq!(block.reasoning_replay, ReasoningReplay::Never);
    // The first entry that fits counts, though a later one fits better.
    assert_eq!(of("gpt-oss-20b"), of("gpt-5"));
    // The entry's preset wins over the block's keys and preset, the entry's keys over both.
    assert_eq!(of("gpt-5").json_schema, JsonSchemaForm::Send);
    assert_eq!(of("gpt-5").files, InputFiles::Refuse);
    // What an entry leaves open is as in the block.
    assert_eq!(*of("other"), UpstreamDialect { developer_role: DeveloperRole::Developer, ..block.clone() });
}

#[test]
fn a_null_key_says_nothing() {
    let settings = load("upstream: {preset: vllm, reasoning_field: null, think_tags: , models: []}").unwrap();
    assert_eq!(settings.translation().dialect, UpstreamDialect::default().with(Preset::Vllm.keys()));
}

#[test]
fn sentinels_and_a_socket_are_read() {
    let sentinels = load(
        "response_api: {store_backend: redis, redis: {sentinel_addresses: ['a:1', 'b:2'], sentinel_service: mymaster}}",
    );
    let redis = sentinels.unwrap().response_api.redis;
    assert_eq!(redis.sentinel_addresses.len(), 2);
    assert_eq!(redis.sentinel_service.as_deref(), Some("mymaster"));
    let socket = load("response_api: {store_backend: redis, redis: {address: 'unix:/run/redis.sock'}}");
    assert_eq!(socket.unwrap().response_api.redis.address, RedisServer::Unix("/run/redis.sock".into()));
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
fn the_example_of_presets_speaks_each_backends_dialect() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/upstream-presets.yaml");
    let settings = Config::load(Some(&path), &|_| None).unwrap().translation();
    let dialect = |preset: Preset| UpstreamDialect::default().with(preset.keys());
    assert_eq!(*settings.for_model("meta-llama/Llama-4"), dialect(Preset::Vllm));
    assert_eq!(*settings.for_model("gpt-5.5"), dialect(Preset::Openai));
    assert_eq!(settings.for_model("deepseek-v4-pro").reasoning_effort, EffortForm::Thinking);
    assert_eq!(settings.for_model("llama3.2:3b").reasoning_effort, EffortForm::Drop);
    let qwen = settings.for_model("Qwen/Qwen3.8-27B");
    assert_eq!((qwen.split_think, qwen.reasoning_field), (SplitThink::Implied, ReasoningField::Reasoning));
    assert_eq!(qwen.reasoning_effort_map.get("high"), Some("xhigh"));
}

/// The config of somebody who points to one of the files in `config/response-api`.
fn with_example(name: &str, variables: &[(&str, &str)]) -> Result<Redis, String> {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/response-api").join(name);
    let text = format!("response_api:\n  redis:\n    config_path: '{}'\n", example.display());
    load_with(&text, variables).map(|config| config.response_api.redis)
}

#[test]
fn the_example_of_one_server_is_the_default() {
    let redis = with_example("redis-simple.yaml", &[]).unwrap();
    let config_path = redis.config_path.clone();
    assert_eq!(format!("{redis:#?}"), format!("{:#?}", Redis { config_path, ..Redis::default() }));
}

#[test]
fn the_example_of_a_cluster_names_the_nodes_that_make_starts() {
    let redis = with_example("redis-cluster.yaml", &[]).unwrap();
    assert!(redis.cluster_mode && !redis.tls_enabled);
    let nodes: Vec<_> = redis.cluster_addresses.iter().map(ToString::to_string).collect();
    assert_eq!(nodes, (7001..=7006).map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>());
    assert_eq!((redis.pool_size.get(), redis.max_retries, redis.dial_timeout.as_secs()), (20, 5, 10));
}

#[test]
fn the_example_for_production_has_tls_and_does_not_start_without_its_password() {
    let redis = with_example("redis-production.yaml", &[("REDIS_PASSWORD", "s3cret")]).unwrap();
    assert_eq!(redis.password.unwrap().expose_secret(), "s3cret");
    assert!(redis.tls_enabled && redis.username.is_none());
    assert!([redis.tls_ca_path, redis.tls_cert_path, redis.tls_key_path].iter().all(Option::is_some));
    let error = with_example("redis-production.yaml", &[]).unwrap_err();
    assert!(error.contains("the environment variable `REDIS_PASSWORD` is not set"), "{error}");
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
    let text = r#"
response_api:
  enabled: true
  store_backend: "memory"
  ttl_seconds: 86400
  max_responses: 1000
  redis:
    cluster_mode: true
    cluster_addresses:
      - "127.0.0.1:7001"
      - "127.0.0.1:7002"
    db: 0  # MUST be 0 for cluster
    key_prefix: "sr:"
    pool_size: 20
    max_retries: 5
    dial_timeout: 10
"#;
    assert_eq!(load(text).unwrap().response_api.redis.cluster_addresses.len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn no_text_panics_the_loader(text in "\\PC*|[-a-c:{}\\[\\]&*!|>'\"%@`#?, \n\t$<~0-9]{0,60}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_damage_to_the_shipped_file_panics_the_loader(
        at in 0usize..6000,
        cut in 0usize..40,
        insert in "[:{}\\[\\]&*!|>'\"#,\n\t$x -]{0,4}",
    ) {
        let text = include_str!("../../config/config.yaml");
        let start = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let end = (start + cut..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        let damaged = format!("{}{insert}{}", &text[..start], &text[end..]);
        if let Err(error) = parse(&damaged) {
            let place = error.place();
            let lines = damaged.lines().count() + 1;
            prop_assert!((1..=lines).contains(&place.line) && place.column >= 1, "{}", error);
        }
    }
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::of(&Source::of("c.yaml", text), Environment(&|_| Some("7".to_owned())))
}
