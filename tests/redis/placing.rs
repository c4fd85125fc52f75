//! A conversation lies on one master of a cluster, and conversations lie on all of them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use responses_router::config::Redis;
use responses_router::extproc::random_ids::RandomIds;
use responses_router::id::{IdSource as _, ResponseId};
use responses_router::store::{Ancestors, AtRest, KnownItems, Record, RedisStore, ResponseStore};
use responses_router::tenant::Tenant;

use super::{DEADLINE, TTL, figure, open, raw};
use crate::support::redis::{Cluster, try_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Writes a turn after these, under an id that the store chooses for it.
async fn next(store: &Arc<dyn ResponseStore>, ids: &RandomIds, ancestors: &[ResponseId]) -> ResponseId {
    let id = match ancestors.last() {
        Some(parent) => store.id_of_child(parent, ids),
        None => ids.response_id(),
    };
    let response = raw(format!("{{\"id\":\"{id}\",\"object\":\"response\"}}"));
    let (ancestors, items) = (Ancestors::Listed(ancestors.iter().cloned().collect()), KnownItems::default());
    let record = Record { id: id.clone(), ancestors, input: vec![], response, interrupted: false, tenant: None, items };
    store.put(Arc::new(record)).await.unwrap();
    id
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
async fn a_conversation_lies_on_one_master_and_conversations_lie_on_all() {
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
    let begun: Vec<_> = conversations.iter().map(|conversation| conversation[0].clone()).collect();
    assert_eq!(keys.masters_of(&begun).len(), 3);
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
async fn a_turn_that_many_conversations_begin_with_does_not_gather_them_on_its_master() {
    let cluster = Cluster::shared();
    let (config, ids) = (cluster.config(), RandomIds::default());
    let store = open(&config).await;
    let prompt = vec![next(&store, &ids, &[]).await];
    let mut children = Vec::new();
    for _ in 0..100 {
        children.push(next(&store, &ids, &prompt).await);
    }
    // Each of the others has its own descendants with it.
    let mut grandchildren = Vec::new();
    for child in &children[90..] {
        grandchildren.push(next(&store, &ids, &[prompt[0].clone(), child.clone()]).await);
    }
    let keys = Keys::of(cluster, &config);
    assert_eq!(keys.masters_of(&children[..4]), keys.masters_of(&prompt));
    assert_eq!(keys.masters_of(&children[4..]).len(), 3);
    for (child, grandchild) in children[90..].iter().zip(&grandchildren) {
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
