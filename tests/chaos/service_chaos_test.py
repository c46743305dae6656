"""A worker dies under a service with clients: the coordinator lives, says which rank on which host was lost, relaunches the group, and the
answers that were under way go on, token for token as if nothing had been; nothing is left behind.

Strikes: SIGKILL of each rank, SIGKILL of mpirun, SIGSTOP of a rank (which no launcher notices).
"""
import pathlib
import os
import re
import signal
import sys
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import api
import service

PROMPT = "Once upon a time, in a village by the sea,"
HEARTBEAT_TIMEOUT_S = 3.0  # group.heartbeat_timeout_ms
DETECTED_WITHIN_S = {signal.SIGKILL: 2.0, signal.SIGSTOP: HEARTBEAT_TIMEOUT_S + 2.0}  # the machine may be busy
SERVED_AGAIN_WITHIN_S = 60
TOKENS = 160
ASKED = {"greedy": {"prompt": PROMPT, "temperature": 0, "max_tokens": TOKENS, "ignore_eos": True},
         "drawn": {"prompt": PROMPT, "temperature": 0.9, "top_p": 0.9, "seed": 11, "presence_penalty": 0.4, "max_tokens": TOKENS, "ignore_eos": True}}


def rank_pids(running):
    """Rank -> pid, from the coordinator's own log lines of the latest epoch."""
    found = re.findall(r"rank (\d+) on host \S+ joined, pid (\d+)", running.log())
    return {int(rank): int(pid) for rank, pid in found}


def mpirun_pid(running):
    pids = [pid for pid, command in running.ranks_and_launchers().items() if command.split(" ")[0].endswith(("mpirun", "prterun"))]  # Open MPI 5
    assert len(pids) == 1, pids
    return pids[0]


def strike(running, connection, name, pid, sign, expected):
    """Two requests in flight, one greedy and one drawn, then the signal: both end as they would have."""
    running.seen.update(running.ranks_and_launchers())
    victims = {f"{name}.{sampled}": sampled for sampled in expected}
    for victim, sampled in victims.items():
        connection.submit(victim, **ASKED[sampled])
    while not all(len(connection.answers[victim].token_ids) > 3 for victim in victims):
        assert connection.pump(60), "no tokens"
    had = {victim: len(connection.answers[victim].token_ids) for victim in victims}
    assert all(count < TOKENS for count in had.values()), "over before the strike"
    epoch = running.status()["epoch"]
    began = time.monotonic()
    os.kill(pid, sign)
    while running.status()["state"] == "ready" and running.status()["epoch"] == epoch:
        assert time.monotonic() - began < DETECTED_WITHIN_S[sign], f"{name}: not noticed"
        time.sleep(0.02)
    noticed = time.monotonic() - began
    connection.finish(list(victims), within_seconds=SERVED_AGAIN_WITHIN_S)
    again = time.monotonic() - began
    for victim, sampled in victims.items():
        answer = connection.answers[victim]
        assert answer.error is None, f"{victim}: {answer.error}"
        assert answer.token_ids == expected[sampled], f"{victim}: other tokens after the relaunch: {answer.token_ids}"
    log = running.log()
    if name.startswith("rank"):
        assert re.search(rf"epoch {epoch} is lost: .*rank \d", log), log[-2000:]
    print(f"  {name}: noticed after {noticed:.2f} s; answers of {TOKENS} tokens, {sorted(had.values())} of them before, exact after {again:.2f} s", flush=True)


def main():
    settings = {"model.path": service.need_model(service.SMOL), "worker.backend": "cpu", "worker.threads": 1, "layout.tp": 2,
                "group.relaunches_max": 20}
    with service.Service(settings) as running:
        connection = api.Connection(running.endpoint)
        expected = {sampled: connection.ask(f"calm.{sampled}", **asked).token_ids for sampled, asked in ASKED.items()}
        strike(running, connection, "rank0", rank_pids(running)[0], signal.SIGKILL, expected)
        strike(running, connection, "rank1", rank_pids(running)[1], signal.SIGKILL, expected)
        strike(running, connection, "mpirun", mpirun_pid(running), signal.SIGKILL, expected)
        strike(running, connection, "rank1.stopped", rank_pids(running)[1], signal.SIGSTOP, expected)
        status = running.status()
        assert status["state"] == "ready" and status["epoch"] == 5, status
        metrics = urllib.request.urlopen(f"{running.metrics_url}/metrics", timeout=5).read().decode()
        assert "echelon_replay_logit_mismatch_total 0" in metrics, metrics
        connection.close()
    print("passed")


if __name__ == "__main__":
    main()
