"""The most memory that one worker ever holds: at most the model file times 1.3, its KV memory, and some room. A second copy of the weights, a
matrix that is staged whole, logits of a whole batch: each of them breaks the bound.

usage: memory_test.py        needs the SmolLM2 checkpoint, and measures Gemma 3 too where it is
"""
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import api
import service

FILE_FACTOR = 1.3
ROOM_BYTES = 8 << 20  # the shared libraries' pages (15 MiB of them) differ from machine to machine
KV_BYTES = 64 << 20  # about what the load below fills: 32 streams of 80 tokens, 0.35 MiB for 16 tokens
LONG_PROMPT, STREAMS, STREAM_PROMPT, STREAM_TOKENS = 2048, 32, 64, 16


def peak_bytes(pid):
    """VmHWM: pages held at the same time, libraries and the file's included."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024


def prompt(tokens, salt):
    return [(7 * i + 131 * salt) % 40000 + 100 for i in range(tokens)]


def measure(model):
    settings = {"model.path": model, "worker.kv_memory_bytes": KV_BYTES, "worker.backend": "cpu"}
    with service.Service(settings) as running:
        (worker,) = running.ranks()
        ready = peak_bytes(worker)
        connection = api.Connection(running.endpoint)
        connection.ask("long", prompt=prompt(LONG_PROMPT, 0), max_tokens=1, temperature=0)
        after_long = peak_bytes(worker)
        for i in range(STREAMS):
            connection.submit(f"s{i}", prompt=prompt(STREAM_PROMPT, i + 1), max_tokens=STREAM_TOKENS, temperature=0, ignore_eos=True)
        assert all(answer.error is None for answer in connection.finish())
        connection.close()
        peak = peak_bytes(worker)
    file = model.stat().st_size
    bound = FILE_FACTOR * file + KV_BYTES + ROOM_BYTES
    mib = lambda n: f"{n / 2**20:.0f} MiB"
    print(f"{model.name}: {mib(file)}; worker's peak {mib(ready)} when ready, {mib(after_long)} after a prompt of {LONG_PROMPT}, {mib(peak)} after "
          f"{STREAMS} streams; of it KV {mib(KV_BYTES)}; (peak - KV) / file = {(peak - KV_BYTES) / file:.2f}, allowed {FILE_FACTOR} "
          f"and {mib(ROOM_BYTES)}", flush=True)
    return peak <= bound


if __name__ == "__main__":
    models = [service.need_model(service.SMOL), *([service.GEMMA] if service.GEMMA.exists() else [])]
    within = [measure(model) for model in models]
    sys.exit(0 if all(within) else 1)
