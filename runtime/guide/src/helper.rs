//! A process that tries a grammar out before the server compiles it. llguidance cannot be interrupted while it compiles,
//! and text of a few bytes can ask for gigabytes; a process can be ended at any moment, and gives its memory back.
//!
//! [`grammar_helper`] is that process: it answers each question on its standard input with one line, holds itself to the
//! budget of the question, and ends with its parent. [`Helper`] is the server's side.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ossmith::unstable::{on_yielding_thread, release_memory};
use serde::{Deserialize, Serialize};

use super::ageing::Aged;
use super::constraint::Constraint;
use super::grammar::{self, STACK_BYTES};
use super::vocabulary;

/// How to start the process that tries grammars out: a program that calls [`grammar_helper`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrammarHelper {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// Memory that compiling one grammar may take.
const MAX_MEMORY_BYTES: u64 = 128 << 20;
/// How much longer than its budget of processor time a question may take by the clock: the machine may be busy, and a helper
/// yields to all others. Beside one busy thread the idle class gets one part in 340 of a core.
const CLOCK_FACTOR: u32 = 750;
/// Memory that a helper may keep of what it has tried out. Above it a fresh one takes its place, because what the next
/// grammar takes would not show.
const MAX_KEPT_BYTES: u64 = 8 << 20;
/// How often budgets are looked at.
const TICK: Duration = Duration::from_millis(10);
/// Time that a helper may take to start, on a machine that has more to do than it can.
const START: Duration = Duration::from_secs(1500);
/// Begins each line that is an answer: nothing else that a program prints counts.
const MARK: &str = "ossmith-grammar ";

/// What a helper is asked.
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    constraint: Constraint,
    cpu_ms: u64,
}

/// What a helper says.
#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    /// It waits for questions.
    Ready,
    /// The grammar compiles.
    Compiles {
        /// Memory that it took.
        bytes: u64,
        /// Memory that the helper has kept since it started.
        kept: u64,
        cpu_ms: u64,
    },
    /// It does not, and why.
    Refused { why: String, cpu_ms: u64 },
    /// It was over its budget of this, and the helper ends.
    Over { what: String, cpu_ms: u64 },
    /// It had so little of a processor that its budget was not spent when its time by the clock was, and the helper ends.
    Late,
}

/// What came of a trial.
#[derive(Debug, PartialEq, Eq)]
pub enum Trial {
    /// The grammar compiles within its budget.
    Compiles {
        /// Memory that it took.
        bytes: u64,
        /// Processor time that it took.
        cpu: Duration,
    },
    /// It does not; the text is for the client.
    Refused {
        /// The reason, for who sent it.
        why: String,
        /// Processor time that it took.
        cpu: Duration,
    },
    /// Nobody waits for it any more.
    Stopped,
    /// There is no helper to try it.
    Lost(String),
}

/// A helper that runs; dropping it ends its process.
#[derive(Debug)]
pub struct Helper {
    child: Child,
    input: ChildStdin,
    answers: Receiver<Reply>,
    /// It has answered every question, and goes on.
    usable: bool,
    /// What it gets of processors.
    aged: Aged,
}

