//! Strategies for what upstreams and clients might send: mostly near the real thing, because that is where bugs are.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngSeed};
use serde_json::{Map, Value, json};

/// A bounded, repeatable run: the same cases on every machine.
pub(crate) fn config(cases: u32) -> Config {
    Config { cases, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..Config::default() }
}

/// A whole stream of chat chunks, in the order of sending.
pub(crate) fn chunks() -> impl Strategy<Value = Vec<Value>> {
    prop::collection::vec(chunk(), 0..14)
}

fn chunk() -> impl Strategy<Value = Value> {
    let choices = prop_oneof![
        20 => prop::collection::vec(choice(), 1..3).prop_map(Value::Array),
        1 => Just(json!([])),
        1 => Just(Value::Null),
    ];
    let usage = prop_oneof![
        6 => Just(None),
        1 => Just(Some(Value::Null)),
        1 => (0..9u32, 0..9u32).prop_map(|(prompt, completion)| {
            Some(json!({"prompt_tokens":prompt,"completion_tokens":completion}))
        }),
        1 => Just(Some(json!({"prompt_tokens":u64::MAX,"completion_tokens":u64::MAX,"prompt_tokens_details":{"cached_tokens":3}}))),
    ];
    let error = prop_oneof![
        40 => Just(None),
        1 => Just(Some(Value::Null)),
        1 => Just(Some(json!({"message":"boom","code":500}))),
    ];
    (choices, usage, error)
        .prop_map(|(choices, usage, error)| object([("choices", Some(choices)), ("usage", usage), ("error", error)]))
}

fn choice() -> impl Strategy<Value = Value> {
    let index = prop_oneof![3 => Just(None), 6 => Just(Some(json!(0))), 1 => Just(Some(json!(1))), 1 => Just(Some(Value::Null))];
    let finish = prop_oneof![
        12 => Just(None),
        3 => select(vec!["stop", "tool_calls", "length", "content_filter", "abort", "", "eos"]).prop_map(|word| Some(json!(word))),
        2 => Just(Some(Value::Null)),
    ];
    let logprob = json!({"content":[{"token":"x","logprob":-0.5,"bytes":null,"top_logprobs":[]}]});
    let logprobs = prop_oneof![4 => Just(None), 1 => Just(Some(Value::Null)), 1 => Just(Some(logprob))];
    (index, delta(), finish, logprobs).prop_map(|(index, delta, finish, logprobs)| {
        object([("index", index), ("delta", Some(delta)), ("finish_reason", finish), ("logprobs", logprobs)])
    })
}

fn delta() -> impl Strategy<Value = Value> {
    let text = || {
        prop_oneof![
            8 => Just(None),
            1 => Just(Some(Value::Null)),
            1 => Just(Some(json!(""))),
            4 => "[a-c \u{2028}é\"\n]{1,3}".prop_map(|text| Some(json!(text))),
        ]
    };
    let details = prop_oneof![
        9 => Just(None),
        1 => Just(Some(json!([{"type":"reasoning.text","text":"d"},{"type":"reasoning.encrypted","data":"x"}]))),
    ];
    let calls = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Value::Null)),
        6 => prop::collection::vec(call(), 0..3).prop_map(|calls| Some(Value::Array(calls))),
    ];
    (text(), text(), text(), text(), details, calls).prop_map(|(content, refusal, old, new, details, calls)| {
        object([
            ("content", content),
            ("refusal", refusal),
            ("reasoning_content", old),
            ("reasoning", new),
            ("reasoning_details", details),
            ("tool_calls", calls),
        ])
    })
}

fn call() -> impl Strategy<Value = Value> {
    let index =
        prop_oneof![2 => Just(None), 1 => Just(Some(Value::Null)), 6 => (0..3u64).prop_map(|index| Some(json!(index)))];
    let word = |words: Vec<&'static str>| {
        prop_oneof![
            4 => Just(None),
            1 => Just(Some(Value::Null)),
            6 => select(words).prop_map(|word| Some(json!(word))),
        ]
    };
    let arguments = prop_oneof![
        2 => Just(None),
        1 => Just(Some(Value::Null)),
        1 => Just(Some(json!({"whole":1}))),
        12 => select(vec!["", "{", "}", "{}", "{\"a\":1}", "\"}", "[", "]", " ", "x", "\\", "{\"a\":\"", "\u{2029}", "{\"input\":\"", "u00e9", "\\ud83d"])
            .prop_map(|piece| Some(json!(piece))),
    ];
    (index, word(vec!["a", "b", "a_2", ""]), word(vec!["f", "g", "n__g", "tool_search", ""]), arguments).prop_map(
        |(index, id, name, arguments)| {
            let function = object([("name", name), ("arguments", arguments)]);
            object([("index", index), ("id", id), ("function", Some(function))])
        },
    )
}

fn object<const N: usize>(members: [(&str, Option<Value>); N]) -> Value {
    let members = members.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Object(members.collect::<Map<String, Value>>())
}

