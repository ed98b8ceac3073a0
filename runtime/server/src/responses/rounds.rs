//! An answer in rounds: the model writes until it calls tools that servers run, they are run, and it goes on with their results.
//! Without such tools there is one round. Calls are bounded in number, time and size; one that fails is a result like any other.

use std::sync::Arc;
use std::time::Instant;

use ossmith_harmony::Message;

use super::object::Status;
use super::writer::{HostedCall, ItemWriter};
use crate::clock;
use crate::generation::{Generation, within};
use crate::options::call_target::CallTarget;
use crate::options::hosted_tool::HostedTool;
use crate::state::AppState;
use crate::tenant::Tenant;
use crate::tool_servers::{ToolOutcome, ToolSessions};

/// What the rounds of one answer share.
pub(super) struct Rounds {
    app: Arc<AppState>,
    tenant: Tenant,
    arrival: Instant,
    sessions: ToolSessions,
    /// Calls so far, with those whose arguments no server gets to see.
    calls: usize,
}

impl Rounds {
    pub(super) fn new(app: &Arc<AppState>, tenant: Tenant, arrival: Instant) -> Rounds {
        let sessions = app.tool_servers.sessions(tenant);
        Rounds { app: Arc::clone(app), tenant, arrival, sessions, calls: 0 }
    }

    /// Runs all rounds. `publish` is called wherever the writer may have something new.
    pub(super) async fn run(
        mut self,
        writer: &mut ItemWriter,
        mut generation: Generation,
        mut publish: impl FnMut(&mut ItemWriter),
    ) {
        loop {
            let read = |_, event| {
                let ended = writer.read(event);
                publish(writer);
                Ok(ended)
            };
            // The engine holds the time limit, and a failure is an event that the writer reads.
            let _ = generation.read_to_end(None, read).await;
            let calls = writer.take_calls();
            if calls.is_empty() {
                return;
            }
            let mut results = Vec::with_capacity(calls.len());
            for call in calls {
                writer.begin_call(&call);
                publish(writer);
                let outcome = self.outcome(&call, writer.request.max_tool_calls).await;
                results.push(result(&call.target, &outcome));
                writer.end_call(call, outcome);
                publish(writer);
            }
            let more_calls = self.calls < writer.request.max_tool_calls;
            let Some(turn) = writer.next_round(&results, more_calls) else {
                publish(writer);
                return;
            };
            let started = turn
                .generation_requests()
                .and_then(|requests| self.app.generate(requests, self.tenant, self.arrival));
            match started {
                Ok(next) => generation = next,
                Err(why) => {
                    writer.end(Status::Failed(why));
                    publish(writer);
                    return;
                }
            }
        }
    }

    async fn outcome(&mut self, call: &HostedCall, max_calls: usize) -> ToolOutcome {
        let Some(host) = &call.target.host else {
            return ToolOutcome::failure("no server runs this tool");
        };
        if self.calls >= max_calls {
            return ToolOutcome::failure(format!(
                "no more than {max_calls} calls of tools may be made for one answer; answer with what is known"
            ));
        }
        self.calls += 1;
        match host.arguments(&call.text) {
            Ok(arguments) => self.call(host, arguments).await,
            Err(why) => ToolOutcome::failure(why),
        }
    }

    /// A call takes no longer than what is left of the request's time.
    async fn call(
        &mut self,
        host: &HostedTool,
        arguments: serde_json::Map<String, serde_json::Value>,
    ) -> ToolOutcome {
        let timeout = self.app.config.timeout;
        let left = timeout.map(|timeout| timeout.saturating_sub(clock::since(self.arrival)));
        let called = within(left, self.sessions.call(&host.server, &host.tool, arguments)).await;
        called.unwrap_or_else(|_| ToolOutcome::failure("the time of the whole request is over"))
    }
}

/// A result as the model reads it: it has no other way to see that a call failed.
fn result(target: &CallTarget, outcome: &ToolOutcome) -> Message {
    let text = match outcome.failed {
        true => format!("Error: {}", outcome.text),
        false => outcome.text.clone(),
    };
    let channel = if target.is_built_in() { "analysis" } else { "commentary" };
    Message::tool_result(target.recipient.clone(), text).on_channel(channel)
}
