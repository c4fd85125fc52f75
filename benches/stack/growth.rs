//! How cost grows: with the history, with the body, with live streams, with routers that share a cluster.

use crate::Failure;
use crate::client::{Answer, Load};
use crate::live;
use crate::measure::{self, Case, TURN_BYTES, Work};
use crate::mock::Mock;
use crate::processes::RunDirectory;
use crate::results::{CaseResult, Growth, Point};
use crate::rows::{Kind, Row};

/// The depths at which a turn is measured.
const DEPTHS: [usize; 5] = [1, 10, 50, 100, 200];

/// The sizes of a request's text, each with the number of requests of a round.
const BODIES: [(usize, usize); 5] = [(2_000, 400), (20_000, 300), (200_000, 100), (2_000_000, 20), (20_000_000, 4)];

/// The sizes of requests beside which streams are measured: their texts.
const BESIDE: [usize; 4] = [2_000, 200_000, 2_000_000, 20_000_000];

/// The numbers of live streams.
const STREAMS: [usize; 4] = [10, 100, 1000, 5000];

/// The most routers that share a cluster.
const ROUTERS: usize = 3;

/// The cost of one turn by its place in the conversation.
pub(crate) async fn history(mock: &Mock, rows: &[Row], rounds: usize) -> Result<Growth, Failure> {
    let mut points = Vec::new();
    for depth in DEPTHS {
        let load = Load { text_bytes: TURN_BYTES, ..Load::new(Answer::Json, 200, 4) };
        let title = format!("Turn {depth} of a conversation, 0.5 KB up, 0.7 KB down a turn, 4 at a time");
        let case =
            Case { name: "history", title, work: Work::TurnAt { depth, load }, rounds, starts: 1, unit: "turns" };
        points.push(Point { at: depth, case: measure::case(mock, rows, case).await? });
    }
    Ok(Growth { name: "history", along: "turns", points })
}

/// The cost of one request by its size.
pub(crate) async fn bodies(mock: &Mock, rows: &[Row], rounds: usize) -> Result<Growth, Failure> {
    let mut points = Vec::new();
    for (bytes, requests) in BODIES {
        let load = Load { text_bytes: bytes, ..Load::new(Answer::Json, requests, 4) };
        let title = format!("Requests of {bytes} bytes, stored, 4 at a time");
        let case = Case { name: "bodies", title, work: Work::Load(load), rounds, starts: 1, unit: "requests" };
        points.push(Point { at: bytes, case: measure::case(mock, rows, case).await? });
    }
    Ok(Growth { name: "bodies", along: "bytes", points })
}

/// How late events are, by the size of requests that come one after the other beside their streams.
pub(crate) async fn beside(mock: &Mock, rows: &[Row], rounds: usize) -> Result<Growth, Failure> {
    let mut points = Vec::new();
    for bytes in BESIDE {
        let others = Load { text_bytes: bytes, ..Load::new(Answer::Json, 1, 1) };
        let work = Work::Beside { streams: Load::at_a_pace(true, false), others };
        let title = format!("Streams at a model's pace beside requests of {bytes} bytes, one after the other");
        let case = Case { name: "beside", title, work, rounds, starts: 1, unit: "streams" };
        points.push(Point { at: bytes, case: measure::case(mock, rows, case).await? });
    }
    Ok(Growth { name: "beside", along: "bytes", points })
}

/// The cost of one chunk, and the memory, by the number of live streams. Row by row: idle connections to the backend stay
/// open with the Envoy that has them, and those of two rows are more than a process may have.
pub(crate) async fn streams(
    mock: &Mock,
    directory: &RunDirectory,
    kinds: &[Kind],
    most: usize,
    threads: usize,
) -> Result<Growth, Failure> {
    let counts: Vec<usize> = STREAMS.into_iter().filter(|count| *count <= most).collect();
    let mut by_count: Vec<Vec<_>> = counts.iter().map(|_| Vec::new()).collect();
    for kind in kinds {
        let row = Row::start(directory, *kind, mock.address(), threads, 1).await?;
        for (results, count) in by_count.iter_mut().zip(&counts) {
            results.push(live::chunks(mock, &row, *count).await?);
        }
    }
    let points = counts.into_iter().zip(by_count).map(|(at, rows)| {
        let title = format!("{at} live streams, about 2,000 chunks a second over all of them");
        Point { at, case: CaseResult::new("streams", title, "chunks", rows) }
    });
    Ok(Growth { name: "streams", along: "live streams", points: points.collect() })
}

/// The cost of a request, and of a turn whose parent another router wrote, by the number of routers that share a cluster.
pub(crate) async fn routers(
    mock: &Mock,
    directory: &RunDirectory,
    requests: usize,
    rounds: usize,
    threads: usize,
) -> Result<[Growth; 2], Failure> {
    let (mut requests_by_count, mut turns_by_count) = (Vec::new(), Vec::new());
    for at in 1..=ROUTERS {
        let mut rows = Vec::new();
        for kind in [Kind::Noop, Kind::Cluster] {
            rows.push(Row::start(directory, kind, mock.address(), threads, at).await?);
        }
        let title = format!("JSON, stored, {at} routers (each behind an Envoy) on one cluster, 16 at a time");
        let work = Work::Load(Load::new(Answer::Json, requests, 16));
        let case = Case { name: "routers", title, work, rounds, starts: 1, unit: "requests" };
        requests_by_count.push(Point { at, case: measure::case(mock, &rows, case).await? });
        let title = format!("Chains of 10 turns, each turn at the next of {at} routers, 8 at a time");
        let work = Work::Conversations { count: 40, at_a_time: 8, turns: 10 };
        let case = Case { name: "router-turns", title, work, rounds, starts: 1, unit: "turns" };
        turns_by_count.push(Point { at, case: measure::case(mock, &rows, case).await? });
    }
    Ok([
        Growth { name: "routers", along: "routers", points: requests_by_count },
        Growth { name: "router-turns", along: "routers", points: turns_by_count },
    ])
}
