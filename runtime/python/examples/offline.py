"""Direct sampling: render a conversation with harmony, sample from its token ids, parse the tokens that come back.

It is written for ``openai_harmony``. With ``from ossmith.harmony import …`` instead it does the same without that package.
"""

import json
import sys

from openai_harmony import (
    Conversation,
    DeveloperContent,
    HarmonyEncodingName,
    Message,
    Role,
    SystemContent,
    load_harmony_encoding,
)

from ossmith import LLM, SamplingParams

# 1. Render the prompt.
encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
conversation = Conversation.from_messages(
    [
        Message.from_role_and_content(Role.SYSTEM, SystemContent.new().with_conversation_start_date("2026-01-31")),
        Message.from_role_and_content(Role.DEVELOPER, DeveloperContent.new().with_instructions("Answer questions.")),
        Message.from_role_and_content(Role.USER, "What is 17 + 25?"),
    ]
)
prefill_ids = encoding.render_conversation_for_completion(conversation, Role.ASSISTANT)
stop_token_ids = encoding.stop_tokens_for_assistant_actions()

# 2. Sample, with token ids in and out. `openai/gpt-oss-20b` is taken from the Hugging Face cache, or downloaded into it.
llm = LLM(model=sys.argv[1] if len(sys.argv) > 1 else "nano", trust_remote_code=True)
sampling = SamplingParams(max_tokens=128, temperature=0.0, stop_token_ids=stop_token_ids)
outputs = llm.generate(prompt_token_ids=[prefill_ids], sampling_params=sampling)

# 3. Parse the answer into messages.
answer = outputs[0].outputs[0]
print(answer.text)
for message in encoding.parse_messages_from_completion_tokens(answer.token_ids, Role.ASSISTANT):
    print(json.dumps(message.to_dict()))
