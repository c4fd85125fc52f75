//! Wire types of the Responses API and of chat completions. Pure: no I/O, no clock, no randomness.

pub mod error;
pub mod raw;
