//! What only a real Redis shows: bytes on the wire, outages, moving slots.

mod outage;
mod placing;
mod recent;
mod routing;
mod sentinel;
mod shards;
pub(crate) mod tls;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use responses_router::config::Redis;
use responses_router::id::ResponseId;
use responses_router::store::{
    Ancestors, AtRest, ChainLimits, KnownItems, Record, RedisStore, ResponseStore, StoreError, Touch,
};
use serde_json::value::RawValue;

const TTL: Duration = Duration::from_secs(600);
const DEADLINE: Duration = Duration::from_secs(5);
const LIMITS: ChainLimits = ChainLimits { max_depth: 1000, max_bytes: 64 << 20, longest_turn: Duration::ZERO };

async fn open(config: &Redis) -> Arc<dyn ResponseStore> {
    open_for(config, DEADLINE).await
}

/// One whose operations take no longer than that.
async fn open_for(config: &Redis, deadline: Duration) -> Arc<dyn ResponseStore> {
    Arc::new(RedisStore::open(config, TTL, deadline, AtRest::default()).await.unwrap())
}

fn raw(text: String) -> Box<RawValue> {
    RawValue::from_string(text).unwrap()
}

/// A turn after these, of about so many bytes.
fn turn(ancestors: &[ResponseId], bytes: usize) -> Arc<Record> {
    let id = ResponseId::from_bits(rand::random());
    let ancestors = Ancestors::Listed(ancestors.iter().cloned().collect());
    let text = "words of a turn ".repeat(bytes / 16 + 1);
    let input = vec![raw(format!("{{\"id\":\"msg_{id}\",\"content\":\"{text}\"}}"))];
    let response = raw(format!("{{\"id\":\"{id}\",\"object\":\"response\"}}"));
    let items = KnownItems::default();
    Arc::new(Record { response, id, ancestors, input, interrupted: false, tenant: None, items })
}

/// A chain of so many turns, written all at once.
async fn chain(store: &Arc<dyn ResponseStore>, turns: usize, bytes: usize) -> Vec<Arc<Record>> {
    let mut ids = Vec::new();
    let mut records = Vec::new();
    for _ in 0..turns {
        let record = turn(&ids, bytes);
        ids.push(record.id.clone());
        records.push(record);
    }
    for some in records.chunks(100) {
        let writes = some.iter().map(|record| store.put(Arc::clone(record)));
        for written in futures_util::future::join_all(writes).await {
            written.unwrap();
        }
    }
    records
}

/// Writes a record that replicas have to confirm. A busy machine's replica may be late: what is refused for that may be
/// written again, and waits for it each time.
async fn put_confirmed(store: &Arc<dyn ResponseStore>, record: &Arc<Record>) {
    let written = async {
        while let Err(error) = store.put(Arc::clone(record)).await {
            assert!(error.is_transient(), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(12 * DEADLINE, written).await.expect("a replica that confirms");
}

/// What the store tells of itself: the value of a figure, of the one with this label where there are several.
fn figure(store: &Arc<dyn ResponseStore>, name: &str, label: &str) -> u64 {
    let figures = store.figures();
    let samples = &figures.iter().find(|figure| figure.name == name).unwrap_or_else(|| panic!("no {name}")).samples;
    let of_label = |by: &Option<(&str, &str)>| by.map_or("", |(_, value)| value) == label;
    samples.iter().find(|(by, _)| of_label(by)).unwrap_or_else(|| panic!("no {name} of {label:?}")).1
}

async fn read(store: &Arc<dyn ResponseStore>, id: &ResponseId) -> Result<Option<Arc<Record>>, StoreError> {
    Ok(store.load(std::slice::from_ref(id), Touch::Keep).await?.remove(0))
}
