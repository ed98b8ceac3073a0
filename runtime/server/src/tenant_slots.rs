//! Places for what takes long and of which only so many run at a time: a tenant has a share of them, so that one key cannot
//! keep all others from what it holds for hours.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::tenant::Tenant;

/// Places of all tenants, and how many of them one may have.
#[derive(Clone, Debug)]
pub(crate) struct TenantSlots {
    all: Arc<Semaphore>,
    share: usize,
    /// A tenant per key of the server, at most.
    tenants: Arc<Mutex<HashMap<Tenant, Arc<Semaphore>>>>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct TenantSlot {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl TenantSlots {
    pub(crate) fn new(all: usize, share: usize) -> TenantSlots {
        TenantSlots { all: Arc::new(Semaphore::new(all)), share, tenants: Arc::default() }
    }

    /// Waits for a place. One that waits for a share of its own keeps nobody else from a place.
    pub(crate) async fn acquire(&self, tenant: Tenant) -> Result<TenantSlot, AcquireError> {
        let _own = self.of(tenant).acquire_owned().await?;
        Ok(TenantSlot { _own, _all: Arc::clone(&self.all).acquire_owned().await? })
    }

    /// A place, if there is one now.
    pub(crate) fn try_acquire(&self, tenant: Tenant) -> Option<TenantSlot> {
        let _own = self.of(tenant).try_acquire_owned().ok()?;
        Some(TenantSlot { _own, _all: Arc::clone(&self.all).try_acquire_owned().ok()? })
    }

    fn of(&self, tenant: Tenant) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let share = || Arc::new(Semaphore::new(self.share));
        Arc::clone(tenants.entry(tenant).or_insert_with(share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::Keys;

    #[tokio::test]
    async fn one_tenant_cannot_take_all_places() {
        let keys = Keys::new(&["a".to_owned(), "b".to_owned()], false, None);
        let tenants: Vec<Tenant> = keys.tenants().map(|(_, tenant)| tenant).collect();
        let slots = TenantSlots::new(3, 2);
        let own = [slots.try_acquire(tenants[0]), slots.try_acquire(tenants[0])];
        assert!(own.iter().all(Option::is_some) && slots.try_acquire(tenants[0]).is_none());
        // Who waits for his own share takes no place from the other.
        let (first, other) = (slots.clone(), tenants[0]);
        let waiting = tokio::spawn(async move { first.acquire(other).await.is_ok() });
        tokio::task::yield_now().await;
        let held = slots.acquire(tenants[1]).await.expect("a place");
        assert!(slots.try_acquire(tenants[1]).is_none(), "all three are taken");
        drop(own);
        assert!(waiting.await.expect("a task"));
        drop(held);
        assert!(slots.try_acquire(tenants[1]).is_some());
    }
}
