//! The next helper of a thread that tries grammars out, which is started when the one before it is taken: where that ends, as it
//! does over a grammar that is too costly, nobody waits until another one has made its vocabulary.

use std::thread::{Builder, Scope, ScopedJoinHandle};

use ossmith_guide::GrammarHelper;
use ossmith_guide::helper::Helper;

/// A helper that nobody uses yet; it ends with the scope's thread.
pub(super) struct Spare<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    next: Option<ScopedJoinHandle<'scope, Result<Helper, String>>>,
}

impl<'scope, 'env> Spare<'scope, 'env> {
    pub(super) fn new(scope: &'scope Scope<'scope, 'env>) -> Spare<'scope, 'env> {
        Spare { scope, next: None }
    }

    /// The next helper, once it is ready, or until `stop` is true. Starts the one after it.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn take(
        &mut self,
        command: &'scope GrammarHelper,
        stop: impl Fn() -> bool + Copy + Send + 'scope,
    ) -> Result<Helper, String> {
        let start = move || Helper::start(command, &stop);
        let spare = self.next.take().and_then(|next| next.join().ok()?.ok());
        let running = spare.and_then(|mut spare| spare.is_running().then_some(spare));
        // A spare that failed may have done so long ago.
        let taken = running.map_or_else(start, Ok);
        let thread = Builder::new().name("grammars-spare".to_owned());
        // Without a thread the next one is started when it is needed.
        self.next = thread.spawn_scoped(self.scope, start).ok();
        taken
    }
}
