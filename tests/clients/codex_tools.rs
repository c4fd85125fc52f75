//! Codex's tools that are no plain functions: free text, namespaces, tools that a search finds, code.
//!
//! Codex gives them to models that it knows, and to those that a catalog of models describes.

use serde_json::{Value, json};

use super::codex::Codex;
use super::scenes::{say, tool_outputs};
use crate::support::stack::chat;
use crate::support::stack::process::clients_python;
use crate::support::stack::upstream::{Answer, Received};

impl Codex {
    /// Describes a model that Codex does not know.
    fn describe(&mut self, model: &str, abilities: &Value) {
        let mut described = json!({
            "slug": model,
            "display_name": model,
            "base_instructions": "You are Codex.",
            "supported_reasoning_levels": [],
            "shell_type": "unified_exec",
            "visibility": "list",
            "supported_in_api": true,
            "priority": 1,
            "support_verbosity": false,
            "truncation_policy": {"mode": "tokens", "limit": 10000},
            "experimental_supported_tools": [],
            "supports_parallel_tool_calls": true,
        });
        described.as_object_mut().unwrap().extend(abilities.as_object().unwrap().clone());
        let file = self.home.path().join("models.json");
        std::fs::write(&file, json!({"models": [described]}).to_string()).unwrap();
        self.set("model_catalog_json", file);
    }

    /// Gives it an MCP server that knows the weather.
    fn add_weather_server(&mut self) {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/mcp_weather.py");
        self.set("mcp_servers.weather.command", clients_python());
        self.set("mcp_servers.weather.args", [file]);
        // Codex begins without a server that is slow to start, unless it has to be there.
        self.set("mcp_servers.weather.required", true);
        self.set("mcp_servers.weather.startup_timeout_sec", 60);
    }
}

#[tokio::test]
#[ignore = "needs the clients that make test-clients installs"]
async fn codex_applies_a_patch() {
    let mut codex = Codex::new().await;
    codex.describe("codex-patch", &json!({"apply_patch_tool_type": "freeform"}));
    let file = codex.folder.path().join("greeting.txt");
    std::fs::write(&file, "Good morning.\nGood \"evening\".\n").unwrap();
    let patch = "*** Begin Patch\n*** Update File: greeting.txt\n@@\n Good morning.\n-Good \"evening\".\n\
                 +Good \\ \"night\" – 🌙\n*** Add File: new.txt\n+made\n*** End Patch\n";
    codex.stack.upstream.answer_strictly("codex-patch", calls("apply_patch", json!({"input": patch}), "Success."));
    let run = codex.run("codex-patch", &["Change the greeting."]).await;
    assert_eq!(run.answer(), "Done.");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "Good morning.\nGood \\ \"night\" – 🌙\n");
    assert_eq!(std::fs::read_to_string(codex.folder.path().join("new.txt")).unwrap(), "made\n");
    let changes = run.items("file_change");
    assert_eq!((changes.len(), &changes[0]["status"]), (1, &json!("completed")), "{}", run.printed);
    let requests = codex.stack.upstream.received("codex-patch");
    assert_eq!(requests.len(), 2);
    assert_eq!(arguments(&requests[1], "apply_patch"), json!({"input": patch}));
    codex.capture("codex-applies_a_patch").await;
}

#[tokio::test]
#[ignore = "needs the clients that make test-clients installs"]
async fn codex_calls_a_tool_of_a_namespace() {
    let mut codex = Codex::new().await;
    codex.add_weather_server();
    let script = calls("mcp__weather__forecast", json!({"city": "Oslo"}), "sun in Oslo");
    codex.stack.upstream.answer_strictly("codex-namespace", script);
    let run = codex.run("codex-namespace", &["What is the weather in Oslo?"]).await;
    assert_eq!(run.answer(), "Done.");
    let calls = run.items("mcp_tool_call");
    let called: Vec<&Value> = calls.iter().flat_map(|call| [&call["server"], &call["tool"]]).collect();
    assert_eq!(called, ["weather", "forecast"], "{}", run.printed);
    let requests = codex.stack.upstream.received("codex-namespace");
    assert_eq!(requests.len(), 2);
    assert_eq!(arguments(&requests[1], "mcp__weather__forecast"), json!({"city": "Oslo"}));
    codex.capture("codex-calls_a_tool_of_a_namespace").await;
}

