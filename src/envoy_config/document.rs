//! A file's documents, read within bounds whatever they hold.

use serde::de::DeserializeSeed as _;

use super::node::{At, Node, Reading};

/// The largest file that is read: config dumps of large gateways have some tens of MiB.
pub const MAX_FILE_BYTES: usize = 64 * 1024 * 1024;

/// Why a file is no Envoy config.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is too large.
    #[error("is larger than {} MiB", MAX_FILE_BYTES >> 20)]
    TooLarge,
    /// It is not text.
    #[error("is not UTF-8")]
    NotText,
    /// It is not YAML.
    #[error("is neither YAML nor JSON: {0}")]
    Syntax(String),
    /// It has nothing that an Envoy has.
    #[error(
        "has no HTTP connection manager and no ext_proc filter; of a control plane's resources, check what Envoy gets: \
         its admin page /config_dump"
    )]
    NothingToCheck,
}

/// The documents of a file, in their order.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Node>, Unreadable> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(Unreadable::TooLarge);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Unreadable::NotText)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let budget = Reading::budget();
    // JSON is YAML, but its own parser is faster, and takes tabs.
    if text.trim_start().starts_with('{') {
        let mut json = serde_json::Deserializer::from_str(text);
        match Reading::within(&budget).deserialize(&mut json) {
            Ok(node) if json.end().is_ok() => return Ok(vec![node]),
            // JSON, and too much of it.
            Err(error) if error.is_data() => return Err(Unreadable::Syntax(error.to_string())),
            Ok(_) | Err(_) => {}
        }
    }
    shallow(text)?;
    let budget = Reading::budget();
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let node = Reading::within(&budget).deserialize(document);
        let node = node.map_err(|error| Unreadable::Syntax(error.to_string()))?;
        documents.extend(configs_in(node, &budget)?);
    }
    Ok(documents)
}

/// The YAML parser takes time by the square of the depth of brackets, before it finds that they are too many. Brackets in
/// texts and comments count as well, where they mostly come in pairs.
fn shallow(text: &str) -> Result<(), Unreadable> {
    const MAX_DEPTH: usize = 1000;
    let mut depth = 0usize;
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(Unreadable::Syntax("brackets are nested too deeply".to_owned()));
        }
    }
    Ok(())
}

/// The document, or the configs in it, when it is a Kubernetes ConfigMap.
fn configs_in(node: Node, budget: &std::cell::Cell<usize>) -> Result<Vec<Node>, Unreadable> {
    let at = At::new(&node, "");
    if at.text_of("kind") != Some("ConfigMap") {
        return Ok(vec![node]);
    }
    let data = at.get("data");
    let texts = data.iter().flat_map(At::members).filter_map(|(_, value)| value.text());
    let mut configs = Vec::new();
    for text in texts.filter(|text| text.contains("HttpConnectionManager") || text.contains("ExternalProcessor")) {
        shallow(text)?;
        for document in serde_yaml::Deserializer::from_str(text) {
            let config = Reading::within(budget).deserialize(document);
            configs.push(config.map_err(|error| Unreadable::Syntax(error.to_string()))?);
        }
    }
    Ok(configs)
}
