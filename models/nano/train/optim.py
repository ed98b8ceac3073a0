"""The optimiser: Muon for the weight matrices of the layers (Jordan et al. 2024), AdamW for everything else."""

import torch

from model import MATRICES

# Coefficients of the quintic Newton-Schulz iteration, chosen for a steep slope at zero.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonal(g):
    """The nearest semi-orthogonal matrices, roughly; g [..., m, n]."""
    a, b, c = QUINTIC
    x = g.to(torch.bfloat16 if g.is_cuda else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return (x.mT if tall else x).float()


class Muon:
    """Momentum, then an orthogonalised step; matrices are the last two axes."""

    def __init__(self, params, lr, momentum=0.95, decay=0.02):
        self.params, self.lr, self.momentum, self.decay = list(params), lr, momentum, decay
        self.state = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def step(self, scale, warm=1.0):
        """`scale` is the schedule's share of the learning rate, `warm` goes from 0 to 1 while momentum builds up."""
        beta = self.momentum - 0.1 * (1 - warm)
        for p, m in zip(self.params, self.state, strict=True):
            m.lerp_(p.grad, 1 - beta)
            update = orthogonal(p.grad.lerp(m, beta))
            lr = self.lr * scale
            gain = max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5
            p.mul_(1 - lr * self.decay).add_(update, alpha=-lr * gain)


class Optimiser:
    def __init__(self, nano, muon_lr, adam_lr):
        matrices = [p for k, p in nano.p.items() if k in MATRICES]
        rest = [p for k, p in nano.p.items() if k not in MATRICES] + [nano.final_norm]
        tables = [nano.embed, nano.unembed]
        self.muon = Muon(matrices, muon_lr)
        groups = [{"params": rest, "share": 1.0, "lr": 0.0}, {"params": tables, "share": 1.0, "lr": 0.0}]
        self.adam_lr = adam_lr
        self.adam = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0,
                                      fused=nano.embed.is_cuda)

    def step(self, scale, warm):
        for g in self.adam.param_groups:
            g["lr"] = self.adam_lr * g["share"] * scale
        self.adam.step()
        self.muon.step(scale, warm)

    def zero(self):
        self.adam.zero_grad(set_to_none=True)
        for p in self.muon.params:
            p.grad = None
