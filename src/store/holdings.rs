//! Whose records are whose: the one place through which records are asked for on behalf of a request.
//!
//! A record that is not the asker's is as if it were not there: it is not returned, its life is not prolonged, it cannot
//! be deleted. So GET, DELETE, `input_items`, parents, their ancestors and item references all see the same. One that
//! cannot be read is an error to its owner alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::join_all;

use super::{Figure, Record, ResponseStore, StoreError, Touch};
use crate::id::{IdSource, ResponseId};
use crate::tenant::Tenant;

/// Who asks for records and makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Anyone, on a router without tenants. What has a tenant is none of theirs: switching tenancy off opens nothing.
    Everybody,
    /// A tenant.
    Tenant(Tenant),
    /// A request without identity, on a router with tenants that lets it pass: it has no records, and makes none.
    Nobody,
}

impl Owner {
    /// The tenant, if it is one.
    #[must_use]
    pub fn tenant(self) -> Option<Tenant> {
        match self {
            Self::Tenant(tenant) => Some(tenant),
            Self::Everybody | Self::Nobody => None,
        }
    }

    /// Whether responses can be kept for it.
    #[must_use]
    pub fn keeps_records(self) -> bool {
        self != Self::Nobody
    }

    fn owns(self, record: &Record) -> bool {
        match self {
            Self::Everybody => record.tenant.is_none(),
            Self::Tenant(tenant) => record.tenant == Some(tenant),
            Self::Nobody => false,
        }
    }
}

/// The records of a store that are one owner's.
pub struct Holdings {
    store: Arc<dyn ResponseStore>,
    owner: Owner,
    /// Whether the records of others lie in the same place.
    among_others: bool,
}

impl Holdings {
    /// The owner's part of a store.
    #[must_use]
    pub fn new(store: &Arc<dyn ResponseStore>, owner: Owner) -> Self {
        let apart = owner.tenant().and_then(|tenant| store.place_of(tenant));
        let among_others = apart.is_none() && owner != Owner::Everybody;
        Self { store: apart.unwrap_or_else(|| Arc::clone(store)), owner, among_others }
    }
}

impl Holdings {
    /// A record that cannot be read is its owner's error, and is not there for anybody else. Among others' records that
    /// goes for one, too, of which it cannot be told whose it is.
    fn unreadable(&self, error: StoreError) -> Result<(), StoreError> {
        let reason = error.to_string();
        match error {
            StoreError::OfTenant { tenant, cause } if self.owner.tenant() == Some(tenant) => return Err(*cause),
            StoreError::OfTenant { .. } => {}
            error if !self.among_others => return Err(error),
            _ => {}
        }
        tracing::warn!(%reason, "a record that is not the asker's cannot be read; to the asker it is not there");
        Ok(())
    }
}

impl Holdings {
    /// Of what was loaded, the owner's.
    async fn owned(
        &self,
        ids: &[ResponseId],
        touch: Touch,
        loaded: Result<Vec<Option<Arc<Record>>>, StoreError>,
    ) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        match loaded {
            Ok(records) => {
                Ok(records.into_iter().map(|record| record.filter(|record| self.owner.owns(record))).collect())
            }
            Err(error) if !error.is_of_a_record() => Err(error),
            Err(error) if ids.len() <= 1 => self.unreadable(error).map(|()| ids.iter().map(|_| None).collect()),
            // One of them cannot be read. Each by itself, the others are what they are.
            Err(_) => {
                let each: Vec<_> = ids.chunks(1).map(|id| self.load(id, touch)).collect();
                let each: Vec<_> = join_all(each).await.into_iter().collect::<Result<_, _>>()?;
                Ok(each.into_iter().flatten().collect())
            }
        }
    }
}

#[async_trait]
impl ResponseStore for Holdings {
    async fn put(&self, record: Arc<Record>) -> Result<(), StoreError> {
        if !self.owner.owns(&record) {
            return Err(StoreError::Corrupt("a record is kept by another than its owner".to_owned()));
        }
        self.store.put(record).await
    }

