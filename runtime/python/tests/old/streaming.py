"""A script of the kind that uses openai_harmony: an answer is read token by token."""

from openai_harmony import (
    HarmonyEncodingName,
    HarmonyError,
    Role,
    StreamableParser,
    StreamState,
    load_harmony_encoding,
)

enc = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
text = (
    "<|channel|>analysis<|message|>The count of näh 🙂 is needed.<|end|><|start|>assistant to=functions.stock"
    '<|channel|>commentary <|constrain|>json<|message|>{"article":"A-17"}<|call|>'
)
parser = StreamableParser(enc, role=Role.ASSISTANT)
for token in enc.encode(text, allowed_special="all"):
    parser.process(token)
    print(
        parser.state.value, parser.current_role, parser.current_channel, parser.current_recipient,
        parser.current_content_type, repr(parser.last_content_delta), repr(parser.current_content),
    )  # fmt: skip
assert parser.state is StreamState.EXPECT_START
print([message.to_dict() for message in parser.messages], len(parser.tokens))

unfinished = StreamableParser(enc, Role.ASSISTANT)
for token in enc.encode("<|channel|>final<|message|>Thr", allowed_special={"<|channel|>", "<|message|>"}):
    unfinished.process(token)
unfinished.process_eos()
print([message.to_dict() for message in unfinished.messages])

malformed = StreamableParser(enc, None)
try:
    malformed.process(enc.encode("hello")[0])
    print("it was taken")
except HarmonyError:
    print("refused")
