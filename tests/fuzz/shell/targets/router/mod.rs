//! A router as the binary makes it, with the memory store, ids that count, and short deadlines.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use responses_router::extproc::admission::Admission;
use responses_router::extproc::apart::Apart;
use responses_router::extproc::exchange::Router;
use responses_router::extproc::keeping::Keeping;
use responses_router::extproc::policy::Policy;
use responses_router::extproc::route::Routes;
use responses_router::id::CountingIds;
use responses_router::store::{ChainLimits, MemoryBounds, MemoryStore};
use responses_router::telemetry::metrics::Metrics;
use responses_router::translate::Settings;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) fn router(settings: Settings, choices: u8, tasks: &TaskTracker, grace_over: &CancellationToken) -> Router {
    // A store that keeps nothing refuses every record.
    let max_bytes = if choices & 4 == 0 { 1 << 20 } else { 1 };
    let store =
        MemoryStore::new(MemoryBounds { max_entries: NonZeroU64::MIN, max_bytes, ttl: Duration::from_secs(3600) });
    Router {
        enabled: choices & 8 == 0,
        routes: Routes::new(""),
        ids: Box::new(CountingIds::default()),
        settings,
        reasoning_keys: None,
        tenancy: None,
        keeping: Keeping {
            store: Arc::new(store),
            deadline: Duration::from_secs(5),
            tasks: tasks.clone(),
            metrics: Arc::new(Metrics::default()),
        },
        reporter: Arc::default(),
        // One exchange at a time needs one seat; a second one is refused.
        admission: Arc::new(Admission::new(1, if choices & 64 == 0 { 1 << 20 } else { 512 })),
        apart: Apart::default(),
        policy: Policy {
            chat_path: "/v1/chat/completions".into(),
            clear_route_cache: true,
            max_request_bytes: 2048,
            max_answer_bytes: 2048,
            chain: ChainLimits { max_depth: 3, max_bytes: 4096, longest_turn: Duration::from_secs(60) },
            request_body: Duration::from_secs(60),
            request_body_pace: NonZeroU64::new(64),
            exchange: Duration::from_secs(600),
            heartbeat: (choices & 16 == 0).then_some(Duration::from_secs(15)),
            degrade_without_store: choices & 32 == 0,
        },
        grace_over: grace_over.clone(),
    }
}
