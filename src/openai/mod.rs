//! Wire types of the Responses API and of chat completions. Pure: no I/O, no clock, no randomness.

pub mod chat;
pub mod chat_answer;
pub mod dialect;
pub mod error;
pub mod event;
pub mod input_items;
pub mod item;
pub mod json_bounds;
pub mod json_meaning;
pub mod json_text;
pub mod normalised_item;
pub mod output_text;
pub mod raw;
pub mod raw_walk;
pub mod responses;
pub mod stored_item;
mod tolerant;
pub mod tool_call;
