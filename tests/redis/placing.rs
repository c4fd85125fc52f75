//! A conversation lies on one master of a cluster, and conversations lie on all of them that answer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use responses_router::config::Redis;
use responses_router::extproc::random_ids::RandomIds;
use responses_router::id::ResponseId;
use responses_router::store::{Ancestors, AtRest, KnownItems, Record, RedisStore, ResponseStore, StoreError};
use responses_router::tenant::Tenant;

use super::{DEADLINE, TTL, figure, open, open_for, raw};
use crate::support::redis::{Cluster, try_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Turns that lie on one master because they began one after the other.
const RUN: usize = 32;

/// So many runs that all masters have some of them: all but 3 times in a million.
const RUNS: usize = 34;

/// Writes a turn after these, under an id that the store chooses for it.
async fn next(store: &Arc<dyn ResponseStore>, ids: &RandomIds, ancestors: &[ResponseId]) -> ResponseId {
    try_next(store, ids, ancestors).await.unwrap()
}

async fn try_next(
    store: &Arc<dyn ResponseStore>,
    ids: &RandomIds,
    ancestors: &[ResponseId],
) -> Result<ResponseId, StoreError> {
    let id = store.id_of_turn(ancestors.last(), ids);
    let response = raw(format!("{{\"id\":\"{id}\",\"object\":\"response\"}}"));
    let (ancestors, items) = (Ancestors::Listed(ancestors.iter().cloned().collect()), KnownItems::default());
    let record = Record { id: id.clone(), ancestors, input: vec![], response, interrupted: false, tenant: None, items };
    store.put(Arc::new(record)).await.map(|()| id)
}

/// The first turns of so many conversations.
async fn beginnings(store: &Arc<dyn ResponseStore>, ids: &RandomIds, number: usize) -> Vec<ResponseId> {
    let mut begun = Vec::new();
    for _ in 0..number {
        begun.push(next(store, ids, &[]).await);
    }
    begun
}

/// A conversation of so many turns.
async fn conversation(store: &Arc<dyn ResponseStore>, ids: &RandomIds, turns: usize) -> Vec<ResponseId> {
    let mut made = Vec::new();
    for _ in 0..turns {
        made.push(next(store, ids, &made).await);
    }
    made
}

/// What lies on each master.
struct Keys(Vec<HashSet<String>>);

impl Keys {
    fn of(cluster: &Cluster, config: &Redis) -> Self {
        let pattern = format!("{}*", config.key_prefix);
        let keys = |master: usize| cluster.nodes[master].cli(&["KEYS", &pattern]).lines().map(str::to_owned).collect();
        Self(cluster.masters().into_iter().map(keys).collect())
    }

    /// The master that has a response, by its place.
    fn master_of(&self, id: &ResponseId) -> usize {
        let ending = format!("response:{id}");
        let has = |keys: &HashSet<String>| keys.iter().any(|key| key.ends_with(&ending));
        self.0.iter().position(has).unwrap_or_else(|| panic!("no master has {id}"))
    }

    fn masters_of(&self, ids: &[ResponseId]) -> HashSet<usize> {
        ids.iter().map(|id| self.master_of(id)).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_lies_on_one_master() {
    let cluster = &Cluster::start();
    let (config, ids) = (cluster.config(), RandomIds::default());
    let store = open(&config).await;
    let mut conversations = Vec::new();
    for _ in 0..30 {
        conversations.push(conversation(&store, &ids, 12).await);
    }
    let keys = Keys::of(cluster, &config);
    for conversation in &conversations {
        assert_eq!(keys.masters_of(conversation).len(), 1, "{conversation:?}");
    }
    // Each record in a slot of its own, so that slots that move take parts of a conversation along.
    let slot =
        |id: &ResponseId| cluster.nodes[0].cli(&["CLUSTER", "KEYSLOT", &format!("{}response:{id}", config.key_prefix)]);
    let slots: HashSet<_> = conversations[0].iter().map(slot).collect();
    assert!(slots.len() > 6, "{slots:?}");

    // What is in memory of a conversation is vouched for by one server.
    let of_it = &conversations[0];
    let load = async || store.load_since(of_it, Instant::now()).await.unwrap().into_iter().flatten().count();
    let kept = async {
        loop {
            let hits = figure(&store, "redis_cache_lookups", "hit");
            assert_eq!(load().await, 12);
            if figure(&store, "redis_cache_lookups", "hit") == hits + 12 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, kept).await.expect("records that are kept");
    let asked = || cluster.nodes.iter().map(|node| node.calls("exists") + node.calls("get")).sum::<u64>();
    let before = asked();
    assert_eq!((load().await, asked()), (12, before + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_that_begin_one_after_the_other_lie_on_one_master_and_all_masters_have_some() {
    let cluster = Cluster::shared();
    let (config, ids) = (cluster.config(), RandomIds::default());
    let store = open(&config).await;
    let begun = beginnings(&store, &ids, RUNS * RUN).await;
    let keys = Keys::of(cluster, &config);
    // A run ends early when its master does not answer for a moment.
    let parts = begun.windows(2).filter(|two| keys.masters_of(two).len() == 2).count();
    assert!(parts < 2 * RUNS, "{parts}");
    assert_eq!(keys.masters_of(&begun).len(), 3);
}

/// Nothing that is new needs a master that does not answer, though nobody takes over from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_begins_on_a_master_that_answers() {
    let cluster = &mut Cluster::start();
    for node in &cluster.nodes {
        node.cli(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
        node.cli(&["CONFIG", "SET", "cluster-node-timeout", "600000"]);
    }
    let (config, ids) = (cluster.config(), RandomIds::default());
    let store = open_for(&config, Duration::from_secs(2)).await;
    next(&store, &ids, &[]).await;
    let master = cluster.masters()[0];

    // So many in a row that one of them would meet it, 98 times out of 100.
    let all_begin = async || {
        let mut in_a_row = 0;
        while in_a_row < 10 * RUN {
            in_a_row = if try_next(&store, &ids, &[]).await.is_ok() { in_a_row + 1 } else { 0 };
        }
    };
    let all_begin_in_time = async || tokio::time::timeout(PATIENCE, all_begin()).await.expect("turns that begin");
    let have_all_masters = async || {
        let mut begun = Vec::new();
        for _ in 0..RUNS * RUN {
            // On a busy machine one may come too late.
            begun.extend(try_next(&store, &ids, &[]).await);
        }
        Keys::of(cluster, &config).masters_of(&begun).len() == 3
    };
    assert!(have_all_masters().await);
    cluster.nodes[master].pause();
    all_begin_in_time().await;
    cluster.nodes[master].resume();
    let back = async { while !have_all_masters().await {} };
    tokio::time::timeout(PATIENCE, back).await.expect("turns on the master that is back");
    cluster.nodes[master].kill();
    all_begin_in_time().await;
}

/// A master that refuses is tried again each second, by one of those that begin.
#[tokio::test(flavor = "multi_thread")]
async fn conversations_begin_on_masters_that_take_writes() {
    let cluster = Cluster::start();
    let (config, ids) = (cluster.config(), RandomIds::default());
    let store = open(&config).await;
    next(&store, &ids, &[]).await;
    cluster.nodes[cluster.masters()[0]].cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let mut refused = 0;
    for _ in 0..RUNS * RUN {
        refused += usize::from(try_next(&store, &ids, &[]).await.is_err());
    }
    // A third, if they lay anywhere.
    assert!((1..RUNS * RUN / 10).contains(&refused), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_many_conversations_begin_with_does_not_gather_them_on_its_master() {
    let cluster = Cluster::shared();
    let (config, ids) = (cluster.config(), RandomIds::default());
    let store = open(&config).await;
    let prompt = vec![next(&store, &ids, &[]).await];
    let mut children = Vec::new();
    for _ in 0..RUNS * RUN {
        children.push(next(&store, &ids, &prompt).await);
    }
    // Each of the others has its own descendants with it.
    let mut grandchildren = Vec::new();
    let (_, last) = children.split_at(children.len() - 10);
    for child in last {
        grandchildren.push(next(&store, &ids, &[prompt[0].clone(), child.clone()]).await);
    }
    let keys = Keys::of(cluster, &config);
    assert_eq!(keys.masters_of(&children[..4]), keys.masters_of(&prompt));
    assert_eq!(keys.masters_of(&children[4..]).len(), 3);
    for (child, grandchild) in last.iter().zip(&grandchildren) {
        assert_eq!(keys.master_of(child), keys.master_of(grandchild));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_lies_where_its_parent_has_gone_to() {
    let cluster = &Cluster::start();
    let (config, ids) = (cluster.config(), RandomIds::default());
    let store = open(&config).await;
    let made = conversation(&store, &ids, 4).await;
    let before = cluster.masters()[Keys::of(cluster, &config).master_of(&made[3])];
    let heir = &cluster.nodes[cluster.replica_of(before)];
    let took_over = || {
        heir.cli(&["CLUSTER", "FAILOVER"]);
        try_until(Duration::from_secs(6), || heir.info("replication", "role").as_deref() == Some("master"))
    };
    assert!(try_until(PATIENCE, took_over));
    cluster.wait_until_whole();
    let mut all = made;
    // A write finds out that the node is another one; the owners of all slots are learnt soon after.
    let learnt = figure(&store, "redis_slot_map_refreshes", "learnt");
    next(&store, &ids, &all).await;
    let learning = async {
        while figure(&store, "redis_slot_map_refreshes", "learnt") == learnt {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, learning).await.expect("slots that are learnt");
    for _ in 0..8 {
        all.push(next(&store, &ids, &all).await);
    }
    assert_eq!(Keys::of(cluster, &config).masters_of(&all).len(), 1);
}

/// The tenant is in the key, and so in the slot.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_conversation_lies_on_one_master_in_keys_of_its_own() {
    let cluster = Cluster::shared();
    let (config, ids) = (cluster.config(), RandomIds::default());
    let at_rest = AtRest { tenant_in_key: true, ..Default::default() };
    let store = RedisStore::open(&config, TTL, DEADLINE, at_rest).await.unwrap();
    let place = store.place_of(Tenant::named(b"acme")).unwrap();
    let made = conversation(&place, &ids, 12).await;
    assert_eq!(Keys::of(cluster, &config).masters_of(&made).len(), 1);
}
