//! Who gets in: how many exchanges may live at once, and how many bytes they may hold together.
//!
//! Each exchange has bounds of its own, but a thousand that keep theirs can still be too much for one process. So
//! requests are refused while there is too much already; answers never are, because their work is done elsewhere: what
//! they gather only counts against the requests to come.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// There is too much already, of what this says; a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Overloaded {
    /// As many exchanges live as may.
    #[error("too many live exchanges")]
    Exchanges,
    /// They hold as many bytes as they may.
    #[error("too many bytes held")]
    Bytes,
}

/// What all exchanges share of the two bounds.
#[derive(Debug)]
pub struct Admission {
    max_live: usize,
    max_bytes: usize,
    live: AtomicUsize,
    bytes: AtomicUsize,
}

impl Admission {
    /// Room for so many exchanges, and for so many bytes.
    #[must_use]
    pub fn new(max_live: usize, max_bytes: usize) -> Self {
        Self { max_live, max_bytes, live: AtomicUsize::new(0), bytes: AtomicUsize::new(0) }
    }

    /// A seat for one exchange, which holds no bytes yet.
    ///
    /// # Errors
    /// [`Overloaded::Exchanges`] when all are taken.
    pub fn enter(self: &Arc<Self>) -> Result<Seat, Overloaded> {
        let taken = claim(&self.live, 1, self.max_live);
        taken.then(|| Seat { admission: Arc::clone(self), bytes: 0 }).ok_or(Overloaded::Exchanges)
    }

    /// How many exchanges live.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// How many bytes they hold.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Adds to a count unless it would pass its bound.
fn claim(count: &AtomicUsize, more: usize, bound: usize) -> bool {
    let within = |now: usize| now.checked_add(more).filter(|sum| *sum <= bound);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
}

/// One exchange's share of both; given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    admission: Arc<Admission>,
    bytes: usize,
}

impl Seat {
    /// How many bytes this exchange holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds this many bytes from now on, of a request: more than before only if there is room.
    ///
    /// # Errors
    /// [`Overloaded::Bytes`]; then it holds what it held.
    pub fn claim(&mut self, bytes: usize) -> Result<(), Overloaded> {
        match bytes.checked_sub(self.bytes) {
            Some(more) if !claim(&self.admission.bytes, more, self.admission.max_bytes) => Err(Overloaded::Bytes),
            Some(_) => {
                self.bytes = bytes;
                Ok(())
            }
            None => {
                self.hold(bytes);
                Ok(())
            }
        }
    }

    /// Holds this many bytes from now on, of an answer, whether there is room or not.
    pub fn hold(&mut self, bytes: usize) {
        let held = &self.admission.bytes;
        match bytes.checked_sub(self.bytes) {
            Some(more) => held.fetch_add(more, Ordering::Relaxed),
            None => held.fetch_sub(self.bytes - bytes, Ordering::Relaxed),
        };
        self.bytes = bytes;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.admission.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.admission.live.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_given_up_to_the_bound_and_come_back() {
        let admission = Arc::new(Admission::new(2, 10));
        let (first, second) = (admission.enter(), admission.enter());
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(admission.enter().unwrap_err(), Overloaded::Exchanges);
        drop(first);
        assert!(admission.enter().is_ok());
        drop(second);
        assert_eq!((admission.live(), admission.bytes()), (0, 0));
    }

    #[test]
    fn requests_share_the_bytes_and_answers_take_what_they_need() {
        let admission = Arc::new(Admission::new(9, 10));
        let (mut first, mut second) = (admission.enter().unwrap(), admission.enter().unwrap());
        assert_eq!(first.claim(6), Ok(()));
        assert_eq!(second.claim(5), Err(Overloaded::Bytes));
        assert_eq!(second.claim(4), Ok(()));
        assert_eq!(first.claim(2), Ok(()));
        assert_eq!(second.claim(8), Ok(()));
        first.hold(100);
        assert_eq!(admission.bytes(), 108);
        assert_eq!(second.claim(9), Err(Overloaded::Bytes));
        assert_eq!(second.claim(1), Ok(()));
        drop(first);
        assert_eq!(admission.bytes(), 1);
    }
}
