"""The replay contract on a real checkpoint: greedy and seeded output, and the bits of every log-probability, are identical over batch
composition, prefill chunks, threads, pipeline stages, speculation and restarts of the group; tensor- and sequence-parallel counts agree
with themselves bit for bit
and with each other up to the first thin margin.

usage: matrix_test.py [--backend cpu|reference] [--quick]
"""
import argparse
import pathlib
import random
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import api
import service

THIN_MARGIN = 0.15
PROBES = [
    {"prompt": "Once upon a time, in a village by the sea,", "temperature": 0},
    {"prompt": "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n", "temperature": 0},
    {"prompt": "The three uses of a ladder are " * 12, "temperature": 0},
    {"prompt": "Write a haiku about rain.", "temperature": 0.9, "seed": 7, "top_p": 0.9},
    {"prompt": "1, 1, 2, 3, 5, 8,", "temperature": 1.3, "seed": 11, "top_k": 40, "repetition_penalty": 1.1},
]


def bits(value):
    return struct.pack("<f", value).hex()


def fingerprint(answer):
    assert answer.error is None, answer.error
    return answer.token_ids, [[(t["id"], bits(t["logprob"])) for t in top] for top in answer.logprobs]


def run_probes(connection, tag, tokens, company=0, rng=None, speculation="off"):
    """The probes among `company` other requests of random length, content and start."""
    for i in range(company):
        words = [rng.choice(["sea", "rung", "stone", "42", "né", "🙂", "loop"]) for _ in range(rng.randint(1, 120))]
        connection.submit(f"{tag}.company{i}", prompt=" ".join(words), max_tokens=rng.randint(1, tokens), seed=i, temperature=1.0)
    for i, probe in enumerate(PROBES):
        connection.submit(f"{tag}.{i}", max_tokens=tokens, logprobs=3, ignore_eos=True, speculation=speculation, **probe)
        if rng:
            connection.pump(rng.random() * 0.05)  # let some steps pass: another batch for the next one
    connection.finish(within_seconds=600)
    if speculation != "off":
        accepted = sum(connection.answers[f"{tag}.{i}"].done["timings"]["drafts_accepted"] for i in range(len(PROBES)))
        assert accepted > 0, "nothing was guessed right, so nothing was tried"
    return [fingerprint(connection.answers[f"{tag}.{i}"]) for i in range(len(PROBES))]


def serve_probes(settings, tokens, **how):
    with service.Service(settings) as running:
        connection = api.Connection(running.endpoint)
        answers = run_probes(connection, "p", tokens, **how)
        connection.close()
        return answers


def expect_same(name, base, got):
    for i, (a, b) in enumerate(zip(base, got)):
        if a != b:
            at = next((k for k, (x, y) in enumerate(zip(a[1], b[1])) if x != y), -1)
            raise AssertionError(f"{name}: probe {i} parts at token {at}: {a[1][at]} and {b[1][at]}")
    print(f"  {name}: identical bits", flush=True)


