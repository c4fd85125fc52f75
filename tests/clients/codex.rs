//! The Codex CLI, run as scripts run it: one prompt, no terminal, a folder of its own.

use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::program::{outcome, patiently, printed};
use super::scenes::{say, tool_outputs};
use super::{capture, scenes};
use crate::support::stack::process::node_module;
use crate::support::stack::recorder::Recorder;
use crate::support::stack::upstream::{Answer, Received};
use crate::support::stack::{Hold, Stack, chat};

/// A stack, a folder to work in, and a home of Codex's own.
pub(super) struct Codex {
    pub(super) stack: Hold,
    recorder: Option<Recorder>,
    pub(super) folder: TempDir,
    pub(super) home: TempDir,
    /// Settings beside those that every run has, as `key=value`.
    settings: Vec<String>,
}

/// What a run came to.
pub(super) struct Run {
    succeeded: bool,
    /// Its events, a JSON object a line.
    events: Vec<Value>,
    pub(super) printed: String,
}

impl Run {
    /// The last message of the agent.
    pub(super) fn answer(&self) -> &str {
        let messages = self.items("agent_message");
        messages.last().and_then(|item| item["text"].as_str()).unwrap_or_else(|| panic!("{}", self.printed))
    }

    /// The completed items of a type.
    pub(super) fn items(&self, kind: &str) -> Vec<&Value> {
        let completed = self.events.iter().filter(|event| event["type"] == "item.completed");
        completed.map(|event| &event["item"]).filter(|item| item["type"] == kind).collect()
    }
}

impl Codex {
    pub(super) async fn new() -> Self {
        let stack = Stack::shared_by_clients().await;
        let recorder = capture::recorder(&stack);
        let (folder, home) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        Self { stack, recorder, folder, home, settings: Vec::new() }
    }

    /// Adds a setting of `config.toml`.
    pub(super) fn set(&mut self, key: &str, value: impl Serialize) {
        // What JSON and TOML write alike: strings, numbers, booleans, arrays of them.
        self.settings.push(format!("{key}={}", serde_json::to_string(&value).unwrap()));
    }

    /// Runs `codex exec` with a model.
    pub(super) async fn run(&self, model: &str, arguments: &[&str]) -> Run {
        let address = self.recorder.as_ref().map_or(self.stack.envoy.address, |recorder| recorder.address);
        let config = format!(
            "model_provider = \"router\"\n\
             check_for_update_on_startup = false\n\
             [model_providers.router]\n\
             name = \"router\"\n\
             base_url = \"http://{address}/v1\"\n\
             wire_api = \"responses\"\n\
             env_key = \"ROUTER_KEY\"\n\
             request_max_retries = 1\n\
             stream_max_retries = 1\n\
             [analytics]\n\
             enabled = false\n\
             [otel]\n\
             exporter = \"none\"\n"
        );
        std::fs::write(self.home.path().join("config.toml"), config).unwrap();
        let mut command = patiently(&codex());
        command
            .args(["exec", "--json", "--skip-git-repo-check", "--sandbox", "danger-full-access", "--model", model])
            .args(self.settings.iter().flat_map(|setting| ["-c", setting]))
            .args(arguments)
            .current_dir(self.folder.path())
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.home.path())
            .env("CODEX_HOME", self.home.path())
            .env("ROUTER_KEY", "sk-test");
        let output = outcome(command).await;
        assert_eq!(self.stack.upstream.refused(model), [""; 0], "{model}: refused by a strict backend");
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let events = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Run { succeeded: output.status.success(), events, printed: printed(&output) }
    }

    /// Runs a prompt that has to succeed; the answer.
    async fn answer(&self, model: &str, prompt: &str) -> String {
        self.run(model, &[prompt]).await.answer().to_owned()
    }

    pub(super) async fn capture(&self, name: &str) {
        if let Some(recorder) = &self.recorder {
            capture::write(&self.stack, recorder, name, &[self.folder.path(), self.home.path()]).await;
        }
    }
}

#[tokio::test]
#[ignore = "needs the clients that make test-clients installs"]
async fn codex_answers_a_prompt() {
    let codex = Codex::new().await;
    codex.stack.upstream.answer_strictly("codex-prompt", |received| {
        say(received, &json!({"reasoning_content": "Let me think.", "content": "The answer is 42."}))
    });
    let run = codex.run("codex-prompt", &["What is the answer?"]).await;
    assert_eq!(run.answer(), "The answer is 42.");
    let thoughts: Vec<&Value> = run.items("reasoning").iter().map(|item| &item["text"]).collect();
    assert_eq!(thoughts, ["Let me think."], "{}", run.printed);
    let completed = run.events.last().unwrap();
    assert_eq!((&completed["usage"]["input_tokens"], &completed["usage"]["output_tokens"]), (&json!(7), &json!(3)));
    assert_eq!(codex.stack.upstream.received("codex-prompt").len(), 1);
}

#[tokio::test]
#[ignore = "needs the clients that make test-clients installs"]
async fn codex_waits_for_a_slow_stream() {
    let codex = Codex::new().await;
    codex.stack.upstream.answer_strictly("codex-slow", scenes::waits_for_a_slow_stream().script[0].1);
    assert_eq!(codex.answer("codex-slow", "Count.").await, "One two.");
}

