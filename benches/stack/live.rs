//! Streams that are live together: their memory, and what a chunk costs when there are many of them.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::client::{self, Answer, Load, Seen};
use crate::mock::{self, Mock};
use crate::results::{MemoryResult, RowResult};
use crate::rows::{Cpu, Resident, Row};

/// How long it may take until all streams are there.
const ALL_LIVE: Duration = Duration::from_secs(600);

/// How long memory settles: buffers given back, idle memory returned by the allocator.
const SETTLE: Duration = Duration::from_secs(2);

/// For how long the cost of chunks is measured.
const WINDOW: Duration = Duration::from_secs(5);

/// The chunks of a stream whose memory is measured: 4 KiB of text.
const CHUNKS: usize = 16;
const CHUNK_BYTES: usize = 256;

/// All streams together send about so many chunks a second, however many there are.
const CHUNKS_PER_SECOND: usize = 2000;

/// The memory of a row that has done nothing yet, with so many streams that have said their text and go on, and after
/// these have ended.
pub(crate) async fn memory(mock: &Mock, row: &Row, streams: usize) -> Result<MemoryResult, Failure> {
    eprintln!("bench: memory of {} with {streams} live streams", row.kind.title());
    let idle = row.resident()?;
    let answer = Answer::Held { chunks: CHUNKS, bytes: CHUNK_BYTES, pace: None };
    let (_, live) = held(mock, row, answer, streams, async || {
        tokio::time::sleep(SETTLE).await;
        row.resident()
    })
    .await?;
    tokio::time::sleep(SETTLE).await;
    let text_bytes = CHUNKS * CHUNK_BYTES;
    let kib_per_stream = live.processor.saturating_sub(idle.processor) as f64 / streams as f64;
    Ok(MemoryResult {
        row: row.kind,
        title: row.kind.title(),
        live_streams: streams,
        text_bytes,
        idle_kib: idle,
        live_kib: live,
        after_kib: row.resident()?,
        kib_per_stream,
        kib_per_stream_without_text: kib_per_stream - text_bytes as f64 / 1024.0,
    })
}

/// What a chunk costs with so many live streams, and the memory then.
pub(crate) async fn chunks(mock: &Mock, row: &Row, streams: usize) -> Result<RowResult, Failure> {
    eprintln!("bench: {} with {streams} live streams", row.kind.title());
    let pace = Duration::from_secs(1) * u32::try_from(streams)? / u32::try_from(CHUNKS_PER_SECOND)?;
    let answer = Answer::Held { chunks: 1, bytes: 64, pace: Some(pace) };
    let (seen, window) = held(mock, row, answer, streams, async || window(mock, row).await).await?;
    let mut result = RowResult::new(row.kind);
    result.note_cpu(window.cpu, window.chunks);
    let delays = seen.delays.into_iter().filter(|delay| window.sent.contains(&delay.sent)).collect();
    // No latencies: they would be those of the run itself.
    let seen = Seen { elapsed: window.elapsed, delays, latencies: Vec::new(), ..seen };
    result.note_times(seen, window.chunks);
    result.resident_kib = Some(window.resident);
    Ok(result)
}

struct Window {
    /// By the backend's clock.
    sent: Range<u64>,
    chunks: usize,
    elapsed: Duration,
    cpu: Cpu,
    resident: Resident,
}

async fn window(mock: &Mock, row: &Row) -> Result<Window, Failure> {
    // What opening them left behind.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (began, sent, chunks, before) = (Instant::now(), mock::clock(), mock.chunks(), row.cpu()?);
    tokio::time::sleep(WINDOW).await;
    let (elapsed, chunks, cpu) = (began.elapsed(), mock.chunks() - chunks, row.cpu()?.since(before));
    Ok(Window { sent: sent..mock::clock(), chunks: chunks.max(1), elapsed, cpu, resident: row.resident()? })
}

/// Opens streams, looks at the row while all are live, and ends them; every answer has to be right.
async fn held<T>(
    mock: &Mock,
    row: &Row,
    answer: Answer,
    streams: usize,
    look: impl AsyncFnOnce() -> Result<T, Failure>,
) -> Result<(Seen, T), Failure> {
    let load = Load { text_bytes: 200, ..Load::new(answer, streams, streams) };
    let streaming = client::run(&row.targets, row.kind.api(), &load);
    let looking = async {
        let began = Instant::now();
        while mock.live_streams() < streams {
            if began.elapsed() > ALL_LIVE {
                return Err(format!("only {} of {streams} streams are live", mock.live_streams()).into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let looked = look().await?;
        if mock.live_streams() < streams {
            return Err("streams ended before they were looked at".into());
        }
        mock.release();
        Ok(looked)
    };
    tokio::try_join!(streaming, looking)
}
