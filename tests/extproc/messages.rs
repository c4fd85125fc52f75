//! The messages, both ways: our description of them against the one in envoy-types.

use bytes::Bytes;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use responses_router::extproc::body::BodyCollector;
use responses_router::extproc::duplex::ExchangeError;
use responses_router::extproc::headers::HeaderMutation;
use responses_router::extproc::message::{BodyPiece, Inbound, LastReply, Reply};
use tonic::Code;

use crate::support::envoy::ext_proc::processing_request::Request;
use crate::support::envoy::{
    Router, Seen, answer, head, modes, post, request, request_body, request_trailers, response_body, response_trailers,
    seen,
};

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn piece(text: &'static str, end: bool) -> BodyPiece {
    BodyPiece { bytes: Bytes::from_static(text.as_bytes()), end }
}

#[tokio::test]
async fn both_descriptions_of_the_messages_agree() {
    let router = Router::script(|mut envoy| async move {
        let Inbound::RequestHeaders(head) = envoy.next().await? else { panic!("request headers") };
        assert_eq!((head.method.as_str(), &*head.path, head.end_of_stream), ("POST", "/v1/responses?a=%20", false));
        assert_eq!(head.headers.get("x-name"), Some(&b"caf\xe9"[..]));
        assert_eq!(head.headers.text("content-type"), Some("application/json"));
        assert_eq!(head.attributes.text("request.id").as_deref(), Some("r1"));
        assert_eq!(head.attributes.text("response.code_details"), None);
        assert_eq!(envoy.next().await?, Inbound::RequestBody(piece("{\"a\"", false)));
        assert_eq!(envoy.next().await?, Inbound::RequestBody(piece(":1}", false)));
        assert_eq!(envoy.next().await?, Inbound::RequestTrailers);
        let mutation = HeaderMutation::new()
            .set(":path", "/v1/chat/completions")
            .set("x-selected-model", "m")
            .remove("content-length")
            .remove("accept-encoding");
        envoy.send(Reply::request_headers(mutation, true)).await;
        envoy.send(Reply::request_body(Bytes::from_static(b"chat"), false)).await;
        envoy.send(Reply::request_trailers()).await;

        let Inbound::ResponseHeaders(head) = envoy.next().await? else { panic!("response headers") };
        assert_eq!((head.status, head.end_of_stream, head.from_upstream()), (200, false, Some(true)));
        assert_eq!(head.headers.text("content-type"), Some("text/event-stream"));
        envoy.send(Reply::response_headers(HeaderMutation::new().status(201).remove("etag"))).await;
        assert_eq!(envoy.next().await?, Inbound::ResponseBody(piece("one", false)));
        envoy.send(Reply::response_body(Bytes::from_static(b"eins"))).await;
        assert_eq!(envoy.next().await?, Inbound::ResponseTrailers);
        Ok(envoy.finish(LastReply::response_trailers()).await)
    })
    .await;

    let mut exchange = router.open().await;
    let headers: [(&str, &[u8]); 4] = [
        (":method", b"POST"),
        (":path", b"/v1/responses?a=%20"),
        ("x-name", b"caf\xe9"),
        ("content-type", b"application/json"),
    ];
    exchange.send_with(Request::RequestHeaders(head(&headers, false)), &[("request.id", "r1")]).await;
    exchange.send(request_body("{\"a\"", false)).await;
    exchange.send(request_body(":1}", false)).await;
    exchange.send(request_trailers()).await;
    assert_eq!(
        seen(exchange.reply().await),
        Seen::RequestHeaders {
            set: pairs(&[(":path", "/v1/chat/completions"), ("x-selected-model", "m")]),
            remove: vec!["content-length".to_owned(), "accept-encoding".to_owned()],
            clear_route_cache: true,
        }
    );
    assert_eq!(seen(exchange.reply().await), Seen::RequestBody { body: b"chat".to_vec(), end: false });
    assert_eq!(seen(exchange.reply().await), Seen::RequestTrailers);
    exchange.send_with(answer("200", "text/event-stream"), &[("response.code_details", "via_upstream")]).await;
    let set = pairs(&[(":status", "201")]);
    assert_eq!(seen(exchange.reply().await), Seen::ResponseHeaders { set, remove: vec!["etag".to_owned()] });
    exchange.send(response_body("one", false)).await;
    assert_eq!(seen(exchange.reply().await), Seen::ResponseBody { body: b"eins".to_vec(), end: false });
    exchange.send(response_trailers()).await;
    assert_eq!(seen(exchange.reply().await), Seen::ResponseTrailers);
    exchange.end().await;
}

