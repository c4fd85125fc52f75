//! Integration tests: one binary, so that there is one link and one warm set of test servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "clippy spares only the tests themselves")]

mod admin;
mod bench;
mod chaos;
mod chunking;
mod clients;
mod disk;
mod envoy;
mod envoy_config;
mod extproc;
mod failover;
mod golden;
mod grammar;
mod layering;
mod monitoring;
mod redis;
mod requests;
mod sealing;
mod store;
mod streaming;
mod strict_reader;
mod support;
