"""A script of the kind that uses openai_harmony: text to tokens and back."""

from openai_harmony import HarmonyError, load_harmony_encoding

enc = load_harmony_encoding("HarmonyGptOss")
for text in ["hello world", "", "  spaces\n\n\ttabs", "naïve 🙂 日本語", "1234567", "a" * 300, "half \ud83d pair"]:
    tokens = enc.encode(text)
    print(tokens, repr(enc.decode(tokens)))
print(enc.encode("<|end|>", disallowed_special=()), enc.encode("<|end|> x", allowed_special={"<|end|>"}))
for call in (lambda: enc.encode("<|start|>user"), lambda: enc.decode_utf8(enc.encode("🙂")[:1])):
    try:
        print(call())
    except HarmonyError:
        print("refused")
print(enc.decode([200006, 1428, 200008]), enc.decode(enc.encode("🙂")[:1], errors="ignore"))
print(enc.is_special_token(200006), enc.is_special_token(5), len(enc.special_tokens_set) > 1000)
