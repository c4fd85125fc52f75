//! The arrows of ARCHITECTURE.md, read off the sources: who may not know whom.

use std::path::{Path, PathBuf};

/// What a part of the sources may not mention, and why.
struct Rule {
    /// Files under these paths are bound by the rule.
    of: &'static [&'static str],
    /// Files under these are not.
    except: &'static [&'static str],
    /// Paths or words, matched as whole identifiers.
    banned: &'static [&'static str],
    why: &'static str,
}

const CORE: &[&str] = &["src/openai/", "src/translate/", "src/sse.rs", "src/json.rs", "src/id.rs"];

const RULES: &[Rule] = &[
    Rule {
        of: CORE,
        except: &[],
        banned: &[
            "tokio",
            "tonic",
            "fred",
            "hashlink",
            "redb",
            "hyper",
            "envoy_types",
            "futures_util",
            "async",
            "await",
        ],
        why: "the core is synchronous and knows no transport and no backend",
    },
    Rule {
        of: CORE,
        except: &[],
        banned: &[
            "std::time",
            "SystemTime",
            "Instant",
            "rand",
            "std::env",
            "std::fs",
            "std::net",
            "std::thread",
            "println",
        ],
        why: "the core is pure: time and randomness are arguments",
    },
    Rule {
        of: CORE,
        except: &[],
        banned: &["tracing", "prometheus_client", "crate::telemetry"],
        why: "the core logs nothing and counts nothing",
    },
    Rule {
        of: CORE,
        except: &[],
        banned: &["crate::extproc", "crate::store", "crate::config", "crate::server", "crate::cli", "serde_yaml"],
        why: "the core does not know its shells",
    },
    Rule {
        of: &["src/openai/", "src/sse.rs", "src/json.rs", "src/id.rs"],
        except: &[],
        banned: &["crate::translate"],
        why: "the wire types do not know what is made of them",
    },
    Rule {
        of: &["src/sse.rs", "src/json.rs", "src/id.rs"],
        except: &[],
        banned: &["crate::openai"],
        why: "frames, JSON and ids know no wire types",
    },
    Rule {
        of: &["src/store/"],
        except: &[],
        banned: &["crate::extproc", "crate::translate", "crate::sse", "crate::server", "tonic", "envoy_types", "hyper"],
        why: "a store keeps records and knows neither Envoy nor chat",
    },
    Rule {
        of: &["src/store/"],
        except: &[],
        banned: &["crate::telemetry", "prometheus_client"],
        why: "a store tells figures and does not know who prints them",
    },
    Rule {
        of: &["src/"],
        except: &["src/extproc/", "src/server.rs", "src/server/", "src/telemetry/traces/export.rs"],
        banned: &["tonic", "envoy_types", "tonic_prost", "tonic_health"],
        why: "only extproc, the server and the exporter of traces speak gRPC",
    },
    Rule {
        of: &["src/envoy_config/"],
        except: &[],
        banned: &["tokio", "tonic", "async", "std::fs", "std::env", "println", "crate::extproc", "crate::store"],
        why: "checking an Envoy config is pure: text in, findings out",
    },
    Rule { of: &["src/"], except: &["src/store/redis/"], banned: &["fred"], why: "only store/redis knows fred" },
    Rule {
        of: &["src/"],
        except: &[
            "src/store/memory.rs",
            "src/store/memory/",
            "src/store/redis/recent.rs",
            "src/store/redis/placing.rs",
        ],
        banned: &["hashlink"],
        why: "only what forgets what was used longest ago knows hashlink",
    },
    Rule {
        of: &["src/"],
        // The config names a file that ends so.
        except: &["src/store/disk/", "src/config/"],
        banned: &["redb"],
        why: "only store/disk knows redb",
    },
    Rule {
        of: &["src/"],
        except: &["src/sealing.rs"],
        banned: &["ring::aead", "ring::hkdf", "ring::hmac", "base64::engine"],
        why: "only sealing knows cryptography",
    },
    Rule {
        of: &["src/"],
        except: &["src/openai/error.rs"],
        banned: &["ErrorBody", "\"invalid_request_error\"", "{\"error\"", "{\\\"error\\\""],
        why: "only openai/error.rs makes error bodies",
    },
    Rule {
        of: &["src/"],
        except: &[],
        banned: &["json!"],
        why: "output is full structs; hand-built JSON belongs into tests",
    },
    Rule {
        of: &["src/"],
        except: &["src/translate/emitter.rs"],
        banned: &["next_sequence_number"],
        why: "only the emitter numbers events",
    },
];