/// It searches itself, and offers what it found.
#[tokio::test]
#[ignore = "needs the clients that make test-clients installs"]
async fn codex_searches_for_a_tool_and_calls_it() {
    let mut codex = Codex::new().await;
    codex.describe("codex-search", &json!({"supports_search_tool": true}));
    codex.add_weather_server();
    codex.stack.upstream.answer_strictly("codex-search", |received| {
        let found = offered(received, "mcp__weather__forecast");
        let message = match (&*tool_outputs(received), found) {
            ([], false) => json!({"tool_calls": [chat::call("call_1", "tool_search", "{\"query\": \"weather\"}")]}),
            ([_], true) => {
                json!({"tool_calls": [chat::call("call_2", "mcp__weather__forecast", "{\"city\": \"Oslo\"}")]})
            }
            ([_, output], true) if output.contains("sun in Oslo") => json!({"content": "Done."}),
            (outputs, found) => json!({"content": format!("What happened? {outputs:?} {found}")}),
        };
        say(received, &message)
    });
    let run = codex.run("codex-search", &["What is the weather in Oslo?"]).await;
    assert_eq!(run.answer(), "Done.");
    assert_eq!(run.items("mcp_tool_call").len(), 1, "{}", run.printed);
    assert_eq!(codex.stack.upstream.received("codex-search").len(), 3);
    codex.capture("codex-searches_for_a_tool").await;
}

/// As models do that Codex knows well: one tool that takes JavaScript, in a namespace, in an `additional_tools` item.
#[tokio::test]
#[ignore = "needs the clients that make test-clients installs"]
async fn codex_runs_code_that_calls_its_tools() {
    let mut codex = Codex::new().await;
    codex.describe(
        "codex-code",
        &json!({
            "apply_patch_tool_type": "freeform",
            "tool_mode": "code_mode_only",
            "use_responses_lite": true,
        }),
    );
    let code = "const ran = await tools.exec_command({cmd: \"echo made by code > made.txt && cat made.txt\"});\n\
                text(ran.output);";
    let script = calls("functions__exec", json!({"input": code}), "made by code");
    codex.stack.upstream.answer_strictly("codex-code", script);
    let run = codex.run("codex-code", &["Make a file."]).await;
    assert_eq!(run.answer(), "Done.");
    assert_eq!(std::fs::read_to_string(codex.folder.path().join("made.txt")).unwrap(), "made by code\n");
    let requests = codex.stack.upstream.received("codex-code");
    assert_eq!(requests.len(), 2);
    assert_eq!(arguments(&requests[1], "functions__exec"), json!({"input": code}));
    codex.capture("codex-runs_code").await;
}

/// Calls a tool that is offered, and is done when the output of that one call holds a text.
fn calls(name: &'static str, arguments: Value, expected: &'static str) -> impl Fn(&Received) -> Answer {
    move |received| {
        let message = match &*tool_outputs(received) {
            [] if offered(received, name) => {
                json!({"tool_calls": [chat::call("call_1", name, &arguments.to_string())]})
            }
            [output] if output.contains(expected) => json!({"content": "Done."}),
            outputs => json!({"content": format!("What happened? {outputs:?} {}", received.json()["tools"])}),
        };
        say(received, &message)
    }
}

/// Whether a function is among the tools.
fn offered(received: &Received, name: &str) -> bool {
    let body = received.json();
    body["tools"].as_array().unwrap().iter().any(|tool| tool["function"]["name"] == name)
}

/// The arguments of the one call that came back, which is of this function.
fn arguments(received: &Received, name: &str) -> Value {
    let body = received.json();
    let messages = body["messages"].as_array().unwrap();
    let calls: Vec<&Value> = messages.iter().filter_map(|message| message["tool_calls"].as_array()).flatten().collect();
    assert_eq!((calls.len(), &calls[0]["function"]["name"]), (1, &json!(name)));
    serde_json::from_str(calls[0]["function"]["arguments"].as_str().unwrap()).unwrap()
}
