//! Work of the core on large bodies, done apart from the threads that serve exchanges.
//!
//! The core is synchronous, and a thread that translates tens of megabytes can do nothing else for a tenth of a second or
//! more: every stream on it would stand still. So such work has a thread of its own, a few at a time, and what is small,
//! which is nearly all, stays where it is.

use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::in_place::pinned;

/// More bytes of JSON than this are read or translated apart: some tenths of a millisecond's work. The change of threads takes
/// about 50 microseconds of CPU, most of it for what is in the caches of the wrong core then.
const HEAVY_BYTES: usize = 128 * 1024;

/// The pool for blocking work is gone, since the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the process ends")]
pub struct ProcessEnds;

/// Where heavy work is done, and how much of it at once. Clones share the turns.
#[derive(Debug, Clone)]
pub struct Apart {
    turns: Arc<Semaphore>,
}

impl Apart {
    /// So many pieces of work at once; others wait for their turn. More than there are cores would take the time from those who
    /// serve exchanges.
    #[must_use]
    pub fn new(at_once: NonZeroUsize) -> Self {
        Self { turns: Arc::new(Semaphore::new(at_once.get().min(Semaphore::MAX_PERMITS))) }
    }

    /// Whether work on so many bytes of JSON is done apart.
    #[must_use]
    pub fn is_for(&self, bytes: usize) -> bool {
        bytes > HEAVY_BYTES
    }

    /// Does work on a thread of its own, when it is its turn.
    ///
    /// Work that has begun goes on to its end if the future is dropped, and keeps its turn until then.
    ///
    /// # Errors
    /// [`ProcessEnds`]. A panic of the work goes on here.
    pub fn run<T, F>(&self, work: F) -> Pin<Box<impl Future<Output = Result<T, ProcessEnds>> + use<T, F>>>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let turns = Arc::clone(&self.turns);
        // On the heap: what is done at once, as nearly all is, must not have its room.
        pinned(|| in_its_turn(turns, work))
    }
}

async fn in_its_turn<T: Send + 'static>(
    turns: Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ProcessEnds> {
    let turn = turns.acquire_owned().await.map_err(|_closed| ProcessEnds)?;
    let done = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work()
    });
    done.await.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_cancelled) => ProcessEnds,
    })
}

impl Default for Apart {
    /// As many at once as half of the cores, at least one: the others are for those who serve exchanges. It is also how often
    /// what one piece of work takes of memory is taken at once.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self::new(NonZeroUsize::new(cores / 2).unwrap_or(NonZeroUsize::MIN))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn other_tasks_of_the_thread_go_on_meanwhile() {
        let apart = Apart::new(NonZeroUsize::MIN);
        let (say, heard) = mpsc::channel();
        // It ends only if what stands behind it in this thread gets its turn.
        let work = apart.run(move || heard.recv());
        let (done, ()) = tokio::join!(work, async { say.send(7).unwrap() });
        assert_eq!(done, Ok(Ok(7)));
    }

    #[tokio::test]
    async fn work_beyond_the_bound_waits_also_for_work_whose_caller_is_gone() {
        let apart = Apart::new(NonZeroUsize::MIN);
        let (say, heard) = mpsc::channel::<()>();
        let mut first = apart.run(move || heard.recv());
        assert!(futures_util::poll!(&mut first).is_pending());
        drop(first);
        let mut second = apart.run(|| 2);
        assert!(futures_util::poll!(&mut second).is_pending());
        assert_eq!(apart.turns.available_permits(), 0);
        drop(say);
        assert_eq!(second.await, Ok(2));
    }

    #[tokio::test]
    #[should_panic(expected = "as it would be here")]
    async fn a_panic_is_the_callers() {
        let apart = Apart::default();
        let _ = apart.run(|| panic!("as it would be here")).await;
    }
}
