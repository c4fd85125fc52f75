//! Answers that are not streamed.

use std::io::Write;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};

use super::{assert_complete, assert_framing, error_of, long_text};
use crate::support::stack::Stack;
use crate::support::stack::chat;
use crate::support::stack::http::{post_bytes, post_frames, with_header};
use crate::support::stack::upstream::Answer;

#[tokio::test]
async fn a_created_response_has_every_member_of_the_contract() {
    let stack = Stack::shared().await;
    stack.upstream.answer("json-complete", |_| Answer::completion("Hello."));
    let reply = stack
        .create(&json!({
            "model": "json-complete", "input": "Hi", "instructions": "Be brief.", "temperature": 0.5,
            "max_output_tokens": 100, "metadata": {"topic": "greeting"}, "user": "someone",
        }))
        .await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), "application/json");
    let framing = (reply.header("content-length").to_owned(), reply.header("transfer-encoding").to_owned());
    let body = reply.bytes().await;
    assert_framing(&framing, &body);

    let response: Value = serde_json::from_slice(&body).unwrap();
    assert_complete(&response);
    assert_eq!(response["status"], "completed");
    assert_eq!(response["model"], "json-complete");
    assert_eq!(response["output_text"], "Hello.");
    assert_eq!(response["instructions"], "Be brief.");
    assert_eq!(response["temperature"], 0.5);
    assert_eq!(response["max_output_tokens"], 100);
    assert_eq!(response["metadata"], json!({"topic": "greeting"}));
    assert_eq!(response["user"], "someone");
    assert_eq!(response["store"], true);
    assert!(response["completed_at"].is_u64(), "{response}");
    assert_eq!(
        response["usage"],
        json!({
            "input_tokens": 7, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 10,
        })
    );
    let message = &response["output"][0];
    assert_eq!((&message["type"], &message["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(
        message["content"],
        json!([{"type": "output_text", "text": "Hello.", "annotations": [], "logprobs": []}])
    );
}

#[tokio::test]
async fn the_upstream_gets_a_chat_request_and_nothing_else() {
    let stack = Stack::shared().await;
    stack.upstream.answer("json-chat", |_| Answer::completion("Hello."));
    let body = json!({
        "model": "json-chat", "input": "Hi", "instructions": "Be brief.", "temperature": 0.5, "top_k": 40,
        "max_output_tokens": 100, "metadata": {"topic": "greeting"}, "store": true, "truncation": "disabled",
        "prompt_cache_key": "cache", "safety_identifier": "someone", "include": [], "tools": [], "text": null,
    });
    let mut request = post_bytes("/v1/responses?trace=1", body.to_string());
    for (name, value) in [
        ("accept-encoding", "gzip, deflate"),
        ("authorization", "Bearer sk-test"),
        ("x-selected-model", "smuggled"),
        ("x-stainless-lang", "python"),
    ] {
        request = with_header(request, name, value);
    }
    assert_eq!(stack.send(request).await.status, 200);

    let received = stack.upstream.only_received("json-chat");
    assert_eq!((received.method.as_str(), &*received.path), ("POST", "/v1/chat/completions"));
    assert_eq!(received.header("x-selected-model"), ["json-chat"]);
    assert_eq!(received.header("authorization"), ["Bearer sk-test"]);
    assert_eq!(received.header("content-type"), ["application/json"]);
    assert_eq!(received.header("accept-encoding"), [""; 0]);
    assert_eq!(received.header("content-encoding"), [""; 0]);
    match received.header("content-length").as_slice() {
        [] => assert_eq!(received.header("transfer-encoding"), ["chunked"]),
        lengths => assert_eq!(lengths, [received.body.len().to_string()]),
    }
    assert_eq!(
        received.json(),
        json!({
            "model": "json-chat", "temperature": 0.5, "top_k": 40, "max_tokens": 100, "stream": false,
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        })
    );
}

#[tokio::test]
async fn retrieving_a_response_gives_what_creating_it_gave() {
    let stack = Stack::shared().await;
    stack.upstream.answer("json-get", |_| {
        let calls = [chat::call("call_1", "look_up", "{\"of\":1}"), chat::call("call_2", "look_up", "{\"of\":2}")];
        let message = json!({
            "role": "assistant", "reasoning_content": "Two of them.", "content": "A moment.", "tool_calls": calls,
        });
        Answer::json(200, &chat::completion_of(&message, "tool_calls"))
    });
    let tool = json!({"type": "function", "name": "look_up", "parameters": {"type": "object"}});
    let created = stack
        .created(&json!({
            "model": "json-get", "input": [{"role": "user", "content": "Hi"}], "tools": [tool],
            "metadata": {"a": "b"}, "top_p": 0.25, "reasoning": {"effort": "low"},
        }))
        .await;
    assert_complete(&created);
    let kinds: Vec<_> = created["output"].as_array().unwrap().iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call", "function_call"]);

    let reply = stack.retrieve(super::id(&created)).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/json"));
    let retrieved = reply.json().await;
    for (key, value) in created.as_object().unwrap() {
        assert_eq!(&retrieved[key], value, "{key}");
    }
    assert_eq!(retrieved, created);
    assert_eq!(stack.upstream.received("json-get").len(), 1);
}

#[tokio::test]
async fn a_request_of_20_mb_arrives_whole() {
    let stack = Stack::shared().await;
    stack.upstream.answer("json-big", |_| Answer::completion("Long."));
    let text = long_text(20 * 1024 * 1024);
    let response = stack.created(&json!({"model": "json-big", "input": text})).await;
    assert_eq!(response["output_text"], "Long.");
    let received = stack.upstream.only_received("json-big");
    assert!(received.messages() == [("user".to_owned(), text)], "the text has changed");
}

#[tokio::test]
async fn an_answer_of_20_mb_arrives_whole() {
    let stack = Stack::shared().await;
    stack.upstream.answer("json-big-answer", |_| Answer::completion(&long_text(20 * 1024 * 1024)));
    let response = stack.created(&json!({"model": "json-big-answer", "input": "Hi"})).await;
    assert!(response["output_text"] == long_text(20 * 1024 * 1024), "the text has changed");
}

#[tokio::test]
async fn a_request_announced_over_the_limit_is_refused_before_its_body_is_sent() {
    let stack = Stack::shared_with_narrow_limits().await;
    let mut request = with_header(post_bytes("/v1/responses", ""), "content-length", "65537");
    *request.body_mut() = BodyExt::boxed(StreamBody::new(stream::pending()));
    let error = error_of(stack.send(request).await, 413).await;
    assert_eq!(error["type"], "invalid_request_error");
}

#[tokio::test]
async fn a_chunked_request_over_the_limit_is_refused() {
    let stack = Stack::shared_with_narrow_limits().await;
    stack.upstream.answer("json-chunked", |_| Answer::completion("Hello."));
    let body = |size| {
        let body = json!({"model": "json-chunked", "input": long_text(size)}).to_string();
        let frames = body.as_bytes().chunks(1000).map(|chunk| Frame::data(Bytes::copy_from_slice(chunk)));
        post_frames("/v1/responses", frames.collect())
    };
    assert_eq!(stack.send(body(60_000)).await.status, 200);
    error_of(stack.send(body(70_000)).await, 413).await;
    assert_eq!(stack.upstream.received("json-chunked").len(), 1);
}

#[tokio::test]
async fn compressed_requests_are_decoded() {
    let stack = Stack::shared().await;
    stack.upstream.answer("json-compressed", |_| Answer::completion("Hello."));
    let text = long_text(100_000);
    let body = json!({"model": "json-compressed", "input": text}).to_string();
    for coding in ["gzip", "deflate", "br", "zstd", "identity"] {
        let request = post_bytes("/v1/responses", encode(coding, body.as_bytes()));
        let reply = stack.send(with_header(request, "content-encoding", coding)).await;
        assert_eq!(reply.status, 200, "{coding}");
    }
    let received = stack.upstream.received("json-compressed");
    assert_eq!(received.len(), 5);
    for received in received {
        assert!(!received.headers.contains_key("content-encoding"));
        assert_eq!(received.messages(), [("user".to_owned(), text.clone())]);
    }
}

#[tokio::test]
async fn a_request_over_the_limit_once_decoded_is_refused() {
    let stack = Stack::shared_with_narrow_limits().await;
    let bomb = vec![b' '; 50 * 1024 * 1024];
    for coding in ["gzip", "deflate", "br", "zstd"] {
        let body = encode(coding, &bomb);
        assert!(body.len() < 65_536, "{coding}: {}", body.len());
        let request = with_header(post_bytes("/v1/responses", body), "content-encoding", coding);
        error_of(stack.send(request).await, 413).await;
    }
}

#[tokio::test]
async fn a_coding_that_is_not_known_is_refused() {
    let stack = Stack::shared().await;
    let request = with_header(post_bytes("/v1/responses", "{}"), "content-encoding", "compress");
    let error = error_of(stack.send(request).await, 415).await;
    assert_eq!(error["type"], "invalid_request_error");
}

#[tokio::test]
async fn a_body_that_is_not_what_its_coding_says_is_refused() {
    let stack = Stack::shared().await;
    for coding in ["gzip", "br", "zstd", "deflate"] {
        let request = with_header(post_bytes("/v1/responses", "not compressed"), "content-encoding", coding);
        error_of(stack.send(request).await, 400).await;
    }
}

#[tokio::test]
async fn an_answer_that_is_compressed_all_the_same_is_read() {
    let stack = Stack::shared().await;
    stack.upstream.answer("json-compressed-answer", |_| {
        let body = encode("gzip", chat::completion("Hello.").to_string().as_bytes());
        Answer::text(200, "application/json", body).header("content-encoding", "gzip")
    });
    let reply = stack.create(&json!({"model": "json-compressed-answer", "input": "Hi"})).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-encoding")), (200, ""));
    assert_eq!(reply.json().await["output_text"], "Hello.");
}

fn encode(coding: &str, bytes: &[u8]) -> Bytes {
    let encoded = match coding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "br" => {
            let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
            encoder.write_all(bytes).unwrap();
            encoder.into_inner()
        }
        "zstd" => zstd::encode_all(bytes, 3).unwrap(),
        _ => bytes.to_vec(),
    };
    Bytes::from(encoded)
}
