//! From flags and text to prompt tokens, through harmony.

use ossmith_harmony::{
    Conversation, DeveloperContent, Message, ReasoningEffort, SystemContent, encode_into,
    render_for_completion, special,
};

use crate::today;

/// The messages before the user's own.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Prompt")]
pub(crate) struct PromptArgs {
    /// Who the model is, in the system message [default: ChatGPT, as gpt-oss was trained].
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    /// Instructions, in the developer message: "Always respond in riddles".
    #[arg(long, value_name = "TEXT")]
    developer: Option<String>,

    /// How much the model should reason.
    #[arg(long, value_enum, default_value_t = Reasoning::Medium)]
    reasoning: Reasoning,

    /// The date in the system message [default: today].
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = today::parse)]
    date: Option<String>,

    /// Begin the answer on this channel, such as analysis or final [default: the model chooses; final with random
    /// weights].
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
}

/// Reasoning effort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Reasoning {
    Low,
    Medium,
    High,
}

impl PromptArgs {
    /// The messages that open a conversation.
    pub(crate) fn opening(&self) -> Vec<Message> {
        let standard = SystemContent::gpt_oss();
        let system = SystemContent {
            model_identity: self.system.clone().or(standard.model_identity),
            reasoning_effort: Some(match self.reasoning {
                Reasoning::Low => ReasoningEffort::Low,
                Reasoning::Medium => ReasoningEffort::Medium,
                Reasoning::High => ReasoningEffort::High,
            }),
            conversation_start_date: Some(self.date.clone().unwrap_or_else(today::date)),
            ..SystemContent::gpt_oss()
        };
        let developer =
            self.developer.iter().map(|text| Message::developer(DeveloperContent::new(text)));
        std::iter::once(Message::system(system)).chain(developer).collect()
    }

    /// The prompt's tokens, up to where the assistant continues.
    pub(crate) fn tokens(
        &self,
        messages: &[Message],
        random_weights: bool,
    ) -> anyhow::Result<Vec<u32>> {
        let mut tokens = render_for_completion(&Conversation { messages: messages.to_vec() })?;
        // Random weights never write a header, so without one their text would belong nowhere.
        let channel = self.channel.as_deref().or(random_weights.then_some("final"));
        if let Some(channel) = channel {
            tokens.push(special::CHANNEL);
            encode_into(channel, &mut tokens);
            tokens.push(special::MESSAGE);
        }
        Ok(tokens)
    }
}
