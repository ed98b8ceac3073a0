//! Reads a header that may be malformed, and reports the repairs.
//!
//! The special tokens of a header divide it into up to three parts: the author, the channel, the format. Each part is a list of
//! words. Because the marks are never turned into text, none can end up in a name.

use super::events::Header;
use super::repair::RepairKind;
use crate::special::{CHANNEL, CONSTRAIN, Token};
use crate::types::Role;

/// More bytes than any real header has; what is longer is content.
const MAX_HEADER_BYTES: usize = 1024;

/// A header while it is written.
#[derive(Clone, Debug, Default)]
pub(super) struct HeaderBuffer {
    /// The author's role, where it is not in the tokens.
    role: Option<Role>,
    /// Whether the author is written in the header.
    author_written: bool,
    author: Vec<u8>,
    channel: Option<Vec<u8>>,
    format: Option<Vec<u8>>,
}

impl HeaderBuffer {
    /// After `<|start|>`.
    pub(super) fn started() -> Self {
        Self { author_written: true, ..Self::default() }
    }

    /// After a role that is known from outside.
    pub(super) fn of(role: Role) -> Self {
        Self { role: Some(role), ..Self::default() }
    }

    /// Takes text.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let part = match (&mut self.format, &mut self.channel) {
            (Some(format), _) => format,
            (None, Some(channel)) => channel,
            (None, None) => &mut self.author,
        };
        part.extend_from_slice(bytes);
    }

    /// Takes `<|channel|>` or `<|constrain|>`; false if there was one already.
    pub(super) fn mark(&mut self, token: Token) -> bool {
        let part = if token == CHANNEL { &mut self.channel } else { &mut self.format };
        debug_assert!(token == CHANNEL || token == CONSTRAIN);
        let fresh = part.is_none();
        if fresh {
            *part = Some(Vec::new());
        } else {
            self.push(b" ");
        }
        fresh
    }

    pub(super) fn is_too_long(&self) -> bool {
        let len = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
        self.author.len() + len(&self.channel) + len(&self.format) > MAX_HEADER_BYTES
    }

    /// Reads a header that `<|message|>` ended.
    pub(super) fn read(&self, channels: &[String], mut repair: impl FnMut(RepairKind)) -> Header {
        let (author, channel, format) = self.parts(&mut repair);
        let mut words = Words { channels, recipient: None, content_type: None, extra: Vec::new() };
        let mut author = words.split(&author, &mut repair);
        let (role, name) = self.author_of(&mut author, &mut repair);
        for word in author {
            words.take(word, &mut repair);
        }
        let mut channel_name = None;
        for word in words.split(channel.as_deref().unwrap_or_default(), &mut repair) {
            if channel_name.is_none() && !word.starts_with("to=") {
                channel_name = Some(word);
            } else {
                words.take(word, &mut repair);
            }
        }
        let mut format_name = None;
        for word in words.split(format.as_deref().unwrap_or_default(), &mut repair) {
            if format_name.is_none() && !word.starts_with("to=") {
                format_name = Some(word);
            } else {
                words.take(word, &mut repair);
            }
        }
        if format.is_some() {
            words.extra.extend(words.content_type.take());
            words.content_type = format_name;
        }
        if !words.extra.is_empty() {
            repair(RepairKind::ExtraWords(words.extra.join(" ")));
        }
        let recipient = words.recipient.filter(|r| r != "all");
        let channel =
            settle_channel(role, channel_name, recipient.is_some(), channels, &mut repair);
        Header {
            role,
            name,
            channel,
            recipient,
            content_type: words.content_type,
            constrained: format.is_some(),
        }
    }

    /// Reads a header that stopped before `<|message|>`: the role and the channel, and all other text as the content. None where
    /// there is no such text.
    pub(super) fn read_unfinished(
        &self,
        channels: &[String],
        mut repair: impl FnMut(RepairKind),
    ) -> Option<(Header, String)> {
        let (author, channel, format) = self.parts(&mut repair);
        let (role, author_rest) = match self.role {
            Some(role) => (role, cut_word(&author, |word| word == role.as_str())),
            None => match Role::by_name(first_word(&author)) {
                Some(role) if self.author_written => (role, cut_word(&author, |_| true)),
                _ => (Role::Assistant, author.as_str()),
            },
        };
        let channel = channel.unwrap_or_default();
        let name = channels.iter().find(|c| *c == first_word(&channel)).cloned();
        let channel_rest = if name.is_some() { cut_word(&channel, |_| true) } else { &channel };
        let rest = [author_rest, channel_rest, format.as_deref().unwrap_or_default()];
        let text = rest
            .iter()
            .filter(|part| !part.trim().is_empty())
            .copied()
            .collect::<Vec<_>>()
            .join(" ");
        if text.is_empty() {
            return None;
        }
        let channel = settle_channel(role, name, false, channels, &mut repair);
        let header = Header {
            role,
            name: None,
            channel,
            recipient: None,
            content_type: None,
            constrained: false,
        };
        Some((header, text))
    }

    /// The parts as text.
    fn parts(
        &self,
        repair: &mut impl FnMut(RepairKind),
    ) -> (String, Option<String>, Option<String>) {
        let mut text = |bytes: &Vec<u8>| match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => {
                repair(RepairKind::InvalidUtf8);
                String::from_utf8_lossy(bytes).into_owned()
            }
        };
        (
            text(&self.author),
            self.channel.as_ref().map(&mut text),
            self.format.as_ref().map(&mut text),
        )
    }

    /// Takes the author off the front of the words.
    fn author_of(
        &self,
        words: &mut Vec<String>,
        repair: &mut impl FnMut(RepairKind),
    ) -> (Role, Option<String>) {
        let first = words.first().cloned().unwrap_or_default();
        if let Some(role) = self.role {
            if first == role.as_str() {
                words.remove(0);
            }
            return (role, None);
        }
        if !self.author_written || first.is_empty() || first.starts_with("to=") {
            if self.author_written {
                repair(RepairKind::MissingRole);
            } else if first == Role::Assistant.as_str() {
                words.remove(0);
            }
            return (Role::Assistant, None);
        }
        words.remove(0);
        if let Some((role, name)) = first.split_once(':')
            && let Some(role) = Role::by_name(role)
        {
            return (role, Some(name.to_owned()));
        }
        match Role::by_name(&first) {
            Some(Role::Tool) | None => (Role::Tool, Some(first)),
            Some(role) => (role, None),
        }
    }
}

