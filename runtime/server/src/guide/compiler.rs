//! Where grammars are compiled: on threads of their own, within a budget for each request, and once for all who ask for
//! the same. Nobody else waits for it: a request's handler awaits what it needs, and whatever it leaves behind is dropped.
//!
//! What [`limits::check`] calls plain is compiled at once, and never waits for anything else. All other text is tried out by
//! a [`Helper`] first, which can be ended. Nothing here outlives the process or holds up its end. Tenants take turns, and
//! what one had compiled is no other's, so that nobody learns from the time it takes what others send.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ossmith_guide::ageing::{Unfinished, on_aged_thread};
use ossmith_guide::helper::{Helper, Trial};
use ossmith_guide::limits::{self, Effort};
use ossmith_guide::{
    Compiled, Constraint, GrammarHelper, MAX_IN_USE_BYTES, STACK_BYTES, bytes_in_use,
    compile_on_this_thread, mask_clock,
};
use tokio::sync::oneshot;

use super::cache::{self, Cache, Key, Outcome};
use super::fair_queue::FairQueue;
use super::spare::Spare;
use crate::error::{ApiError, Result as ApiResult};
use crate::memory;
use crate::tenant::Tenant;

/// Processor time that the grammars of one request may take to try out.
const REQUEST_CPU: Duration = Duration::from_secs(2);
/// Grammars that may wait to be compiled.
const MAX_WAITING: usize = 4096;
/// Those of one tenant among them.
const MAX_WAITING_OF_TENANT: usize = MAX_WAITING / 2;
/// Most helpers at a time.
const MAX_HELPERS: usize = 4;
/// How long a compilation may take before its thread is left alone, on a machine that has more to do than it can: what was tried
/// out needs 2 s of a processor, what is plain less, and it gets a tenth of one now and then.
const ABANDON: Duration = Duration::from_secs(300);
/// How often a thread without work looks for grammars that nobody wants any more.
const EXPIRE: Duration = Duration::from_secs(5);
/// Memory of a grammar besides what a trial shows (128 tools of ordinary size took 33 MB), and of each byte of its text.
const LEAST_BYTES: u64 = 256 << 10;
/// Memory of a refusal: its key and its sentence.
const REFUSAL_BYTES: u64 = 1 << 10;
const BYTES_OF_TEXT: u64 = 64;

/// Why there is no grammar.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Refusal {
    /// It cannot be enforced.
    Unenforceable(String),
    /// It could not be compiled now.
    Unavailable(String),
}

/// A constraint that is within the limits.
#[derive(Clone, Debug)]
struct Checked {
    constraint: Arc<Constraint>,
    key: Key,
    effort: Effort,
}

impl Checked {
    fn new(constraint: Arc<Constraint>) -> Result<Checked, String> {
        let effort = limits::check(&constraint)?;
        let key = cache::key(&constraint);
        Ok(Checked { constraint, key, effort })
    }
}

/// A grammar that a request needs, measured but not compiled.
#[derive(Clone, Debug)]
pub(crate) struct GrammarRequest {
    checked: Checked,
    /// Where it cannot be enforced, any object will do.
    or_any_object: bool,
    /// The field that requests it.
    param: String,
    /// What it is, in an error.
    subject: String,
}

impl GrammarRequest {
    /// A grammar that has to be enforced.
    ///
    /// # Errors
    /// A refusal that names the limit that it is over.
    pub(crate) fn new(
        constraint: Constraint,
        param: &str,
        subject: String,
    ) -> ApiResult<GrammarRequest> {
        let checked =
            Checked::new(constraint.into()).map_err(|why| unenforceable(param, &subject, &why))?;
        Ok(GrammarRequest { checked, or_any_object: false, param: param.to_owned(), subject })
    }

    /// A grammar in whose place any object will do.
    ///
    /// # Errors
    /// None that a client can bring about.
    pub(crate) fn or_any_object(
        constraint: Constraint,
        param: &str,
        subject: String,
    ) -> ApiResult<GrammarRequest> {
        let constraint = Arc::new(constraint);
        let checked = Checked::new(Arc::clone(&constraint)).or_else(|why| {
            tracing::debug!(subject, why, "a grammar is not enforced");
            Checked::new(constraint.any_object_instead().into())
        });
        let checked = checked.map_err(|why| unenforceable(param, &subject, &why))?;
        Ok(GrammarRequest { checked, or_any_object: true, param: param.to_owned(), subject })
    }
}

