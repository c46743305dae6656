"""One stream's decode and prefill beside llama.cpp on the same file and machine: interleaved runs, medians, ratios.

usage: against_llama_cpp.py --llama-bench PATH [--model GGUF] [--threads 2] [--tp 1] [--runs 5] [--svg FILE]

Ours is served: client, coordinator and worker processes, over the ZeroMQ API; llama-bench is a bare loop in one process. A native
llama-bench comes from PyPI's source archive of llama-cpp-python (its vendor/llama.cpp, target llama-bench, -DGGML_NATIVE=ON).
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import api
import service

PREFILL_TOKENS = 512
DECODE_TOKENS = 128


def theirs(flags):
    command = [flags.llama_bench, "-m", flags.model, "-p", PREFILL_TOKENS, "-n", DECODE_TOKENS, "-t", flags.threads * flags.tp, "-r", 1, "-o", "json"]
    out = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout
    rates = {("prefill" if row["n_prompt"] else "decode"): row["avg_ts"] for row in json.loads(out)}
    return rates["prefill"], rates["decode"]


def ours(connection, run):
    """Prefill: prompt tokens over the time to the first token (queue and first sample included)."""
    prompt = [(7 * i + run) % 40000 + 100 for i in range(PREFILL_TOKENS)]
    first = connection.ask(f"prefill{run}", prompt=prompt, max_tokens=1, temperature=0, ignore_eos=True)
    stream = connection.ask(f"decode{run}", prompt=[1], max_tokens=DECODE_TOKENS, temperature=0, ignore_eos=True)
    return PREFILL_TOKENS / first.done["timings"]["ttft_s"], stream.done["timings"]["decode_tokens_per_s"]


def draw(rows, caption, path):
    """rows: (label, ours, theirs) in tokens/s. Two bars a row, each row to its own scale."""
    width, bar, gap, left = 640, 22, 46, 190
    parts = []
    for i, (label, mine, peer) in enumerate(rows):
        top = 44 + i * (2 * bar + gap)
        scale = (width - left - 150) / max(mine, peer)
        parts.append(f'<text x="12" y="{top + bar + 5}" font-weight="bold">{label}</text>')
        for j, (name, value, colour) in enumerate([("Echelon, served", mine, "#2563a8"), ("llama.cpp", peer, "#b0b6bd")]):
            y = top + j * bar
            parts.append(f'<rect x="{left}" y="{y}" width="{value * scale:.1f}" height="{bar - 3}" fill="{colour}"/>')
            parts.append(f'<text x="{left + value * scale + 6:.1f}" y="{y + 15}">{value:.0f} {name}</text>')
    height = 44 + len(rows) * (2 * bar + gap)
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="13">'
                    f'<rect width="{width}" height="{height}" fill="white"/><text x="12" y="22">{caption}</text>{"".join(parts)}</svg>\n')


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("--model", default=service.SMOL, type=pathlib.Path)
    parser.add_argument("--threads", default=2, type=int, help="of each rank")
    parser.add_argument("--tp", default=1, type=int)
    parser.add_argument("--runs", default=5, type=int)
    parser.add_argument("--svg", type=pathlib.Path, help="draw the medians into this file")
    flags = parser.parse_args()
    settings = {"model.path": flags.model, "worker.threads": flags.threads, "layout.tp": flags.tp, "worker.backend": "cpu"}
    pairs = []
    with service.Service(settings) as running:
        connection = api.Connection(running.endpoint)
        ours(connection, -1)  # warm
        for run in range(flags.runs):
            pairs.append((ours(connection, run), theirs(flags)))
            (p, d), (tp, td) = pairs[-1]
            print(f"run {run}: prefill {p:7.1f} against {tp:7.1f}, decode {d:6.1f} against {td:6.1f} tokens/s", flush=True)
        connection.close()
    rows = []
    for i, name in enumerate(["prefill", "decode"]):
        a = statistics.median(mine[i] for mine, _ in pairs)
        b = statistics.median(peer[i] for _, peer in pairs)
        ratio = statistics.median(mine[i] / peer[i] for mine, peer in pairs)
        print(f"{name}: {a:.1f} tokens/s, llama.cpp {b:.1f}, ratio {ratio:.2f} (medians of {flags.runs} interleaved runs)")
        rows.append((f"{name}, {[PREFILL_TOKENS, DECODE_TOKENS][i]} tokens", a, b))
    if flags.svg:
        draw(rows, f"One stream, tokens/s, {flags.threads * flags.tp} cores, SmolLM2-135M Q4_1: medians of {flags.runs} interleaved runs", flags.svg)


if __name__ == "__main__":
    main()
