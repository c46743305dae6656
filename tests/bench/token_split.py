"""What steps in two parts hide of an ordinary checkpoint's all-reduces (worker.token_split): prefill and decode at tp=2 over an emulated
link between two hosts (network namespaces, tests/net/link_relay.cc), and over shared memory, with the split off, on and chosen. Needs root.

usage: token_split.py [--links shared,1000,1000:300,...] [--tokens 512] [--streams 0,8] [--rounds 15] [--starts 1] [--add-to FILE]
                      [--at-least 1.25] [--auto-within 1.2]

A link is "shared" (memory of one host) or Mbit/s (0: no limit), after a colon microseconds of latency (default 50). For each, three services start
at that link and answer in turn, each round another one first; a round is one answer of each. --streams 0 is a prompt of --tokens; N is a decode
step of N streams. One rank of one thread a host. The relay runs on the ranks' cores: its share is printed. --add-to adds the rounds to those
that the file has already. Several starts, each with another mode first and a choice of its own, tell more than many rounds. Before the rounds
"auto" takes WARM_UP steps, on which it tries both ways.

  gain        off / on, median of the rounds' ratios
  auto/best   auto over the better of both (by medians), median of the rounds' ratios
"""
import argparse
import json
import os
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import hosts
import service
import side_by_side

MODES = {mode: {"worker.token_split": mode} for mode in ("off", "on", "auto")}
LATENCY_US = 50  # of a frame: what a switch and two network stacks take
DECODE_TOKENS = 16
WARM_UP = {"prompts": 10, "decodes": 5}  # a decode is 16 steps
ROUNDS_MIN = 3  # of --at-least and --auto-within


def is_right(seconds, flags):
    """By the least times seen: other programs only ever add to a time."""
    least = {mode: min(values) for mode, values in seconds.items()}
    gained = least["off"] / least["on"] >= flags.at_least
    return gained and ("auto" not in least or not flags.auto_within or least["auto"] <= flags.auto_within * min(least["off"], least["on"]))


class Bench(side_by_side.SideBySide):
    def __init__(self, agent, link, modes):
        self.round = 0
        where = {"layout.tp": 2} if link == "shared" else side_by_side.on_two_hosts(agent)
        super().__init__({"model.path": service.SMOL, "worker.backend": "cpu", "worker.threads": 1, "worker.kv_memory_bytes": 128 << 20, **where},
                         {mode: MODES[mode] for mode in modes})

    def prefill(self, mode, tokens):
        self.round += 1
        prompt = [(7 * i + self.round) % 40000 + 100 for i in range(tokens)]
        answer = self.connections[mode].ask(f"prompt{self.round}", prompt=prompt, max_tokens=1, temperature=0, ignore_eos=True)
        return answer.done["timings"]["ttft_s"]

    def decode(self, mode, streams):
        self.round += 1
        ids = [f"stream{self.round}.{i}" for i in range(streams)]
        for i, name in enumerate(ids):
            self.connections[mode].submit(name, prompt=list(range(100 + i, 116 + i)), max_tokens=DECODE_TOKENS, temperature=0, ignore_eos=True)
        answers = self.connections[mode].finish(ids)
        # The last stream to start decodes beside all the others.
        last = max(answers, key=lambda answer: answer.done["timings"]["ttft_s"])
        return 1 / last.done["timings"]["decode_tokens_per_s"]

    def step(self, mode, streams, tokens):
        return self.decode(mode, streams) if streams else self.prefill(mode, tokens)

    def measure(self, link, streams, flags):
        wire = None if link == "shared" else hosts.Link.of_this_test()
        for mode in self.services:
            for _ in range(WARM_UP["decodes" if streams else "prompts"] if mode == "auto" else 1):
                self.step(mode, streams, flags.tokens)
        seen = {mode: [] for mode in self.services}
        if wire:
            wire.stats()
        order = list(self.services)
        for run in range(flags.rounds):
            for mode in order:
                seen[mode].append(self.step(mode, streams, flags.tokens))
            order.append(order.pop(0))
            if (flags.at_least or flags.auto_within) and run + 1 >= ROUNDS_MIN and is_right(seen, flags):
                break
        return {"link": link, "streams": streams, "tokens": flags.tokens, "starts": 1, "chosen_by": self.chosen_by(), "seconds": seen,
                "relay": wire.stats() if wire else None}

    def chosen_by(self):
        """What the rehearsal of "auto" saw."""
        log = self.services["auto"].log() if "auto" in self.services else ""
        return [line[line.index("a layer in two parts"):] for line in log.splitlines() if "in two parts" in line][:1]


