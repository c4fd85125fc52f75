//! Two routers, each behind an Envoy of its own, on one Redis Cluster.

use serde_json::{Value, json};

use super::id;
use crate::support::redis::Cluster;
use crate::support::stack::upstream::Answer;
use crate::support::stack::{Stack, StackOptions};

#[tokio::test]
async fn another_router_continues_a_chain_as_soon_as_its_stream_has_completed() {
    let settings = Cluster::shared().settings();
    let start = || Stack::start(StackOptions { settings: settings.clone(), ..StackOptions::default() });
    let (one, other) = tokio::join!(start(), start());
    one.upstream.answer("cluster", |_| Answer::words("An answer."));
    other.upstream.answer("cluster", |received| {
        let texts: Vec<String> = received.messages().into_iter().map(|(_, text)| text).collect();
        Answer::completion(&texts.join("|"))
    });
    for round in 0..20 {
        let question = format!("Question {round}?");
        let asked = json!({"model": "cluster", "input": question, "stream": true});
        let mut events = one.create(&asked).await.events();
        let completed = events.skip_to("response.completed").await;
        let parent = id(&completed["response"]);
        // No pause: what was completed is stored, for every router.
        let next = json!({"model": "cluster", "input": "And?", "previous_response_id": parent});
        let next = other.created(&next).await;
        assert_eq!(next["output_text"], format!("{question}|An answer.|And?"));
        assert_eq!(one.retrieve(id(&next)).await.json().await, next);
        assert_eq!(other.delete(parent).await.status, 200);
        assert_eq!(one.retrieve(parent).await.status, 404);
    }
}

#[tokio::test]
async fn a_conversation_lies_on_one_master() {
    let cluster = Cluster::shared();
    let settings = cluster.settings();
    let prefix = settings["response_api"]["redis"]["key_prefix"].as_str().unwrap().to_owned();
    let stack = Stack::start(StackOptions { settings, ..StackOptions::default() }).await;
    stack.upstream.answer("one-master", |_| Answer::words("An answer."));
    let mut parent = None;
    for turn in 0..10 {
        let mut asked = json!({"model": "one-master", "input": format!("Question {turn}?")});
        if let Some(parent) = &parent {
            asked["previous_response_id"] = json!(parent);
        }
        parent = Some(id(&stack.created(&asked).await).to_owned());
    }
    let keys = |master: usize| {
        cluster.nodes[master].cli(&["KEYS", &format!("{prefix}*")]).lines().filter(|key| !key.is_empty()).count()
    };
    let lying: Vec<_> = cluster.masters().into_iter().map(keys).filter(|keys| *keys > 0).collect();
    assert_eq!(lying, [10]);
}

#[tokio::test]
async fn an_answers_text_is_stored_once_and_read_as_it_was_sent() {
    let cluster = Cluster::shared();
    let settings = cluster.settings();
    let prefix = settings["response_api"]["redis"]["key_prefix"].as_str().unwrap().to_owned();
    let start = || Stack::start(StackOptions { settings: settings.clone(), ..StackOptions::default() });
    let (one, other) = tokio::join!(start(), start());
    let text = "Said \"once\":\n{\"output_text\":\"é😀\"}";
    one.upstream.answer("stored-once", move |received| {
        if received.json()["stream"] == true { Answer::words(text) } else { Answer::completion(text) }
    });
    let sent = one.create(&json!({"model": "stored-once", "input": "Say."})).await.bytes().await;
    let response: Value = serde_json::from_slice(&sent).unwrap();
    assert_eq!(response["output_text"], text);
    for stack in [&one, &other] {
        assert_eq!(stack.retrieve(id(&response)).await.bytes().await, sent);
    }
    let key = format!("{prefix}response:{}", id(&response));
    let at_rest: Value = serde_json::from_str(&cluster.nodes[0].cli(&["-c", "GET", &key])).unwrap();
    assert_eq!(at_rest["output"], response["output"]);
    assert_eq!(at_rest.get("output_text"), None);

    let asked = json!({"model": "stored-once", "input": "Say.", "stream": true});
    let completed = one.create(&asked).await.events().skip_to("response.completed").await;
    let response = &completed["response"];
    assert_eq!(response["output_text"], text);
    assert_eq!(&other.retrieve(id(response)).await.json().await, response);
}
