//! Futures that stay where they are made.
//!
//! A future has room for all of its states, some kilobytes here, which are copied whenever it is moved. So one that goes on
//! the heap is made there ([`pinned`]). One that is handed on to another (a timeout, a join) is pinned first, by
//! [`std::pin::pin`]: the other one would have room for all of it, beside the room that its maker has for it.

use std::pin::Pin;

/// Makes a future on the heap, in its place.
///
/// `Box::pin` makes it on the stack and copies the whole. The compiler cannot leave that out: were there no memory, the
/// future on the stack would have to be dropped. Here the memory is there before the future is, and an optimised build
/// writes no more than its arguments. Nothing promises that it does: calls of `memmove` showed it.
#[inline]
pub(crate) fn pinned<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(Box::write(Box::new_uninit(), make()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn the_future_is_what_was_made_and_drops_what_it_holds() {
        let held = Arc::new(7);
        let make = |held: Arc<i32>| async move {
            tokio::task::yield_now().await;
            *held
        };
        assert_eq!(pinned(|| make(Arc::clone(&held))).await, 7);
        drop(pinned(|| make(Arc::clone(&held))));
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
