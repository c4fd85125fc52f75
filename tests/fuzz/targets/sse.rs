//! The decoder: no bytes make it panic, and no cut changes the frames that it finds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use responses_router::sse::Decoder;

type Frames = Vec<(Vec<u8>, Vec<u8>)>;

fn decode<'b>(pieces: impl Iterator<Item = &'b [u8]>) -> Frames {
    let mut frames = Frames::new();
    let mut take = |event: &[u8], data: &[u8]| frames.push((event.to_vec(), data.to_vec()));
    let mut decoder = Decoder::new(1 << 20);
    for piece in pieces {
        if decoder.push(piece, &mut take).is_err() {
            return frames;
        }
    }
    decoder.finish(&mut take);
    frames
}

fuzz_target!(|input: &[u8]| {
    let Some((first, stream)) = input.split_first() else { return };
    let size = usize::from(*first).max(1);
    assert_eq!(decode(std::iter::once(stream)), decode(stream.chunks(size)));
});
