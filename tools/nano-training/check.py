"""Checks by hand: `python check.py [SMALL]` compares the exported file with the training model, and the codecs with tables.

The forward pass here is a second one, in numpy and float64, from the HF file alone: it shares no code with `model.py`.
"""

import json
import os
import random
import sys
import tempfile

import numpy as np
import torch
from safetensors.torch import load_file

import evalset
import flash
from dialogue import Maker, pieces
from export import load_small, write_hf
from invent import Words
from model import Nano, Sizes, attend
from quant import mx_pack, mx_round, mx_unpack, round_mantissa
from score import parse, right
from tokens import VOCAB, Tokens

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def unpack(blocks, scales):
    """MXFP4 to float64: byte b holds element 2b low and 2b + 1 high."""
    v = FP4[np.stack([blocks & 15, blocks >> 4], -1).reshape(*blocks.shape[:-1], 32)]
    v = np.ldexp(v, scales.astype(int)[..., None] - 127)
    return v.reshape(*v.shape[:-2], -1)


def forward(folder, ids):
    """Logits [T, vocab] of the HF file."""
    with open(os.path.join(folder, "config.json")) as f:
        c = json.load(f)
    t = {k: (v.numpy() if v.dtype == torch.uint8 else v.double().numpy())
         for k, v in load_file(os.path.join(folder, "model.safetensors")).items()}
    d, heads, kv = c["head_dim"], c["num_attention_heads"], c["num_key_value_heads"]
    n, half = len(ids), d // 2
    i = np.arange(half)
    base, r = c["rope_theta"] ** (2 * i / d), c["rope_scaling"]

    def dim(turns):
        return half * np.log(r["original_max_position_embeddings"] / (turns * 2 * np.pi)) / np.log(c["rope_theta"])
    ramp = np.clip((i - dim(r["beta_fast"])) / (dim(r["beta_slow"]) - dim(r["beta_fast"])), 0, 1)
    angle = np.arange(n)[:, None] * ((1 - ramp) / base + ramp / (r["factor"] * base))
    scale = 0.1 * np.log(r["factor"]) + 1
    cos, sin = np.cos(angle)[:, None] * scale, np.sin(angle)[:, None] * scale

    def norm(x, w):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + c["rms_norm_eps"]) * w

    def turn(x):
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
    x = t["model.embed_tokens.weight"][ids]
    for layer in range(c["num_hidden_layers"]):
        pre = f"model.layers.{layer}."
        y = norm(x, t[pre + "input_layernorm.weight"])
        q, k, v = ((y @ t[f"{pre}self_attn.{m}_proj.weight"].T + t[f"{pre}self_attn.{m}_proj.bias"]).reshape(n, -1, d) for m in "qkv")
        q, k = turn(q), turn(k)
        seen = np.tril(np.ones((n, n), bool))
        if c["layer_types"][layer] == "sliding_attention":
            seen &= np.arange(n)[:, None] - np.arange(n)[None] < c["sliding_window"]
        out = np.zeros((n, heads, d))
        for h in range(heads):
            s = np.where(seen, q[:, h] @ k[:, h // (heads // kv)].T / np.sqrt(d), -np.inf)
            e = np.exp(s)
            out[:, h] = e @ v[:, h // (heads // kv)] / (e.sum(-1, keepdims=True) + np.exp(t[pre + "self_attn.sinks"][h]))
        x = x + out.reshape(n, -1) @ t[pre + "self_attn.o_proj.weight"].T + t[pre + "self_attn.o_proj.bias"]
        y = norm(x, t[pre + "post_attention_layernorm.weight"])
        route = y @ t[pre + "mlp.router.weight"].T + t[pre + "mlp.router.bias"]
        e = pre + "mlp.experts."
        up, down = (unpack(t[f"{e}{m}_blocks"], t[f"{e}{m}_scales"]) for m in ("gate_up_proj", "down_proj"))
        for p in range(n):
            best = np.argsort(-route[p], kind="stable")[:c["num_experts_per_tok"]]
            w = np.exp(route[p, best] - route[p, best].max())
            total = 0
            for share, j in zip(w / w.sum(), best, strict=True):
                u = up[j] @ y[p] + t[e + "gate_up_proj_bias"][j]
                g, low = np.minimum(u[0::2], c["swiglu_limit"]), np.clip(u[1::2], -c["swiglu_limit"], c["swiglu_limit"])
                total = total + share * (down[j] @ (g / (1 + np.exp(-1.702 * g)) * (low + 1)) + t[e + "down_proj_bias"][j])
            x[p] += total
    return norm(x, t["model.norm.weight"]) @ t["lm_head.weight"].T


def check_codecs():
    w = torch.randn(64, 256) * torch.exp(torch.randn(64, 1))
    assert np.array_equal(unpack(*(a.numpy() for a in mx_pack(w))), mx_round(w).double().numpy()), "MXFP4 pack differs"
    scale = w.reshape(64, 8, 32).abs().amax(-1, keepdim=True) / 4
    assert ((mx_round(w) - w).reshape(64, 8, 32).abs() <= scale).all(), "MXFP4 error too large"
    assert torch.equal(mx_round(mx_round(w)), mx_round(w)), "MXFP4 rounding is not idempotent"
    assert torch.equal(mx_unpack(*mx_pack(w)), mx_round(w)), "MXFP4 does not come back"
    r = round_mantissa(w)
    assert ((r - w).abs() <= w.abs() / 16).all() and torch.equal(r, r.bfloat16().float()), "mantissa rounding"


def check_sinks():
    """The gradients of `flash.Flash` with plain stand-ins for its kernels, against those of `model.attend`."""
    s = Sizes(heads=4, kv_heads=2, head_dim=64, window=6)
    doc = torch.tensor([[0] * 9 + [1] * 7, [0] * 16])
    starts = torch.tensor([0, 9, 16, 32, 32], dtype=torch.int32)
    q, k, v = (torch.randn(2, 16, n, 64, dtype=torch.float64) for n in (4, 2, 2))
    sinks, grad = torch.randn(4, dtype=torch.float64), torch.randn(2, 16, 256, dtype=torch.float64)

    def stand_in(q, k, v, starts, longest, window, scale):
        n = len(q)
        number = torch.searchsorted(starts, torch.arange(n, dtype=torch.int32), right=True)
        i = torch.arange(n)
        seen = (number[:, None] == number) & (i[:, None] >= i) & (i[:, None] - i < (window if window > 0 else n))
        scores = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(2, 1)) * scale
        scores = scores.masked_fill(~seen, float("-inf"))
        return scores, seen, torch.logsumexp(scores, -1), v.repeat_interleave(2, 1)

    def forward_op(*args):
        scores, _, lse, wide = stand_in(*args)
        return torch.einsum("hqk,khd->qhd", torch.exp(scores - lse[..., None]), wide), lse

    def backward_op(grad, q, k, v, out, lse, starts, longest, window, scale):
        scores, _, _, wide = stand_in(q, k, v, starts, longest, window, scale)
        p = torch.exp(scores - lse[..., None])
        ds = p * (torch.einsum("qhd,khd->hqk", grad, wide) - (grad * out).sum(-1).T[..., None]) * scale

        def narrow(x):
            return x.unflatten(1, (2, 2)).sum(2)
        return (torch.einsum("hqk,khd->qhd", ds, k.repeat_interleave(2, 1)), narrow(torch.einsum("hqk,qhd->khd", ds, q)),
                narrow(torch.einsum("hqk,qhd->khd", p, grad)))
    kernels = flash.forward_op, flash.backward_op
    flash.forward_op, flash.backward_op = forward_op, backward_op
    nano = Nano(s, [torch.ones(8, s.hidden)] * 2, 8, 8, 1)
    masks = nano.masks(doc, torch.arange(16).expand(2, -1), torch.float64)
    for window, mask in zip((6, -1), masks, strict=True):
        found = []
        for form in (lambda q, k, v, b: attend(q, k, v, b, mask, s),
                     lambda q, k, v, b: flash.Flash.apply(*(x.flatten(0, 1) for x in (q, k, v)), b, starts, 16, window).reshape(2, 16, -1)):
            inputs = [x.clone().requires_grad_() for x in (q, k, v, sinks)]
            out = form(*inputs)
            out.backward(grad)
            found.append([out, *(x.grad for x in inputs)])
        for a, b in zip(*found, strict=True):
            assert torch.allclose(a.double(), b.double(), atol=1e-4), (window, (a - b).abs().max())
    flash.forward_op, flash.backward_op = kernels
    print("attention with sinks: both forms give the same gradients")


def check_export(nano, tokens):
    ids, _ = tokens.pieces(pieces(*Maker(random.Random(3), Words(tokens)).sample("call")))
    ids = np.array(ids[:220])
    with tempfile.TemporaryDirectory() as folder:
        write_hf(nano, folder, tokens.ids)
        want = forward(folder, ids)
    with torch.no_grad():
        compact = torch.from_numpy(tokens.compact[ids].astype(np.int64))[None]
        weights = nano.weights(torch.float32)
        states, _ = nano.hidden(weights, compact, torch.zeros_like(compact), torch.arange(len(ids))[None], torch.float32)
        got = nano.logits(states, weights[2], torch.float32)[0].double().numpy()
    written = tokens.ids[1:tokens.written]
    gap = np.abs(got[:, 1:] - want[:, written]).max() / want.std()
    never = np.delete(np.arange(VOCAB), written)
    assert np.array_equal(want[:, never].max(1), want[:, never].min(1)), "the never rows differ"
    assert np.abs(got[:, 0] - want[:, never[0]]).max() < 1e-3
    # Rounding in float32, made larger by random biases, costs up to 1e-3; a wrong window or sink costs 4e-2 and more.
    assert gap < 5e-3, f"exported logits differ by {gap}"
    print(f"{len(ids)} positions: exported logits differ by at most {gap:.1e} of their spread")


def check_evaluation(tokens):
    for case in evalset.load(evalset.COMMITTED):
        assert case["expect"], case["id"]
    maker = Maker(random.Random(11), Words(tokens, test=True), test=True)
    for _ in range(2000):
        case, targets, _ = maker.sample()
        rule = evalset.without_breaks(case["expect"])
        ids, loss = tokens.pieces(pieces(case, targets, []))
        begin = loss.index(True)
        text = tokens.decode(ids[begin:])
        parts = parse(text)
        assert parts and right(rule, parts), (case, text)
    print("2000 targets are well formed and right by their own rules")


def main():
    tokens = Tokens()
    torch.manual_seed(0)
    check_codecs()
    check_sinks()
    check_evaluation(tokens)
    if len(sys.argv) > 1:
        nano = load_small(sys.argv[1])
    else:
        sizes = Sizes(layers=4, hidden=128, inter=64, heads=8)
        codes = [torch.from_numpy(c) for c in tokens.codes(sizes.hidden)]
        nano = Nano(sizes, codes, tokens.full, tokens.written, VOCAB - tokens.written + 1)
        for p in nano.p.values():
            p.data += 0.2 * torch.randn_like(p)
    check_export(nano, tokens)


if __name__ == "__main__":
    main()
