//! The Responses API for any chat backend, as an Envoy external processor.
