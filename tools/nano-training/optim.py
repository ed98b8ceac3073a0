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
        self.params, self.top, self.momentum, self.decay = list(params), lr, momentum, decay
        self.state = [torch.zeros_like(p) for p in self.params]
        # On the device, so that a captured graph sees them change.
        self.lr, self.beta = (torch.zeros((), device=self.params[0].device) for _ in range(2))

    def set(self, scale, warm):
        self.lr.fill_(self.top * scale)
        self.beta.fill_(self.momentum - 0.1 * (1 - warm))

    @torch.no_grad()
    def step(self):
        for p, m in zip(self.params, self.state, strict=True):
            m.lerp_(p.grad, 1 - self.beta)
            update = orthogonal(p.grad.lerp(m, self.beta))
            gain = max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5
            p.mul_(1 - self.lr * self.decay).sub_(update * (self.lr * gain))


class Optimiser:
    def __init__(self, nano, muon_lr, adam_lr):
        matrices = [p for k, p in nano.p.items() if k in MATRICES]
        rest = [p for k, p in nano.p.items() if k not in MATRICES] + [nano.final_norm]
        tables = [nano.embed, nano.unembed]
        self.muon = Muon(matrices, muon_lr)
        on_gpu = nano.embed.is_cuda
        self.adam_lr = adam_lr
        self.lr = torch.zeros((), device=nano.embed.device)
        self.adam = torch.optim.AdamW([*rest, *tables], lr=self.lr if on_gpu else 0.0, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0,
                                      fused=on_gpu, capturable=on_gpu)

    def set(self, scale, warm):
        """The rates of the next steps: `scale` is the schedule's share, `warm` goes from 0 to 1 while momentum builds up."""
        self.muon.set(scale, warm)
        self.lr.fill_(self.adam_lr * scale)
        if not self.lr.is_cuda:
            self.adam.param_groups[0]["lr"] = self.adam_lr * scale

    def step(self):
        self.adam.step()
        self.muon.step()

    def zero(self):
        self.adam.zero_grad(set_to_none=True)
        for p in self.muon.params:
            p.grad = None
