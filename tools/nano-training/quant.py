"""The number formats of the shipped file, in PyTorch: MXFP4 for experts, bf16 with few mantissa bits for the rest.

Training sees rounded weights and passes gradients straight through, so the shipped weights are the trained ones.
"""

import torch

# Significant bits after the leading one that are kept of each bf16 weight (bf16 has 7): zstd then halves the file.
MANTISSA = 3
TABLE_MANTISSA = 2
# The magnitudes of the rows with one bit per weight. As bf16 their two bytes are alike, so zstd takes two bits per weight.
SIGN_EMBED, SIGN_UNEMBED = 0.37109375, 0.185546875
# The magnitudes of E2M1, and the midpoints between them.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
MIDPOINTS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


def round_mantissa(w, bits=MANTISSA):
    """f32 to the nearest value with `bits` mantissa bits, ties away from zero."""
    drop = 23 - bits
    i = w.contiguous().view(torch.int32)
    return (((i + (1 << (drop - 1))) >> drop) << drop).view(torch.float32)


def round_table(w):
    return round_mantissa(w, TABLE_MANTISSA)


def mx_exponent(groups):
    """The shared exponent of groups of 32 (last axis): the largest value lands at 3.5 to 7 times the scale."""
    top = groups.abs().amax(-1, keepdim=True).clamp_min(2.0**-40)
    return torch.ceil(torch.log2(top / 7.0)).clamp(-60, 60)


def mx_round(w):
    """f32 [..., K] to the nearest MXFP4 value, K a multiple of 32."""
    g = w.reshape(*w.shape[:-1], -1, 32)
    scale = torch.exp2(mx_exponent(g))
    x = (g / scale).abs()
    # Nearest E2M1 value by the step that holds in its range: 0.5 below 2, 1 below 4, 2 above.
    step = 0.5 + 0.5 * (x >= 1.75).to(x.dtype) + (x >= 3.5).to(x.dtype)
    y = (torch.round(x / step) * step).clamp_max(6.0)
    return (torch.copysign(y, g) * scale).reshape(w.shape)


def mx_pack(w):
    """The stored form of `mx_round(w)`: blocks u8 [..., K/32, 16], low nibble first, and scales u8 [..., K/32]."""
    g = w.float().reshape(*w.shape[:-1], -1, 32)
    e = mx_exponent(g)
    x = (mx_round(w).reshape(g.shape) / torch.exp2(e))
    code = torch.searchsorted(torch.tensor(MIDPOINTS), x.abs().contiguous()).to(torch.uint8)
    code += 8 * ((x < 0) & (code > 0)).to(torch.uint8)
    pairs = code.reshape(*code.shape[:-1], 16, 2)
    return pairs[..., 0] | (pairs[..., 1] << 4), (e.squeeze(-1) + 127).to(torch.uint8)


def mx_unpack(blocks, scales):
    """The f32 weights [..., K] of a stored form."""
    code = torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2).long()
    value = torch.tensor(E2M1)[code & 7] * torch.where(code > 7, -1.0, 1.0)
    return (value * torch.exp2(scales.float() - 127)[..., None]).flatten(-2)


class Straight(torch.autograd.Function):
    """Rounds forward, passes the gradient on."""

    @staticmethod
    def forward(ctx, w, rounder):
        return rounder(w)

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def quantised(w, rounder, on=True):
    return Straight.apply(w, rounder) if on else w
