"""A script of the kind that uses openai_harmony: tools, a conversation in progress, rendering, parsing."""

from openai_harmony import (
    Author,
    Conversation,
    DeveloperContent,
    HarmonyEncodingName,
    Message,
    ReasoningEffort,
    RenderConversationConfig,
    RenderOptions,
    Role,
    SystemContent,
    TextContent,
    ToolDescription,
    load_harmony_encoding,
)

enc = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
system = (
    SystemContent.new()
    .with_reasoning_effort(ReasoningEffort.HIGH)
    .with_conversation_start_date("2025-06-28")
    .with_required_channels(["analysis", "commentary", "final"])
    .with_browser_tool()
    .with_python_tool()
)
stock = ToolDescription.new(
    "stock",
    "How many of an article are in stock.",
    parameters={
        "type": "object",
        "properties": {
            "article": {"type": "string", "description": "Its number, such as A-17"},
            "place": {"type": "string", "enum": ["north", "south"], "default": "north"},
            "recent": {"type": ["boolean", "null"]},
        },
        "required": ["article"],
    },
)
developer = DeveloperContent.new().with_instructions("Answer in one line.").with_function_tools([stock])
convo = Conversation.from_messages(
    [
        Message.from_role_and_content(Role.SYSTEM, system),
        Message.from_role_and_content(Role.DEVELOPER, developer),
        Message.from_author_and_content(Author.new(Role.USER, "ann"), "How many A-17 are there?"),
        Message.from_role_and_content(Role.ASSISTANT, "I need the stock.").with_channel("analysis"),
        Message.from_role_and_content(Role.ASSISTANT, '{"article":"A-17"}')
        .with_channel("commentary")
        .with_recipient("functions.stock")
        .with_content_type("<|constrain|>json"),
        Message.from_author_and_content(Author.new(Role.TOOL, "functions.stock"), '{"count":3}')
        .with_channel("commentary")
        .with_recipient("assistant"),
        Message.from_role_and_contents(Role.USER, [TextContent(text="And "), TextContent(text="A-18?")]),
    ]
)
print(enc.name, sorted(enc.stop_tokens()), sorted(enc.stop_tokens_for_assistant_actions()))
print(enc.render_conversation_for_completion(convo, Role.ASSISTANT))
print(enc.render_conversation(convo, config=RenderConversationConfig(auto_drop_analysis=False)))
print(enc.render_conversation_for_training(convo))
print(enc.render(convo.messages[2]), enc.render(convo.messages[0], RenderOptions(conversation_has_function_tools=True)))
print(convo.to_json() == Conversation.from_json(convo.to_json()).to_json())
tokens = enc.encode(
    "<|channel|>analysis<|message|>Three.<|end|><|start|>assistant<|channel|>final<|message|>3 – näh 🙂<|return|>",
    allowed_special="all",
)
for message in enc.parse_messages_from_completion_tokens(tokens, Role.ASSISTANT):
    print(message.to_dict(), message.author.role, message.content[0].text)
