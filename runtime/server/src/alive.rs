//! What a server that shares its store tells the others while it works on an entry: that it is there. They learn from its silence that
//! it is gone, and ask it through the store to cancel.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::state::AppState;
use crate::tenant::Tenant;

/// How often it does that, and asks whether the entry is to be cancelled.
const INTERVAL: Duration = Duration::from_secs(1);

/// Ends when it is dropped.
pub(crate) struct Alive(Option<tokio::task::JoinHandle<()>>);

impl Drop for Alive {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Tells other servers that this one works on an entry, until the result is dropped, and calls `cancel` when one of them wants that.
/// Without a shared store there is nothing to tell.
pub(crate) fn keep_alive(
    app: &Arc<AppState>,
    tenant: Tenant,
    id: String,
    cancel: impl Fn() + Send + 'static,
) -> Result<Alive> {
    if !app.store.is_shared() {
        return Ok(Alive(None));
    }
    app.store.of(tenant).keep_alive(&id)?;
    let app = Arc::clone(app);
    Ok(Alive(Some(tokio::spawn(async move {
        loop {
            tokio::time::sleep(INTERVAL).await;
            // A store that cannot be reached now may be reached next time.
            if app.store.of(tenant).keep_alive(&id).is_ok_and(|wanted| wanted) {
                cancel();
            }
        }
    }))))
}
