//! Whose records are whose: the one place through which records are asked for on behalf of a request.
//!
//! A record that is not the asker's is as if it were not there: it is not returned, its life is not prolonged, it cannot
//! be deleted. So GET, DELETE, `input_items`, parents, their ancestors and item references all see the same.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Figure, Record, ResponseStore, StoreError, Touch};
use crate::id::ResponseId;
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
        let records = self.store.load(ids, touch).await?;
        Ok(records.into_iter().map(|record| record.filter(|record| self.owner.owns(record))).collect())
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

    fn holds_others(&self) -> bool {
        self.among_others
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