impl Helper {
    /// Starts a helper and waits until it is ready, or until `stop` is true.
    ///
    /// # Errors
    /// Why the program cannot be started, or that it did not say that it is ready.
    pub fn start(command: &GrammarHelper, stop: &dyn Fn() -> bool) -> Result<Helper, String> {
        let mut start = Command::new(&command.program);
        start
            .args(&command.arguments)
            // It needs nothing of the environment, which may hold keys.
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        // It yields from its first moment on: most of what it does under attack is to start anew.
        let mut child = on_yielding_thread(|| start.spawn())
            .flatten()
            .map_err(|why| format!("{} cannot be started: {why}", command.program.display()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a helper without pipes".to_owned());
        };
        let (sender, answers) = channel();
        let reader = move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let answer = line.strip_prefix(MARK).map(serde_json::from_str);
                if let Some(Ok(answer)) = answer
                    && sender.send(answer).is_err()
                {
                    return;
                }
            }
        };
        let aged = Aged::process(child.id());
        let mut helper = Helper { child, input, answers, usable: true, aged };
        std::thread::Builder::new()
            .name("grammar-answers".to_owned())
            .spawn(reader)
            .map_err(|why| format!("no thread can be started for its answers: {why}"))?;
        match helper.wait(START, stop) {
            Some(Reply::Ready) => Ok(helper),
            _ => Err(format!("{} did not say that it is ready", helper_name(command))),
        }
    }

    /// Whether a grammar compiles within this much processor time. After anything but an answer the helper is of no
    /// more use.
    pub fn try_out(
        &mut self,
        constraint: &Constraint,
        cpu: Duration,
        stop: &dyn Fn() -> bool,
    ) -> Trial {
        let question = Question { constraint: constraint.clone(), cpu_ms: cpu.as_millis() as u64 };
        let sent = serde_json::to_string(&question)
            .map_err(|why| why.to_string())
            .and_then(|text| writeln!(self.input, "{text}").map_err(|why| why.to_string()));
        self.usable = false;
        if let Err(why) = sent {
            return Trial::Lost(format!("it cannot be asked: {why}"));
        }
        match self.wait(cpu * CLOCK_FACTOR + TICK, stop) {
            Some(Reply::Compiles { bytes, kept, cpu_ms }) => {
                self.usable = kept < MAX_KEPT_BYTES;
                Trial::Compiles { bytes, cpu: Duration::from_millis(cpu_ms) }
            }
            Some(Reply::Refused { why, cpu_ms }) => {
                self.usable = true;
                Trial::Refused { why, cpu: Duration::from_millis(cpu_ms) }
            }
            Some(Reply::Over { what, cpu_ms }) => {
                Trial::Refused { why: too_costly(&what), cpu: Duration::from_millis(cpu_ms) }
            }
            Some(Reply::Late) => Trial::Lost(
                "no processor was free for long enough to try the grammar out".to_owned(),
            ),
            _ if stop() => Trial::Stopped,
            // It died of the grammar, or would not end.
            _ => Trial::Refused { why: too_costly("time, memory or depth"), cpu },
        }
    }

    /// Whether its process is there.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether it can be asked again.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.usable
    }

    /// The next answer, within this time.
    fn wait(&mut self, time: Duration, stop: &dyn Fn() -> bool) -> Option<Reply> {
        let end = Instant::now() + time;
        self.aged.begin();
        while !stop() && Instant::now() < end {
            match self.answers.recv_timeout(TICK) {
                Ok(answer) => {
                    self.aged.begin();
                    return Some(answer);
                }
                Err(RecvTimeoutError::Timeout) => self.aged.look(),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        None
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, and needs not.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn helper_name(command: &GrammarHelper) -> String {
    command.program.display().to_string()
}

fn too_costly(what: &str) -> String {
    format!("compiling it takes too much {what}; make it smaller, or simpler")
}

/// What the helper is at work on.
struct Work {
    started: Instant,
    cpu: Duration,
    memory: u64,
    budget: Duration,
}

/// What the helper is at work on, if anything, and a signal that it has begun.
#[derive(Default)]
struct AtWork {
    work: Mutex<Option<Work>>,
    begun: Condvar,
}

/// Tries out the grammars that are named on standard input, until it ends. A program that serves calls this in a process
/// of its own, as [`GrammarHelper`] says.
///
/// # Errors
/// The vocabulary cannot be used, or standard output is closed.
pub fn grammar_helper() -> Result<(), String> {
    // Its threads do so too.
    ossmith::unstable::yield_to_others();
    let (questions, inbox) = channel::<String>();
    let at_work: Arc<AtWork> = Arc::default();
    let watched = Arc::clone(&at_work);
    let start = |name: &str, work: Box<dyn FnOnce() + Send>| {
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread.spawn(work).map(drop).map_err(|why| format!("no thread can be started: {why}"))
    };
    start(
        "questions",
        Box::new(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                if questions.send(line).is_err() {
                    return;
                }
            }
            // The parent is gone: nobody waits, whatever is being compiled.
            std::process::exit(0);
        }),
    )?;
    vocabulary::factory()?;
    start("budget", Box::new(move || watch(&watched)))?;
    say(&Reply::Ready)?;
    let answers = std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || answer_all(&inbox, &at_work))
        .map_err(|why| format!("no thread can be started: {why}"))?;
    answers.join().unwrap_or_else(|_| Err("answering panicked".to_owned()))
}

/// Answers questions until no more come.
fn answer_all(inbox: &Receiver<String>, at_work: &AtWork) -> Result<(), String> {
    release_memory();
    let at_start = memory_bytes();
    for line in inbox {
        let question: Question = match serde_json::from_str(&line) {
            Ok(question) => question,
            Err(why) => {
                say(&Reply::Refused { why: format!("it cannot be read: {why}"), cpu_ms: 0 })?;
                continue;
            }
        };
        let (cpu, memory) = (processor_time(), memory_bytes());
        let budget = Duration::from_millis(question.cpu_ms);
        *lock(&at_work.work) = Some(Work { started: Instant::now(), cpu, memory, budget });
        at_work.begun.notify_one();
        let compiled = grammar::compile_on_this_thread(&question.constraint);
        let grown = memory_bytes().saturating_sub(memory);
        let compiled = compiled.map(drop);
        // The next trial shows what it takes only if what this one has freed is given back.
        release_memory();
        let kept = memory_bytes().saturating_sub(at_start);
        let cpu_ms = processor_time().saturating_sub(cpu).as_millis() as u64;
        // From here on the watch finds nothing to end.
        if lock(&at_work.work).take().is_none() {
            continue;
        }
        say(&match compiled {
            Ok(()) => Reply::Compiles { bytes: grown, kept, cpu_ms },
            Err(why) => Reply::Refused { why, cpu_ms },
        })?;
    }
    Ok(())
}

/// Ends this process when its work is over its budget.
fn watch(at_work: &AtWork) {
    loop {
        let idle = |work: &mut Option<Work>| work.is_none();
        drop(at_work.begun.wait_while(lock(&at_work.work), idle));
        std::thread::sleep(TICK);
        let mut work = lock(&at_work.work);
        let Some(now) = work.as_ref() else { continue };
        let cpu = processor_time().saturating_sub(now.cpu);
        let over =
            |what: &str| Reply::Over { what: what.to_owned(), cpu_ms: cpu.as_millis() as u64 };
        let reply = if cpu > now.budget {
            over("time")
        } else if memory_bytes() > now.memory + MAX_MEMORY_BYTES {
            over("memory")
        } else if now.started.elapsed() > now.budget * (CLOCK_FACTOR - 1) {
            Reply::Late
        } else {
            continue;
        };
        *work = None;
        let _ = say(&reply);
        std::process::exit(0);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn say(answer: &Reply) -> Result<(), String> {
    let text = serde_json::to_string(answer).map_err(|why| why.to_string())?;
    let mut output = std::io::stdout().lock();
    // A line of its own, whatever the program has printed before.
    writeln!(output, "\n{MARK}{text}").and_then(|()| output.flush()).map_err(|why| why.to_string())
}

/// Processor time of this process, in the kernel's ticks of 10 ms; none where /proc does not say, and then the clock's
/// bound is what holds.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is a name in parentheses, and may hold anything.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

/// Memory of this process that is in use; 0 where /proc does not say.
fn memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
