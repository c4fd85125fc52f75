//! The README's table of clients says what the tests show, neither more nor less.

use super::matrix;
use super::scenes::{self, Scene};

/// Scenes that tests of their own show, with the tests' names.
type Shown = &'static [(fn() -> Scene, &'static str)];

const CODEX: Shown = &[
    (scenes::answers_with_text, "codex_answers_a_prompt"),
    (scenes::streams_text, "codex_answers_a_prompt"),
    (scenes::waits_for_a_slow_stream, "codex_waits_for_a_slow_stream"),
    (scenes::runs_a_tool, "codex_runs_a_shell_command_and_answers"),
    (scenes::runs_parallel_tools, "codex_runs_two_commands_of_one_turn"),
    (scenes::parses_structured_output, "codex_keeps_to_a_schema"),
    (scenes::shows_reasoning, "codex_answers_a_prompt"),
    (scenes::sends_reasoning_back, "codex_runs_a_shell_command_and_answers"),
    (scenes::raises_its_own_errors, "codex_reports_errors_and_gives_up"),
    (scenes::notices_a_broken_stream, "codex_asks_again_after_a_broken_stream"),
];

#[test]
fn the_readmes_table_of_clients_says_what_the_tests_show() {
    let tests = include_str!("codex.rs");
    for (_, test) in CODEX {
        assert!(tests.contains(&format!("async fn {test}() {{")), "{test} is gone");
    }
    let mut clients = matrix::played();
    clients.push(("Codex CLI", CODEX.iter().map(|(scene, _)| scene().feature).collect()));
    // The first client plays every scene.
    let features = clients[0].1.clone();
    let titles: Vec<&str> = clients.iter().map(|(title, _)| *title).collect();
    let mut table = format!("| | {} |\n|---|{}\n", titles.join(" | "), ":-:|".repeat(titles.len()));
    for feature in features {
        let cells: Vec<&str> =
            clients.iter().map(|(_, shown)| if shown.contains(&feature) { "✓" } else { "–" }).collect();
        table += &format!("| {feature} | {} |\n", cells.join(" | "));
    }
    let readme = include_str!("../../README.md");
    assert!(readme.contains(&table), "the README lacks this table:\n{table}");
}
