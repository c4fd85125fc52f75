//! The translation core: Responses requests into chat requests, chat answers into responses.
//!
//! Pure and synchronous. It may use `openai`, `id` and `sse`; it knows no Envoy, no store, no clock and no randomness:
//! time and ids are arguments. It logs nothing and counts nothing; what it had to leave out it reports as [`Lossy`].

pub mod create;
pub mod ending;
pub mod error;
pub mod lossy;
pub mod model_glob;
pub mod presets;
pub mod request;
pub mod sealing;
pub mod settings;
pub mod stream;
pub mod upstream_dialect;
pub mod upstream_error;

mod calls;
mod emitter;
mod freeform;
mod output;
mod parts;
mod references;
mod think;
mod tool_choice;
mod tool_names;
mod tools;
mod transcript;
mod upstream_forms;

pub use create::CreateRequest;
pub use ending::{End, Finished, Outcome};
pub use error::{BadAnswer, RequestError};
pub use lossy::Lossy;
pub use references::{Past, Turn};
pub use request::{Plan, Translated, request};
pub use sealing::Seal;
pub use settings::Settings;
pub use stream::{AnswerForm, ResponseStream};
