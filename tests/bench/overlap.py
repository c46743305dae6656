"""What ladder residual hides: decode at tp=2 over an emulated link between two hosts (network namespaces, tests/net/link_relay.cc), beside
the same model with other schedules. Dummy weights: only the order of the work differs, and the answer is not looked at. Needs root.

usage: overlap.py [--streams 1,8,16] [--rounds 5] [--tokens 24] [--json FILE] [--at-least 1.3]

One service for each schedule, all up at once and asked in turn, so that each round compares them within a second or two. The schedule
"none" drops every all-reduce but the last: what a step takes without communication (C). For each number of streams the link's latency is
set so that an all-reduce (M, what "standard" adds to a step, over its number of all-reduces) is about as long as the work between two.

  hidden   (C + M - T) / min(C, M), T = a step of "ladder": 1 = the shorter of both is gone from the step
  by ranks the same of the ranks' own timings of "ladder": for how long they computed with messages in flight (posted to arrived), over the shorter of
           their compute and their time in flight, without what "none" waits too (embedding, last all-reduce, head); means of both ranks
  step / predicted  T over C + M - (by ranks) min(C, M)
  model    the step if every all-reduce were hidden behind exactly the sub-block that follows: max(C, M) if attention and MLP were of equal
           length, the sum of max(C, M) over the sub-blocks with C shared out between the two as their weights are
"""
import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import hosts
import side_by_side

