//! Clients and backends that want the router's memory: it stays bounded, each gets its error, and others are served.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde_json::{Value, json};

use super::{error_of, finish_stream};
use crate::support::stack::http::{Reply, post_bytes, post_stalled, with_header};
use crate::support::stack::upstream::{Answer, Gate, frame};
use crate::support::stack::wait::{eventually, within};
use crate::support::stack::{Hold, Stack, StackOptions, chat};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

const MAX_REQUEST: usize = 2 * MIB;
const MAX_BUFFERED: usize = 16 * MIB;

/// The most that the store keeps.
const MAX_STORED: usize = 8 * MIB;

/// What the router may take beyond what it has when it is idle: the bytes that may be held, in the few forms that a
/// request has while it is translated, and what the allocator keeps.
const BOUND: usize = 10 * MAX_BUFFERED;

/// What of it may stay when an attack is over: the store's records, and what the allocator keeps for the next one.
const LASTING: usize = 6 * MAX_BUFFERED;

/// How much more may stay after the last attack than after the first: less than if each left what it had held.
const CREEPING: usize = 2 * MAX_BUFFERED;

const ATTACKS: usize = 4;

/// Requests of one kind at once.
const AT_ONCE: usize = 8;

const SLOW_CLIENTS: usize = 200;

#[tokio::test]
async fn memory_under_attack_stays_bounded_and_others_are_served() {
    let stack = start().await;
    let endless = script_the_hostile_backend(&stack);
    assert_serves(&stack).await;
    let idle = stack.router.process.resident_bytes();
    let grown = |resident: u64| usize::try_from(resident.saturating_sub(idle)).unwrap();
    let mut left = Vec::new();
    for attempt in 1..=ATTACKS {
        let lasting = match left.first() {
            Some(first) if attempt == ATTACKS => LASTING.min(first + CREEPING),
            _ => LASTING,
        };
        let peak = grown(peak(&stack, attack(&stack, &endless)).await);
        assert!(peak < BOUND, "attack {attempt} took {} MiB", peak / MIB);
        // Others are served at once, and meanwhile the allocator gives back what it does not need.
        let rest = eventually("the router's memory comes back", async || {
            assert_serves(&stack).await;
            let rest = grown(stack.router.process.resident_bytes());
            (rest < lasting).then_some(rest)
        })
        .await;
        eprintln!("attack {attempt}: {} KiB idle, {} more at most, {} left", idle >> 10, peak >> 10, rest >> 10);
        left.push(rest);
    }
    eventually("no exchange is alive", async || {
        let live = stack.router.metric("responses_router_exchanges_live").await;
        (live == Some(0.0)).then_some(())
    })
    .await;
}

async fn start() -> Hold {
    let settings = json!({
        "server": {"admin_listen": "127.0.0.1:0"},
        "response_api": {"max_memory_bytes": MAX_STORED},
        "limits": {
            "max_request_bytes": MAX_REQUEST, "max_buffered_bytes": MAX_BUFFERED, "max_answer_bytes": MIB,
            "max_sse_frame_bytes": 256 * KIB, "max_argument_bytes": 256 * KIB, "max_stream_events": 10_000,
        },
    });
    Stack::start(StackOptions { settings, ..StackOptions::default() }).await
}

/// The most memory that the router has while something happens.
async fn peak(stack: &Stack, happening: impl Future<Output = ()>) -> u64 {
    let mut highest = 0;
    let mut happening = std::pin::pin!(happening);
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    loop {
        tokio::select! {
            biased;
            () = &mut happening => return highest,
            _ = looks.tick() => highest = highest.max(stack.router.process.resident_bytes()),
        }
    }
}

async fn assert_serves(stack: &Stack) {
    let reply = stack.create(&json!({"model": "attack-served", "input": "Hi", "stream": true})).await;
    assert_eq!(finish_stream(reply.events()).await.0.kind, "response.completed");
}

/// All attacks, one kind after the other.
async fn attack(stack: &Stack, endless: &Gate) {
    bombs(stack).await;
    slow_bodies(stack).await;
    structures(stack).await;
    streams(stack).await;
    // What nobody reads any more is not sent any more.
    endless.until_waiting(0).await;
}