def add(row, rows):
    """Adds a row's rounds to those of the same link and step; returns the sum of both."""
    for old in rows:
        if all(old[key] == row[key] for key in ("link", "streams", "tokens")):
            old["starts"] += row["starts"]
            old["chosen_by"] += row["chosen_by"]
            for mode, seconds in row["seconds"].items():
                old["seconds"][mode] += seconds
            if row["relay"]:
                delivered = old["relay"]["frames"], row["relay"]["frames"]
                late = [relay["late_us_mean"] * frames for relay, frames in zip((old["relay"], row["relay"]), delivered)]
                for key in ("frames", "bytes", "dropped", "cpu_seconds", "seconds"):
                    old["relay"][key] += row["relay"][key]
                old["relay"]["late_us_mean"] = sum(late) / max(1, sum(delivered))
                old["relay"]["late_us_max"] = max(old["relay"]["late_us_max"], row["relay"]["late_us_max"])
            return old
    rows.append(row)
    return row


def summarize(row):
    seconds = row["seconds"]
    medians = {mode: statistics.median(values) for mode, values in seconds.items()}
    best = min(("off", "on"), key=medians.get)
    out = {"ms": {mode: 1e3 * value for mode, value in medians.items()}, "gain": statistics.median(a / b for a, b in zip(seconds["off"], seconds["on"]))}
    if "auto" in seconds:
        out["auto_over_best"] = statistics.median(a / b for a, b in zip(seconds["auto"], seconds[best]))
    if row["relay"]:
        out["relay_cpu_share"] = row["relay"]["cpu_seconds"] / row["relay"]["seconds"]
    return out


def show(row, modes):
    s = row["summary"]
    what = f"decode, {row['streams']} streams" if row["streams"] else f"prompt of {row['tokens']}"
    relay = f"{s['relay_cpu_share']:.2f}, {row['relay']['late_us_mean']:.0f} us" if row["relay"] else ""
    auto = f"{s['auto_over_best']:.3f}" if "auto_over_best" in s else ""
    print(f"| {row['link']} | {what} | {len(row['seconds']['off'])} | " + " | ".join(f"{s['ms'][mode]:.1f}" for mode in modes)
          + f" | {s['gain']:.2f} | {auto} | {relay} |", flush=True)


def inside(agent):
    flags = parse(json.loads(os.environ["ECHELON_SPLIT_FLAGS"]))
    kept = pathlib.Path(flags.add_to) if flags.add_to else None
    rows = json.loads(kept.read_text()) if kept and kept.exists() else []
    modes = flags.modes.split(",")
    print("| link, Mbit/s | step | rounds | " + " | ".join(f"{mode}, ms" for mode in modes) + " | gain | auto/best | relay's share of a core, late by |")
    for link in flags.links.split(","):
        if link != "shared":
            rate, _, latency = link.partition(":")
            hosts.Link.of_this_test().set(rate_mbit=float(rate), latency_us=float(latency or LATENCY_US))
        for _ in range(flags.starts):
            started = max((row["starts"] for row in rows if row["link"] == link), default=0) % len(modes)
            with Bench(agent, link, modes[started:] + modes[:started]) as bench:
                print(f"{link}: {bench.chosen_by()}", file=sys.stderr)
                for streams in map(int, flags.streams.split(",")):
                    row = add(bench.measure(link, streams, flags), rows)
                    row["summary"] = summarize(row)
                    show(row, modes)
                    if kept:
                        kept.write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        least = ", ".join(f"{mode} {1e3 * min(values):.1f} ms" for mode, values in row["seconds"].items())
        assert is_right(row["seconds"], flags), (f"{row['link']} Mbit/s, streams {row['streams']}: {least}: the overlap is lost, or the choice is wrong "
                                                 f"({row['chosen_by']})")


def parse(words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--links", default="250,1000,2500,10000,0,shared")
    parser.add_argument("--tokens", default=512, type=int)
    parser.add_argument("--streams", default="0,8")
    parser.add_argument("--rounds", default=15, type=int)
    parser.add_argument("--starts", default=1, type=int, help="of the services, each with so many rounds")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--add-to", help="a JSON file")
    parser.add_argument("--at-least", default=0.0, type=float, help="fails where two parts are not so many times as fast as one, by the least times of at "
                        "most --rounds rounds")
    parser.add_argument("--auto-within", default=0.0, type=float, help="fails where \"auto\" takes more than so many times the better of both, likewise")
    return parser.parse_args(words)


if __name__ == "__main__":
    if sys.argv[1:2] != ["--inside"]:
        parse(sys.argv[1:])
        os.environ["ECHELON_SPLIT_FLAGS"] = json.dumps(sys.argv[1:])
    hosts.run_on_first(2, inside, __file__, link={})
