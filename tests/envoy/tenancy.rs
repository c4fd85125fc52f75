//! Tenants as a real Envoy tells them: by a header, by metadata, by a verified token, by their credentials.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};
use responses_router::tenant::Tenant;
use ring::hmac;
use serde_json::{Value, json};

use super::id;
use crate::support::stack::http::{Reply, Request, post, request};
use crate::support::stack::upstream::{Answer, Received};
use crate::support::stack::{Hold, Stack, StackOptions};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A stack with these settings of the tenancy block, and with filters of Envoy before ours.
async fn stack(tenancy: Value, filters: Vec<Value>) -> Hold {
    let edit = move |envoy: &mut Value| {
        let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";
        let chain = envoy.pointer_mut(manager).unwrap().as_array_mut().unwrap();
        chain.splice(0..0, filters);
    };
    let keys = json!({"keys": [{"id": "k1", "key": KEY}]});
    let settings = json!({"tenancy": tenancy, "response_api": {"reasoning_encryption": keys}});
    let options = StackOptions { settings, envoy: Some(Box::new(edit)), ..StackOptions::default() };
    let stack = Stack::start(options).await;
    stack.upstream.answer("tenancy", recall);
    stack
}

/// Answers with the texts of all messages that came, and reasoning.
fn recall(received: &Received) -> Answer {
    assert!(received.headers.get("x-tenant-id").is_none(), "the tenant's header went up");
    let texts: Vec<String> = received.messages().into_iter().map(|(_, text)| text).collect();
    Answer::completion(&format!("[{}]", texts.join("|")))
}

/// Stands in for a filter that knows who has which API key: whose header `x-api-key` says so is that tenant.
fn trusted_header() -> Value {
    json!({
        "name": "envoy.filters.http.header_mutation",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            "mutations": {"request_mutations": [{"append": {
                "header": {"key": "x-tenant-id", "value": "%REQ(x-api-key)%"},
                "append_action": "APPEND_IF_EXISTS_OR_ADD",
            }}]},
        },
    })
}

fn trusted_metadata() -> Value {
    json!({
        "name": "envoy.filters.http.header_to_metadata",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config",
            "request_rules": [{
                "header": "x-api-key",
                "on_header_present": {"metadata_namespace": "tenant", "key": "id", "type": "STRING"},
                "remove": true,
            }],
        },
    })
}

const SECRET: &[u8] = b"a secret that signs the tokens of this test";

fn verified_token() -> Value {
    let keys = json!({"keys": [{"kty": "oct", "alg": "HS256", "kid": "k", "k": URL_SAFE_NO_PAD.encode(SECRET)}]});
    json!({
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"test": {
                "issuer": "test",
                "local_jwks": {"inline_string": keys.to_string()},
                "payload_in_metadata": "jwt_payload",
                "forward": true,
            }},
            "rules": [{"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": [
                {"provider_name": "test"}, {"allow_missing": {}},
            ]}}}],
        },
    })
}

