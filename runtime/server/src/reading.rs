//! Turns of large bodies. Reading one, tokenizing above all, takes a core for up to seconds, and there are few threads for it: so
//! large bodies wait for each other, apart from those of middling size, and small ones never wait for either. What takes long on
//! a thread that serves is done by [`in_place`].

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::tenant::Tenant;
use crate::tenant_slots::{TenantSlot, TenantSlots};

/// From these sizes on a body is of middling size, and large.
const MIDDLING_BYTES: usize = 64 << 10;
const LARGE_BYTES: usize = 1 << 20;

/// The threads that a server should have for reading requests: reading takes a core, so more than cores win nothing, and each
/// keeps memory of its own.
#[must_use]
pub fn reading_threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from) + 1
}

/// Who reads now. A third of the threads is for each size.
#[derive(Debug)]
pub(crate) struct ReadingTurns {
    middling: TenantSlots,
    large: TenantSlots,
}

impl ReadingTurns {
    pub(crate) fn new(threads: usize, has_tenants: bool) -> ReadingTurns {
        let places = (threads / 3).max(1);
        // So tenants take turns, however many bodies one of them has.
        let share = if has_tenants { places.div_ceil(2) } else { places };
        let slots = || TenantSlots::new(places, share);
        ReadingTurns { middling: slots(), large: slots() }
    }

    /// Waits for the turn of a body with this many bytes; it ends when what is returned is dropped.
    pub(crate) async fn turn(&self, tenant: Tenant, bytes: usize) -> Option<TenantSlot> {
        if bytes < MIDDLING_BYTES {
            return None;
        }
        let slots = if bytes < LARGE_BYTES { &self.middling } else { &self.large };
        // Nobody closes them.
        slots.acquire(tenant).await.ok()
    }
}

/// Does what takes long where nothing can be awaited, so that other tasks go on if it is called on a thread of theirs.
pub(crate) fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(work)
        }
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;
    use crate::tenant::Keys;

    #[tokio::test]
    async fn small_bodies_never_wait_and_tenants_take_turns() {
        let keys = Keys::new(&["a".to_owned(), "b".to_owned()], false, None);
        let tenants: Vec<Tenant> = keys.tenants().map(|(_, tenant)| tenant).collect();
        let turns = ReadingTurns::new(3, true);
        let large = turns.turn(tenants[0], LARGE_BYTES).await.expect("a turn");
        // Other sizes do not wait for it.
        assert!(turns.turn(tenants[0], LARGE_BYTES - 1).await.is_some());
        assert!(turns.turn(tenants[0], MIDDLING_BYTES - 1).await.is_none());
        // The first tenant's next body waits before that of the second, which is read first all the same.
        let mut next = Box::pin(turns.turn(tenants[0], LARGE_BYTES));
        let mut other = Box::pin(turns.turn(tenants[1], LARGE_BYTES));
        let mut context = Context::from_waker(Waker::noop());
        assert!(next.as_mut().poll(&mut context).is_pending());
        assert!(other.as_mut().poll(&mut context).is_pending());
        drop(large);
        assert!(next.as_mut().poll(&mut context).is_pending());
        drop(other.await.expect("a turn"));
        assert!(next.await.is_some());
    }
}
