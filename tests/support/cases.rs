//! Golden cases: folders of input files, each with its snapshot beside it.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use responses_router::config::{Config, History, Limits, Upstream};
use responses_router::openai::dialect::DialectName;
use responses_router::translate::Settings;
use responses_router::translate::settings::UnsupportedTools;
use serde::Deserialize;
use serde_json::{Map, Value};

/// The operator's choices as a case spells them; what it leaves out has its default.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SettingsSpec {
    history: History,
    api_dialect: DialectName,
    unsupported_tools: UnsupportedTools,
    /// The config's `limits` block.
    limits: Limits,
    /// The keys of the config's `upstream` block.
    #[serde(flatten)]
    upstream: Map<String, Value>,
}

impl SettingsSpec {
    /// The settings that a config file with these keys would give.
    pub(crate) fn settings(self) -> Settings {
        let mut config = Config { history: self.history, ..Config::default() };
        config.response_api.dialect = self.api_dialect;
        config.upstream = Upstream::deserialize(Value::Object(self.upstream)).unwrap();
        config.response_api.unsupported_tools = self.unsupported_tools;
        config.limits = self.limits;
        config.translation()
    }
}

/// The inputs of one folder of `tests/golden`, in order.
pub(crate) fn inputs(folder: &str, extension: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
    let mut inputs: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} has no {extension} files", folder.display());
    inputs
}

/// Reads a JSON file of a case.
pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Compares what each input of a folder comes to with the snapshot beside it, and names every case that differs.
pub(crate) fn compare(folder: &str, extension: &str, least: usize, case: impl Fn(&Path) -> String) {
    let inputs = inputs(folder, extension);
    assert!(inputs.len() >= least, "{folder} has {} cases, {least} are wanted", inputs.len());
    let mut differing = Vec::new();
    for input in &inputs {
        let name = input.file_stem().unwrap().to_str().unwrap();
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(input.parent().unwrap());
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        let compared = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let outcome = case(input);
            settings.bind(|| insta::assert_snapshot!(name, outcome));
        }));
        if compared.is_err() {
            differing.push(name);
        }
    }
    assert!(differing.is_empty(), "cases of {folder} that differ: {differing:#?}");
    let orphans: Vec<PathBuf> = self::inputs(folder, "snap")
        .into_iter()
        .filter(|snap| !inputs.contains(&snap.with_extension(extension)))
        .collect();
    assert!(orphans.is_empty(), "snapshots without an input: {orphans:#?}");
}
