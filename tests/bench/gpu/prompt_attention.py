#!/usr/bin/env python3
"""How fast PyTorch's attention goes over a whole prompt, and its bf16 product: what `dense_bench prompt` is beside.

Causal, 32 query heads on 8, head dim 128, bf16. The least of ten calls by CUDA events. Needs torch and a CUDA device.
"""
import torch
import torch.nn.functional
from torch.nn.attention import SDPBackend, sdpa_kernel

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128


def milliseconds_of(call):
    """The least time of a call that queues work on the device."""
    for _ in range(2):
        call()
    torch.cuda.synchronize()
    least = float('inf')
    for _ in range(10):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        least = min(least, begin.elapsed_time(end))
    return least


def normals(*shape):
    """Random bf16 numbers on the device."""
    return torch.randn(*shape, device='cuda', dtype=torch.bfloat16)


def main():
    """Prints a line per size and way."""
    size = 8192
    a, b = normals(size, size), normals(size, size)
    ms = milliseconds_of(lambda: a @ b.t())
    print(f'product of {size} cubed: {ms:.3f} ms, {2 * size**3 / ms * 1e-9:.1f} TFLOP/s')
    for tokens in (2048, 8192):
        query, key, value = (normals(1, heads, tokens, HEAD_DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
        operations = 4 * tokens * tokens / 2 * HEAD_DIM * HEADS
        for name, way in (('cudnn', SDPBackend.CUDNN_ATTENTION), ('flash', SDPBackend.FLASH_ATTENTION)):
            with sdpa_kernel(way):
                ms = milliseconds_of(lambda: torch.nn.functional.scaled_dot_product_attention(
                    query, key, value, is_causal=True, enable_gqa=True))
            print(f'prompt of {tokens} tokens, {name}: {ms:.3f} ms, {operations / ms * 1e-9:.1f} TFLOP/s')


if __name__ == '__main__':
    main()