fn unenforceable(param: &str, subject: &str, why: &str) -> ApiError {
    ApiError::bad(param, format!("{subject} cannot be enforced: {why}"))
}

/// The processor time that a request has left, in milliseconds.
#[derive(Clone, Debug)]
struct Budget(Arc<AtomicU64>);

impl Default for Budget {
    fn default() -> Budget {
        Budget(Arc::new(AtomicU64::new(REQUEST_CPU.as_millis() as u64)))
    }
}

impl Budget {
    fn left(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    fn spend(&self, time: Duration) {
        let spent = |left: u64| Some(left.saturating_sub(time.as_millis() as u64));
        // The closure never refuses.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent);
    }
}

/// A grammar that is wanted.
struct Job {
    key: Key,
    constraint: Arc<Constraint>,
    budget: Budget,
    reply: oneshot::Sender<Result<Arc<Compiled>, Refusal>>,
}

#[derive(Default)]
struct Queues {
    plain: FairQueue<Job>,
    involved: FairQueue<Job>,
    cache: Cache,
    /// Threads are started with the first job.
    started: bool,
    stopping: bool,
}

struct Shared {
    helper: Option<GrammarHelper>,
    queues: Mutex<Queues>,
    work: Condvar,
}

/// The pool; dropping it ends its threads and helpers.
pub(crate) struct Compiler(Arc<Shared>);

/// A grammar that may not be ready yet; dropping it gives it up.
enum Pending {
    Done(Outcome),
    Waiting(oneshot::Receiver<Result<Arc<Compiled>, Refusal>>),
}

impl Pending {
    /// Waits for it.
    async fn ready(self) -> Result<Arc<Compiled>, Refusal> {
        match self {
            Pending::Done(outcome) => outcome.map_err(Refusal::Unenforceable),
            Pending::Waiting(reply) => reply
                .await
                .unwrap_or_else(|_| Err(Refusal::Unavailable("the server is stopping".to_owned()))),
        }
    }
}

impl Compiler {
    /// A pool that tries grammars out with this helper. Without one, llguidance's own limits are all that bounds the time
    /// and memory of a grammar that is not plain.
    pub(crate) fn new(helper: Option<GrammarHelper>) -> Compiler {
        Compiler(Arc::new(Shared { helper, queues: Mutex::default(), work: Condvar::new() }))
    }

    /// Starts the threads and helpers, so that the first request need not wait for them.
    pub(crate) fn warm(&self) {
        self.0.start(&mut self.0.lock());
    }

    /// Compiles what a tenant's request needs, in its order. Dropping the future gives up what is not done.
    ///
    /// # Errors
    /// A grammar cannot be enforced, or cannot be compiled now.
    pub(crate) async fn compile(
        &self,
        tenant: Tenant,
        wanted: &[GrammarRequest],
    ) -> ApiResult<Vec<Arc<Compiled>>> {
        let budget = Budget::default();
        let pending: Vec<Pending> =
            wanted.iter().map(|wanted| self.ask(tenant, &wanted.checked, &budget)).collect();
        let mut grammars = Vec::with_capacity(wanted.len());
        for (wanted, pending) in wanted.iter().zip(pending) {
            let ready = match pending.ready().await {
                Err(Refusal::Unenforceable(why)) if wanted.or_any_object => {
                    tracing::debug!(subject = wanted.subject, why, "a grammar is not enforced");
                    let instead = wanted.checked.constraint.any_object_instead();
                    let any = Checked::new(instead.into()).map_err(ApiError::internal)?;
                    self.ask(tenant, &any, &budget).ready().await
                }
                ready => ready,
            };
            grammars.push(ready.map_err(|refusal| match refusal {
                Refusal::Unenforceable(why) => unenforceable(&wanted.param, &wanted.subject, &why),
                Refusal::Unavailable(why) => ApiError::unavailable(why),
            })?);
        }
        Ok(grammars)
    }

