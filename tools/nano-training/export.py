"""nano as files: a small one over the compact ids (what training writes), and the shipped HF layout.

`python export.py SMALL FOLDER` expands the small file to FOLDER/{model.safetensors, config.json, generation_config.json}.
"""

import json
import os
import sys

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from model import Nano, Sizes
from quant import mx_pack, mx_round, mx_unpack, round_mantissa
from tokens import VOCAB, Tokens, copy_codes

LAYER = {"attn_norm": "input_layernorm.weight", "mlp_norm": "post_attention_layernorm.weight", "out": "self_attn.o_proj.weight",
         "out_b": "self_attn.o_proj.bias", "sinks": "self_attn.sinks", "router": "mlp.router.weight",
         "router_b": "mlp.router.bias", "up_b": "mlp.experts.gate_up_proj_bias", "down_b": "mlp.experts.down_proj_bias"}
EXPERTS = {"up": "mlp.experts.gate_up_proj", "down": "mlp.experts.down_proj"}


def rounded(nano):
    """Rounded tensors over the compact ids, bf16; the stacked names of `Nano`."""
    out = {"final_norm": nano.final_norm} | {f"p.{k}": v for k, v in nano.p.items()}
    rounder = {k: round_mantissa for k in out} | {"p.up": mx_round, "p.down": mx_round}
    out = {k: rounder[k](v.detach().float().cpu()) for k, v in out.items()}
    out |= dict(zip(("embed", "unembed"), (w.detach().cpu() for w in nano.tables()), strict=True))
    return {k: v.to(torch.bfloat16).contiguous() for k, v in out.items()}


def save_small(nano, path):
    tensors = rounded(nano)
    for name in ("p.up", "p.down"):
        tensors[name + ".blocks"], tensors[name + ".scales"] = mx_pack(tensors.pop(name))
    for name in ("embed", "unembed"):
        tensors[name] = tensors[name][:nano.full].clone()
    tensors["codes"] = torch.from_numpy(np.packbits((nano.codes > 0).cpu().numpy(), axis=1))
    counts = {k: str(getattr(nano, k)) for k in ("full", "written", "others")}
    save_file(tensors, path, metadata={"sizes": json.dumps(nano.sizes.dict())} | counts)


def load_small(path, device="cpu"):
    """A `Nano` with the weights of a small file."""
    with safe_open(path, "pt") as f:
        meta = f.metadata()
    state = load_file(path)
    for name in ("p.up", "p.down"):
        state[name] = mx_unpack(state.pop(name + ".blocks"), state.pop(name + ".scales"))
    codes = torch.from_numpy(np.unpackbits(state.pop("codes").numpy(), axis=1)).float() * 2 - 1
    state = {k: v.float() for k, v in state.items()}
    codes = torch.cat([torch.zeros_like(state["embed"]), codes])
    codes = codes, copy_codes(codes)
    nano = Nano(Sizes(**json.loads(meta["sizes"])), codes, *(int(meta[k]) for k in ("full", "written", "others")))
    nano.load_state_dict(state)
    return nano.to(device)


def expand(table, ids):
    """Rows of compact ids to rows of the real vocabulary; row 0 for every other id."""
    out = table[:1].expand(VOCAB, -1).clone()
    out[torch.from_numpy(ids[1:len(table)])] = table[1:]
    return out


def hf_tensors(tensors, sizes, ids):
    """Small tensors to the HF layout."""
    out = {"model.embed_tokens.weight": expand(tensors["embed"], ids), "lm_head.weight": expand(tensors["unembed"], ids),
           "model.norm.weight": tensors["final_norm"]}
    q, k = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    for i in range(sizes.layers):
        pre = f"model.layers.{i}."
        for name, hf in LAYER.items():
            out[pre + hf] = tensors[f"p.{name}"][i]
        for kind, end in (("qkv", "weight"), ("qkv_b", "bias")):
            for x, part in zip("qkv", tensors[f"p.{kind}"][i].split([q, k, k])):
                out[f"{pre}self_attn.{x}_proj.{end}"] = part
        for name, hf in EXPERTS.items():
            out[pre + hf + "_blocks"], out[pre + hf + "_scales"] = mx_pack(tensors[f"p.{name}"][i])
    return {k: v.contiguous().clone() for k, v in out.items()}


def config(s):
    return {
        "architectures": ["GptOssForCausalLM"], "attention_bias": True, "attention_dropout": 0.0, "eos_token_id": 200002,
        "experts_per_token": s.top_k, "head_dim": s.head_dim, "hidden_act": "silu", "hidden_size": s.hidden,
        "initial_context_length": s.original_context, "initializer_range": 0.02, "intermediate_size": s.inter,
        "layer_types": ["sliding_attention", "full_attention"] * (s.layers // 2), "max_position_embeddings": 131072,
        "model_type": "gpt_oss", "num_attention_heads": s.heads, "num_experts_per_tok": s.top_k,
        "num_hidden_layers": s.layers, "num_key_value_heads": s.kv_heads, "num_local_experts": s.experts,
        "output_router_logits": False, "pad_token_id": 199999,
        "quantization_config": {"modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router",
                                                           "model.embed_tokens", "lm_head"], "quant_method": "mxfp4"},
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": s.factor,
                         "original_max_position_embeddings": s.original_context, "rope_type": "yarn", "truncate": False},
        "rope_theta": s.theta, "router_aux_loss_coef": 0.9, "sliding_window": s.window, "swiglu_limit": 7.0,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": VOCAB}


GENERATION = {
    "bos_token_id": 199998,
    "do_sample": False,
    "eos_token_id": [200002, 199999, 200012],
    "max_new_tokens": 1024,  # several times the longest answer of the data: what runs on is no answer
    "pad_token_id": 199999,
}


def write_hf(nano, folder, ids):
    os.makedirs(folder, exist_ok=True)
    save_file(hf_tensors(rounded(nano), nano.sizes, ids), os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    for name, value in (("config.json", config(nano.sizes)), ("generation_config.json", GENERATION)):
        with open(os.path.join(folder, name), "w") as f:
            json.dump(value, f, indent=2)
            f.write("\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    write_hf(load_small(sys.argv[1]), sys.argv[2], Tokens().ids)