/// The words of a header, sorted as they come.
struct Words<'a> {
    channels: &'a [String],
    recipient: Option<String>,
    content_type: Option<String>,
    extra: Vec<String>,
}

impl Words<'_> {
    /// Splits at white space, and before a `to=` that is glued to a role or a channel.
    fn split(&self, text: &str, repair: &mut impl FnMut(RepairKind)) -> Vec<String> {
        let mut words = Vec::new();
        for word in text.split_whitespace() {
            match word.find("to=").map(|at| word.split_at(at)) {
                Some((before, recipient))
                    if Role::by_name(before).is_some()
                        || self.channels.iter().any(|c| c == before) =>
                {
                    repair(RepairKind::GluedWords);
                    words.extend([before.to_owned(), recipient.to_owned()]);
                }
                _ => words.push(word.to_owned()),
            }
        }
        words
    }

    /// A word after the role, the channel or the format.
    fn take(&mut self, word: String, repair: &mut impl FnMut(RepairKind)) {
        let named = word.strip_prefix("to=").filter(|name| !name.is_empty());
        let looks_like_tool =
            ["functions.", "browser."].iter().any(|prefix| word.starts_with(prefix))
                || word == "python";
        match named {
            Some(name) if self.recipient.is_none() => self.recipient = Some(name.to_owned()),
            None if self.recipient.is_none() && looks_like_tool => {
                repair(RepairKind::BareRecipient);
                self.recipient = Some(word);
            }
            None if self.content_type.is_none() && !word.starts_with("to=") => {
                self.content_type = Some(word)
            }
            _ => self.extra.push(word),
        }
    }
}

/// The channel of a message: an assistant's is always one that is offered.
fn settle_channel(
    role: Role,
    channel: Option<String>,
    is_call: bool,
    channels: &[String],
    repair: &mut impl FnMut(RepairKind),
) -> Option<String> {
    match channel {
        _ if role != Role::Assistant => channel,
        Some(channel) if channels.is_empty() || channels.contains(&channel) => Some(channel),
        Some(channel) => {
            repair(RepairKind::UnknownChannel(channel));
            Some("commentary".to_owned())
        }
        None => {
            repair(RepairKind::MissingChannel);
            Some(if is_call { "commentary" } else { "final" }.to_owned())
        }
    }
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

/// The text after its first word, if that is the one meant.
fn cut_word(text: &str, is_meant: impl Fn(&str) -> bool) -> &str {
    let word = first_word(text);
    if word.is_empty() || !is_meant(word) {
        return text;
    }
    &text[text.find(word).unwrap_or(0) + word.len()..]
}
