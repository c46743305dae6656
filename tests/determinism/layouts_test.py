"""The equality matrix on real checkpoints: every product of tp, pp and sp of up to 4 ranks (MPI processes), under every schedule, beside one
rank with the same schedule. Greedy tokens are equal up to the first thin margin, log-probabilities until there within half of it; the
same layout twice, and pipeline stages, give the same bits. Prints a table.

Desync is another model on every tp: its layouts are compared with one of the same tp; tests/parallel/equality_matrix_test.cc compares
desync with its emulation. Other schedules than "standard" make nonsense of these weights, which were not trained for them: what is compared is arithmetic.

usage: layouts_test.py [--models smol,gemma] [--schedules standard,ladder,...] [--quick] [--json FILE]
"""
import argparse
import json
import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import api
import service

# Half of it is what either of two answers may be off: then no token with a wider margin can differ. Activations are rounded to 15 bits
# (3e-5 of the greatest of 32) some eight times a layer: over 30 layers, errors of mixed sign, 5e-4 of the stream; a head that spreads
# logits over some 40 makes 0.02 of it.
THIN_MARGIN = 0.15
# Weights under a schedule that they were not trained for make streams whose errors grow more from layer to layer.
UNTRAINED_MARGIN = 0.3
MODELS = {"smol": service.SMOL, "gemma": service.GEMMA}
SCHEDULES = {
    "standard": {},
    "ladder": {"model.schedule": "ladder"},
    "partial ladder": {"model.schedule": "ladder", "model.ladder_layers": "last:6"},
    "parallel": {"model.schedule": "parallel"},
    "desync": {"model.schedule": "desync", "model.desync_pattern": "10"},
}
# Gemma norms each sub-block's reduced output, which these do not have: refused.
NOT_FOR = {("gemma", "parallel"), ("gemma", "desync")}
LAYOUTS = [(1, 1, 1), (1, 2, 1), (1, 3, 1), (1, 4, 1), (2, 1, 1), (2, 2, 1), (3, 1, 1), (4, 1, 1), (1, 1, 2), (1, 2, 2), (1, 1, 3), (1, 1, 4), (2, 1, 2)]
QUICK_LAYOUTS = [(1, 1, 1), (1, 1, 2), (2, 1, 2)]
# What a model is sure of, so that margins are wide. The last is longer than Gemma's window (512) and than a step: sliding windows, several chunks.
PROMPTS = ["1, 2, 3, 4, 5, 6, 7,", "The alphabet is: " + ", ".join("abcdefghijklm") + ",", "The quick brown fox jumps over the lazy dog. " * 65]
TOKENS = 16


def bits(value):
    return struct.pack("<f", value)


def answers_of(connection, tag):
    ids = [f"{tag}{i}" for i in range(len(PROMPTS))]
    for name, prompt in zip(ids, PROMPTS):
        connection.submit(name, prompt=prompt, max_tokens=TOKENS, temperature=0, ignore_eos=True, logprobs=2)
    found = []
    for answer in connection.finish(ids, within_seconds=200):
        assert answer.error is None, answer.error
        found.append((answer.token_ids, [[(top["id"], top["logprob"]) for top in tops] for tops in answer.logprobs]))
    return found


def as_bits(answers):
    return [(tokens, [[(token, bits(value)) for token, value in tops] for tops in steps]) for tokens, steps in answers]


def serve(model, schedule, layout):
    tp, pp, sp = layout
    settings = {"model.path": service.need_model(MODELS[model]), "worker.backend": "cpu", "worker.threads": 1, "layout.tp": tp, "layout.pp": pp,
                "layout.sp": sp, "scheduler.step_tokens_max": 256, "model.context_max_tokens": 1024, "worker.kv_memory_bytes": 64 << 20,
                **SCHEDULES[schedule]}
    with service.Service(settings) as running:
        connection = api.Connection(running.endpoint)
        first, second = answers_of(connection, "first"), answers_of(connection, "second")
        connection.close()
    assert as_bits(first) == as_bits(second), f"{layout}: twice the same requests, other bits"
    return first


def compare(name, alone, other, margin):
    """Tokens compared, and the greatest difference of a log-probability among them."""
    compared, worst = 0, 0.0
    for i, ((tokens, steps), (other_tokens, other_steps)) in enumerate(zip(alone, other)):
        for k, (token, other_token) in enumerate(zip(tokens, other_tokens)):
            there = dict(other_steps[k])
            worst = max([worst, *(abs(value - there[id]) for id, value in steps[k] if id in there)])
            if steps[k][0][1] - steps[k][1][1] < margin:
                break
            assert token == other_token, f"{name}: prompt {i}: token {k} is {other_token} instead of {token}"
            compared += 1
    assert worst <= margin / 2, f"{name}: log-probabilities differ by {worst:.3f}"
    return compared, worst


def check(model, schedule, layouts):
    rows, known = [], {}
    for layout in layouts:
        tp, pp, sp = layout
        name = f"{model}, {schedule}, tp {tp} x pp {pp} x sp {sp}"
        known[layout] = serve(model, schedule, layout)
        staged = known.get((tp, 1, sp), known[layout])
        assert as_bits(staged) == as_bits(known[layout]), f"{name}: other bits than with one stage"
        alone = known.get((tp if schedule == "desync" else 1, 1, 1))
        if alone is None:
            continue
        compared, worst = compare(name, alone, known[layout], THIN_MARGIN if schedule == "standard" else UNTRAINED_MARGIN)
        rows.append({"model": model, "schedule": schedule, "tp": tp, "pp": pp, "sp": sp, "tokens_compared": compared, "worst_logprob": worst})
        print(f"| {model} | {schedule} | {tp} x {pp} x {sp} | {compared} | {worst:.4f} |", flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="smol,gemma")
    parser.add_argument("--schedules", default=",".join(SCHEDULES))
    parser.add_argument("--quick", action="store_true", help="the corners only")
    parser.add_argument("--json", help="rows are added to this file")
    flags = parser.parse_args()
    print("| model | schedule | tp x pp x sp | tokens compared | greatest difference of a log-probability |\n|---|---|---|---|---|", flush=True)
    rows = [row for model in flags.models.split(",") for schedule in flags.schedules.split(",") if (model, schedule) not in NOT_FOR
            for row in check(model, schedule, QUICK_LAYOUTS if flags.quick else LAYOUTS)]
    if flags.json:
        path = pathlib.Path(flags.json)
        known = json.loads(path.read_text()) if path.exists() else []
        path.write_text(json.dumps(known + rows, indent=1) + "\n")
    print("passed")


if __name__ == "__main__":
    main()