def expect_agree(name, base, got):
    """Another order of sums: greedy tokens equal up to the first thin margin, log-probabilities close."""
    for i, ((tokens_a, tops_a), (tokens_b, tops_b)) in enumerate(zip(base, got)):
        if PROBES[i]["temperature"] > 0:
            continue
        for k, (x, y) in enumerate(zip(tokens_a, tokens_b)):
            top = [struct.unpack("<f", bytes.fromhex(t[1]))[0] for t in tops_a[k]]
            if top[0] - top[1] < THIN_MARGIN:
                break
            assert x == y, f"{name}: probe {i}: token {k} is {y} instead of {x}"
    print(f"  {name}: agrees up to thin margins", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--quick", action="store_true", help="the corners only")
    flags = parser.parse_args()
    base_settings = {"model.path": service.need_model(service.SMOL), "worker.backend": flags.backend, "worker.threads": 1,
                     "scheduler.step_tokens_max": 512}
    tokens = 12 if flags.quick else 32
    rng = random.Random(20260101)
    base = serve_probes(base_settings, tokens)
    expect_same("restart", base, serve_probes(base_settings, tokens))
    for company in [16] if flags.quick else [1, 3, 7, 16]:
        expect_same(f"company of {company}", base, serve_probes(base_settings, tokens, company=company, rng=rng))
    for chunk in [7] if flags.quick else [1, 7, 64]:
        expect_same(f"steps of {chunk} tokens", base, serve_probes({**base_settings, "scheduler.step_tokens_max": chunk}, tokens))
    expect_same("2 threads", base, serve_probes({**base_settings, "worker.threads": 2}, tokens, company=4, rng=rng))
    if flags.backend == "cpu":
        for isa, flag in [("avx2", "avx2"), ("avxvnni", "avx_vnni")]:
            if flag in pathlib.Path("/proc/cpuinfo").read_text().split():
                expect_same(isa, base, serve_probes({**base_settings, "worker.isa": isa}, tokens))
            else:
                print(f"skipped: {isa}, which this processor lacks")
    for pp in [3] if flags.quick else [2, 3]:
        expect_same(f"pp {pp}", base, serve_probes({**base_settings, "layout.pp": pp}, tokens, company=4, rng=rng))
    for tp in [2] if flags.quick else [2, 3, 4]:
        first = serve_probes({**base_settings, "layout.tp": tp}, tokens)
        expect_agree(f"tp {tp}", base, first)
        expect_same(f"tp {tp} again, in company", first, serve_probes({**base_settings, "layout.tp": tp}, tokens, company=4, rng=rng))
        halves = {**base_settings, "layout.tp": tp, "worker.token_split": "on"}
        expect_same(f"tp {tp}, steps in two parts, in company", first, serve_probes(halves, tokens, company=4, rng=rng))
    for name, settings, against in [("one rank", {}, base), ("pp 2, steps of 7 tokens", {"layout.pp": 2, "scheduler.step_tokens_max": 7}, base),
                                    ("tp 2", {"layout.tp": 2}, None), ("sp 2", {"layout.sp": 2}, None),
                                    ("tp 2 x sp 2", {"layout.tp": 2, "layout.sp": 2}, None)][::3 if flags.quick else 1]:
        wide = {**base_settings, **settings, "scheduler.speculation_tokens_max": 24}
        against = against or serve_probes(wide, tokens)
        expect_same(f"speculation, {name}", against, serve_probes(wide, tokens, speculation="prompt_lookup"))
        expect_same(f"speculation, {name}, in company", against, serve_probes(wide, tokens, company=4, rng=rng, speculation="prompt_lookup"))
    expect_same("tp 2 x pp 2 against tp 2", serve_probes({**base_settings, "layout.tp": 2}, tokens),
                serve_probes({**base_settings, "layout.tp": 2, "layout.pp": 2}, tokens))
    for sp in [2] if flags.quick else [2, 3]:
        first = serve_probes({**base_settings, "layout.sp": sp}, tokens)
        expect_agree(f"sp {sp}", base, first)
        again = {**base_settings, "layout.sp": sp, "scheduler.step_tokens_max": 7}
        expect_same(f"sp {sp} again, in company, steps of 7 tokens", first, serve_probes(again, tokens, company=4, rng=rng))
    codes = {**base_settings, "worker.kv_type": "q8_0"}
    first = serve_probes(codes, tokens)
    expect_same("q8_0 cache: 2 threads, steps of 7 tokens, in company", first,
                serve_probes({**codes, "worker.threads": 2, "scheduler.step_tokens_max": 7}, tokens, company=4, rng=rng))
    if flags.backend == "cpu":
        expect_same("q8_0 cache: AVX2, pp 3", first, serve_probes({**codes, "worker.isa": "avx2", "layout.pp": 3}, tokens, company=4, rng=rng))
    if not flags.quick:
        shared = {**codes, "layout.sp": 2}
        expect_same("q8_0 cache: sp 2 again, in company, steps of 7 tokens", serve_probes(shared, tokens),
                    serve_probes({**shared, "scheduler.step_tokens_max": 7}, tokens, company=4, rng=rng))
        for axis in ("tp", "pp"):
            layout = {**base_settings, f"layout.{axis}": 2, "layout.sp": 2}
            first = serve_probes(layout, tokens)
            expect_agree(f"{axis} 2 x sp 2", base, first)
            expect_same(f"{axis} 2 x sp 2 again, in company", first, serve_probes(layout, tokens, company=4, rng=rng))
    print("passed")


if __name__ == "__main__":
    main()