fn token(claims: &Value, secret: &[u8]) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({"alg": "HS256", "typ": "JWT", "kid": "k"})), part(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("Bearer {signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

fn with(mut request: Request, headers: &[(&'static str, &str)]) -> Request {
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

/// What a client can tell of a reply: all but when, and the ids that it named itself.
async fn told(reply: Reply, named: &str) -> (u16, Vec<(String, String)>, String) {
    let status = reply.status.as_u16();
    let varies = ["date", "x-envoy-upstream-service-time"];
    let headers = reply.headers.iter().filter(|(name, _)| !varies.contains(&name.as_str()));
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    let body = String::from_utf8(reply.bytes().await.to_vec()).unwrap();
    (status, headers, body.replace(named, "ID"))
}

/// Every request that names a response, by its id or by an item of it.
fn uses(id: &str) -> Vec<Request> {
    let item = format!("msg_{}_0", id.strip_prefix("resp_").unwrap());
    let create = |body: Value| post("/v1/responses", &body);
    vec![
        request("GET", &format!("/v1/responses/{id}")),
        request("GET", &format!("/v1/responses/{id}/input_items")),
        create(json!({"model": "tenancy", "input": "x", "previous_response_id": id})),
        create(json!({"model": "tenancy", "input": "x", "previous_response_id": id, "stream": true})),
        create(json!({"model": "tenancy", "input": [{"type": "item_reference", "id": item}]})),
        request("POST", &format!("/v1/responses/{id}/cancel")),
        request("DELETE", &format!("/v1/responses/{id}")),
    ]
}

fn create(text: &str) -> Request {
    post("/v1/responses", &json!({"model": "tenancy", "input": text}))
}

async fn created(stack: &Stack, text: &str, who: &[(&'static str, &str)]) -> Value {
    let reply = stack.send(with(create(text), who)).await;
    assert_eq!(reply.status, 200);
    reply.json().await
}

/// What holds however tenants are told apart. `who` makes the headers of a tenant of this name.
async fn keeps_tenants_apart(stack: &Stack, header: &'static str, who: impl Fn(&str) -> String) {
    let [acme, evil] = ["acme", "evil"].map(who);
    let (acme, evil) = ([(header, &*acme)], [(header, &*evil)]);
    let first = created(stack, "ACME", &acme).await;
    let second = json!({"model": "tenancy", "input": "two", "previous_response_id": first["id"]});
    let second = stack.send(with(post("/v1/responses", &second), &acme)).await.json().await;
    assert_eq!(second["output_text"], "[ACME|[ACME]|two]");

    let unknown = "resp_00000000000000000000000000000000";
    for response in [&first, &second] {
        for (theirs, nobodys) in uses(id(response)).into_iter().zip(uses(unknown)) {
            let what = format!("{} {}", theirs.method(), theirs.uri());
            let digits = |id: &str| id.strip_prefix("resp_").unwrap().to_owned();
            let foreign = told(stack.send(with(theirs, &evil)).await, &digits(id(response))).await;
            let unknown = told(stack.send(with(nobodys, &evil)).await, &digits(unknown)).await;
            assert_eq!(foreign, unknown, "{what}");
            assert!(foreign.0 >= 400 && !foreign.2.contains("ACME"), "{what}: {foreign:?}");
        }
    }
    // Without identity, and with what a client says of itself, there is no answer at all.
    for claimed in [&[][..], &[("x-tenant-id", "acme")]] {
        for request in uses(id(&first)).into_iter().chain([create("x")]) {
            let reply = stack.send(with(request, claimed)).await;
            assert_eq!(reply.status, 401);
            let error = reply.json().await;
            assert_eq!(
                (&error["error"]["code"], &error["error"]["type"]),
                (&json!("missing_tenant"), &json!("authentication_error"))
            );
        }
    }
    // And what a client says of itself changes nothing.
    let claiming = [evil[0], ("x-tenant-id", "acme")];
    assert_eq!(stack.send(with(request("GET", &format!("/v1/responses/{}", id(&first))), &claiming)).await.status, 404);
    // It is all still there.
    let statuses = [200, 200, 200, 200, 200, 400, 200];
    for (use_of, status) in uses(id(&first)).into_iter().zip(statuses) {
        let what = format!("{} {}", use_of.method(), use_of.uri());
        assert_eq!(stack.send(with(use_of, &acme)).await.status, status, "{what}");
    }
    let preflight = stack.send(request("OPTIONS", "/v1/responses")).await;
    assert_eq!(preflight.status, 204);
}

#[tokio::test]
async fn a_header_that_envoy_sets_tells_tenants_apart_and_one_of_a_client_does_not() {
    let stack = stack(json!({"source": "header"}), vec![trusted_header()]).await;
    keeps_tenants_apart(&stack, "x-api-key", str::to_owned).await;
    let log = stack.router.process.log_tail();
    assert!(log.contains(&format!("tenant=\"{}\"", Tenant::named(b"acme").short())) && !log.contains("acme"), "{log}");
}

#[tokio::test]
async fn dynamic_metadata_tell_tenants_apart() {
    let tenancy = json!({"source": "metadata", "metadata": {"namespace": "tenant", "path": ["id"]}});
    let stack = stack(tenancy, vec![trusted_metadata()]).await;
    keeps_tenants_apart(&stack, "x-api-key", str::to_owned).await;
}

#[tokio::test]
async fn a_claim_of_a_verified_token_tells_tenants_apart() {
    let tenancy = json!({"source": "jwt_claim", "jwt_claim": {"path": ["https://example.com/org", "id"]}});
    let stack = stack(tenancy, vec![verified_token()]).await;
    let claims = |org: Value| json!({"iss": "test", "sub": "one and the same", "https://example.com/org": {"id": org}});
    keeps_tenants_apart(&stack, "authorization", |name| token(&claims(json!(name)), SECRET)).await;
    // A number would not be exact; a token of somebody else's does not pass Envoy.
    for (forged, status, code) in [
        (token(&claims(json!(7)), SECRET), 401, "missing_tenant"),
        (token(&claims(json!("acme")), b"another secret"), 401, "Jwt verification fails"),
    ] {
        let reply = stack.send(with(create("x"), &[("authorization", &*forged)])).await;
        assert_eq!(reply.status, status);
        let body = reply.bytes().await;
        assert!(String::from_utf8_lossy(&body).contains(code), "{body:?}");
    }
}

#[tokio::test]
async fn credentials_tell_tenants_apart_and_are_kept_nowhere() {
    let stack = stack(json!({"source": "authorization", "authorization": {"key": KEY}}), Vec::new()).await;
    keeps_tenants_apart(&stack, "authorization", |name| format!("Bearer sk-{name}")).await;
    assert!(!stack.router.process.log_tail().contains("sk-"));
}

#[tokio::test]
async fn who_may_stay_unknown_is_answered_and_nothing_is_kept() {
    let tenancy = json!({"source": "header", "required": false});
    let stack = stack(tenancy, vec![trusted_header()]).await;
    let reply = stack.send(create("anonymous")).await;
    assert_eq!((reply.status.as_u16(), reply.header("x-responses-lossy")), (200, "store"));
    let response = reply.json().await;
    assert_eq!((&response["output_text"], &response["store"]), (&json!("[anonymous]"), &json!(false)));
    let known = created(&stack, "ACME", &[("x-api-key", "acme")]).await;
    for response in [&response, &known] {
        for use_of in uses(id(response)) {
            assert!(stack.send(use_of).await.status.as_u16() >= 400);
        }
    }
}

#[tokio::test]
async fn in_any_order_of_requests_no_tenant_ever_sees_anything_of_another() {
    let stack = stack(json!({"source": "header"}), vec![trusted_header()]).await;
    let tenants = ["alpha", "beta", "gamma"];
    // Which tenant, which use, and of which of the responses that there are.
    let steps = prop::collection::vec((0..3_usize, 0..9_usize, any::<prop::sample::Index>()), 150);
    let steps = steps.new_tree(&mut TestRunner::new(Config::default())).unwrap().current();
    let mut responses: Vec<(usize, String)> = Vec::new();
    for (tenant, kind, which) in steps {
        let who = [("x-api-key", tenants[tenant])];
        let made = if kind > 6 || responses.is_empty() {
            stack.send(with(create(&format!("MARK-{}", tenants[tenant])), &who)).await
        } else {
            let (owner, id) = &responses[which.index(responses.len())];
            let reply = stack.send(with(uses(id).remove(kind), &who)).await;
            assert!(*owner == tenant || reply.status.as_u16() >= 400, "{tenant} {kind} of {owner}");
            reply
        };
        let is_response = made.status == 200;
        let body = String::from_utf8(made.bytes().await.to_vec()).unwrap();
        for (other, name) in tenants.iter().enumerate() {
            assert!(other == tenant || !body.contains(&format!("MARK-{name}")), "{tenant}, {kind}: {body}");
        }
        let id = serde_json::from_str::<Value>(&body).ok().and_then(|body| Some(body["id"].as_str()?.to_owned()));
        match (is_response, kind, id) {
            (true, 6, Some(id)) => responses.retain(|(_, kept)| *kept != id),
            (true, 2 | 4 | 7 | 8, Some(id)) => responses.push((tenant, id)),
            (true, _, Some(id)) if responses.is_empty() => responses.push((tenant, id)),
            _ => {}
        }
    }
    assert!(!responses.is_empty());
}
