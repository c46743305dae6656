"""`echelon plan` and `echelon simulate` as people type them: hosts files good, uneven and wrong, what fits and what does not, figures that hang together.

usage: plan_test.py        needs the SmolLM2 checkpoint; no service is started
"""
import csv
import json
import pathlib
import subprocess
import sys
import tempfile
import xml.dom.minidom

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import service

MODEL = str(service.SMOL)
EVEN = """
defaults: {slots: 2, cores: 2, memory_gb: 8, weights_gb_s: 8, one_row_gb_s: 8, gmac_s: 50}
node1:
node2:
links: {between_latency_us: 40, between_gb_s: 0.117}
"""
# The second host's products take three times as long, its attention does not.
UNEVEN = """
defaults: {slots: 1, cores: 1, memory_gb: 8, one_row_gb_s: 9, weights_gb_s: 9, gmac_s: 60, block_us: 1}
fast:
slow: {one_row_gb_s: 3, weights_gb_s: 3, gmac_s: 20}
links: {between_latency_us: 1, between_gb_s: 10}
"""


def echelon(*words, status=0):
    done = subprocess.run([str(service.BIN / "echelon"), *map(str, words)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, f"exit status {done.returncode}, not {status}:\n{done.stderr}\n{done.stdout}"
    return done


class Plan:
    """A hosts file and what `echelon plan` says of it."""

    def __init__(self, folder, hosts):
        self.path = pathlib.Path(folder, "hosts.yaml")
        self.path.write_text(hosts)

    def text(self, *words, status=0):
        return echelon("plan", "--model", MODEL, "--hosts", self.path, *words, status=status)

    def json(self, *words, status=0):
        return json.loads(self.text("--json", *words, status=status).stdout)


def name(layout):
    return tuple(layout[axis] for axis in ("tp", "pp", "sp"))


def check_figures(layout, host_bytes):
    """Of one layout: every rank has bytes, what fits fits, and times are made of their parts."""
    ranks = layout["ranks"]
    assert len(ranks) == layout["tp"] * layout["pp"] * layout["sp"], layout
    used = {}
    for rank in ranks:
        assert rank["weight_bytes"] > 0 and rank["kv_bytes"] > 0 and rank["activation_bytes"] > 0, rank
        used[rank["host"]] = used.get(rank["host"], 0) + sum(rank[key] for key in ("weight_bytes", "kv_bytes", "activation_bytes"))
    assert layout["fits"] == all(taken <= host_bytes for taken in used.values()), used
    for phase in ("prefill", "decode"):
        parts = layout[phase]
        assert parts["seconds"] > 0 and parts["compute_seconds"] > 0, parts
        assert parts["comm_exposed_seconds"] >= 0 and parts["comm_hidden_seconds"] >= 0, parts


def test_even_hosts(folder):
    plan = Plan(folder, EVEN).json("--context", 1024, "--streams", 4, "--rows", 50)
    every = [plan["chosen"], *plan["runners_up"]]
    for layout in every:
        check_figures(layout, 8e9)
    seconds = [layout["request_seconds"] for layout in every]
    assert seconds == sorted(seconds), "best first"
    assert len({name(layout) for layout in every}) == len(every) > 8, "every division of four slots, once"
    assert all(layout["why_not"] for layout in plan["runners_up"])
    shares = {name(layout): layout["shard_shares"] for layout in every}
    assert shares[(2, 1, 1)] == shares[(4, 1, 1)] == shares[(2, 2, 1)] == "", "equal ranks share evenly"
    assert shares[(3, 1, 1)], "a rank that has a host to itself is faster than two that share one"
    weights = {name(layout): sum(rank["weight_bytes"] for rank in layout["ranks"]) for layout in every}
    assert weights[(2, 1, 1)] < 1.05 * weights[(1, 1, 1)] and weights[(1, 1, 2)] == 2 * weights[(1, 1, 1)], weights


def test_text_says_what_to_configure(folder):
    text = Plan(folder, EVEN).text("--context", 1024, "--streams", 4).stdout
    chosen = next(line for line in text.splitlines() if line.startswith("Chosen: layout: {"))
    assert "Runners-up" in text and "exposed" in text and "hidden" in text and "tokens/s" in text, text
    assert max(map(len, text.splitlines())) <= 150, "fits a terminal"
    # What it prints is what the configuration takes.
    configuration = pathlib.Path(folder, "service.yaml")
    configuration.write_text(f"model: {{path: {MODEL}}}\n{chosen.removeprefix('Chosen: ')}\n")
    echelon("check-config", configuration)


def test_a_smaller_cache_holds_more(folder):
    words = ("--context", 1024, "--streams", 4, "--rows", 50)
    kept = {kind: Plan(folder, EVEN).json(*words, "--kv-type", kind)["chosen"]["ranks"][0]["kv_bytes"] for kind in ("f32", "f16", "q8_0")}
    assert kept["f32"] == 2 * kept["f16"] and 32 * kept["q8_0"] == 17 * kept["f16"], kept
    assert Plan(folder, EVEN).json(*words)["chosen"]["ranks"][0]["kv_bytes"] == kept["f16"]


def test_uneven_hosts(folder):
    plan = Plan(folder, UNEVEN).json("--context", 512, "--streams", 2, "--rows", 50)
    layouts = {name(layout): layout for layout in [plan["chosen"], *plan["runners_up"]]}
    fast, slow = map(int, layouts[(1, 2, 1)]["layers_per_stage"].split(","))
    assert fast + slow == 30 and fast > 1.5 * slow, layouts[(1, 2, 1)]["layers_per_stage"]
    shares = list(map(int, layouts[(2, 1, 1)]["shard_shares"].split(",")))
    assert 1.8 < shares[0] / shares[1] < 3.1, f"products are three times as slow, attention is not: {shares}"
    first, second = (rank["weight_bytes"] for rank in layouts[(2, 1, 1)]["ranks"])
    assert first > 1.5 * second, "the slow host holds less of every layer"
    configuration = pathlib.Path(folder, "service.yaml")
    configuration.write_text(f"model: {{path: {MODEL}}}\nlayout: {{tp: 2, shard_shares: \"{shares[0]},{shares[1]}\"}}\n")
    echelon("check-config", configuration)


def test_schedules_differ_where_links_are_slow(folder):
    slow = Plan(folder, EVEN.replace("slots: 2", "slots: 1").replace("between_latency_us: 40", "between_latency_us: 300, between_hidden: 1"))
    standard, ladder = (slow.json("--context", 512, "--schedule", schedule, "--rows", 50) for schedule in ("standard", "ladder"))
    decode = {}
    for schedule, plan in (("standard", standard), ("ladder", ladder)):
        decode[schedule] = next(layout for layout in [plan["chosen"], *plan["runners_up"]] if name(layout) == (2, 1, 1))["decode"]
    assert decode["ladder"]["comm_hidden_seconds"] > 5 * decode["standard"]["comm_hidden_seconds"], decode
    assert decode["ladder"]["seconds"] < decode["standard"]["seconds"], decode


def test_nothing_fits(folder):
    small = Plan(folder, EVEN.replace("memory_gb: 8", "memory_gb: 0.4"))
    done = small.text("--context", 8192, "--streams", 64, status=1)
    assert "No layout fits" in done.stdout and "It would fit with --context" in done.stdout, done.stdout
    assert "which has 400.0 MB" in done.stdout and "no layout fits" in done.stderr and "needs" in done.stderr, done.stderr
    plan = small.json("--context", 8192, "--streams", 64, status=1)
    assert plan["chosen"] is None and plan["not_fitting"], plan
    for layout in plan["not_fitting"]:
        check_figures(layout, 4e8)
    # The nearest that would fit does, and twice as much does not.
    for flag, most, other in (("--context", plan["context_that_fits"], ("--streams", 64)), ("--streams", plan["streams_that_fit"], ("--context", 8192))):
        assert most > 0, plan
        assert small.json(flag, most, *other)["chosen"], f"{flag} {most}"
        small.json(flag, 2 * most, *other, status=1)
    tiny = Plan(folder, EVEN.replace("memory_gb: 8", "memory_gb: 0.001")).text(status=1).stdout
    assert "Not even a page" in tiny, tiny


def test_bad_hosts_files_and_words(folder):
    for hosts, told in (("node1: {slot: 2}", "did you mean slots?"), ("node1:\n  cores: none", "hosts.yaml:2: node1.cores"),
                        ("links: {between_gb_s: 1}", "names no host"), ("node1: {memory_gb: 0}", "memory_gb"), ("node1: [", "hosts.yaml"), ("", "host")):
        done = Plan(folder, hosts).text(status=1)
        assert told in done.stderr and "\n" not in done.stderr.strip(), f"{hosts!r}: {done.stderr}"
    even = Plan(folder, EVEN)
    for words, told in ((("--context", 100000), "8192"), (("--context", 0), "context"), (("--streams", -1), "streams"),
                        (("--schedule", "stairs"), "schedule"), (("--kv-type", "f8"), "kv-type")):
        done = even.text(*words, status=2)
        assert told in done.stderr, f"{words}: {done.stderr}"
    missing = echelon("plan", "--model", MODEL, "--hosts", pathlib.Path(folder, "none.yaml"), status=1)
    assert "none.yaml" in missing.stderr, missing.stderr


def test_simulate(folder):
    out = pathlib.Path(folder, "curves")
    echelon("simulate", "--out", out)
    rows = list(csv.DictReader((out / "simulate.csv").read_text().splitlines()))
    assert {row["gpus"] for row in rows} == {str(8 << i) for i in range(8)}, rows[:3]
    assert {row["scenario"] for row in rows} == {"latency", "throughput", "million"}, rows[:3]
    assert len(json.loads((out / "simulate.json").read_text())) > 0
    for row in rows:
        assert float(row["tokens_per_second"]) > 0 and 0 < float(row["efficiency"]) < 1.5, row
        assert int(row["tp"]) * int(row["pp"]) * int(row["sp"]) <= int(row["gpus"]), row
        if row["scenario"] == "million":  # no step is longer than a configuration takes
            assert 512 * int(row["sp"]) <= int(row["step_rows"]) <= min(1 << 20, 8192 * int(row["sp"])), row
    speed = {(row["scenario"], row["model"], row["schedule"], row["gpus"]): float(row["tokens_per_second"]) for row in rows}
    for (scenario, model, schedule, gpus), tokens in speed.items():
        if schedule == "ladder":
            assert tokens >= 0.999 * speed[scenario, model, "standard", gpus], (scenario, model, gpus)
    for picture in out.glob("*.svg"):
        assert xml.dom.minidom.parse(str(picture)).documentElement.tagName == "svg"
    assert len(list(out.glob("*.svg"))) == 3
    refused = echelon("simulate", "--out", "/proc/nowhere", status=1)
    assert "/proc/nowhere" in refused.stderr, refused.stderr


def main():
    service.need_model(service.SMOL)
    for test_name, test in list(globals().items()):
        if test_name.startswith("test_"):
            with tempfile.TemporaryDirectory() as folder:
                test(folder)
            print(f"{test_name}: passed", flush=True)


if __name__ == "__main__":
    main()
