#!/usr/bin/env python3
"""Asks Hugging Face's transformers for the logits of the tiny models of every family (family_cases.h), and writes family_logits.json.

    bazel build --config=opt //tests/golden:write_family_case
    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch transformers      (made with torch 2.15.0, transformers 5.24.0)
    /tmp/venv/bin/python tests/golden/make_family_goldens.py bazel-bin/tests/golden/write_family_case > tests/golden/family_logits.json

transformers reads the very folders that our tests write (config.json and model.safetensors). Its code runs with every number in double:
weights are read in float32 and widened, and what it calls float32 inside (norms, rotary angles, softmax) is float64 here. So what is left
between its numbers and those of another double-precision implementation is a difference of meaning, or none.
"""
import json
import subprocess
import sys
import tempfile

import torch
import transformers

VOCABULARY_STEP = 8  # every eighth logit of each row is kept


def some_tokens(n, vocabulary, seed):
    """As SomeTokens of tests/engine/tiny_model.h."""
    tokens = []
    for _ in range(n):
        seed = (seed * 1664525 + 1013904223) & 0xFFFFFFFF
        tokens.append((seed >> 8) % vocabulary)
    return tokens


def in_double(model):
    """The model with its weights and its rotary frequencies in double."""
    model = model.double()
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    embedding = model.model.embed_tokens
    if hasattr(embedding, "scalar_embed_scale"):
        embedding.embed_scale = torch.tensor(embedding.scalar_embed_scale, dtype=torch.float64)
    return model


def answer(folder):
    torch.set_grad_enabled(False)
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True)
    assert not any(loading.values()), loading  # nothing missing, nothing left over, no shape that differs
    tokens = some_tokens(24, model.config.vocab_size, 5)
    out = in_double(model)(torch.tensor([tokens]), output_hidden_states=True, use_cache=False)
    logits = out.logits[0]
    assert logits.dtype is torch.float64
    # hidden_states[i] enters layer i; the last one is normed already and left out.
    return {
        "tokens": tokens,
        "logits": [[float(f"{x:.9g}") for x in row[::VOCABULARY_STEP]] for row in logits.tolist()],
        "residual_norms": [float(f"{h[0, -1].norm().item():.9g}") for h in out.hidden_states[:-1]],
    }


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "--one":  # a process each: what is patched stays patched
        print(json.dumps(answer(sys.argv[2])))
        return
    with tempfile.TemporaryDirectory() as folder:
        names = subprocess.run([sys.argv[1], folder], check=True, capture_output=True, text=True).stdout.split()
        print("{")
        print(f' "made_by": "make_family_goldens.py, torch {torch.__version__}, transformers {transformers.__version__}",')
        print(f' "vocabulary_step": {VOCABULARY_STEP},')
        print(' "cases": {')
        for name in names:
            print(name, file=sys.stderr)
            said = json.loads(subprocess.run([sys.executable, __file__, "--one", f"{folder}/{name}"], check=True, capture_output=True,
                                             text=True).stdout)
            print(f'  "{name}": {{"tokens": {json.dumps(said["tokens"])},')
            print(f'   "residual_norms": {json.dumps(said["residual_norms"])},')
            rows = ",\n    ".join(json.dumps(row) for row in said["logits"])
            print(f'   "logits": [\n    {rows}]}}' + ("," if name != names[-1] else ""))
        print(" }\n}")


if __name__ == "__main__":
    main()
