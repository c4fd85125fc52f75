//! What the test modules share. Each concept has a file of its own.

pub(crate) mod arbitrary;
pub(crate) mod cases;
pub(crate) mod certificates;
pub(crate) mod envoy;
pub(crate) mod frames;
pub(crate) mod grammar;
pub(crate) mod load;
pub(crate) mod machine;
pub(crate) mod pretty;
pub(crate) mod redis;
pub(crate) mod response_shape;
pub(crate) mod seed;
pub(crate) mod stack;
