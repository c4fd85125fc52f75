//! Response ids that nobody can guess.

use std::sync::{Mutex, PoisonError};

use rand::TryRng as _;

use crate::id::{IdSource, ResponseId};

/// 128 bits from the operating system for every id, each used once. They are fetched for some ids at a time: a system
/// call costs more than all else that an id needs.
#[derive(Debug, Default)]
pub struct RandomIds(Mutex<Vec<u128>>);

/// For how many ids are fetched at once.
const FETCHED: usize = 32;

impl IdSource for RandomIds {
    fn response_id(&self) -> ResponseId {
        let mut fetched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if fetched.is_empty() {
            let mut bits = [[0; 16]; FETCHED];
            // Should the system's source fail, the process' own generator, seeded from it earlier, is as unguessable.
            if rand::rngs::SysRng.try_fill_bytes(bits.as_flattened_mut()).is_err() {
                bits = rand::random();
            }
            fetched.extend(bits.map(u128::from_be_bytes));
        }
        ResponseId::from_bits(fetched.pop().unwrap_or_else(rand::random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_have_32_digits() {
        let source = RandomIds::default();
        let ids: Vec<_> = (0..3 * FETCHED).map(|_| source.response_id()).collect();
        let different: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(different.len(), ids.len());
        assert!(ids.iter().all(|id| id.as_str().len() == "resp_".len() + 32));
    }
}
