//! Futures on the heap that are made where they stay.

use std::pin::Pin;

/// Makes a future on the heap, in its place.
///
/// A new future is a few arguments, with the room that all of its later states need: some kilobytes here. `Box::pin` makes
/// it on the stack and copies the whole. The compiler cannot leave that out: were there no memory, the future on the stack
/// would have to be dropped. Here the memory is there before the future is, so that only the arguments are written.
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
