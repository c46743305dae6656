"""A host's network goes away and comes back: a short break is bridged, a long one costs an epoch, is noticed in time, answers no
stale token, and leaves nothing behind on either side.

usage: partition_test.py      as root
"""
import os
import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import hosts
import service
import hosts_test

HEARTBEAT_TIMEOUT_S = 3.0


def cable(up):
    """Host 2's end of the bridge; this process runs inside host 1's namespace."""
    switch = os.environ["ECHELON_TEST_NAMESPACE"].rsplit("-", 1)[0] + "-switch"
    hosts.ip("-n", switch, "link", "set", "v2", "up" if up else "down")


def unplug(seconds):
    cable(False)
    time.sleep(seconds)
    cable(True)


def wait_epoch_above(running, epoch, seconds):
    end = time.monotonic() + seconds
    while True:
        status = running.status()
        if status.get("state") == "ready" and status.get("epoch", 0) > epoch:
            return status
        assert time.monotonic() < end, f"no new group within {seconds} s:\n{running.log()[-4000:]}"
        time.sleep(0.1)


def short_break(running, expected):
    epoch = running.status()["epoch"]
    unplug(1.0)
    assert hosts_test.ask(running).token_ids == expected
    assert running.status()["epoch"] == epoch, f"a break of 1 s cost an epoch:\n{running.log()[-3000:]}"
    print("1 s: bridged, the same answer, no relaunch", flush=True)


def long_break(running, expected, seconds):
    epoch = running.status()["epoch"]
    worker = hosts_test.worker_on(2)
    begin = time.monotonic()
    plug = threading.Thread(target=unplug, args=(seconds,))
    plug.start()
    while running.status().get("state") == "ready":
        assert time.monotonic() - begin < HEARTBEAT_TIMEOUT_S + 1.5, "the break was not noticed in time"
        time.sleep(0.05)
    noticed = time.monotonic() - begin
    plug.join()
    wait_epoch_above(running, epoch, 90)
    recovered = time.monotonic() - begin
    assert not pathlib.Path(f"/proc/{worker}").exists(), "the rank behind the break lives on"
    assert hosts_test.ask(running).token_ids == expected
    print(f"{seconds} s: noticed after {noticed:.1f} s, ready again after {recovered:.1f} s, the same answer", flush=True)


def inside(agent):
    settings = {**hosts_test.over_hosts(2, agent, tp=2), "group.join_deadline_ms": 20000,
                "group.heartbeat_timeout_ms": int(HEARTBEAT_TIMEOUT_S * 1000)}
    with service.Service(settings) as running:
        expected = hosts_test.ask(running).token_ids
        short_break(running, expected)
        long_break(running, expected, 5)
        long_break(running, expected, 15)


if __name__ == "__main__":
    hosts.run_on_first(2, inside, __file__)
