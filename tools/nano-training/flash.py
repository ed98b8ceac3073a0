"""Flash attention with sinks over packed documents, for training on a GPU; `model.attend` is the plain form.

PyTorch's kernels know no sink. A sink only adds to the softmax's sum, so the output shrinks by a factor that the log of the sum
gives, and the kernel's own backward pass is right if it is handed the shrunken output and the larger sum.
"""

import torch


def forward_op(q, k, v, starts, longest, window, scale):
    """Outputs [T, heads, d] and the logs of the softmax's sums [heads, T]; window -1 is none."""
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, starts, starts, longest, longest, 0.0, window < 0, False, scale=scale,
        window_size_left=window - 1 if window > 0 else -1, window_size_right=0)
    return out, lse


def backward_op(grad, q, k, v, out, lse, starts, longest, window, scale):
    state = torch.zeros(2, dtype=torch.uint64, device=q.device)
    return torch.ops.aten._flash_attention_backward(
        grad, q, k, v, out, lse, starts, starts, longest, longest, 0.0, window < 0, state, torch.empty(0, device=q.device), scale=scale,
        window_size_left=window - 1 if window > 0 else -1, window_size_right=0)


class Flash(torch.autograd.Function):
    """q [T, heads, d], k and v [T, kv_heads, d], sinks [heads] f32; documents begin at `starts`, the last entry is T."""

    @staticmethod
    def forward(ctx, q, k, v, sinks, starts, longest, window):
        scale = q.shape[-1] ** -0.5
        out, lse = forward_op(q, k, v, starts, longest, window, scale)
        whole = torch.logaddexp(lse, sinks.float()[:, None])
        out = (out.float() * torch.exp(lse - whole).T[..., None]).to(q.dtype).contiguous()
        ctx.save_for_backward(q, k, v, sinks, starts, out, whole)
        ctx.rest = longest, window, scale
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, sinks, starts, out, whole = ctx.saved_tensors
        grad = grad.contiguous()
        dq, dk, dv = backward_op(grad, q, k, v, out, whole, starts, *ctx.rest)
        share = torch.exp(sinks.float()[:, None] - whole)
        dsinks = -(share.T * (grad.float() * out.float()).sum(-1)).sum(0)
        return dq, dk, dv, dsinks.to(sinks.dtype), None, None, None
