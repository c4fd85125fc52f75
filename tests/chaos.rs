//! Harm to every part of the whole path while it is in use: `make test-chaos`.
//!
//! Whatever happens, a client gets its right answer, one of the contract's errors, or a connection that is plainly cut
//! (CONTRACT §8); what was acknowledged is there afterwards; and nothing stays behind in the router.

mod crowd;
mod envoy;
mod redis;
mod router;
mod soak;
mod upstream;

use serde_json::{Value, json};

use crate::support::stack::router::Router;
use crate::support::stack::wait::eventually;
use crate::support::stack::{Hold, Stack, StackOptions};

/// More files or tasks than before that are no leak: connections that Envoy has opened beside the first, timers.
const FEW: usize = 16;

/// A stack whose router can be restarted and tells of itself.
async fn start(mut settings: Value) -> Hold {
    settings["server"] = json!({"admin_listen": "127.0.0.1:0", "drain_seconds": 5});
    Stack::start(StackOptions { settings, unix_socket: true, ..StackOptions::default() }).await
}

/// What the router holds while it does nothing.
struct Idle {
    open_files: usize,
    tasks: usize,
}

impl Idle {
    /// Waits until no exchange is alive.
    async fn of(router: &Router) -> Self {
        eventually("no exchange is alive", async || (live_exchanges(router).await == 0).then_some(())).await;
        Self { open_files: router.process.open_files(), tasks: tasks(router).await }
    }

    /// Waits until the router holds no more than this again.
    async fn again(&self, router: &Router) {
        eventually("no exchange is alive", async || (live_exchanges(router).await == 0).then_some(())).await;
        let files = || router.process.open_files() <= self.open_files + FEW;
        eventually(&format!("about {} files are open", self.open_files), async || files().then_some(())).await;
        let tasks = async || (tasks(router).await <= self.tasks + FEW).then_some(());
        eventually(&format!("about {} tasks are alive", self.tasks), tasks).await;
    }
}

async fn live_exchanges(router: &Router) -> usize {
    gauge(router, "responses_router_exchanges_live").await
}

async fn tasks(router: &Router) -> usize {
    gauge(router, "responses_router_alive_tasks").await
}

async fn gauge(router: &Router, name: &str) -> usize {
    let value = router.metric(name).await.unwrap_or_else(|| panic!("no metric {name}"));
    format!("{value:.0}").parse().unwrap()
}

/// Waits until the router serves through Envoy, which has to reconnect after a restart.
async fn until_served(stack: &Stack) {
    eventually("the router is reached", async || {
        let reply = stack.retrieve("resp_00000000000000000000000000000000").await;
        (reply.status == 404).then_some(())
    })
    .await;
}
