//! A processor that changes nothing: the floor under every benchmark of the router.
//!
//! It goes the same way through Envoy as the router does (FULL_DUPLEX_STREAMED, request headers answered only when the
//! body is read, the response passed on piece by piece) with the same message layer, and does nothing in between.
//!
//! ```text
//! cargo run --release --example noop_processor -- 127.0.0.1:50051
//! cargo run --release --example noop_processor -- unix:/path/to/socket [threads]
//! ```

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use responses_router::config::Listen;
use responses_router::extproc::Handler;
use responses_router::extproc::body::BodyCollector;
use responses_router::extproc::duplex::{Envoy, ExchangeError, Finished};
use responses_router::extproc::headers::HeaderMutation;
use responses_router::extproc::message::{Inbound, LastReply, Reply};
use responses_router::server::{self, Listener, Stop};
use responses_router::telemetry::traces::TraceContext;
use responses_router::telemetry::{Account, Reporter};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Noop(Arc<Reporter>);

impl Handler for Noop {
    fn account(&self, heard: Option<TraceContext>) -> Account {
        Account::open(Arc::clone(&self.0), heard)
    }

    async fn exchange(self: Arc<Self>, mut envoy: Envoy) -> Result<Finished, ExchangeError> {
        pass_request(&mut envoy).await?;
        pass_response(envoy).await
    }
}

/// Holds the request until it is read, and lets it go unchanged.
async fn pass_request(envoy: &mut Envoy) -> Result<(), ExchangeError> {
    let Inbound::RequestHeaders(head) = envoy.next().await? else {
        return Err(ExchangeError::OutOfOrder("waiting for request headers"));
    };
    let unchanged = Reply::request_headers(HeaderMutation::new(), false);
    if head.end_of_stream {
        envoy.send(unchanged).await;
        return Ok(());
    }
    let mut body = BodyCollector::new(usize::MAX);
    let trailers = loop {
        match envoy.next().await? {
            Inbound::RequestBody(piece) => match body.push(piece) {
                Ok(false) => {}
                Ok(true) => break false,
                Err(_) => return Err(ExchangeError::Internal("a body larger than the address space")),
            },
            Inbound::RequestTrailers => break true,
            _ => return Err(ExchangeError::OutOfOrder("reading the request body")),
        }
    };
    envoy.send(unchanged).await;
    envoy.send(Reply::request_body(body.finish(), !trailers)).await;
    if trailers {
        envoy.send(Reply::request_trailers()).await;
    }
    Ok(())
}

/// Passes the response on as it comes, one message out per message in.
async fn pass_response(mut envoy: Envoy) -> Result<Finished, ExchangeError> {
    loop {
        match envoy.next().await? {
            Inbound::ResponseHeaders(head) if head.end_of_stream => {
                return Ok(envoy.finish(LastReply::response_headers(HeaderMutation::new())).await);
            }
            Inbound::ResponseHeaders(_) => envoy.send(Reply::response_headers(HeaderMutation::new())).await,
            Inbound::ResponseBody(piece) if piece.end => {
                return Ok(envoy.finish(LastReply::response_body(piece.bytes)).await);
            }
            Inbound::ResponseBody(piece) => envoy.send(Reply::response_body(piece.bytes)).await,
            Inbound::ResponseTrailers => return Ok(envoy.finish(LastReply::response_trailers()).await),
            _ => return Err(ExchangeError::OutOfOrder("waiting for the response")),
        }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("noop_processor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or("which address? 127.0.0.1:50051 or unix:/path")?;
    let listen = match address.strip_prefix("unix:") {
        Some(path) => Listen::Unix(path.into()),
        None => Listen::Tcp(address.parse()?),
    };
    let threads = arguments.next().map_or(Ok(1), |threads| threads.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(async {
        let listener = Listener::bind(&listen, None).await?;
        println!("listening on {}", listener.listen());
        let token = CancellationToken::new();
        let stop = Stop {
            token: token.clone(),
            delay: Duration::ZERO,
            grace: Duration::from_secs(1),
            grace_over: CancellationToken::new(),
            live: TaskTracker::new(),
        };
        let mut serving = std::pin::pin!(server::serve(listener, Arc::new(Noop(Arc::default())), stop));
        tokio::select! {
            served = &mut serving => served?,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                token.cancel();
                serving.await?
            }
        };
        Ok(())
    })
}
