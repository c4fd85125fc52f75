//! Chunking invariance: where the network cuts the upstream's stream never shows in ours.

use proptest::prelude::*;
use proptest::sample::Index;

use crate::golden::StreamCase;
use crate::support::arbitrary::config;
use crate::support::cases::inputs;

fn cases() -> Vec<(String, StreamCase, Vec<u8>)> {
    let case = |path: std::path::PathBuf| {
        let case = StreamCase::read(&path);
        let whole = case.events([case.upstream.as_slice()]);
        (path.file_stem().unwrap().to_string_lossy().into_owned(), case, whole)
    };
    inputs("stream", "sse").into_iter().map(case).collect()
}

#[test]
fn a_cut_at_any_byte_changes_nothing() {
    let cases = cases();
    let cut_everywhere = |(name, case, whole): &(String, StreamCase, Vec<u8>)| {
        for at in 0..=case.upstream.len() {
            let (head, tail) = case.upstream.split_at(at);
            assert!(case.events([head, tail]) == *whole, "{name} cut at {at}");
        }
    };
    // By far the longest of the tests: it takes all the cores that there are.
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for first in 0..threads {
            let share = cases.iter().skip(first).step_by(threads);
            scope.spawn(move || share.for_each(cut_everywhere));
        }
    });
}

#[test]
fn single_bytes_change_nothing() {
    for (name, case, whole) in cases() {
        assert!(case.events(case.upstream.chunks(1)) == whole, "{name}");
    }
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn random_cuts_change_nothing(which: Index, cuts in prop::collection::vec(any::<Index>(), 0..24)) {
        let paths = inputs("stream", "sse");
        let case = StreamCase::read(which.get::<std::path::PathBuf>(&paths));
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(case.upstream.len() + 1)).collect();
        cuts.extend([0, case.upstream.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|cut| &case.upstream[cut[0]..cut[1]]);
        prop_assert!(case.events(pieces) == case.events([case.upstream.as_slice()]));
    }
}
