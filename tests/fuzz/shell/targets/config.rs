//! Config files: any text is a config or an error with a place in the file, and never a panic or a hang.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use responses_router::config::{Config, ConfigError};

/// In memory: a disk would be the bottleneck.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = ["/dev/shm", "/tmp"].into_iter().map(PathBuf::from).find(|folder| folder.is_dir());
    folder.unwrap_or_default().join(format!("responses-router-fuzz-{}.yaml", std::process::id()))
});

fn variable(name: &str) -> Option<String> {
    match name {
        "EMPTY" => Some(String::new()),
        "NUMBER" => Some("7".to_owned()),
        "TEXT" => Some("a: b".to_owned()),
        _ => None,
    }
}

fuzz_target!(|text: &[u8]| {
    // A file that a config names is read, too: a device or a pipe would wait for ever, as the operator asked.
    if text.windows(2).any(|pair| matches!(pair, b"/d" | b"/p" | b"/s")) {
        return;
    }
    if std::fs::write(&*FILE, text).is_err() {
        return;
    }
    match Config::load(Some(&FILE), &variable) {
        Ok(config) => {
            let _ = config.translation();
            let _ = format!("{config:?}");
        }
        Err(error @ (ConfigError::Invalid { .. } | ConfigError::Unreadable { .. })) => {
            let place = error.place();
            assert!(place.line >= 1 && place.column >= 1, "{error}");
            let lines = text.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() + 2;
            assert!(place.file != *FILE || place.line <= lines, "a place behind the file's end: {error}");
        }
    }
});