#[tokio::test]
#[ignore = "needs the clients that make test-clients installs"]
async fn codex_runs_a_shell_command_and_answers() {
    let codex = Codex::new().await;
    codex.stack.upstream.answer_strictly("codex-shell", |received| {
        let outputs = tool_outputs(received);
        if outputs.is_empty() {
            let call = shell("call_1", "echo made by codex > made.txt && cat made.txt");
            return say(received, &json!({"reasoning_content": "I make a file.", "tool_calls": [call]}));
        }
        let heard = if outputs[0].contains("made by codex") { "It is made." } else { "What happened?" };
        say(received, &json!({"content": heard}))
    });
    let run = codex.run("codex-shell", &["Make a file."]).await;
    assert_eq!(run.answer(), "It is made.");
    assert_eq!(std::fs::read_to_string(codex.folder.path().join("made.txt")).unwrap(), "made by codex\n");
    let commands = run.items("command_execution");
    assert_eq!((commands.len(), &commands[0]["exit_code"]), (1, &json!(0)), "{}", run.printed);
    let asked_again = codex.stack.upstream.received("codex-shell")[1].json();
    let messages = asked_again["messages"].as_array().unwrap();
    let call = messages.iter().find(|message| message.get("tool_calls").is_some()).unwrap();
    assert_eq!(call["reasoning_content"], "I make a file.");
    codex.capture("codex-runs_a_shell_command").await;
}

#[tokio::test]
#[ignore = "needs the clients that make test-clients installs"]
async fn codex_runs_two_commands_of_one_turn() {
    let codex = Codex::new().await;
    codex.stack.upstream.answer_strictly("codex-parallel", |received| {
        let outputs = tool_outputs(received);
        match &*outputs {
            [] => {
                let calls = [shell("call_1", "echo first"), shell("call_2", "echo second")];
                say(received, &json!({"tool_calls": calls}))
            }
            [first, second] if first.contains("first") && second.contains("second") => {
                say(received, &json!({"content": "Both ran."}))
            }
            _ => say(received, &json!({"content": "What happened?"})),
        }
    });
    assert_eq!(codex.answer("codex-parallel", "Run both.").await, "Both ran.");
}

#[tokio::test]
#[ignore = "needs the clients that make test-clients installs"]
async fn codex_keeps_to_a_schema() {
    let codex = Codex::new().await;
    let scene = scenes::parses_structured_output();
    codex.stack.upstream.answer_strictly("codex-schema", scene.script[0].1);
    let schema = json!({
        "type": "object",
        "properties": {"city": {"type": "string"}, "inhabitants": {"type": "integer"}},
        "required": ["city", "inhabitants"],
        "additionalProperties": false,
    });
    let file = codex.folder.path().join("schema.json");
    std::fs::write(&file, schema.to_string()).unwrap();
    let run = codex.run("codex-schema", &["--output-schema", file.to_str().unwrap(), "Which city?"]).await;
    assert!(run.answer().contains("1090000"));
    (scene.look)(&codex.stack.upstream.received("codex-schema"));
}

/// It sends the whole conversation again.
#[tokio::test]
#[ignore = "needs the clients that make test-clients installs"]
async fn codex_resumes_a_session() {
    let codex = Codex::new().await;
    let prompts = |received: &Received| {
        let asked = |(role, text): &(String, String)| role == "user" && text.starts_with("Prompt ");
        received.messages().iter().filter(|message| asked(message)).count()
    };
    codex.stack.upstream.answer_strictly("codex-resume", move |received| {
        say(received, &json!({"content": format!("Turn {}.", prompts(received))}))
    });
    assert_eq!(codex.answer("codex-resume", "Prompt one.").await, "Turn 1.");
    let run = codex.run("codex-resume", &["resume", "--last", "Prompt two."]).await;
    assert_eq!(run.answer(), "Turn 2.");
}

#[tokio::test]
#[ignore = "needs the clients that make test-clients installs"]
async fn codex_reports_errors_and_gives_up() {
    let codex = Codex::new().await;
    for (suffix, script) in scenes::raises_its_own_errors().script.into_iter().filter(|(suffix, _)| !suffix.is_empty())
    {
        let model = format!("codex-error{suffix}");
        codex.stack.upstream.answer_strictly(&model, script);
        let run = codex.run(&model, &["Hi"]).await;
        assert!(!run.succeeded, "{model}: {}", run.printed);
        assert!(run.events.iter().any(|event| event["type"] == "turn.failed"), "{model}: {}", run.printed);
        let requests = codex.stack.upstream.received(&model).len();
        assert!((1..=4).contains(&requests), "{model}: {requests} requests\n{}", run.printed);
    }
}

#[tokio::test]
#[ignore = "needs the clients that make test-clients installs"]
async fn codex_asks_again_after_a_broken_stream() {
    let codex = Codex::new().await;
    let asked = AtomicUsize::new(0);
    codex.stack.upstream.answer_strictly("codex-cut", move |received| {
        if asked.fetch_add(1, Relaxed) == 0 {
            return Answer::cut(&[chat::text("Parti")]);
        }
        say(received, &json!({"content": "Whole."}))
    });
    assert_eq!(codex.answer("codex-cut", "Hi").await, "Whole.");
    assert_eq!(codex.stack.upstream.received("codex-cut").len(), 2);
}

/// The call of Codex's tool for shell commands.
fn shell(id: &str, command: &str) -> Value {
    chat::call(id, "exec_command", &json!({"cmd": command}).to_string())
}

fn codex() -> PathBuf {
    let (package, target) = if cfg!(target_arch = "aarch64") {
        ("codex-linux-arm64", "aarch64-unknown-linux-musl")
    } else {
        ("codex-linux-x64", "x86_64-unknown-linux-musl")
    };
    node_module(&format!("@openai/{package}/vendor/{target}/bin/codex"))
}
