//! What is wrong in a file, and where the error says it is.

use super::*;

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
        (
            "upstream:\n  presets: vllm\n",
            "c.yaml:2:3: upstream: unknown field `presets`, expected one of `chat_path`, ",
        ),
        (
            "upstream:\n  models:\n    - match: a\n      strict_tool: drop\n",
            "c.yaml:4:7: upstream.models[0]: unknown field `strict_tool`, expected one of `match`, ",
        ),
        ("tenants: {}\n", "c.yaml:1:1: unknown field `tenants`"),
        ("tenancy:\n  sources: x\n", "c.yaml:2:3: tenancy: unknown field `sources`, expected one of `source`, "),
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
        ("text\n", "c.yaml:1:1: invalid type: string, expected a mapping of the config's blocks"),
        ("server: 3\n", "c.yaml:1:9: server: invalid type: integer, expected a mapping of the server settings"),
        (
            "response_api:\n  ttl_seconds: soon\n",
            "c.yaml:2:16: response_api.ttl_seconds: invalid type: string, expected",
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
        ("upstream: {preset: tgi}", "c.yaml:1:20: upstream.preset: unknown variant `tgi`, expected one of `vllm`, "),
        ("upstream: {models: {}}", "c.yaml:1:20: upstream.models: invalid type: map, expected a sequence"),
        ("upstream:\n  models:\n    - preset: vllm\n", "c.yaml:3:7: upstream.models[0]: missing field `match`"),
        ("upstream: {models: [{match: [a]}]}", "c.yaml:1:29: upstream.models[0].match: invalid type: sequence"),
        ("upstream: {models: [{match: a, files: maybe}]}", "c.yaml:1:39: upstream.models[0].files: unknown variant"),
        ("upstream: {split_think: inferred}", "c.yaml:1:25: upstream.split_think: must be true, false or implied"),
        ("upstream: {think_tags: [a]}", "c.yaml:1:24: upstream.think_tags: must be two tags of 1 to 64 bytes"),
        ("upstream: {think_tags: ['', b]}", "c.yaml:1:24: upstream.think_tags: must be two tags of 1 to 64 bytes"),
        ("upstream: {reasoning_effort_map: [a]}", "c.yaml:1:34: upstream.reasoning_effort_map: invalid type: sequence"),
        ("history: {repair: maybe}", "c.yaml:1:19: history.repair: unknown variant `maybe`"),
        ("upstream:\n  chat_path: {}\n", "c.yaml:2:14: upstream.chat_path: invalid type: map"),
        ("server:\n  threads: many\n", "c.yaml:2:12: server.threads: invalid type: text, expected a number of threads"),
        ("server: {tls: yes}", "c.yaml:1:15: server.tls: invalid type: string"),
        ("server:\n  tls:\n    cert_path: c\n", "c.yaml:3:5: server.tls: missing field `key_path`"),
        ("server:\n  tls: {cert_path: c, key_path: k, ca: x}\n", "c.yaml:2:36: server.tls: unknown field `ca`"),
        ("server: !x {}\n", "c.yaml:1:9: server: invalid type: enum"),
    ]);
}

#[test]
fn a_value_of_a_wrong_type_is_not_repeated_because_it_may_be_a_secret_in_the_wrong_place() {
    for setting in [
        "response_api: {encryption: hunter2}",
        "response_api: {encryption: 'x, expected hunter2'}",
        "response_api: {encryption: {keys: hunter2}}",
        "response_api: {reasoning_encryption: hunter2}",
        "response_api: {redis: hunter2}",
        "tenancy: {source: authorization, authorization: hunter2}",
        "telemetry: {otlp: hunter2}",
        "tenancy: {source: authorization, authorization: 4711}",
        "telemetry: {otlp: {headers: 47.11}}",
    ] {
        let error = load(setting).unwrap_err().to_string();
        assert!(!error.contains("hunter2") && !error.contains("4711") && !error.contains("47.11"), "{error}");
    }
}

