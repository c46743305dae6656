"""What weighting by measured speed gives on uneven hosts: two ranks of one thread, the second held to a share of its core by a CPU quota. Both
are calibrated as they are, `echelon plan` makes of that the shares of the layers' shards (tp = 2) and the layers of the stages (pp = 2), and
services with and without them decode in turn. Needs root (cgroup v1) and the SmolLM2 checkpoint.

usage: uneven_hosts.py [--slow 0.5] [--rounds 5] [--streams 4] [--at-least 1.0]
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import api
import service

CONTROLLER = pathlib.Path("/sys/fs/cgroup/cpu")
PERIOD_US = 2000  # short beside a step
PROMPT = list(range(10, 26))
TOKENS = 16


class Quota:
    """Processes held to a share of some cores."""

    def __init__(self, share):
        self.folder = CONTROLLER / f"echelon-uneven-{os.getpid()}"
        self.share = share

    def __enter__(self):
        if os.geteuid() != 0 or not (CONTROLLER / "cpu.cfs_quota_us").exists():
            service.skip("a CPU quota needs root and the cpu controller of cgroup v1")
        self.folder.mkdir()
        (self.folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        return self

    def set_cores(self, cores):
        (self.folder / "cpu.cfs_quota_us").write_text(str(round(self.share * cores * PERIOD_US)))

    def __exit__(self, *_):
        for pid in (self.folder / "cgroup.procs").read_text().split():
            (CONTROLLER / "cgroup.procs").write_text(pid)
        self.folder.rmdir()

    def hold(self, pid):
        for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
            (self.folder / "tasks").write_text(thread.name)


def calibrate(held=None):
    """The keys of one host for a hosts file, and the links: one core for a rank of one thread."""
    done = subprocess.run([str(service.BIN / "echelon-worker"), "--calibrate", str(service.SMOL)], capture_output=True, text=True,
                          preexec_fn=(lambda: held.hold(os.getpid())) if held else None)
    assert done.returncode == 0, done.stderr
    host, links = done.stdout.split("links:\n")
    keys = re.sub(r"(slots|cores): \d+", r"\1: 1", host.split("\n", 2)[2])  # behind the comment and the name
    return keys, "links:\n" + links


def plan(folder, hosts):
    path = pathlib.Path(folder, "hosts.yaml")
    path.write_text(hosts)
    words = ["plan", "--model", service.SMOL, "--hosts", path, "--context", 64, "--streams", 4, "--rows", 20, "--json"]
    done = subprocess.run([str(service.BIN / "echelon"), *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    return {(layout["tp"], layout["pp"]): layout for layout in [said["chosen"], *said["runners_up"]] if layout["sp"] == 1}


class Variant:
    def __init__(self, quota, settings):
        self.service = service.Service({"model.path": service.SMOL, "worker.backend": "cpu", "worker.threads": 1,
                                        "worker.kv_memory_bytes": 64 << 20, **settings}).start()
        pids = dict(re.findall(r"rank (\d+) on host \S+ joined, pid (\d+)", self.service.log()))
        quota.hold(pids["1"])
        self.connection, self.round = api.Connection(self.service.endpoint), 0

    def step(self, streams):
        """Seconds from token to token, all streams together."""
        self.round += 1
        ids = [f"{self.round}.{i}" for i in range(streams)]
        for i, name in enumerate(ids):
            self.connection.submit(name, prompt=[*PROMPT, 30 + i], max_tokens=TOKENS, temperature=0, ignore_eos=True)
        answers = self.connection.finish(ids)
        assert all(answer.error is None for answer in answers)
        return statistics.median(1 / answer.done["timings"]["decode_tokens_per_s"] for answer in answers)

    def stop(self):
        self.connection.close()
        self.service.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--slow", default=0.5, type=float, help="share of its core that the second rank has")
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--streams", default=4, type=int)
    parser.add_argument("--at-least", default=0.0, type=float, help="fails where weighting is not so many times as fast")
    flags = parser.parse_args()
    service.need_model(service.SMOL)
    with tempfile.TemporaryDirectory() as folder, Quota(flags.slow) as quota:
        quota.set_cores(os.cpu_count())  # it calibrates a rank on every core
        (fast, links), (slow, _) = calibrate(), calibrate(quota)
        quota.set_cores(1)
        planned = plan(folder, f"fast:\n{fast}slow:\n{slow}{links}")
        shares, layers = planned[2, 1]["shard_shares"], planned[1, 2]["layers_per_stage"]
        print(f"planned from calibration: shard_shares \"{shares}\", layers_per_stage \"{layers}\"", flush=True)
        assert shares, "no shares for uneven hosts"
        for axis, key, value in (("tp", "shard_shares", shares), ("pp", "layers_per_stage", layers)):
            even, weighted = (Variant(quota, {f"layout.{axis}": 2, **more}) for more in ({}, {f"layout.{key}": value}))
            try:
                rounds = [(even.step(flags.streams), weighted.step(flags.streams)) for _ in range(flags.rounds)]
            finally:
                even.stop()
                weighted.stop()
            gained = statistics.median(slow / fast for slow, fast in rounds)
            print(f"{axis} = 2: {1e3 * statistics.median(r[0] for r in rounds):.1f} ms a token evenly, "
                  f"{1e3 * statistics.median(r[1] for r in rounds):.1f} ms weighted, {gained:.2f} x as fast", flush=True)
            assert gained >= flags.at_least, f"{axis}: weighted by speed is only {gained:.2f} x as fast"


if __name__ == "__main__":
    main()