/// Any JSON, its keys drawn from the words of both protocols.
pub(crate) fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-2.0..3.0f64).prop_map(Value::from),
        select(WORDS.to_vec()).prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::vec((select(WORDS.to_vec()), inner), 0..6).prop_map(|members| {
                Value::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

/// A create request: some members as they should be, some not.
pub(crate) fn create_request() -> impl Strategy<Value = Value> {
    let items = prop::collection::vec(prop_oneof![4 => item(), 1 => json()], 0..7).prop_map(Value::Array);
    let input = prop_oneof![1 => ".{0,8}".prop_map(Value::from), 8 => items, 1 => json()];
    let others = prop::collection::vec((select(TOP_LEVEL.to_vec()), json()), 0..3);
    (input, prop::option::of(tools()), others).prop_map(|(input, tools, others)| {
        let mut request = json!({"model":"m","input":input});
        if let Some(tools) = tools {
            request["tools"] = tools;
        }
        for (key, value) in others {
            request[key] = value;
        }
        request
    })
}

fn item() -> impl Strategy<Value = Value> {
    let id = || prop_oneof![3 => Just(None), 1 => select(vec!["x", "y", ""]).prop_map(|id| Some(json!(id)))];
    let call_id = || select(vec!["c1", "c2"]).prop_map(|id| Some(json!(id)));
    let text = || select(vec!["", "a", "\u{2028}"]);
    prop_oneof![
        (id(), select(vec!["user", "assistant", "system", "developer"]), text()).prop_map(|(id, role, text)| object([
            ("id", id),
            ("role", Some(json!(role))),
            ("content", Some(json!(text)))
        ])),
        (id(), text()).prop_map(|(id, text)| {
            let content = json!([{"type":"reasoning_text","text":text}]);
            object([
                ("type", Some(json!("reasoning"))),
                ("id", id),
                ("summary", Some(json!([]))),
                ("content", Some(content)),
            ])
        }),
        (id(), call_id(), select(vec!["{}", ""])).prop_map(|(id, call_id, arguments)| {
            let kind = Some(json!("function_call"));
            object([
                ("type", kind),
                ("id", id),
                ("call_id", call_id),
                ("name", Some(json!("f"))),
                ("arguments", Some(json!(arguments))),
            ])
        }),
        (id(), call_id(), json()).prop_map(|(id, call_id, output)| {
            object([
                ("type", Some(json!("function_call_output"))),
                ("id", id),
                ("call_id", call_id),
                ("output", Some(output)),
            ])
        }),
        select(vec!["x", "y"]).prop_map(|id| json!({"id":id})),
        select(vec!["web_search_call", "compaction"]).prop_map(|kind| json!({"type":kind})),
        (call_id(), select(vec![None, Some("ns")])).prop_map(|(call_id, namespace)| object([
            ("type", Some(json!("custom_tool_call"))),
            ("call_id", call_id),
            ("namespace", namespace.map(|namespace| json!(namespace))),
            ("name", Some(json!("apply_patch"))),
            ("input", Some(json!("*** Begin Patch"))),
        ])),
        (call_id(), json()).prop_map(|(call_id, output)| {
            object([("type", Some(json!("custom_tool_call_output"))), ("call_id", call_id), ("output", Some(output))])
        }),
        (select(BUILTIN_ITEMS.to_vec()), call_id(), json()).prop_map(|(kind, call_id, payload)| {
            let members = ["action", "operation", "output", "tools", "arguments"].map(|key| (key, payload.clone()));
            let mut item = object([("type", Some(json!(kind))), ("call_id", call_id)]);
            item.as_object_mut().unwrap().extend(members.map(|(key, value)| (key.to_owned(), value)));
            item
        }),
        tools().prop_map(|tools| json!({"type":"additional_tools","role":"developer","tools":tools})),
    ]
}

/// A list of tools of all kinds, few of them wrong.
pub(crate) fn tools() -> impl Strategy<Value = Value> {
    let named = || {
        let name = select(vec!["f", "g", "ns__f", "a b", "apply_patch"]);
        let format = json!({"type":"grammar","syntax":"lark","definition":"start: /x/"});
        (select(vec!["function", "function", "custom"]), name).prop_map(move |(kind, name)| match kind {
            "custom" => json!({"type":kind,"name":name,"format":format}),
            _ => json!({"type":kind,"name":name,"parameters":{"type":"object"}}),
        })
    };
    let namespace = (select(vec!["ns", "n.s", ""]), prop::collection::vec(named(), 0..3))
        .prop_map(|(name, tools)| json!({"type":"namespace","name":name,"description":"d","tools":tools}));
    let tool = prop_oneof![
        6 => named(),
        3 => namespace,
        2 => select(vec!["web_search", "local_shell", "mcp"]).prop_map(|kind| json!({"type":kind})),
        1 => Just(json!({"type":"tool_search","execution":"client"})),
        1 => json(),
    ];
    prop::collection::vec(tool, 0..4).prop_map(Value::Array)
}

const BUILTIN_ITEMS: &[&str] = &[
    "tool_search_call",
    "tool_search_output",
    "local_shell_call",
    "local_shell_call_output",
    "shell_call",
    "shell_call_output",
    "apply_patch_call",
    "apply_patch_call_output",
];

const TOP_LEVEL: &[&str] = &[
    "model",
    "instructions",
    "previous_response_id",
    "store",
    "stream",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "text",
    "reasoning",
    "max_output_tokens",
    "max_tool_calls",
    "top_logprobs",
    "include",
    "metadata",
    "truncation",
    "service_tier",
    "user",
    "temperature",
    "top_p",
    "background",
    "n",
    "stream_options",
    "messages",
    "top_k",
    "logprobs",
    "context_management",
    "\u{0}",
];

const WORDS: &[&str] = &[
    "type",
    "role",
    "content",
    "text",
    "id",
    "name",
    "call_id",
    "output",
    "arguments",
    "user",
    "assistant",
    "message",
    "function",
    "function_call",
    "function_call_output",
    "item_reference",
    "reasoning",
    "summary",
    "input_text",
    "output_text",
    "input_image",
    "image_url",
    "refusal",
    "format",
    "json_schema",
    "schema",
    "effort",
    "auto",
    "required",
    "allowed_tools",
    "mode",
    "tools",
    "parameters",
    "verbosity",
    "resp_a",
];
