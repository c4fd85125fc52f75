//! The Responses API for any chat backend, as an Envoy external processor.
//!
//! The core (`openai`, `sse`, `json`, `id`, `translate`) is synchronous and pure; the shells (`store`, `sealing`, `extproc`, `server`)
//! move the bytes. ARCHITECTURE.md has the tree, the arrows and the walk of one request.

pub mod admin;
pub mod build_info;
pub mod cli;
pub mod config;
pub mod envoy_config;
pub mod extproc;
pub mod id;
mod in_place;
pub mod json;
pub mod openai;
pub mod sealing;
pub mod server;
pub mod sse;
pub mod store;
pub mod telemetry;
pub mod tenant;
pub mod translate;
