//! The pure core under the router's name, without its shells: that it builds like this proves that it needs none.

#![allow(unused_imports, reason = "what the core offers to the shells only")]

#[path = "../../src/id.rs"]
pub mod id;
#[path = "../../src/json.rs"]
mod json;
#[path = "../../src/openai/mod.rs"]
pub mod openai;
#[path = "../../src/sse.rs"]
pub mod sse;
#[path = "../../src/translate/mod.rs"]
pub mod translate;
