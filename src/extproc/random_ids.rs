//! Response ids that nobody can guess.

use rand::TryRng as _;

use crate::id::{IdSource, ResponseId};

/// 128 bits from the operating system for every id.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomIds;

impl IdSource for RandomIds {
    fn response_id(&self) -> ResponseId {
        let mut bits = [0; 16];
        // Should the system's source fail, the process' own generator, seeded from it earlier, is as unguessable.
        if rand::rngs::SysRng.try_fill_bytes(&mut bits).is_err() {
            bits = rand::random();
        }
        ResponseId::from_bits(u128::from_be_bytes(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_have_32_digits() {
        let (one, other) = (RandomIds.response_id(), RandomIds.response_id());
        assert_ne!(one, other);
        assert_eq!(one.as_str().len(), "resp_".len() + 32);
    }
}