#[tokio::test]
async fn an_answer_of_our_own_goes_out_whole_or_streamed() {
    let router = Router::script(|mut envoy| async move {
        let Inbound::RequestHeaders(head) = envoy.next().await? else { panic!("request headers") };
        assert!(head.end_of_stream);
        let json = HeaderMutation::new().set("content-type", "application/json");
        if head.path == "/whole" {
            let body = Bytes::from_static(b"{}");
            return Ok(envoy.finish(LastReply::immediate(404, json, body, "no_such_response")).await);
        }
        if head.path == "/bodiless" {
            return Ok(envoy.finish(LastReply::local_headers(204, HeaderMutation::new().set("allow", "POST"))).await);
        }
        envoy.send(Reply::local_headers(200, json)).await;
        envoy.send(Reply::local_body(Bytes::from_static(b"{"))).await;
        Ok(envoy.finish(LastReply::local_body(Bytes::from_static(b"}"))).await)
    })
    .await;

    let mut whole = router.open().await;
    whole.send(request("GET", "/whole")).await;
    let reply = seen(whole.reply().await);
    let set = pairs(&[("content-type", "application/json")]);
    let details = "no_such_response".to_owned();
    assert_eq!(reply, Seen::Immediate { status: 404, set, body: b"{}".to_vec(), details });
    whole.end().await;

    let mut streamed = router.open().await;
    streamed.send(request("GET", "/streamed")).await;
    let headers = pairs(&[("content-type", "application/json"), (":status", "200")]);
    assert_eq!(seen(streamed.reply().await), Seen::LocalHeaders { headers, end: false });
    assert_eq!(seen(streamed.reply().await), Seen::LocalBody { body: b"{".to_vec(), end: false });
    assert_eq!(seen(streamed.reply().await), Seen::LocalBody { body: b"}".to_vec(), end: true });
    streamed.end().await;

    let mut bodiless = router.open().await;
    bodiless.send(request("OPTIONS", "/bodiless")).await;
    let headers = pairs(&[("allow", "POST"), (":status", "204")]);
    assert_eq!(seen(bodiless.reply().await), Seen::LocalHeaders { headers, end: true });
    bodiless.end().await;
}

#[tokio::test]
async fn a_body_of_twenty_megabytes_goes_in_by_pieces_and_out_at_once() {
    let router = Router::script(|mut envoy| async move {
        let Inbound::RequestHeaders(_) = envoy.next().await? else { panic!("request headers") };
        let mut body = BodyCollector::new(32 << 20);
        while let Inbound::RequestBody(piece) = envoy.next().await? {
            if body.push(piece).unwrap() {
                break;
            }
        }
        envoy.send(Reply::request_headers(HeaderMutation::new(), false)).await;
        envoy.send(Reply::request_body(body.finish(), true)).await;
        let Inbound::ResponseHeaders(_) = envoy.next().await? else { panic!("response headers") };
        Ok(envoy.finish(LastReply::response_headers(HeaderMutation::new())).await)
    })
    .await;
    let mut exchange = router.open().await;
    exchange.send(post()).await;
    for number in 0..20 {
        exchange.send(request_body(vec![number; 1 << 20], false)).await;
    }
    exchange.send(request_body("", true)).await;
    assert!(matches!(seen(exchange.reply().await), Seen::RequestHeaders { .. }));
    let Seen::RequestBody { body, end: true } = seen(exchange.reply().await) else { panic!("the body") };
    assert_eq!((body.len(), body[0], body[(20 << 20) - 1]), (20 << 20, 0, 19));
    exchange.send(answer("200", "text/plain")).await;
    assert!(matches!(seen(exchange.reply().await), Seen::ResponseHeaders { .. }));
    exchange.end().await;
}

