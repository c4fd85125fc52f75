//! The `upstream` block: how the chat backends want to be spoken to, each by its preset and by keys of its own.

use serde::{Deserialize, Serialize};

use super::checked;
use crate::translate::model_glob::ModelGlob;
use crate::translate::presets::Preset;
use crate::translate::settings::Settings;
use crate::translate::upstream_dialect::{DialectKeys, ModelDialect, UpstreamDialect, upstream_dialect_keys};

/// A block that has, beside its own keys, every key of a dialect; one that is null or not there says nothing.
macro_rules! block_with_dialect {
    (
        {
            $(#[$meta:meta])*
            $block:ident { $($(#[$own_meta:meta])* $own:ident: $own_type:ty,)* }
        }
        $($(#[$doc:meta])* $key:ident: $type:ty,)*
    ) => {
        $(#[$meta])*
        pub struct $block {
            $($(#[$own_meta])* pub $own: $own_type,)*
            $($(#[$doc])* #[serde(default)] pub $key: Option<$type>,)*
        }

        impl $block {
            /// What the preset says, and over it what the block's own keys say.
            fn over(&self, dialect: UpstreamDialect) -> UpstreamDialect {
                dialect
                    .with(self.preset.map(Preset::keys).unwrap_or_default())
                    .with(DialectKeys { $($key: self.$key.clone(),)* })
            }
        }
    };
}

upstream_dialect_keys!(block_with_dialect! {
    /// The `upstream` block. The keys of a dialect hold for the models that no entry of `models` is for, and for what
    /// that entry and its preset leave open.
    #[derive(Debug, Clone, Deserialize, Serialize)]
    #[serde(default, deny_unknown_fields, expecting = "a mapping of the upstream settings")]
    Upstream {
        /// The path that requests are rewritten to; begins with a slash, may have a query. Default:
        /// `/v1/chat/completions`.
        #[serde(deserialize_with = "checked::url_path")]
        chat_path: String,
        /// The model of requests that name none; null or `""` makes them a 400. Default: null.
        #[serde(deserialize_with = "checked::line_unless_blank")]
        default_model: Option<String>,
        /// Whether Envoy chooses the route again once path and `x-selected-model` are set. Default: true.
        clear_route_cache: bool,
        /// The backend whose dialect this is. Default: null, none.
        preset: Option<Preset>,
        /// Other dialects for some models. The first entry that fits a model counts. Default: empty.
        models: Vec<Model>,
    }
});

upstream_dialect_keys!(block_with_dialect! {
    /// An entry of `models`: the dialect of some models. What it and its preset leave open is as in the block.
    #[derive(Debug, Clone, Deserialize, Serialize)]
    #[serde(deny_unknown_fields, expecting = "a mapping of a model's settings")]
    Model {
        /// `match`: which models, by a pattern of their whole name in which `*` stands for any text.
        #[serde(rename = "match")]
        pattern: ModelGlob,
        /// The backend whose dialect this is. Default: null, none.
        #[serde(default)]
        preset: Option<Preset>,
    }
});

macro_rules! default_block {
    ({} $($(#[$doc:meta])* $key:ident: $type:ty,)*) => {
        impl Default for Upstream {
            fn default() -> Self {
                Upstream {
                    chat_path: "/v1/chat/completions".to_owned(),
                    default_model: None,
                    clear_route_cache: true,
                    preset: None,
                    models: Vec::new(),
                    $($key: None,)*
                }
            }
        }
    };
}

upstream_dialect_keys!(default_block! {});

impl Upstream {
    /// These settings in those of the translation.
    #[must_use]
    pub fn translation(&self, settings: Settings) -> Settings {
        let dialect = self.over(UpstreamDialect::default());
        let model =
            |model: &Model| ModelDialect { pattern: model.pattern.clone(), dialect: model.over(dialect.clone()) };
        let models = self.models.iter().map(model).collect();
        Settings { default_model: self.default_model.clone(), models, dialect, ..settings }
    }
}