/// What of a source is code that ships: no comments, no tests at the foot, imports spelt out.
fn code(source: &str) -> String {
    let shipped = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = shipped.lines().map(|line| line.split("//").next().unwrap_or_default());
    let code = lines.collect::<Vec<_>>().join("\n");
    // `use std::{time::Duration, fs}` mentions std::time as much as `use std::time::Duration`.
    let mut spelt_out = code.clone();
    for root in ["std", "crate"] {
        for group in code.split(&format!("{root}::{{")).skip(1) {
            for name in members(group) {
                spelt_out.push_str(&format!("\n{root}::{name}"));
            }
        }
    }
    spelt_out
}

/// The first identifier of each member of an import group; `group` begins after the opening brace.
fn members(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut members = vec![String::new()];
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => members.push(String::new()),
            _ => {}
        }
        members.last_mut().unwrap().push(c);
    }
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let first =
        |member: &String| member.trim_start_matches(|c| !is_part(c)).chars().take_while(|c| is_part(*c)).collect();
    members.iter().map(first).collect()
}

/// Whether `code` mentions `word`, not as a part of a longer identifier.
fn mentions(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let word_has_edges = |edge: Option<char>| edge.is_some_and(is_part);
    code.match_indices(word).any(|(at, _)| {
        let before = code.get(..at).and_then(|text| text.chars().next_back());
        let after = code.get(at + word.len()..).and_then(|text| text.chars().next());
        let begins = !(word_has_edges(word.chars().next()) && before.is_some_and(is_part));
        let ends = !(word_has_edges(word.chars().next_back()) && after.is_some_and(is_part));
        begins && ends
    })
}

/// Every rule that a source breaks, in words.
fn violations(path: &str, source: &str) -> Vec<String> {
    let code = code(source);
    let under = |roots: &[&str]| roots.iter().any(|root| path.starts_with(root));
    let mut found = Vec::new();
    for rule in RULES.iter().filter(|rule| under(rule.of) && !under(rule.except)) {
        for word in rule.banned.iter().filter(|word| mentions(&code, word)) {
            found.push(format!("{path} mentions {word}: {}", rule.why));
        }
    }
    found
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_source_knows_what_it_may_not_know() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    sources(&root.join("src"), &mut paths);
    for core in CORE {
        assert!(paths.iter().any(|path| path.strip_prefix(root).unwrap().starts_with(core)), "{core} is gone");
    }
    let violations: Vec<String> = paths
        .iter()
        .flat_map(|path| {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            violations(&name, &std::fs::read_to_string(path).unwrap())
        })
        .collect();
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn a_forbidden_word_is_found_in_every_spelling() {
    for (path, source, word) in [
        ("src/sse.rs", "use tokio::sync::mpsc;", "tokio"),
        ("src/id.rs", "fn now() -> u64 { std::time::SystemTime::now() }", "SystemTime"),
        ("src/openai/x.rs", "use std::{fmt, time::{Duration, Instant}};", "std::time"),
        ("src/openai/x.rs", "use std::{\n    fmt,\n    fs,\n};", "std::fs"),
        ("src/translate/x.rs", "use crate::{id::ResponseId, store::Record};", "crate::store"),
        ("src/translate/x.rs", "async fn f() {}", "async"),
        ("src/translate/x.rs", "let id = rand::random();", "rand"),
        ("src/translate/x.rs", "tracing::info!(\"x\");", "tracing"),
        ("src/openai/x.rs", "use crate::translate::Plan;", "crate::translate"),
        ("src/store/mod.rs", "use crate::translate::Plan;", "crate::translate"),
        ("src/store/redis/mod.rs", "use envoy_types::pb;", "envoy_types"),
        ("src/store/memory.rs", "use crate::telemetry::metrics::Metrics;", "crate::telemetry"),
        ("src/store/memory.rs", "use fred::prelude::*;", "fred"),
        ("src/telemetry/mod.rs", "use tonic::Status;", "tonic"),
        ("src/extproc/local.rs", "let body = r#\"{\"error\":{}}\"#;", "{\"error\""),
        ("src/extproc/local.rs", "let body = serde_json::json!({});", "json!"),
        ("src/translate/stream/mod.rs", "self.next_sequence_number += 1;", "next_sequence_number"),
    ] {
        let found = violations(path, source);
        assert!(found.iter().any(|found| found.contains(&format!("mentions {word}:"))), "{source}: {found:?}");
    }
}

#[test]
fn what_is_allowed_is_not_found() {
    for (path, source) in [
        ("src/sse.rs", "//! No tokio here.\nfn f() {} // nor std::time"),
        ("src/translate/x.rs", "let brand = instance; let operand = Instantaneous;"),
        ("src/translate/x.rs", "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}"),
        ("src/translate/x.rs", "use std::{fmt, io};\nuse crate::{id::ResponseId, openai::item};"),
        ("src/extproc/mod.rs", "use tonic::Status;\nuse crate::store::Record;"),
        ("src/store/redis/mod.rs", "use fred::prelude::*;"),
        ("src/openai/error.rs", "struct ErrorBody;"),
    ] {
        assert_eq!(violations(path, source), Vec::<String>::new(), "{source}");
    }
}
