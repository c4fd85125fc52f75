//! Waiting without sleeping blindly: for what happens, up to a deadline.

use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep, timeout};

/// How long anything that has to happen may take. Generous, because it only delays a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often something is looked at that cannot be waited for.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// Carries connections and servers, which outlive the test that opened them.
pub(crate) static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());

/// Waits for something that has to happen.
pub(crate) async fn within<T>(what: &str, happening: impl Future<Output = T>) -> T {
    let Ok(value) = timeout(PATIENCE, happening).await else { panic!("waited for {PATIENCE:?} in vain: {what}") };
    value
}

/// Looks again and again until there is something to see.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited for {PATIENCE:?} in vain: {what}");
        sleep(POLL).await;
    }
}
