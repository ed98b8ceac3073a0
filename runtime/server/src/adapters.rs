//! The LoRA adapters that a server has: requests name one as their model. They are loaded before the server starts or, where
//! the operator allows it, while it runs; a generation keeps its adapter until it ends.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ossmith::{Adapter, AdapterBounds, AdapterSupport, ModelSpec};

/// How many adapters a server holds, of which rank, and how large they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdapterLimits {
    /// Adapters at a time.
    pub count: usize,
    /// The largest rank of one.
    pub rank: usize,
    /// Bytes of all together in memory. One that was unloaded or replaced counts no more, though what runs may still use it.
    pub bytes: usize,
}

impl Default for AdapterLimits {
    /// vLLM's ranks, as many adapters as a list of models shows at a glance, and 8 GiB.
    fn default() -> AdapterLimits {
        AdapterLimits { count: 16, rank: 64, bytes: 8 << 30 }
    }
}

/// Why an adapter was not loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdapterRefusal {
    /// There is one of this name, or the model has it.
    NameTaken(String),
    /// What is wrong with its files, its rank, or the number of adapters.
    Unusable(String),
}

/// The adapters of a server; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Adapters {
    limits: AdapterLimits,
    /// Whether clients may load and unload them.
    pub runtime: bool,
    loaded: Arc<RwLock<BTreeMap<String, Arc<Adapter>>>>,
    /// Held while one is read: several at the same time could exceed the memory together.
    loading: Arc<Mutex<()>>,
    /// The model that they are for; without one none can be loaded.
    spec: Option<ModelSpec>,
    /// Those that the engine applies to single requests.
    support: AdapterSupport,
}

impl Adapters {
    /// None yet, for a model and an engine of this support.
    #[must_use]
    pub fn new(
        spec: &ModelSpec,
        support: AdapterSupport,
        limits: AdapterLimits,
        runtime: bool,
    ) -> Adapters {
        Adapters { limits, runtime, spec: Some(*spec), support, ..Adapters::default() }
    }

    /// Loads an adapter from a folder; `replaces` one of its name. Requests that run keep the one that they began with.
    ///
    /// # Errors
    /// [`AdapterRefusal`].
    pub fn load(&self, name: &str, folder: &Path, replaces: bool) -> Result<(), AdapterRefusal> {
        let unusable = |why: String| Err(AdapterRefusal::Unusable(why));
        let Some(spec) = &self.spec else {
            return unusable("this server takes no adapters".to_owned());
        };
        let _one = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let others = {
            let loaded = self.read();
            check_place(&loaded, self.limits, name, replaces)?;
            loaded.values().filter(|one| one.name() != name).map(|one| one.bytes()).sum::<usize>()
        };
        let AdapterLimits { rank, bytes, .. } = self.limits;
        let bounds = AdapterBounds { rank, bytes: bytes.saturating_sub(others) };
        let adapter = match Adapter::open_within(name, folder, spec, bounds) {
            Ok(adapter) => adapter,
            Err(why) => return unusable(why.to_string()),
        };
        if let Some(why) = self.support.refusal(&adapter) {
            return unusable(why);
        }
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        loaded.insert(name.to_owned(), Arc::new(adapter));
        Ok(())
    }

    /// Removes an adapter; false if there is none of this name.
    #[must_use]
    pub fn unload(&self, name: &str) -> bool {
        self.loaded.write().unwrap_or_else(PoisonError::into_inner).remove(name).is_some()
    }

    /// The adapter of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Adapter>> {
        let loaded = self.read();
        // Ollama's clients write `:latest` after a name without a tag.
        let untagged = || loaded.get(name.strip_suffix(":latest")?);
        loaded.get(name).or_else(untagged).cloned()
    }

    /// All of them, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Adapter>> {
        self.read().values().cloned().collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Arc<Adapter>>> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether there is room for an adapter of this name.
fn check_place(
    loaded: &BTreeMap<String, Arc<Adapter>>,
    limits: AdapterLimits,
    name: &str,
    replaces: bool,
) -> Result<(), AdapterRefusal> {
    if loaded.contains_key(name) {
        return match replaces {
            true => Ok(()),
            false => Err(AdapterRefusal::NameTaken(name.to_owned())),
        };
    }
    if loaded.len() >= limits.count {
        let problem = format!(
            "this server holds {} adapters, as many as it takes: unload one, or raise --max-loras",
            loaded.len()
        );
        return Err(AdapterRefusal::Unusable(problem));
    }
    Ok(())
}
