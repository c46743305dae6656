"""A worker dies under a service with clients: the coordinator lives, says which rank on which host was lost to the clients with requests in
flight, relaunches the group, and serves the next request as if nothing had been; nothing is left behind.

Strikes: SIGKILL of each rank, SIGKILL of mpirun, SIGSTOP of a rank (which no launcher notices).
"""
import pathlib
import os
import re
import signal
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import api
import service

PROMPT = "Once upon a time, in a village by the sea,"
HEARTBEAT_TIMEOUT_S = 3.0  # group.heartbeat_timeout_ms
DETECTED_WITHIN_S = {signal.SIGKILL: 2.0, signal.SIGSTOP: HEARTBEAT_TIMEOUT_S + 2.0}  # the machine may be busy
SERVED_AGAIN_WITHIN_S = 60


def rank_pids(running):
    """Rank -> pid, from the coordinator's own log lines of the latest epoch."""
    found = re.findall(r"rank (\d+) on host \S+ joined, pid (\d+)", running.log())
    return {int(rank): int(pid) for rank, pid in found}


def mpirun_pid(running):
    pids = [pid for pid, command in running.ranks_and_launchers().items() if command.split(" ")[0].endswith("mpirun")]
    assert len(pids) == 1, pids
    return pids[0]


def strike(running, connection, name, pid, sign, expected):
    """Two long requests in flight, then the signal; the story goes on for the next client."""
    victims = [f"{name}.{i}" for i in range(2)]
    for victim in victims:
        connection.submit(victim, prompt=PROMPT, temperature=0, max_tokens=1500, ignore_eos=True)
    while not all(connection.answers[v].token_ids for v in victims):
        assert connection.pump(60), "no tokens"
    running.seen.update(running.ranks_and_launchers())
    began = time.monotonic()
    os.kill(pid, sign)
    connection.finish(victims, within_seconds=30)
    noticed = time.monotonic() - began
    for victim in victims:
        answer = connection.answers[victim]
        assert answer.error, f"{victim}: {answer.done}"
        assert answer.error["code"] == "unavailable" and answer.error["retryable"], answer.error
        assert answer.error["message"], answer.error
        assert answer.token_ids[:len(expected)] == expected[:len(answer.token_ids)], "what was sent before the death is right"
    assert noticed < DETECTED_WITHIN_S[sign], f"{name}: noticed after {noticed:.1f} s"
    error = connection.answers[victims[0]].error
    if name.startswith("rank"):
        assert error["host"] == socket.gethostname(), error
        assert error["rank"] is not None, error
    after = connection.ask(f"{name}.after", prompt=PROMPT, temperature=0, max_tokens=len(expected), within_seconds=SERVED_AGAIN_WITHIN_S)
    again = time.monotonic() - began
    assert after.token_ids == expected, f"{name}: {after.error} {after.token_ids}"
    print(f"  {name}: clients told after {noticed:.2f} s (rank {error['rank']}, {error['host']}), next request done after {again:.2f} s", flush=True)


def main():
    settings = {"model.path": service.need_model(service.SMOL), "worker.backend": "cpu", "worker.threads": 1, "layout.tp": 2,
                "group.relaunches_max": 20}
    with service.Service(settings) as running:
        connection = api.Connection(running.endpoint)
        expected = connection.ask("calm", prompt=PROMPT, temperature=0, max_tokens=16).token_ids
        strike(running, connection, "rank0", rank_pids(running)[0], signal.SIGKILL, expected)
        strike(running, connection, "rank1", rank_pids(running)[1], signal.SIGKILL, expected)
        strike(running, connection, "mpirun", mpirun_pid(running), signal.SIGKILL, expected)
        strike(running, connection, "rank1.stopped", rank_pids(running)[1], signal.SIGSTOP, expected)
        status = running.status()
        assert status["state"] == "ready" and status["epoch"] == 5, status
        connection.close()
    print("passed")


if __name__ == "__main__":
    main()
