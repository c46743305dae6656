"""What PyTorch takes for the shapes of gpu_bench, on the same GPU: one JSON object a line."""

import json
import statistics
import sys

try:
    import torch
except ImportError:
    sys.exit("SKIPPED: this Python has no torch")
if not torch.cuda.is_available():
    sys.exit("SKIPPED: torch sees no GPU")

torch.manual_seed(0)


def median_seconds(call, runs=20):
    for _ in range(3):
        call()
    times = []
    for _ in range(runs):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3)
    return statistics.median(times)


def report(name, seconds, **more):
    print(json.dumps({"name": name, "value": seconds * 1e6, "unit": "us", **more}), flush=True)


def copy():
    source = torch.randint(0, 255, (2 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source))
    report("torch copy of 2 GiB", seconds, gb_per_s=2 * source.numel() / seconds * 1e-9)


def products(rows):
    # Three matrices in turn: together they fill no cache.
    weights = [torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(3)]
    x = torch.randn(rows, 8192, dtype=torch.bfloat16, device="cuda")
    turn = [0]

    def product():
        turn[0] = (turn[0] + 1) % 3
        return x @ weights[turn[0]].T

    seconds = median_seconds(product)
    report(f"torch bf16 matmul 8192x8192, {rows} rows (cuBLAS)", seconds,
           gb_per_s=weights[0].numel() * 2 / seconds * 1e-9,
           tflop_per_s=2 * rows * 8192 * 8192 / seconds * 1e-12)


def decode_attention(batch, positions):
    heads, kv_heads, dim = 32, 8, 128
    key = torch.randn(batch, kv_heads, positions, dim, dtype=torch.float16, device="cuda")
    value = torch.randn_like(key)
    query = torch.randn(batch, heads, 1, dim, dtype=torch.float16, device="cuda")
    attend = torch.nn.functional.scaled_dot_product_attention
    gigabytes = 2 * key.numel() * 2 * 1e-9
    seconds = median_seconds(lambda: attend(query, key, value, enable_gqa=True))
    report(f"torch SDPA decode, {batch} x {positions}", seconds, gb_per_s=gigabytes / seconds)
    # Query heads that share a KV head as rows of one: what a kernel without GQA of its own takes.
    grouped = query.reshape(batch, kv_heads, heads // kv_heads, dim)
    seconds = median_seconds(lambda: attend(grouped, key, value))
    report(f"torch SDPA decode, heads as rows, {batch} x {positions}", seconds, gb_per_s=gigabytes / seconds)


def main():
    copy()
    for rows in (1, 16, 64, 2048):
        products(rows)
    decode_attention(1, 128 * 1024)
    decode_attention(16, 143 * 1024 // 16)


main()