    fn ask(&self, tenant: Tenant, wanted: &Checked, budget: &Budget) -> Pending {
        let key = if tenant == Tenant::ONLY { wanted.key } else { tenant.digest(&wanted.key) };
        let mut queues = self.0.lock();
        if let Some(outcome) = queues.cache.get(&key) {
            return Pending::Done(outcome);
        }
        let (reply, answer) = oneshot::channel();
        let own = queues.plain.len_of(tenant) + queues.involved.len_of(tenant);
        let all = queues.plain.len() + queues.involved.len();
        if all >= MAX_WAITING || own >= MAX_WAITING_OF_TENANT {
            let why = format!("{all} grammars wait to be compiled already; try again later");
            // The receiver is there until this function returns it.
            let _ = reply.send(Err(Refusal::Unavailable(why)));
            return Pending::Waiting(answer);
        }
        let job =
            Job { key, constraint: Arc::clone(&wanted.constraint), budget: budget.clone(), reply };
        match wanted.effort {
            Effort::Plain => queues.plain.push(tenant, job),
            Effort::Involved => queues.involved.push(tenant, job),
        }
        self.0.start(&mut queues);
        drop(queues);
        self.0.work.notify_all();
        Pending::Waiting(answer)
    }
}

impl Drop for Compiler {
    fn drop(&mut self) {
        let mut queues = self.0.lock();
        queues.stopping = true;
        queues.plain.clear();
        queues.involved.clear();
        drop(queues);
        self.0.work.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(self: &Arc<Shared>, queues: &mut Queues) {
        if std::mem::replace(&mut queues.started, true) {
            return;
        }
        mask_clock::start();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spawn = |name: &str, work: fn(&Shared)| {
            let shared = Arc::clone(self);
            let thread = std::thread::Builder::new().name(name.to_owned());
            if let Err(why) = thread.spawn(move || work(&shared)) {
                tracing::error!(%why, "a thread that compiles grammars cannot be started");
            }
        };
        (0..cores.min(2)).for_each(|_| spawn("grammars-plain", Shared::compile_plain));
        let helpers = (cores / 2).clamp(1, MAX_HELPERS);
        (0..helpers).for_each(|_| spawn("grammars", Shared::compile_involved));
    }

    fn stopping(&self) -> bool {
        self.lock().stopping
    }

    /// The next job that somebody waits for; none when the pool ends.
    fn next(&self, of: fn(&mut Queues) -> &mut FairQueue<Job>) -> Option<Job> {
        let mut queues = self.lock();
        loop {
            if queues.stopping {
                return None;
            }
            let Some(job) = of(&mut queues).pop() else {
                let woken = self.work.wait_timeout(queues, EXPIRE);
                queues = woken.unwrap_or_else(PoisonError::into_inner).0;
                let expired = queues.cache.expire(Instant::now());
                if !expired.is_empty() {
                    drop(queues);
                    drop(expired);
                    memory::released();
                    queues = self.lock();
                }
                continue;
            };
            if job.reply.is_closed() {
                continue;
            }
            // Another request may have wanted the same.
            let Some(outcome) = queues.cache.get(&job.key) else { return Some(job) };
            job.answer(outcome.map_err(Refusal::Unenforceable));
        }
    }

    fn compile_plain(&self) {
        // The first grammar shall not wait for the vocabulary; a failure shows when one is compiled.
        let _ = on_aged_thread(STACK_BYTES, ABANDON, || ossmith_guide::warm_up().is_ok());
        while let Some(job) = self.next(|queues| &mut queues.plain) {
            self.compile(job, 0);
        }
    }

    fn compile_involved(&self) {
        // The spare of this thread ends with it.
        std::thread::scope(|scope| self.compile_involved_with(&mut Spare::new(scope)));
    }

    fn compile_involved_with<'scope>(&'scope self, spare: &mut Spare<'scope, '_>) {
        let (mut helper, shared) = (None, self);
        let stopping = move || shared.stopping();
        loop {
            if let (None, Some(command)) = (&helper, &self.helper) {
                match spare.take(command, stopping) {
                    Ok(ready) => helper = Some(ready),
                    Err(_) if self.stopping() => return,
                    Err(why) => tracing::error!(why, "no process to try grammars out"),
                }
            }
            let Some(job) = self.next(|queues| &mut queues.involved) else { return };
            if self.helper.is_none() {
                self.compile(job, 0);
                continue;
            }
            let Some(mut ready) = helper.take() else {
                job.answer(Err(Refusal::Unavailable(
                    "no process can be started to try the grammar out".to_owned(),
                )));
                continue;
            };
            let left = job.budget.left();
            if left.is_zero() {
                let why = "the grammars of this request take too much time to compile".to_owned();
                job.answer(Err(Refusal::Unenforceable(why)));
                helper = Some(ready);
                continue;
            }
            let stop = || job.reply.is_closed() || self.stopping();
            match ready.try_out(&job.constraint, left, &stop) {
                Trial::Compiles { bytes, cpu } => {
                    job.budget.spend(cpu);
                    if bytes_in_use() + bytes > MAX_IN_USE_BYTES {
                        let why = "the grammars of other requests take too much memory now";
                        job.answer(Err(Refusal::Unavailable(why.to_owned())));
                    } else {
                        self.compile(job, bytes);
                    }
                }
                Trial::Refused { why, cpu } => {
                    job.budget.spend(cpu);
                    // With a whole budget it is the grammar's own fault, and will be the next time.
                    let outcome = Err(why.clone());
                    if left == REQUEST_CPU {
                        self.lock().cache.put(job.key, outcome, why.len() as u64);
                    }
                    job.answer(Err(Refusal::Unenforceable(why)));
                }
                Trial::Stopped => {}
                Trial::Lost(why) => job.answer(Err(Refusal::Unavailable(why))),
            }
            helper = Some(ready).filter(Helper::is_usable);
        }
    }