LAYERS = 6
# Work grows with the square of d_model, bytes with d_model: so wide (8192 has a 70B model) that what relay and sockets cost, all of it on the
# ranks' two cores, is little beside the work. With 1536 a relay that has no core of its own takes 0.11 to 0.12 of one.
# Attention and MLP have equally many weights. Where they are not of equal length, an all-reduce behind the shorter one cannot hide wholly:
# with 64 % of the weights in the MLPs and M = C, 0.86 is the most that can be hidden.
MODEL = {"model_type": "llama", "hidden_size": 3072, "num_attention_heads": 48, "num_key_value_heads": 12, "intermediate_size": 2560,
         "num_hidden_layers": LAYERS, "vocab_size": 2048, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
SCHEDULES = {
    "none": {"model.schedule": "desync", "model.desync_pattern": "00"},
    "standard": {"model.schedule": "standard"},
    "ladder": {"model.schedule": "ladder"},
    "ladder, last half": {"model.schedule": "ladder", "model.ladder_layers": f"last:{LAYERS // 2}"},
    "desync, every second": {"model.schedule": "desync", "model.desync_pattern": "01"},
}
HEADS_WIDTH = 2 * MODEL["hidden_size"] * (1 + MODEL["num_key_value_heads"] / MODEL["num_attention_heads"])  # queries, output; keys, values
ATTENTION_SHARE = HEADS_WIDTH / (HEADS_WIDTH + 3 * MODEL["intermediate_size"])  # of a layer's weights
PROMPT = list(range(10, 14))  # short: what is measured is decode


class Bench(side_by_side.SideBySide):
    def __init__(self, agent, folder, link, schedules, tokens):
        self.link, self.tokens, self.round = link, tokens, 0
        common = {"model.path": folder, "model.load_format": "dummy", "worker.backend": "cpu", "worker.threads": 1, "worker.kv_memory_bytes": 64 << 20,
                  "worker.token_split": "off", **side_by_side.on_two_hosts(agent)}
        super().__init__(common, {name: SCHEDULES[name] for name in schedules})

    def step(self, name, streams):
        """Seconds of one decode step with all streams in it, and the ranks' mean timings of a step."""
        connection, ids = self.connections[name], []
        for i in range(streams):
            self.round += 1
            ids.append(f"step{self.round}")
            connection.submit(ids[-1], prompt=[*PROMPT, 50 + i], max_tokens=self.tokens, temperature=0, ignore_eos=True)
        answers = connection.finish(ids)
        for answer in answers:
            assert answer.error is None, answer.error
        # The last stream to start decodes beside all the others.
        last = max(answers, key=lambda answer: answer.done["timings"]["ttft_s"])
        ranks = last.done["ranks"]
        parts = {key: statistics.mean(rank[f"{key}_s"] / rank["steps"] for rank in ranks) for key in ("compute", "comm_hidden", "comm_exposed")}
        return 1 / last.done["timings"]["decode_tokens_per_s"], parts

    def set_latency(self, streams):
        """Latency at which an all-reduce takes about as long as the sub-block behind it: it is one exchange, and waits one latency. "standard"
        waits for one less than there are sub-blocks more often than "none"."""
        waits = 2 * LAYERS - 1
        latency_us = 0.0
        for _ in range(2):  # the second time to better the first, whose services had just started
            self.link.set(latency_us=round(latency_us))
            # In turn: what slows the machine down for a while slows both.
            missing = statistics.median((1 + waits / (waits + 1)) * self.step("none", streams)[0] - self.step("standard", streams)[0]
                                        for _ in range(3))
            latency_us = max(0.0, latency_us + missing / waits * 1e6)
        self.link.set(latency_us=round(latency_us))
        return latency_us

    def measure(self, streams, rounds):
        latency_us = self.set_latency(streams)
        steps = {name: [] for name in self.services}
        parts = {name: [] for name in self.services}
        self.link.stats()
        for _ in range(rounds):
            for name in self.services:
                seconds, ranks = self.step(name, streams)
                steps[name].append(seconds)
                parts[name].append(ranks)
        relay = self.link.stats()
        return {"streams": streams, "latency_us": latency_us, "steps": steps, "ranks": parts, "relay": relay}


def sum_of_greater(compute, communication):
    """Of every sub-block its compute or an all-reduce, whichever is longer."""
    return sum(max(share * compute, communication / 2) for share in (ATTENTION_SHARE, 1 - ATTENTION_SHARE))


def summarize(row):
    steps = {name: statistics.median(values) for name, values in row["steps"].items()}
    # Ratios round by round: what slows the machine down for a while slows both.
    rounds = list(zip(row["steps"]["none"], row["steps"]["standard"], row["steps"]["ladder"]))
    speedup = statistics.median(standard / ladder for _, standard, ladder in rounds)
    hidden = statistics.median((standard - ladder) / min(none, max(1e-9, standard - none)) for none, standard, ladder in rounds)
    model = statistics.median(ladder / max(none, standard - none) for none, standard, ladder in rounds)
    over_sum = statistics.median(ladder / sum_of_greater(none, standard - none) for none, standard, ladder in rounds)
    by_ranks = statistics.median(one["comm_hidden"] / min(one["compute"], one["comm_hidden"] + max(0.0, one["comm_exposed"] - none["comm_exposed"]))
                                 for one, none in zip(row["ranks"]["ladder"], row["ranks"]["none"]))
    predicted = statistics.median(ladder / (standard - by_ranks * min(none, standard - none)) for none, standard, ladder in rounds)
    return {"steps_ms": {name: 1e3 * value for name, value in steps.items()}, "speedup": speedup, "hidden": hidden,
            "hidden_by_ranks": by_ranks, "step_over_predicted": predicted, "step_over_model": model, "step_over_sum": over_sum,
            "comm_over_compute": (steps["standard"] - steps["none"]) / steps["none"],
            "relay_cpu_share": row["relay"]["cpu_seconds"] / row["relay"]["seconds"]}


def show(rows):
    names = list(rows[0]["summary"]["steps_ms"])
    print("| streams | latency, us | M / C | " + " | ".join(f"{name}, ms" for name in names)
          + " | standard / ladder | hidden | by ranks | step / predicted | step / max(C, M) | step / sum over sub-blocks "
          "| relay's share of a core, late by |")
    print("|" + "---|" * (len(names) + 10))
    for row in rows:
        s = row["summary"]
        print(f"| {row['streams']} | {row['latency_us']:.0f} | {s['comm_over_compute']:.2f} | " + " | ".join(f"{s['steps_ms'][name]:.1f}" for name in names)
              + f" | {s['speedup']:.2f} | {s['hidden']:.2f} | {s['hidden_by_ranks']:.2f} | {s['step_over_predicted']:.2f} "
              f"| {s['step_over_model']:.2f} | {s['step_over_sum']:.2f} "
              f"| {s['relay_cpu_share']:.2f}, {row['relay']['late_us_mean']:.0f} us |")


def inside(agent):
    flags = parse(json.loads(os.environ["ECHELON_OVERLAP_FLAGS"]))
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(MODEL))
        with Bench(agent, folder, hosts.Link.of_this_test(), flags.schedules.split(";"), flags.tokens) as bench:
            rows = [bench.measure(streams, flags.rounds) for streams in map(int, flags.streams.split(","))]
    for row in rows:
        row["summary"] = summarize(row)
    show(rows)
    if flags.json:
        pathlib.Path(flags.json).write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        gained = row["summary"]["speedup"]
        assert gained >= flags.at_least, f"{row['streams']} streams: ladder is only {gained:.2f} x as fast as standard: the overlap is lost"


def parse(words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", default="1,8,16")
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--tokens", default=24, type=int)
    parser.add_argument("--schedules", default=";".join(SCHEDULES), help="divided by semicolons")
    parser.add_argument("--json")
    parser.add_argument("--at-least", default=0.0, type=float, help="fails where ladder is not so many times as fast as standard")
    return parser.parse_args(words)


if __name__ == "__main__":
    if sys.argv[1:2] != ["--inside"]:
        parse(sys.argv[1:])
        os.environ["ECHELON_OVERLAP_FLAGS"] = json.dumps(sys.argv[1:])
    hosts.run_on_first(2, inside, __file__, link={})
