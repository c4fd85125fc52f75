//! The frame around an exchange, driven by a scripted Envoy.

mod apart;
mod endings;
mod keeping;
mod listener;
mod messages;
mod reports;
mod tls;