    async fn load(&self, ids: &[ResponseId], touch: Touch) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        if self.owner == Owner::Nobody {
            return Ok(ids.iter().map(|_| None).collect());
        }
        let loaded = self.store.load(ids, touch).await;
        self.owned(ids, touch, loaded).await
    }

    async fn load_since(&self, ids: &[ResponseId], since: Instant) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        if self.owner == Owner::Nobody {
            return Ok(ids.iter().map(|_| None).collect());
        }
        let loaded = self.store.load_since(ids, since).await;
        self.owned(ids, Touch::Keep, loaded).await
    }

    async fn refresh(&self, ids: &[ResponseId], longer: Duration) -> Result<(), StoreError> {
        self.store.refresh(ids, longer).await
    }

    async fn delete(&self, id: &ResponseId) -> Result<bool, StoreError> {
        // Nothing can come between that matters: a record never changes its owner, and an id is never given twice.
        let is_there = self.load(std::slice::from_ref(id), Touch::Keep).await?.into_iter().flatten().next().is_some();
        if is_there { self.store.delete(id).await } else { Ok(false) }
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.store.ready().await
    }

    fn ttl(&self) -> Duration {
        self.store.ttl()
    }

    fn holds_others(&self) -> bool {
        self.among_others
    }

    fn id_of_turn(&self, parent: Option<&ResponseId>, ids: &dyn IdSource) -> ResponseId {
        self.store.id_of_turn(parent, ids)
    }

    fn place_of(&self, _: Tenant) -> Option<Arc<dyn ResponseStore>> {
        None
    }

    fn name(&self) -> &'static str {
        self.store.name()
    }

    fn figures(&self) -> Vec<Figure> {
        self.store.figures()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::sealing::{SealingKey, SealingKeys};
    use crate::store::{AncestorIds, Ancestors, DiskSettings, DiskStore, KnownItems, RecordCodec};

    const LONGER: Touch = Touch::Refresh { longer: Duration::ZERO };

    /// A store in this folder that seals by the key of this id.
    fn store(folder: &std::path::Path, key: &str) -> Arc<dyn ResponseStore> {
        let key = SealingKey::new(key, &format!("{key:A<42}A=")).unwrap();
        let codec = RecordCodec::new(SealingKeys::new(vec![key]), false);
        let path = folder.join("r.redb");
        let ttl = Duration::from_secs(3600);
        Arc::new(DiskStore::open(&DiskSettings { path, max_bytes: None, cache_bytes: 1 << 20, ttl, codec }).unwrap())
    }

    fn record(number: u128, owner: Owner) -> Arc<Record> {
        let id = ResponseId::from_bits(number);
        let response = RawValue::from_string(format!("{{\"id\":\"{id}\",\"object\":\"response\"}}")).unwrap();
        let (ancestors, tenant) = (Ancestors::Listed(AncestorIds::default()), owner.tenant());
        let (input, items) = (Vec::new(), KnownItems::default());
        Arc::new(Record { id, ancestors, input, response, interrupted: false, tenant, items })
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_opened_is_an_error_to_its_owner_and_not_there_for_all_others() {
        let folder = tempfile::tempdir().unwrap();
        let (acme, evil) = (Owner::Tenant(Tenant::named(b"acme")), Owner::Tenant(Tenant::named(b"evil")));
        let old = store(folder.path(), "old");
        Holdings::new(&old, acme).put(record(1, acme)).await.unwrap();
        Holdings::new(&old, Owner::Everybody).put(record(2, Owner::Everybody)).await.unwrap();
        drop(old);
        let new = store(folder.path(), "new");
        Holdings::new(&new, evil).put(record(3, evil)).await.unwrap();
        let ids = [1, 2, 3, 4].map(ResponseId::from_bits);

        let theirs = Holdings::new(&new, evil);
        for touch in [Touch::Keep, LONGER] {
            let found = theirs.load(&ids, touch).await.unwrap();
            let found: Vec<_> = found.into_iter().map(|record| record.map(|record| record.id.clone())).collect();
            assert_eq!(found, [None, None, Some(ids[2].clone()), None]);
        }
        assert!(!theirs.delete(&ids[0]).await.unwrap());
        assert!(!theirs.delete(&ids[1]).await.unwrap());

        let everybodys = Holdings::new(&new, Owner::Everybody);
        assert_eq!(everybodys.load(&ids[..1], Touch::Keep).await.unwrap(), [None]);
        let error = everybodys.load(&ids, Touch::Keep).await.unwrap_err();
        assert!(matches!(error, StoreError::UnknownKey { .. }), "{error}");

        let own = Holdings::new(&new, acme);
        for error in [own.load(&ids, LONGER).await.unwrap_err(), own.delete(&ids[0]).await.unwrap_err()] {
            assert!(matches!(error, StoreError::UnknownKey { .. }), "{error}");
        }
    }
}