/// Bodies that are small only as long as nobody decodes them, once and twice encoded.
async fn bombs(stack: &Stack) {
    let spaces = vec![b' '; 16 * MIB];
    let gzip = |body: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    };
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    zlib.write_all(&spaces).unwrap();
    let mut brotli = Vec::new();
    let fast = brotli::enc::BrotliEncoderParams { quality: 1, ..Default::default() };
    brotli::BrotliCompress(&mut &spaces[..], &mut brotli, &fast).unwrap();
    let bombs = [
        ("gzip", gzip(&spaces)),
        ("deflate", zlib.finish().unwrap()),
        ("br", brotli),
        ("zstd", zstd::encode_all(&spaces[..], 1).unwrap()),
        ("gzip, zstd", zstd::encode_all(&gzip(&spaces)[..], 1).unwrap()),
    ];
    for (coding, bomb) in bombs {
        assert!(bomb.len() < MAX_REQUEST / 8, "{coding} is no bomb");
        let bomb = Bytes::from(bomb);
        let sent = (0..AT_ONCE)
            .map(|_| stack.send(with_header(post_bytes("/v1/responses", bomb.clone()), "content-encoding", coding)));
        for reply in join_all(sent).await {
            assert_eq!(error_of(reply, 413).await["code"], "request_too_large", "{coding}");
        }
    }
}

/// Two hundred bodies that begin and do not go on: as many are held as may be, the others are refused at once.
async fn slow_bodies(stack: &Stack) {
    let piece = Bytes::from(vec![b' '; 256 * KIB]);
    let held = MAX_BUFFERED / piece.len();
    let open = (0..SLOW_CLIENTS).map(|_| {
        let request = post_stalled("/v1/responses", MAX_REQUEST, piece.clone());
        async move {
            let mut connection = stack.connect().await;
            connection.try_send(request).await
        }
    });
    let mut open: FuturesUnordered<_> = open.collect();
    for _ in held..SLOW_CLIENTS {
        let reply: Reply = within("a refusal", open.next()).await.unwrap().unwrap();
        assert_eq!(error_of(reply, 503).await["code"], "overloaded");
    }
    // Their clients leave, and give back what they held.
    drop(open);
    eventually("room for the largest request", async || {
        let body = json!({"model": "attack-extras", "input": "x".repeat(MAX_REQUEST - KIB)});
        let reply = stack.create(&body).await;
        let status = reply.status;
        let _ = reply.bytes().await;
        (status == 200).then_some(())
    })
    .await;
}

