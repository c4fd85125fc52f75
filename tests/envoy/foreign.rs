//! A record that the Go semantic-router wrote, served by ours.

use serde_json::json;

use super::id;
use crate::support::grammar;
use crate::support::redis::Server;
use crate::support::stack::upstream::Answer;
use crate::support::stack::{Stack, StackOptions};

#[tokio::test]
async fn a_record_of_the_go_router_is_served_whole_and_continued() {
    let server = Server::start(&[]);
    let redis = server.config();
    let settings = json!({"response_api": {
        "store_backend": "redis",
        "redis": {"address": redis.address.to_string(), "key_prefix": redis.key_prefix},
    }});
    let stack = Stack::start(StackOptions { settings, ..StackOptions::default() }).await;
    let parent = "resp_00112233445566778899aabbccddeeff";
    let text = include_str!("../golden/foreign/a_sparse_record_gets_the_defaults.json");
    let text = text.replace("resp_0123456789abcdef01234567", parent);
    let text = text.replace("\"input\": null", r#""input": [{"role": "user", "content": "What is 2 + 2?"}]"#);
    server.cli(&["SET", &format!("{}response:{parent}", redis.key_prefix), &text, "EX", "60"]);

    let retrieved = stack.retrieve(parent).await.json().await;
    grammar::check_response(&retrieved).unwrap();
    assert_eq!((&retrieved["output_text"], &retrieved["created_at"]), (&json!("It is 4."), &json!(1_700_000_000)));
    let items = stack.get(&format!("/v1/responses/{parent}/input_items")).await.json().await;
    assert_eq!(
        items["data"],
        json!([{"id": "msg_00112233445566778899aabbccddeeff_0", "role": "user", "content": "What is 2 + 2?"}])
    );
    assert_eq!((&items["first_id"], &items["has_more"]), (&items["data"][0]["id"], &json!(false)));

    stack.upstream.answer("foreign", |received| {
        let texts: Vec<String> = received.messages().into_iter().map(|(_, text)| text).collect();
        Answer::completion(&texts.join("|"))
    });
    let next = json!({"model": "foreign", "input": "And 3 + 3?", "previous_response_id": parent});
    let next = stack.created(&next).await;
    assert_eq!(next["output_text"], "What is 2 + 2?|It is 4.|And 3 + 3?");
    assert_eq!(stack.delete(id(&next)).await.status, 200);
    assert_eq!(stack.delete(parent).await.status, 200);
    assert_eq!(stack.retrieve(parent).await.status, 404);
}
