//! Operations that go on when nobody waits for them any more.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// An operation that its caller drives. Should the caller be dropped before it has ended, a task of its own drives it to
/// its end. An operation that has not begun is dropped with its caller.
///
/// Most have a task already that waits for them, and another one would cost more than much of what an operation does. While
/// that task is not polled, the operation stands still, with what it holds of the store's bounds.
pub(super) struct Lasting<T: Send + 'static> {
    operation: Option<BoxFuture<'static, T>>,
    begun: bool,
    tasks: TaskTracker,
}

impl<T: Send + 'static> Lasting<T> {
    /// `tasks` takes what goes on alone.
    pub(super) fn new(tasks: &TaskTracker, operation: BoxFuture<'static, T>) -> Self {
        Self { operation: Some(operation), begun: false, tasks: tasks.clone() }
    }
}

impl<T: Send + 'static> Future for Lasting<T> {
    type Output = T;

    /// After its end it is never ready again.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let this = self.get_mut();
        let Some(operation) = &mut this.operation else { return Poll::Pending };
        this.begun = true;
        let polled = operation.as_mut().poll(cx);
        if polled.is_ready() {
            this.operation = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Lasting<T> {
    fn drop(&mut self) {
        let operation = self.operation.take().filter(|_| self.begun);
        // Without a runtime nothing goes on at all.
        if let (Some(operation), Ok(_)) = (operation, Handle::try_current()) {
            self.tasks.spawn(async move { drop(operation.await) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Waker;

    use tokio::sync::Notify;

    use super::*;

    /// An operation that ends when it is told to, and how often it has begun and ended.
    fn operation() -> (Arc<[AtomicUsize; 2]>, Arc<Notify>, impl Future<Output = u8> + Send + 'static) {
        let (seen, told): (Arc<[AtomicUsize; 2]>, Arc<Notify>) = Default::default();
        let (counts, waits) = (Arc::clone(&seen), Arc::clone(&told));
        let operation = async move {
            counts[0].fetch_add(1, Ordering::SeqCst);
            waits.notified().await;
            counts[1].fetch_add(1, Ordering::SeqCst);
            7
        };
        (seen, told, operation)
    }

    fn counted(seen: &[AtomicUsize; 2]) -> [usize; 2] {
        [&seen[0], &seen[1]].map(|count| count.load(Ordering::SeqCst))
    }

    fn poll_once<T: Send>(lasting: &mut Lasting<T>) -> Poll<T> {
        Pin::new(lasting).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn it_is_driven_by_its_caller_and_needs_no_task() {
        let (tasks, (seen, told, operation)) = (TaskTracker::new(), operation());
        let mut lasting = Lasting::new(&tasks, Box::pin(operation));
        assert!(poll_once(&mut lasting).is_pending());
        told.notify_one();
        assert_eq!((&mut lasting).await, 7);
        assert!(poll_once(&mut lasting).is_pending());
        drop(lasting);
        assert_eq!((counted(&seen), tasks.is_empty()), ([1, 1], true));
    }

    #[tokio::test]
    async fn it_goes_on_when_its_caller_is_dropped_in_the_middle() {
        let (tasks, (seen, told, operation)) = (TaskTracker::new(), operation());
        let mut lasting = Lasting::new(&tasks, Box::pin(operation));
        assert!(poll_once(&mut lasting).is_pending());
        drop(lasting);
        assert_eq!((counted(&seen), tasks.len()), ([1, 0], 1));
        told.notify_one();
        tasks.close();
        tasks.wait().await;
        assert_eq!(counted(&seen), [1, 1]);
    }

    #[tokio::test]
    async fn it_does_not_begin_after_its_caller_is_gone() {
        let (tasks, (seen, _told, operation)) = (TaskTracker::new(), operation());
        drop(Lasting::new(&tasks, Box::pin(operation)));
        assert_eq!((counted(&seen), tasks.is_empty()), ([0, 0], true));
    }

    #[test]
    fn without_a_runtime_it_ends_with_its_caller() {
        let tasks = TaskTracker::new();
        let mut endless = Lasting::new(&tasks, Box::pin(pending::<()>()));
        assert!(poll_once(&mut endless).is_pending());
        drop(endless);
        assert!(tasks.is_empty());
        assert_eq!(poll_once(&mut Lasting::new(&tasks, Box::pin(ready(3)))), Poll::Ready(3));
    }
}
