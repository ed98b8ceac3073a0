"""Greedy decoding of many prompts at once, with a KV cache: for the evaluation after training."""

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from dialogue import prompt_pieces
from model import SINK_KEYS, attend, moe, project, rms_norm

STOPS = (200002, 200012, 199999)


def step(nano, weights, x, pos, caches, masks):
    """Runs states x [B, T, H] at positions pos [B, T] through the layers, writing the caches."""
    s = nano.sizes
    cos, sin = nano.angles(pos)
    rows = torch.arange(len(x), device=x.device)[:, None]
    for i, w in enumerate(weights[0]):
        q, k, v = project(w, x, cos, sin, s)
        caches[i][0][rows, pos], caches[i][1][rows, pos] = k, v
        x = x + F.linear(attend(q, caches[i][0], caches[i][1], w["sinks"], masks[i % 2], s), w["out"], w["out_b"])
        t = rms_norm(x, w["mlp_norm"]).to(w["up"].dtype)
        x = x + moe(w, t.flatten(0, 1), s)[0].view_as(x)
    return rms_norm(x, weights[3])


def cache_masks(pos, size, window, dtype):
    """Additive masks [B, 1, T, SINK_KEYS + size] for queries at pos [B, T] over a cache of `size` positions."""
    j = torch.arange(size, device=pos.device)
    full = j <= pos[..., None]
    sink = torch.zeros(SINK_KEYS, dtype=torch.bool, device=pos.device)
    sink[0] = True
    out = []
    for m in (full & (pos[..., None] - j < window), full):
        m = torch.cat([sink.expand(*pos.shape, -1), m], -1)[:, None]
        out.append(torch.zeros(m.shape, dtype=dtype, device=pos.device).masked_fill_(~m, float("-inf")))
    return out


@torch.no_grad()
def batch(nano, weights, prompts, limit, stops, dtype):
    """Compact ids of the completions of compact prompts, stop token included."""
    device = nano.embed.device
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    width = int(lengths.max())
    size = -(-(width + limit) // 8) * 8
    ids = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
    for i, p in enumerate(prompts):
        ids[i, :len(p)] = torch.from_numpy(np.asarray(p, np.int64))
    s = nano.sizes
    shape = (len(prompts), size, s.kv_heads, s.head_dim)
    caches = [[torch.zeros(shape, dtype=dtype, device=device) for _ in "kv"] for _ in range(s.layers)]
    pos = torch.arange(width, device=device).expand(len(prompts), -1)
    states = step(nano, weights, F.embedding(ids, weights[1]), pos, caches, cache_masks(pos, size, s.window, dtype))
    last = states[torch.arange(len(prompts), device=device), lengths - 1]
    stops = torch.tensor(stops, device=device)
    out, done = [], torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for n in range(limit):
        token = nano.logits(last, weights[2], dtype).argmax(-1)
        out.append(torch.where(done, -1, token))
        done |= torch.isin(token, stops)
        if n % 8 == 7 and bool(done.all()):
            break
        pos = (lengths + n)[:, None]
        masks = cache_masks(pos, size, s.window, dtype)
        last = step(nano, weights, F.embedding(token[:, None], weights[1]), pos, caches, masks)[:, 0]
    return [[int(t) for t in row if t >= 0] for row in torch.stack(out, 1).tolist()]


def complete(nano, tokens, cases, limit, size=256, dtype=torch.bfloat16):
    """Texts of greedy completions, in the order of the cases."""
    weights = nano.weights(dtype)
    weights = ([{k: v.detach() for k, v in w.items()} for w in weights[0]], *(w.detach() for w in weights[1:]))
    prompts = [tokens.compact[np.array(tokens.pieces(prompt_pieces(c))[0])] for c in cases]
    stops = [int(tokens.compact[i]) for i in STOPS if tokens.compact[i]]
    order = sorted(range(len(cases)), key=lambda i: len(prompts[i]))
    texts = {}
    for at in range(0, len(order), size):
        part = order[at:at + size]
        with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            done = batch(nano, weights, [prompts[i] for i in part], limit, stops, dtype)
        for i, ids in zip(part, done, strict=True):
            texts[i] = tokens.decode([201087 if t == 0 else tokens.ids[t] for t in ids])
    return [texts[i] for i in range(len(cases))]
