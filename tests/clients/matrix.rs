//! Every client in every scene that it can play, in front of a strict backend. `make test-clients` runs them.

use super::capture;
use super::program::Program;
use super::scenes::{self, Scene};
use crate::support::stack::Stack;

macro_rules! clients {
    ($($client:ident, $title:literal, $program:expr => [$($scene:ident),* $(,)?];)*) => {
        $(mod $client {
            use super::*;
            $(
                #[tokio::test]
                #[ignore = "needs the clients that make test-clients installs"]
                async fn $scene() {
                    play($program, stringify!($client), stringify!($scene), scenes::$scene()).await;
                }
            )*
        })*

        /// Each client with the features that its scenes show.
        pub(super) fn played() -> Vec<(&'static str, Vec<&'static str>)> {
            vec![$(($title, vec![$(scenes::$scene().feature),*])),*]
        }
    };
}

clients! {
    openai_python, "openai (Python)", Program::Python("openai_sdk.py") => [
        answers_with_text, streams_text, waits_for_a_slow_stream, runs_a_tool, runs_parallel_tools,
        parses_structured_output, shows_reasoning, sends_reasoning_back, continues_a_response, reports_a_refusal,
        raises_its_own_errors, notices_a_broken_stream,
    ];
    openai_node, "openai (Node)", Program::Node("openai_sdk.mjs") => [
        answers_with_text, streams_text, waits_for_a_slow_stream, runs_a_tool, runs_parallel_tools,
        parses_structured_output, shows_reasoning, sends_reasoning_back, continues_a_response, reports_a_refusal,
        raises_its_own_errors, notices_a_broken_stream,
    ];
    agents_python, "openai-agents (Python)", Program::Python("agents_sdk.py") => [
        answers_with_text, streams_text, waits_for_a_slow_stream, runs_a_tool, runs_parallel_tools,
        parses_structured_output, shows_reasoning, sends_reasoning_back, continues_a_response, reports_a_refusal,
        raises_its_own_errors, notices_a_broken_stream,
    ];
    agents_node, "@openai/agents (Node)", Program::Node("agents_sdk.mjs") => [
        answers_with_text, streams_text, waits_for_a_slow_stream, runs_a_tool, runs_parallel_tools,
        parses_structured_output, shows_reasoning, sends_reasoning_back, continues_a_response, reports_a_refusal,
        raises_its_own_errors, notices_a_broken_stream,
    ];
    ai_sdk, "ai, @ai-sdk/openai", Program::Node("ai_sdk.mjs") => [
        answers_with_text, streams_text, waits_for_a_slow_stream, runs_a_tool, runs_parallel_tools,
        parses_structured_output, shows_reasoning, sends_reasoning_back, continues_a_response, reports_a_refusal,
        raises_its_own_errors, notices_a_broken_stream,
    ];
    langchain, "langchain-openai", Program::Python("langchain_chat.py") => [
        answers_with_text, streams_text, waits_for_a_slow_stream, runs_a_tool, runs_parallel_tools,
        parses_structured_output, shows_reasoning, sends_reasoning_back, continues_a_response, reports_a_refusal,
        raises_its_own_errors, notices_a_broken_stream,
    ];
    pydantic_ai, "pydantic-ai", Program::Python("pydantic_agent.py") => [
        answers_with_text, streams_text, waits_for_a_slow_stream, runs_a_tool, runs_parallel_tools,
        parses_structured_output, shows_reasoning, sends_reasoning_back, continues_a_response, reports_a_refusal,
        raises_its_own_errors, notices_a_broken_stream,
    ];
}

/// The scenes whose last request is worth a golden case.
const CAPTURED: &[&str] = &["runs_parallel_tools", "parses_structured_output", "sends_reasoning_back"];

/// Runs a client's program of a scene, and looks at what reached the backend.
async fn play(program: Program, client: &str, name: &str, scene: Scene) {
    let stack = Stack::shared_by_clients().await;
    let model = format!("{client}-{name}");
    for (suffix, answer) in &scene.script {
        stack.upstream.answer_strictly(&format!("{model}{suffix}"), *answer);
    }
    let recorder = capture::recorder(&stack);
    let address = recorder.as_ref().map_or(stack.envoy.address, |recorder| recorder.address);
    program.run(&[name], &[("BASE_URL", &format!("http://{address}/v1")), ("MODEL", &model)]).await;
    for (suffix, _) in &scene.script {
        let key = format!("{model}{suffix}");
        assert_eq!(stack.upstream.refused(&key), [""; 0], "{key}: refused by a strict backend");
        let requests = stack.upstream.received(&key);
        let allowed = 1..=scene.most_requests;
        assert!(allowed.contains(&requests.len()), "{key}: {} requests, not {allowed:?}", requests.len());
        if suffix.is_empty() {
            (scene.look)(&requests);
        }
    }
    if let Some(recorder) = recorder.filter(|_| CAPTURED.contains(&name)) {
        capture::write(&stack, &recorder, &model, &[]).await;
    }
}