/// Bodies whose structure costs more than their bytes.
async fn structures(stack: &Stack) {
    let keys: String = (0..100_000).map(|key| format!(r#","k{key}":1"#)).collect();
    let extras = format!(r#"{{"model":"attack-extras","input":"x"{keys}}}"#);
    let same = r#"{"type":"message","id":"msg_same","role":"user","content":"x"}"#;
    let repeated = format!(r#"{{"model":"attack-extras","input":[{}{same}]}}"#, format!("{same},").repeat(16_000));
    // Arguments are JSON in a string, which the bounds of JSON do not see, and the same as much shorter ones.
    let call = |arguments: &str| {
        let arguments = Value::from(arguments);
        format!(r#"{{"type":"function_call","call_id":"c","name":"f","arguments":{arguments}}}"#)
    };
    let long = call(&format!(r#"{{"a":1{}}}"#, " ".repeat(MAX_REQUEST / 2)));
    let short = format!(",{}", call(r#"{"a":1}"#)).repeat(4000);
    let output = r#"{"type":"function_call_output","call_id":"c","output":"x"}"#;
    let calls = format!(r#"{{"model":"attack-extras","input":[{long}{short},{output}]}}"#);
    for (body, status) in [("[".repeat(MAX_REQUEST), 400), (extras, 200), (repeated, 200), (calls, 200)] {
        let body = Bytes::from(body);
        for reply in join_all((0..2).map(|_| stack.send(post_bytes("/v1/responses", body.clone())))).await {
            let (answered, answer) = (reply.status, reply.bytes().await);
            assert_eq!(answered, status, "{}", String::from_utf8_lossy(&answer));
        }
    }
}

/// Answers without measure, and how each ends.
const STREAMS: [(&str, &str); 9] = [
    ("attack-endless", "answer is larger than this service accepts"),
    ("attack-line", "event that is too large"),
    ("attack-tiny", "more events than this service accepts"),
    ("attack-arguments", "tool call is larger than this service accepts"),
    ("attack-calls", "more tool calls than this service accepts"),
    ("attack-items", "answer is larger than this service accepts"),
    ("attack-frame-of-calls", "more tool calls than this service accepts"),
    ("attack-frame-of-choices", "a chunk that cannot be read"),
    ("attack-messages", "more events than this service accepts"),
];

fn script_the_hostile_backend(stack: &Stack) -> Gate {
    let endless = Gate::closed();
    let upstream = &stack.upstream;
    upstream.forget_requests();
    upstream.answer("attack-served", |_| Answer::words("Still here."));
    upstream.answer("attack-extras", |_| Answer::completion("Yes."));
    let stream = |frames: String| {
        let frames = Bytes::from(frames);
        move |_: &_| Answer::text(200, "text/event-stream", frames.clone())
    };
    let (gate, piece) = (endless.clone(), Bytes::from(frame(&chat::text(&"x".repeat(4 * KIB)))));
    upstream.answer("attack-endless", move |_| Answer::endless(piece.clone(), &gate));
    upstream.answer("attack-line", stream(format!("data: {}", "x".repeat(4 * MIB))));
    upstream.answer("attack-tiny", stream(frame(&chat::text("x")).repeat(100_000)));
    let call = |index: usize, arguments: &str| {
        let mut call = chat::call("same", "f", arguments);
        call["index"] = index.into();
        frame(&chat::delta(&json!({"tool_calls": [call]})))
    };
    upstream.answer("attack-arguments", stream(call(0, &"y".repeat(16 * KIB)).repeat(64)));
    upstream.answer("attack-calls", stream((0..3000).map(|index| call(index, "{")).collect()));
    let both = frame(&chat::delta(&json!({"reasoning_content": "r"}))) + &frame(&chat::text("t"));
    upstream.answer("attack-items", stream(both.repeat(4000)));
    // What is walked for each of them is walked no more than once.
    let calls: Vec<_> = (0..8000).map(|index| json!({ "index": index })).collect();
    upstream.answer("attack-frame-of-calls", stream(frame(&chat::delta(&json!({"tool_calls": calls})))));
    let choices: Vec<_> = (0..80_000).map(|_| json!({})).collect();
    upstream.answer("attack-frame-of-choices", stream(frame(&json!({"choices": choices}))));
    let message = frame(&json!({"object": "chat.completion", "choices": [{"message": {"refusal": "no"}}]}));
    upstream.answer("attack-messages", stream(both.repeat(400) + &message.repeat(10_000)));
    endless
}

async fn streams(stack: &Stack) {
    for (model, ending) in STREAMS {
        let body = json!({"model": model, "input": "Hi", "stream": true});
        for reply in join_all((0..2).map(|_| stack.create(&body))).await {
            let terminal = last_event(reply).await;
            assert_eq!(terminal["type"], "response.failed", "{model}");
            let message = terminal["response"]["error"]["message"].as_str().unwrap();
            assert!(message.contains(ending), "{model}: {message}");
        }
    }
}

/// The last event of a stream, of which nothing else is looked at: there is much of it.
async fn last_event(reply: Reply) -> Value {
    assert_eq!(reply.status, 200);
    let body = String::from_utf8(reply.bytes().await.to_vec()).unwrap();
    let event = body.trim_end().rsplit("\n\n").next().unwrap();
    let (_, data) = event.split_once("\ndata: ").unwrap_or_else(|| panic!("no data in {event}"));
    serde_json::from_str(data).unwrap()
}