    /// Compiles in this process, on a thread that is left alone if it takes far longer than it can. `bytes` is the memory
    /// that a trial showed.
    fn compile(&self, job: Job, bytes: u64) {
        let text = job.constraint.text_bytes() as u64;
        let bytes = LEAST_BYTES + bytes.max(text * BYTES_OF_TEXT);
        let (constraint, started) = (Arc::clone(&job.constraint), Instant::now());
        let work = move || compile_on_this_thread(&constraint);
        let why = match on_aged_thread(STACK_BYTES, ABANDON, work) {
            Ok(compiled) => {
                tracing::debug!(ms = started.elapsed().as_millis() as u64, "compiled a grammar");
                let outcome = compiled.map(|compiled| Arc::new(compiled.taking(bytes)));
                let kept = if outcome.is_ok() { bytes } else { REFUSAL_BYTES };
                self.lock().cache.put(job.key, outcome.clone(), kept);
                memory::released();
                job.answer(outcome.map_err(Refusal::Unenforceable));
                return;
            }
            Err(Unfinished::NoThread(why)) => {
                job.answer(Err(Refusal::Unavailable(format!("no thread can be started: {why}"))));
                return;
            }
            Err(Unfinished::Late) => {
                tracing::error!("a grammar is still being compiled after {ABANDON:?}");
                "it takes too long to compile"
            }
            Err(Unfinished::Panicked) => "compiling it panicked",
        };
        self.lock().cache.put(job.key, Err(why.to_owned()), why.len() as u64);
        job.answer(Err(Refusal::Unenforceable(why.to_owned())));
    }
}

impl Job {
    fn answer(self, outcome: Result<Arc<Compiled>, Refusal>) {
        // Who has left needs no answer.
        let _ = self.reply.send(outcome);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What the helper of the tests below runs: this test, alone in a process of its own.
    #[test]
    #[ignore = "a helper process, which waits for questions"]
    fn as_helper() {
        ossmith_guide::grammar_helper().expect("a helper");
    }

    pub(in super::super) fn with_helper() -> Compiler {
        let program = std::env::current_exe().expect("this program");
        let arguments =
            ["--exact", "guide::compiler::tests::as_helper", "--ignored", "--nocapture"];
        let arguments = arguments.map(Into::into).to_vec();
        Compiler::new(Some(GrammarHelper { program, arguments }))
    }

    fn wanted(constraint: Constraint) -> GrammarRequest {
        GrammarRequest::new(constraint, "x", "`x`".to_owned()).expect("within the limits")
    }

    fn schema(schema: Value) -> GrammarRequest {
        wanted(Constraint::Schema { schema, lenient: false })
    }

    /// Few bytes, and an automaton of a hundred million states.
    fn bomb(seed: usize) -> Value {
        let factors = [9973, 9967, 9949, 9941];
        let multiple = |at: usize| json!({"multipleOf": factors[at % factors.len()]});
        json!({"type": "integer", "minimum": seed, "allOf": [multiple(seed), multiple(seed + 1)]})
    }

    #[tokio::test]
    async fn the_same_grammar_is_compiled_once() {
        let pool = with_helper();
        for request in [schema(json!({"type": "integer"})), wanted(Constraint::Regex("a+".into()))]
        {
            let first = pool
                .compile(Tenant::ONLY, std::slice::from_ref(&request))
                .await
                .expect("a grammar");
            let both =
                pool.compile(Tenant::ONLY, &[request.clone(), request]).await.expect("grammars");
            assert!(both.iter().all(|again| Arc::ptr_eq(&first[0], again)));
        }
    }

    #[tokio::test]
    async fn a_bomb_is_refused_and_holds_up_nobody() {
        let pool = with_helper();
        // The vocabulary, which takes seconds to make, is there before anything is compared.
        let first = [schema(json!({"type": "boolean"}))];
        pool.compile(Tenant::ONLY, &first).await.expect("a grammar");
        // Three budgets of processor time, and then a grammar that needs next to none.
        let bombs: Vec<Pending> = (0..3)
            .map(|seed| pool.ask(Tenant::ONLY, &schema(bomb(seed)).checked, &Budget::default()))
            .collect();
        let plain = [schema(json!({"type": "object", "properties": {"a": {"type": "string"}}}))];
        let mut refused = Box::pin(async {
            let mut last = None;
            for bomb in bombs {
                last = bomb.ready().await.err();
            }
            last
        });
        tokio::select! {
            biased;
            why = &mut refused => panic!("before a plain grammar: {why:?}"),
            ready = pool.compile(Tenant::ONLY, &plain) => drop(ready.expect("a grammar")),
        }
        let Some(Refusal::Unenforceable(why)) = refused.await else { panic!("no refusal") };
        // Whichever was over first, its budget or a limit of llguidance: the refusal is known, and the next helper is as
        // good as the last.
        let again = pool.compile(Tenant::ONLY, &[schema(bomb(2))]).await.expect_err("a refusal");
        assert_eq!(again.message, format!("`x` cannot be enforced: {why}"));
        pool.compile(Tenant::ONLY, &[wanted(Constraint::Regex("b+".into()))])
            .await
            .expect("a grammar");
    }

    #[tokio::test]
    async fn all_grammars_of_a_request_share_its_budget() {
        let pool = with_helper();
        let ask = |request: GrammarRequest, budget: &Budget| {
            pool.ask(Tenant::ONLY, &request.checked, budget).ready()
        };
        let budget = Budget::default();
        ask(schema(bomb(2)), &budget).await.expect_err("a refusal");
        assert!(budget.left() < REQUEST_CPU, "a bomb costs nothing");
        budget.spend(REQUEST_CPU);
        let regex = || wanted(Constraint::Regex("c+".into()));
        match ask(regex(), &budget).await {
            Err(Refusal::Unenforceable(why)) => assert!(why.contains("of this request"), "{why}"),
            other => panic!("{other:?}"),
        }
        // Which is no fault of the second grammar's.
        ask(regex(), &Budget::default()).await.expect("a grammar");
    }

    #[tokio::test]
    async fn who_leaves_frees_the_helper_at_once() {
        let pool = with_helper();
        pool.warm();
        let bombs: Vec<Checked> = (3..9).map(|seed| schema(bomb(seed)).checked).collect();
        for bomb in &bombs {
            let left = pool.ask(Tenant::ONLY, bomb, &Budget::default());
            while pool.0.lock().involved.len() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // A helper is at work on it, or is about to be.
            drop(left);
        }
        pool.compile(Tenant::ONLY, &[wanted(Constraint::Regex("d+".into()))])
            .await
            .expect("a grammar");
        // One that was tried out to its end would be known. On a machine that stops for so long, some may be, but not all.
        let known = bombs.iter().filter(|bomb| pool.0.lock().cache.get(&bomb.key).is_some());
        assert!(known.count() < bombs.len(), "every bomb was tried out to its end");
    }

    #[test]
    fn a_pool_that_is_dropped_ends_what_it_does() {
        let pool = with_helper();
        let bomb = Checked::new(Constraint::Schema { schema: bomb(0), lenient: false }.into());
        let pending = pool.ask(Tenant::ONLY, &bomb.expect("within the limits"), &Budget::default());
        let shared = Arc::downgrade(&pool.0);
        drop(pool);
        let started = Instant::now();
        while shared.strong_count() > 0 {
            assert!(started.elapsed() < Duration::from_secs(120), "its threads go on");
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(pending);
    }

    #[tokio::test]
    async fn without_a_helper_grammars_are_compiled_all_the_same() {
        let pool = Compiler::new(None);
        let all = [
            schema(json!({"type": "integer", "multipleOf": 7})),
            wanted(Constraint::Grammar("start: \"a\"".into())),
        ];
        assert_eq!(pool.compile(Tenant::ONLY, &all).await.expect("grammars").len(), 2);
        let missing = GrammarHelper { program: "/nowhere/at/all".into(), arguments: Vec::new() };
        let why =
            Compiler::new(Some(missing)).compile(Tenant::ONLY, &all).await.expect_err("a refusal");
        assert_eq!(why.status.as_u16(), 503, "{why:?}");
    }
}
