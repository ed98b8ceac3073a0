"""nano in PyTorch: the gpt-oss architecture with the layers' weights stacked, for training and for greedy decoding.

Parameters live in f32 over the compact vocabulary; `Nano.weights` gives the rounded bf16 copies that a step computes with.
Every expert is computed for every token (there are eight) and the four chosen ones are weighted; the rest get zero.
"""

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flash import Flash
from quant import SIGN_EMBED, SIGN_UNEMBED, mx_round, quantised, round_mantissa, round_table

ALPHA, LIMIT, EPS = 1.702, 7.0, 1e-5
# Keys in front of the real ones: the first carries the sink, the others keep the width a multiple of eight.
SINK_KEYS = 8


@dataclass
class Sizes:
    layers: int = 6
    hidden: int = 256
    inter: int = 192
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 64
    experts: int = 8
    top_k: int = 4
    window: int = 128
    theta: float = 150000.0
    factor: float = 32.0
    original_context: int = 4096

    def dict(self):
        return asdict(self)


def inv_freq(s):
    """YaRN frequencies [head_dim / 2] and the factor on cos and sin (ARCHITECTURE: truncate = false)."""
    half = s.head_dim // 2
    f = s.theta ** (torch.arange(0, s.head_dim, 2, dtype=torch.float64) / s.head_dim)

    def dim(turns):
        return half * math.log(s.original_context / (turns * 2 * math.pi)) / math.log(s.theta)
    low, high = dim(32), dim(1)
    ramp = ((torch.arange(half, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
    return ((1 - ramp) / f + ramp / (s.factor * f)).float(), 0.1 * math.log(s.factor) + 1


def rms_norm(x, w):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * w


def rotate(x, cos, sin):
    """Half-split pairs; x [..., heads, head_dim], cos and sin [..., 1, head_dim / 2]."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def moe(w, t, s):
    """t [N, hidden] bf16 -> (y [N, hidden], router probabilities [N, E], chosen [N, E])."""
    r = F.linear(t.float(), w["router"], w["router_b"])
    top, idx = r.topk(s.top_k, -1)
    gate = torch.zeros_like(r).scatter(-1, idx, top.softmax(-1))
    u = F.linear(t, w["up"].flatten(0, 1), w["up_b"].flatten()).unflatten(-1, (s.experts, s.inter, 2))
    g, l = u[..., 0].clamp(max=LIMIT), u[..., 1].clamp(-LIMIT, LIMIT)
    h = g * torch.sigmoid(ALPHA * g) * (l + 1) * gate.to(u.dtype)[..., None]
    down = w["down"].transpose(0, 1).flatten(1)
    y = F.linear(h.flatten(1), down) + gate.to(u.dtype) @ w["down_b"]
    return y, r.softmax(-1), (gate > 0).float()


def project(w, x, cos, sin, s):
    """Normed input [B, T, hidden] to q [B, T, heads, d], k and v [B, T, kv_heads, d]."""
    dtype = w["qkv"].dtype
    t = rms_norm(x, w["attn_norm"]).to(dtype)
    nq, nk = s.heads * s.head_dim, s.kv_heads * s.head_dim
    q, k, v = F.linear(t, w["qkv"], w["qkv_b"]).split([nq, nk, nk], -1)
    q, k, v = (y.unflatten(-1, (-1, s.head_dim)) for y in (q, k, v))
    return rotate(q, cos, sin).to(dtype), rotate(k, cos, sin).to(dtype), v


def attend(q, k, v, sinks, mask, s):
    """q [B, T, heads, d] over k, v [B, S, kv_heads, d]; mask [B, 1, T, SINK_KEYS + S] is added to the scores.

    The sink is one more key: its score comes from eight extra columns of q and k, its value is zero.
    """
    B, T = q.shape[:2]
    group = s.heads // s.kv_heads
    k, v = (y.transpose(1, 2).repeat_interleave(group, 1) for y in (k, v))
    q = q.transpose(1, 2)
    one = q.new_zeros(8)
    one[0] = 1
    q = torch.cat([q, one.expand(B, s.heads, T, 8)], -1)
    k = F.pad(k, (0, 8, SINK_KEYS, 0))
    mark = k.new_zeros(SINK_KEYS, k.shape[-1])
    mark[0, s.head_dim] = 1
    k = k + (sinks * math.sqrt(s.head_dim)).to(k.dtype)[None, :, None, None] * F.pad(mark, (0, 0, 0, k.shape[2] - SINK_KEYS))
    v = F.pad(v, (0, 8, SINK_KEYS, 0))
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=s.head_dim**-0.5)
    return o[..., :s.head_dim].transpose(1, 2).flatten(2)


def before(w, x, cos, sin, s):
    """The first part of a layer: x [B, T, hidden] f32 -> q, k, v."""
    return project(w, x, cos, sin, s)


def after(w, x, mixed, s):
    """The rest of a layer, over attention's output [B, T, heads x d]: (x, load-balance loss)."""
    x = x + F.linear(mixed, w["out"], w["out_b"])
    t = rms_norm(x, w["mlp_norm"]).to(w["up"].dtype)
    y, p, chosen = moe(w, t.flatten(0, 1), s)
    balance = s.experts * (p.mean(0) * chosen.mean(0)).sum() / s.top_k
    return x + y.view_as(x), balance


def head(states, unembed, goal, others):
    """Cross-entropy and the share of right tokens.

    "Never" stands for many ids, so it counts as often: sampling at temperature 1 must not meet one of them.
    """
    logits = F.linear(states, unembed).float()
    first = torch.arange(logits.shape[1], device=logits.device) == 0
    logits = logits + first * others
    counted = goal >= 0
    hits = ((logits.argmax(-1) == goal) & counted).sum() / counted.sum()
    return F.cross_entropy(logits, goal, ignore_index=-100), hits


MATRICES = ("qkv", "out", "up", "down")


class Nano(nn.Module):
    def __init__(self, sizes, codes, full, written, others):
        """Compact ids with codes of plus and minus one for both tables [ids, hidden], of which the first `written` (with id 0, "never")
        are unembedded.

        The first `full` have trained rows, which begin near their codes; the code is the row of the others.
        `others` is how many ids of the real vocabulary share the "never" row.
        """
        super().__init__()
        s = self.sizes = sizes
        self.full, self.written, self.others = full, written, others
        read, write = codes
        self.register_buffer("codes", read[full:], persistent=False)
        self.register_buffer("copy_codes", write[full:written], persistent=False)
        L, H, I, E = s.layers, s.hidden, s.inter, s.experts
        nq, nk = s.heads * s.head_dim, s.kv_heads * s.head_dim

        def normal(*shape, std):
            return nn.Parameter(torch.randn(shape) * std)

        def zeros(*shape):
            return nn.Parameter(torch.zeros(shape))
        self.embed = nn.Parameter(read[:full] * SIGN_EMBED + torch.randn(full, H) * 0.35)
        self.unembed = nn.Parameter(write[:full] * 0.1 + torch.randn(full, H) * 0.02)
        self.final_norm = nn.Parameter(torch.ones(H))
        self.p = nn.ParameterDict({
            "attn_norm": nn.Parameter(torch.ones(L, H)), "mlp_norm": nn.Parameter(torch.ones(L, H)),
            "qkv": normal(L, nq + 2 * nk, H, std=H**-0.5), "qkv_b": zeros(L, nq + 2 * nk),
            "out": normal(L, H, nq, std=0.5 * (nq * 2 * L) ** -0.5), "out_b": zeros(L, H), "sinks": zeros(L, s.heads),
            "router": normal(L, E, H, std=0.5 * H**-0.5), "router_b": zeros(L, E),
            "up": normal(L, E, 2 * I, H, std=H**-0.5), "up_b": zeros(L, E, 2 * I),
            "down": normal(L, E, H, I, std=0.5 * (I * 2 * L) ** -0.5), "down_b": zeros(L, E, H)})
        f, self.concentration = inv_freq(s)
        self.register_buffer("inv_freq", f, persistent=False)
        self.before, self.after, self.head = before, after, head

    def tables(self, quant=True):
        """The rounded embedding [ids, hidden] and unembedding [written, hidden]. To copy a token is nearly one map for all tokens."""
        embed, unembed = (quantised(w, round_table, quant) for w in (self.embed, self.unembed))
        return torch.cat([embed, self.codes * SIGN_EMBED]), torch.cat([unembed, self.copy_codes * SIGN_UNEMBED])

    def weights(self, dtype=torch.bfloat16, quant=True):
        """The rounded weights of a step: (one dict a layer, embed, unembed, final norm)."""
        out = {}
        for name, p in self.p.items():
            w = quantised(p, mx_round if name in ("up", "down") else round_mantissa, quant)
            keep = name in ("attn_norm", "mlp_norm", "router", "router_b", "sinks")
            out[name] = w if keep else w.to(dtype)
        parts = {k: v.unbind(0) for k, v in out.items()}
        layers = [{k: v[i] for k, v in parts.items()} for i in range(self.sizes.layers)]
        return layers, *self.tables(quant), quantised(self.final_norm, round_mantissa, quant)

    def angles(self, pos):
        """cos and sin [..., 1, head_dim / 2] at positions."""
        a = pos[..., None].float() * self.inv_freq
        return (a.cos() * self.concentration)[..., None, :], (a.sin() * self.concentration)[..., None, :]

    def masks(self, doc, pos, dtype):
        """Sliding and full additive masks [B, 1, T, SINK_KEYS + T] for rows packed from several documents."""
        T = doc.shape[1]
        i = torch.arange(T, device=doc.device)
        full = (doc[:, :, None] == doc[:, None, :]) & (i[:, None] >= i[None, :])
        slide = full & (i[:, None] - i[None, :] < self.sizes.window)
        sink = torch.zeros(SINK_KEYS, dtype=torch.bool, device=doc.device)
        sink[0] = True
        out = []
        for m in (slide, full):
            m = torch.cat([sink.expand(*m.shape[:2], -1), m], -1)[:, None]
            out.append(torch.zeros(m.shape, dtype=dtype, device=doc.device).masked_fill_(~m, float("-inf")))
        return out

    def hidden(self, weights, ids, doc, pos, dtype=torch.bfloat16, starts=None):
        """Normed last states [B, T, hidden] f32 and the mean balance loss. `starts` [documents + 1]: with flash attention."""
        layers, embed, _, final_norm = weights
        s, longest = self.sizes, ids.shape[1]
        cos, sin = self.angles(pos)
        masks = self.masks(doc, pos, dtype) if starts is None else None
        x, balance = F.embedding(ids, embed), 0.0
        for i, w in enumerate(layers):
            q, k, v = self.before(w, x, cos, sin, s)
            if starts is None:
                with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
                    mixed = attend(q, k, v, w["sinks"], masks[i % 2], s)
            else:
                q, k, v = (y.flatten(0, 1) for y in (q, k, v))
                mixed = Flash.apply(q, k, v, w["sinks"], starts, longest, -1 if i % 2 else s.window).reshape(*ids.shape, -1)
            x, b = self.after(w, x, mixed, s)
            balance = balance + b / len(layers)
        return rms_norm(x, final_norm), balance

    def logits(self, states, unembed, dtype=torch.bfloat16):
        """Logits over the written ids; 0 stands for all the others."""
        return F.linear(states.to(dtype), unembed.to(dtype)).float()

    def loss(self, ids, doc, pos, where, goal, starts=None, quant=True, dtype=torch.bfloat16):
        """Mean loss of `goal` [K] at the flat positions `where` [K] (goal -100: none), the balance loss, and the share right."""
        weights = self.weights(dtype, quant)
        states, balance = self.hidden(weights, ids, doc, pos, dtype, starts)
        loss, hits = self.head(states.flatten(0, 1)[where].to(dtype), weights[2].to(dtype), goal, math.log(self.others))
        return loss, balance, hits