#[test]
fn value_out_of_bounds_names_its_line_and_column() {
    assert_errors(&[
        ("server: {listen: 'localhost:1'}", "c.yaml:1:18: server.listen: must be an IP address and a port"),
        ("server: {listen: }", "c.yaml:1:18: server.listen: must be an IP address"),
        ("server: {socket_mode: 0o660}", "c.yaml:1:23: server.socket_mode: must be three octal digits"),
        ("server: {socket_mode: '0668'}", "c.yaml:1:23: server.socket_mode: must be three octal digits"),
        ("server: {tls: {cert_path: '', key_path: k}}", "c.yaml:1:27: server.tls.cert_path: must name a file"),
        ("server: {drain_delay_seconds: -1}", "c.yaml:1:31: server.drain_delay_seconds: must be at least 0"),
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
        ("response_api: {disk: {path: ''}}", "c.yaml:1:29: response_api.disk.path: must name a file"),
        ("response_api: {disk: {max_bytes: -1}}", "c.yaml:1:34: response_api.disk.max_bytes: must be at least 0"),
        ("response_api: {disk: {cache_bytes: 0}}", "c.yaml:1:36: response_api.disk.cache_bytes: must be at least 1"),
        ("telemetry: {otlp: {endpoint: 'h:4317'}}", "c.yaml:1:30: telemetry.otlp.endpoint: must be `http://host:port`"),
        ("telemetry: {otlp: {sample_ratio: 1.5}}", "c.yaml:1:34: telemetry.otlp.sample_ratio: must be a number from 0"),
        ("telemetry: {otlp: {sample_ratio: 2}}", "c.yaml:1:34: telemetry.otlp.sample_ratio: must be a number from 0"),
        ("telemetry: {otlp: {timeout_seconds: 0}}", "c.yaml:1:37: telemetry.otlp.timeout_seconds: must be at least 1"),
        ("telemetry: {otlp: {headers: {'a b': c}}}", "c.yaml:1:29: telemetry.otlp.headers: must be names of HTTP"),
        ("response_api: {redis: {db: 16}}", "c.yaml:1:28: response_api.redis.db: must be at most 15"),
        ("response_api: {redis: {pool_size: 0}}", "c.yaml:1:35: response_api.redis.pool_size: must be at least 1"),
        ("response_api: {redis: {dial_timeout: 0}}", "c.yaml:1:38: response_api.redis.dial_timeout: must be at least"),
        ("response_api: {redis: {address: localhost}}", "c.yaml:1:33: response_api.redis.address: must be `host:port`"),
        (
            "response_api: {redis: {cluster_addresses: ['a:1', b]}}",
            "c.yaml:1:51: response_api.redis.cluster_addresses[1]",
        ),
        ("upstream: {models: [{match: ''}]}", "c.yaml:1:29: upstream.models[0].match: must be a model name"),
        (
            "upstream: {models: [{match: 'a?'}]}",
            "c.yaml:1:29: upstream.models[0].match: `?` has no meaning in a pattern",
        ),
        ("upstream: {chat_path: v1}", "c.yaml:1:23: upstream.chat_path: must begin with `/`"),
        ("limits: {max_chain_depth: 0}", "c.yaml:1:27: limits.max_chain_depth: must be at least 1"),
        ("limits: {max_json_depth: 0}", "c.yaml:1:26: limits.max_json_depth: must be at least 1"),
        ("limits: {max_json_depth: 129}", "c.yaml:1:26: limits.max_json_depth: must be at most 128"),
        ("limits: {max_json_values: 0}", "c.yaml:1:27: limits.max_json_values: must be at least 1"),
        ("limits: {max_input_items: 0}", "c.yaml:1:27: limits.max_input_items: must be at least 1"),
        ("limits: {max_tools: 0}", "c.yaml:1:21: limits.max_tools: must be at least 1"),
        ("limits: {max_metadata_pairs: 0}", "c.yaml:1:30: limits.max_metadata_pairs: must be at least 1"),
        ("limits: {max_metadata_key_chars: 0}", "c.yaml:1:34: limits.max_metadata_key_chars: must be at least 1"),
        ("limits: {max_metadata_value_chars: 0}", "c.yaml:1:36: limits.max_metadata_value_chars: must be at least 1"),
        ("limits: {max_stream_events: 0}", "c.yaml:1:29: limits.max_stream_events: must be at least 1"),
        ("limits: {max_argument_bytes: -1}", "c.yaml:1:30: limits.max_argument_bytes: must be at least 1"),
        ("limits: {max_live_exchanges: 0}", "c.yaml:1:30: limits.max_live_exchanges: must be at least 1"),
        (
            "limits: {max_request_bytes: 2, max_buffered_bytes: 1}",
            "c.yaml:1:52: limits.max_buffered_bytes: must be at least `max_request_bytes`, or the largest requests never \
             get in",
        ),
        (
            "limits: {request_body_bytes_per_second: -1}",
            "c.yaml:1:41: limits.request_body_bytes_per_second: must be at least 0",
        ),
        ("limits: {exchange_seconds: 0}", "c.yaml:1:28: limits.exchange_seconds: must be at least 1"),
        ("telemetry: {log_ids: some}", "c.yaml:1:22: telemetry.log_ids: "),
        (
            "telemetry: {otlp: {headers: Bearer-s3cret}}",
            "c.yaml:1:29: telemetry.otlp.headers: must be a mapping of header names to values",
        ),
        (
            "telemetry: {metadata_namespace: 'a b'}",
            "c.yaml:1:33: telemetry.metadata_namespace: must be at most 128 letters, digits",
        ),
        (
            "telemetry: {metadata_keys: [outcome, color]}",
            "c.yaml:1:38: telemetry.metadata_keys[1]: must be one of route, response_id, previous_response_id, tenant, ",
        ),
        (
            "telemetry: {metrics_models: [m, '']}",
            "c.yaml:1:33: telemetry.metrics_models[1]: must be the name of a model, 1 to 256 characters",
        ),
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
        (
            "server:\n  listen: unix:/s\n  tls: {cert_path: c, key_path: k}\n",
            "c.yaml:3:8: server.tls: must not be set where `listen` is a unix socket",
        ),
        (
            "server:\n  socket_mode: '0660'\n",
            "c.yaml:2:16: server.socket_mode: must not be set where `listen` is a port",
        ),
        (&format!("{cluster}    db: 3\n"), "c.yaml:5:9: response_api.redis.db: must be 0 in cluster mode"),
        (cluster, "c.yaml:4:19: response_api.redis.cluster_mode: is true, so `cluster_addresses` must name a node"),
        (&format!("{cluster}    cluster_addresses: []\n"), "c.yaml:4:19: response_api.redis.cluster_mode: is true"),
        // Whatever keeps the responses: the block is checked always.
        ("response_api: {redis: {cluster_mode: true}}", "c.yaml:1:38: response_api.redis.cluster_mode: is true, so"),
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
        (
            "response_api:\n  redis:\n    sentinel_addresses: ['a:1']\n",
            "c.yaml:3:25: response_api.redis.sentinel_addresses: needs `sentinel_service` beside it",
        ),
        (
            "response_api:\n  redis:\n    sentinel_service: x\n",
            "c.yaml:3:23: response_api.redis.sentinel_service: needs `sentinel_addresses` beside it",
        ),
        (
            &format!("{cluster}    cluster_addresses: ['a:1']\n    sentinel_addresses: ['a:1']\n"),
            "c.yaml:6:25: response_api.redis.sentinel_addresses: must be empty in cluster mode",
        ),
        (
            "response_api:\n  redis:\n    address: unix:/s\n    tls_enabled: true\n",
            "c.yaml:4:18: response_api.redis.tls_enabled: must be false where `address` is a socket",
        ),
    ]);
}

