//! Randomness that can be had again.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// The seed of a test's random choices: `CHAOS_SEED`, or the same every time. A test that fails shows it.
pub(crate) struct Seed(u64);

impl Seed {
    pub(crate) fn of_this_run() -> Self {
        Self(std::env::var("CHAOS_SEED").map_or(20_261_123, |seed| seed.parse().unwrap()))
    }

    /// A generator of its own for each part of a test, by its number.
    pub(crate) fn generator(&self, part: u64) -> StdRng {
        StdRng::seed_from_u64(self.0.wrapping_mul(1_000_003).wrapping_add(part))
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the same random choices again: CHAOS_SEED={}", self.0);
        }
    }
}