#[tokio::test]
async fn a_repeated_end_of_the_request_body_is_not_seen() {
    let router = Router::script(|mut envoy| async move {
        let Inbound::RequestHeaders(_) = envoy.next().await? else { panic!("request headers") };
        assert_eq!(envoy.next().await?, Inbound::RequestBody(piece("{}", true)));
        let Inbound::ResponseHeaders(head) = envoy.next().await? else { panic!("response headers") };
        assert_eq!(head.from_upstream(), None);
        Ok(envoy.finish(LastReply::response_body(Bytes::new())).await)
    })
    .await;
    let mut exchange = router.open().await;
    exchange.send(post()).await;
    exchange.send(request_body("{}", true)).await;
    exchange.send(request_body("{}", true)).await;
    exchange.send(answer("200", "text/plain")).await;
    exchange.reply().await;
    exchange.end().await;
}

#[tokio::test]
async fn another_filter_may_answer_before_a_request_is_seen() {
    let router = Router::script(|mut envoy| async move {
        let Inbound::ResponseHeaders(head) = envoy.next().await? else { panic!("response headers") };
        assert_eq!((head.status, head.from_upstream()), (403, Some(false)));
        Ok(envoy.finish(LastReply::response_headers(HeaderMutation::new())).await)
    })
    .await;
    let mut exchange = router.open().await;
    let denied = Request::ResponseHeaders(head(&[(":status", b"403")], true));
    exchange.send_with(denied, &[("response.code_details", "rbac_access_denied")]).await;
    assert_eq!(seen(exchange.reply().await), Seen::ResponseHeaders { set: vec![], remove: vec![] });
    exchange.end().await;
}

#[tokio::test]
async fn another_processing_mode_is_refused_by_a_message_that_names_the_right_one() {
    let router = Router::script(|mut envoy| async move {
        envoy.next().await?;
        Ok(envoy.finish(LastReply::immediate(200, HeaderMutation::new(), Bytes::new(), "ok")).await)
    })
    .await;
    use BodySendMode::{Buffered, BufferedPartial, FullDuplexStreamed, Grpc, None, Streamed};
    for (request_mode, response_mode, wrong) in [
        (Buffered, Buffered, "request_body_mode BUFFERED"),
        (Streamed, FullDuplexStreamed, "request_body_mode STREAMED"),
        (FullDuplexStreamed, None, "response_body_mode NONE"),
        (FullDuplexStreamed, BufferedPartial, "response_body_mode BUFFERED_PARTIAL"),
        (Grpc, FullDuplexStreamed, "request_body_mode GRPC"),
    ] {
        let mut exchange = router.open().await;
        exchange.protocol = Some(modes(request_mode, response_mode));
        exchange.send(request("GET", "/")).await;
        let status = exchange.error().await;
        assert_eq!(status.code(), Code::FailedPrecondition, "{wrong}");
        assert!(status.message().contains(wrong), "{status:?}");
        assert!(status.message().contains("request_body_mode: FULL_DUPLEX_STREAMED"), "{status:?}");
    }

    let mut observed = router.open().await;
    observed.observability_mode = true;
    observed.send(request("GET", "/")).await;
    let status = observed.error().await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("observability_mode"), "{status:?}");

    let mut old = router.open().await;
    old.protocol = Option::None;
    old.send(request("GET", "/")).await;
    old.reply().await;
    old.end().await;
}

#[tokio::test]
async fn a_head_without_method_or_status_is_an_error() {
    let router = Router::script(|mut envoy| async move {
        match envoy.next().await {
            Err(error @ ExchangeError::Malformed(_)) => Err(error),
            other => panic!("{other:?}"),
        }
    })
    .await;
    for malformed in [
        Request::RequestHeaders(head(&[(":path", b"/")], true)),
        Request::RequestHeaders(head(&[(":method", b"GE T"), (":path", b"/")], true)),
        Request::ResponseHeaders(head(&[], true)),
        Request::ResponseHeaders(head(&[(":status", b"okay")], true)),
    ] {
        let mut exchange = router.open().await;
        exchange.send(malformed).await;
        assert_eq!(exchange.error().await.code(), Code::InvalidArgument);
    }
}