#[test]
fn what_only_looks_like_a_contradiction_is_taken() {
    for text in [
        "server: {listen: '127.0.0.1:0', admin_listen: '127.0.0.1:0'}",
        "response_api: {redis: {cluster_mode: false, db: 3}}",
    ] {
        load(text).unwrap();
    }
    assert_eq!(load("response_api: {redis: {pool_size: 1}}").unwrap().response_api.redis.min_idle_conns, 1);
}

#[test]
fn tenancy_that_could_not_tell_tenants_apart_names_its_line_and_column() {
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    assert_errors(&[
        ("tenancy: {source: cookie}", "c.yaml:1:19: tenancy.source: unknown variant `cookie`, expected one of `none`"),
        ("tenancy: {header: 'a b'}", "c.yaml:1:19: tenancy.header: must be the name of a header"),
        ("tenancy: {header: ''}", "c.yaml:1:19: tenancy.header: must be the name of a header"),
        ("tenancy: {header: ':path'}", "c.yaml:1:19: tenancy.header: must be the name of a header"),
        ("tenancy: {header: Authorization}", "c.yaml:1:19: tenancy.header: must not hold credentials; see"),
        ("tenancy:\n  source: metadata\n", "c.yaml:2:11: tenancy.source: needs `metadata.namespace`"),
        (
            "tenancy:\n  metadata: {namespace: a}\n  source: metadata\n",
            "c.yaml:3:11: tenancy.source: needs `metadata.path`",
        ),
        ("tenancy: {metadata: {path: org}}", "c.yaml:1:28: tenancy.metadata.path: invalid type: string"),
        ("tenancy: {metadata: {path: [a, '']}}", "c.yaml:1:32: tenancy.metadata.path[1]: must have 1 to 256 bytes"),
        (
            "tenancy: {metadata: {path: [a,a,a,a,a,a,a,a,a]}}",
            "c.yaml:1:28: tenancy.metadata.path: must be at most 8 keys",
        ),
        ("tenancy: {source: jwt_claim, jwt_claim: {path: []}}", "c.yaml:1:19: tenancy.source: needs `jwt_claim.path`"),
        ("tenancy: {source: jwt_claim, jwt_claim: {payload: ''}}", "c.yaml:1:19: tenancy.source: needs `jwt_claim.pay"),
        ("tenancy: {source: authorization}", "c.yaml:1:19: tenancy.source: needs `authorization.key` or"),
        ("tenancy: {authorization: {}}", "c.yaml:1:26: tenancy.authorization: a key needs either `key` or `file`"),
        (
            "tenancy: {authorization: c2VjcmV0}",
            "c.yaml:1:26: tenancy.authorization: must be a mapping: `key` or `file`",
        ),
        ("tenancy: {authorization: {key: c2VjcmV0}}", "c.yaml:1:26: tenancy.authorization: a key must be base64 of 32"),
        ("tenancy: {required: maybe}", "c.yaml:1:21: tenancy.required: invalid type: string"),
        ("tenancy:\n  in_key: true\n", "c.yaml:2:11: tenancy.in_key: needs a `source`"),
    ]);
    let error = load("tenancy: {authorization: {key: c2VjcmV0}}").unwrap_err();
    assert!(!error.contains("c2VjcmV0"), "{error}");
    let config = load(&format!("tenancy: {{source: authorization, authorization: {{key: {key}}}}}")).unwrap();
    assert!(config.tenancy.authorization.is_some() && !format!("{config:?}").contains(key));
}

#[test]
fn encryption_that_could_not_work_names_its_line_and_column() {
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    assert_errors(&[
        (
            "response_api:\n  encryption: {required: true}\n",
            "c.yaml:2:26: response_api.encryption.required: needs `keys` beside it",
        ),
        (
            &format!("response_api:\n  encryption:\n    keys: [{{id: a, key: {key}}}, {{id: a, key: {key}}}]\n"),
            "c.yaml:3:11: response_api.encryption.keys: must each have an id of its own",
        ),
        (
            "response_api:\n  encryption:\n    keys: [{id: a, key: c2VjcmV0}]\n",
            "c.yaml:3:12: response_api.encryption.keys[0]: a key must be base64 of 32 random bytes",
        ),
    ]);
    let one = format!("response_api: {{encryption: {{keys: [{{id: a, key: {key}}}], required: true}}}}");
    assert!(load(&one).unwrap().response_api.encryption.required);
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
