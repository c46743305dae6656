"""What PyTorch takes for the shapes of gpu_bench, on the same GPU: one JSON object a line."""

import inspect
import json
import statistics
import sys
import time

try:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError:
    sys.exit("SKIPPED: this Python has no torch")
if not torch.cuda.is_available():
    sys.exit("SKIPPED: torch sees no GPU")

torch.manual_seed(0)


def median_seconds(call, runs=10, calls=20):
    """The device's time of one of `calls` in a row, which the host enqueues while the device is held up: no launch is in it."""
    until = time.monotonic() + 0.1  # clocks go up
    while time.monotonic() < until:
        call()
        torch.cuda.synchronize()
    times = []
    for _ in range(runs):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(1_000_000)  # cycles: about 0.5 ms
        begin.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3 / calls)
    return statistics.median(times)


def attend_by(name, call, **more):
    """SDPA's kernels one by one: which it would choose depends on the version. `more`: what a second's work is."""
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        try:
            with sdpa_kernel(backend):
                seconds = median_seconds(call)
        except RuntimeError as error:  # not of these shapes
            print(f"skipped: {name}, {backend.name.lower()} ({str(error).splitlines()[0]})", file=sys.stderr)
            continue
        report(f"{name}, {backend.name.lower()}", seconds, **{key: work / seconds for key, work in more.items()})


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
    attend_by(f"torch SDPA decode, {batch} x {positions}", lambda: attend(query, key, value, enable_gqa=True), gb_per_s=gigabytes)
    # Query heads that share a KV head as rows of one: what a kernel without GQA of its own takes.
    grouped = query.reshape(batch, kv_heads, heads // kv_heads, dim)
    attend_by(f"torch SDPA decode, heads as rows, {batch} x {positions}", lambda: attend(grouped, key, value), gb_per_s=gigabytes)


def flashinfer_attention(positions):
    """FlashInfer's own kernel for one stream, where this Python has it; it compiles itself first."""
    try:
        from flashinfer import single_decode_with_kv_cache
    except ImportError as error:
        print(f"skipped: FlashInfer's decode ({error})", file=sys.stderr)
        return
    key = torch.randn(positions, 8, 128, dtype=torch.float16, device="cuda")
    value, query = torch.randn_like(key), torch.randn(32, 128, dtype=torch.float16, device="cuda")
    for way, tensor_cores in (("", False), (", tensor cores", True)):
        seconds = median_seconds(lambda: single_decode_with_kv_cache(query, key, value, use_tensor_cores=tensor_cores))
        report(f"FlashInfer decode{way}, 1 x {positions}", seconds, gb_per_s=2 * key.numel() * 2 / seconds * 1e-9)


def prefill_attention(rows, positions):
    heads, kv_heads, dim = 32, 8, 128
    key = torch.randn(1, kv_heads, positions, dim, dtype=torch.bfloat16, device="cuda")
    value = torch.randn_like(key)
    query = torch.randn(1, heads, rows, dim, dtype=torch.bfloat16, device="cuda")
    attend = torch.nn.functional.scaled_dot_product_attention
    # Without the mask of the last `rows` positions, which would take the slow way: 1 % more work.
    attend_by(f"torch SDPA prefill, {rows} rows behind {positions - rows}", lambda: attend(query, key, value, enable_gqa=True),
              tflop_per_s=4 * rows * positions * heads * dim * 1e-12)


def transformers_decode():
    """Hugging Face transformers, static cache and torch.compile, the 1.2B shape of gpu_bench: tokens a second of one stream."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM, StaticCache
    except ImportError as error:
        print(f"skipped: transformers' decode ({error})", file=sys.stderr)
        return
    config = LlamaConfig(hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, head_dim=64,
                         intermediate_size=8192, vocab_size=128256, max_position_embeddings=4096, tie_word_embeddings=True)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    cache = StaticCache(config=config, max_batch_size=1, max_cache_len=512, device="cuda", dtype=torch.bfloat16)
    token = torch.full((1, 1), 7, device="cuda")
    place = torch.zeros(1, dtype=torch.long, device="cuda")
    # Version 5 counts in the cache; before, the caller did.
    counted = "cache_position" in inspect.signature(model.forward).parameters

    def step(forward):
        torch.compiler.cudagraph_mark_step_begin()
        places = {"position_ids": place[None], **({"cache_position": place} if counted else {})}
        logits = forward(token, past_key_values=cache, use_cache=True, **places).logits
        token.copy_(logits[:, -1].argmax(-1, keepdim=True))
        place.add_(1)

    with torch.no_grad():
        step(model)  # the cache's memory: made under torch.compile it would be a graph's own
        forward = torch.compile(model, mode="reduce-overhead", fullgraph=True)
        for _ in range(8):
            step(forward)
        torch.cuda.synchronize()
        rounds, steps = [], 128
        for _ in range(3):
            begin = time.monotonic()
            for _ in range(steps):
                step(forward)
            torch.cuda.synchronize()
            rounds.append((time.monotonic() - begin) / steps)
    seconds = statistics.median(rounds)
    # A figure of graphs: where torch has skipped them, it says so here.
    skips = torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]
    print(json.dumps({"name": "transformers 1.2B decode of 1 stream", "value": 1 / seconds, "unit": "tokens/s",
                      "step_ms": seconds * 1e3, "cudagraph_skips": skips}), flush=True)


def tried(what, *of):
    """A peer of a version that names things otherwise is a figure less, not a failure."""
    try:
        what(*of)
    except Exception as error:
        print(f"skipped: {what.__name__} ({type(error).__name__}: {error})", file=sys.stderr)


def main():
    copy()
    for rows in (1, 16, 64, 2048):
        products(rows)
    tried(decode_attention, 1, 128 * 1024)
    tried(decode_attention, 16, 143 * 1024 // 16)
    tried(prefill_attention, 512, 32 * 1024)
    tried(transformers_decode)
    tried(flashinfer_attention, 128 * 1024)  # last: it compiles for minutes


main()
