//! The questions, as `tools/nano-training/evalset.py` wrote them, and their prompts. `score` decides what is right.

use std::collections::HashMap;

use anyhow::Context;
use ossmith_harmony::{
    Conversation, DeveloperContent, DropAnalysis, Message, ReasoningEffort, RenderError,
    RenderOptions, Role, SystemContent, Tool, render_for_completion_with,
};
use serde::Deserialize;

use super::score::Rule;

/// One question.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    pub(super) id: String,
    pub(super) skill: String,
    pub(super) effort: Effort,
    date: Option<String>,
    /// Instructions.
    developer: Option<String>,
    #[serde(default)]
    tools: Vec<Tool>,
    /// The conversation, with the question last.
    messages: Vec<Message>,
    pub(super) expect: Rule,
}

/// Reasoning effort, as spelled in the set.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Effort {
    Low,
    Medium,
    High,
}

impl Effort {
    fn harmony(self) -> ReasoningEffort {
        match self {
            Effort::Low => ReasoningEffort::Low,
            Effort::Medium => ReasoningEffort::Medium,
            Effort::High => ReasoningEffort::High,
        }
    }

    pub(super) fn name(self) -> &'static str {
        self.harmony().as_str()
    }
}

/// The first `limit` questions of each of nano's skills.
pub(super) fn nano(limit: usize) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    let mut taken: HashMap<String, usize> = HashMap::new();
    for (number, line) in ossmith_models::NANO_EVAL.lines().enumerate() {
        let case: Case = serde_json::from_str(line)
            .with_context(|| format!("line {} of eval.jsonl is not a question", number + 1))?;
        let taken = taken.entry(case.skill.clone()).or_default();
        if *taken < limit {
            *taken += 1;
            cases.push(case);
        }
    }
    Ok(cases)
}

impl Case {
    /// Tokens up to where the assistant continues. Earlier analysis is kept: the set itself leaves out what should go.
    pub(super) fn prompt(&self) -> Result<Vec<u32>, RenderError> {
        let system = SystemContent {
            reasoning_effort: Some(self.effort.harmony()),
            conversation_start_date: self.date.clone(),
            ..SystemContent::gpt_oss()
        };
        let developer = DeveloperContent { instructions: self.developer.clone(), tools: None }
            .with_functions(self.tools.iter().cloned());
        let mut messages = vec![Message::system(system)];
        if developer != DeveloperContent::default() {
            messages.push(Message::developer(developer));
        }
        messages.extend(self.messages.iter().cloned());
        let options =
            RenderOptions { drop_analysis: DropAnalysis::Never, ..RenderOptions::default() };
        render_for_completion_with(&Conversation { messages }, Role::Assistant, &options)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn prompts_are_those_of_the_training_programme() {
        let prompts: Vec<_> =
            nano(usize::MAX).unwrap().iter().map(|case| case.prompt().unwrap()).collect();
        let tokens = prompts.concat();
        let sum = |sum: u64, &token: &u32| sum.wrapping_mul(31).wrapping_add(token.into());
        // Length and checksum of the ids that `dialogue.prompt_pieces` gives for the same file.
        assert_eq!((prompts.len(), tokens.len()), (558, 78_325));
        assert_eq!(tokens.iter().fold(0, sum), 0x026c_0815_1729_16c0);
    }

    #[test]
    fn a_limit_keeps_every_skill() {
        let skills = |limit| {
            let cases = nano(limit).unwrap();
            (cases.len(), cases.into_iter().map(|case| case.skill).collect::<HashSet<_>>())
        };
        let (all, few) = (skills(usize::MAX), skills(2));
        assert_eq!(few, (2 * all.1.len(), all.1));
    }
}
