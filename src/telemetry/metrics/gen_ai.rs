//! Metrics under the names that Envoy AI Gateway exposes to Prometheus, which are the `OpenTelemetry` GenAI conventions
//! with the units as suffixes: the same dashboards show both.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::telemetry::facts::{Ending, Facts};

/// Ours of the conventions' operations.
const OPERATION: &str = "responses";

/// The label of models that the operator did not name.
const OTHER: &str = "other";

/// The buckets are the gateway's, so that both can be added up.
const TOKENS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];
const DURATION: [f64; 14] = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
const FIRST_TOKEN: [f64; 16] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const PER_TOKEN: [f64; 13] = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];

/// The types of tokens.
const TOKEN_TYPES: [&str; 4] = ["input", "cached_input", "output", "reasoning"];

/// The metrics.
#[derive(Debug)]
pub(super) struct GenAi {
    /// Those with labels of their own, and the one for all others.
    models: Vec<Model>,
    other: Model,
    /// Of all models, by error.
    duration: Family<OfRequest, Histogram, fn() -> Histogram>,
}

/// What is measured of a model. Each is found once, and observed without a search.
#[derive(Debug)]
struct Model {
    name: Arc<str>,
    token_usage: [Histogram; TOKEN_TYPES.len()],
    /// Of requests that went well.
    duration: Histogram,
    first_token: Histogram,
    per_token: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfModel {
    gen_ai_operation_name: &'static str,
    gen_ai_request_model: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfToken {
    gen_ai_operation_name: &'static str,
    gen_ai_request_model: Arc<str>,
    gen_ai_token_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRequest {
    gen_ai_operation_name: &'static str,
    gen_ai_request_model: Arc<str>,
    /// Empty, which is none, when it went well.
    error_type: Option<&'static str>,
}

impl OfRequest {
    fn of(model: &Arc<str>, error_type: Option<&'static str>) -> Self {
        Self { gen_ai_operation_name: OPERATION, gen_ai_request_model: Arc::clone(model), error_type }
    }
}

impl GenAi {
    /// Registers the metrics, which have no prefix. `models` are told apart by name.
    pub(super) fn register(registry: &mut Registry, models: &[impl AsRef<str>]) -> Self {
        type OfModels<L> = Family<L, Histogram, fn() -> Histogram>;
        let token_usage: OfModels<OfToken> = Family::new_with_constructor(|| Histogram::new(TOKENS));
        let duration: OfModels<OfRequest> = Family::new_with_constructor(|| Histogram::new(DURATION));
        let first_token: OfModels<OfModel> = Family::new_with_constructor(|| Histogram::new(FIRST_TOKEN));
        let per_token: OfModels<OfModel> = Family::new_with_constructor(|| Histogram::new(PER_TOKEN));
        let model = |name: &str| {
            let name: Arc<str> = Arc::from(name);
            let of_model = OfModel { gen_ai_operation_name: OPERATION, gen_ai_request_model: Arc::clone(&name) };
            Model {
                token_usage: TOKEN_TYPES.map(|gen_ai_token_type| {
                    token_usage.get_or_create_owned(&OfToken {
                        gen_ai_operation_name: OPERATION,
                        gen_ai_request_model: Arc::clone(&name),
                        gen_ai_token_type,
                    })
                }),
                duration: duration.get_or_create_owned(&OfRequest::of(&name, None)),
                first_token: first_token.get_or_create_owned(&of_model),
                per_token: per_token.get_or_create_owned(&of_model),
                name,
            }
        };
        let metrics = Self {
            models: models.iter().map(|name| model(name.as_ref())).collect(),
            other: model(OTHER),
            duration: duration.clone(),
        };
        registry.register("gen_ai_client_token_usage_token", "Tokens of one response", token_usage);
        registry.register("gen_ai_server_request_duration_seconds", "How long one POST /v1/responses took", duration);
        registry.register(
            "gen_ai_server_time_to_first_token_seconds",
            "Time to the first content of a stream",
            first_token,
        );
        registry.register(
            "gen_ai_server_time_per_output_token_seconds",
            "Time between two tokens of a stream, on average over its output tokens",
            per_token,
        );
        metrics
    }

    /// Measures an exchange that has ended. Only those that created a response count, and tokens only when the upstream
    /// reported them.
    pub(super) fn ended(&self, facts: &Facts) {
        let Some(model) = facts.model.as_deref() else { return };
        let model = self.models.iter().find(|known| *known.name == *model).unwrap_or(&self.other);
        let error_type = match facts.ending {
            Some(Ending::Completed | Ending::Incomplete) => None,
            ending => facts.error_code.or(ending.map(Ending::as_str)),
        };
        let seconds = facts.duration.as_secs_f64();
        match error_type {
            None => model.duration.observe(seconds),
            error => self.duration.get_or_create(&OfRequest::of(&model.name, error)).observe(seconds),
        }
        if let Some(time) = facts.first_token {
            model.first_token.observe(time.as_secs_f64());
        }
        if let Some(time) = facts.time_per_output_token() {
            model.per_token.observe(time.as_secs_f64());
        }
        let Some(usage) = facts.usage else { return };
        let counts = [
            usage.input_tokens,
            usage.input_tokens_details.cached_tokens,
            usage.output_tokens,
            usage.output_tokens_details.reasoning_tokens,
        ];
        for (histogram, count) in model.token_usage.iter().zip(counts) {
            #[expect(clippy::cast_precision_loss, reason = "a histogram counts in floating point")]
            histogram.observe(count as f64);
        }
    }
}
