"""A group over two and three hosts (network namespaces joined by a bridge), started by mpirun through an agent: real prompts are answered
as on one host, each rank runs on the host it was given, a lost host is replaced, and nothing is left on any host.

usage: hosts_test.py          as root
"""
import os
import pathlib
import signal
import sys
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import api
import hosts
import service

PROMPT = {"prompt": "The three uses of a ladder are", "temperature": 0, "max_tokens": 24}


def over_hosts(count, agent, **layout):
    """Settings of a group with one rank on each of `count` hosts."""
    return {"model.path": service.SMOL, "worker.threads": 1, "group.launcher": "hostfile",
            "group.hosts": ",".join(f"{hosts.Hosts.address(host)}:1" for host in range(1, count + 1)),
            "group.remote_agent": agent, "group.interface": hosts.NETWORK,
            **{f"layout.{name}": value for name, value in layout.items()}}


def ask(running, **wishes):
    connection = api.Connection(running.endpoint)
    answer = connection.ask(f"hosts.{time.monotonic_ns()}", **{**PROMPT, **wishes})
    connection.close()
    return answer


def ask_one_host(**layout):
    settings = {"model.path": service.SMOL, "worker.threads": 1, **{f"layout.{name}": value for name, value in layout.items()}}
    with service.Service(settings) as running:
        return ask(running).token_ids


def check_answer(count, agent, **layout):
    expected = ask_one_host(**layout)
    with service.Service(over_hosts(count, agent, **layout)) as running:
        ranks = running.status()["ranks"]
        assert [rank["host"] for rank in ranks] == [f"host{host}" for host in range(1, count + 1)], ranks
        answer = ask(running)
        assert answer.error is None, answer.error
        assert answer.token_ids == expected, f"{answer.token_ids} instead of {expected}"
        assert "10.99.0." in running.log(), "the log does not name the chosen interface"
    print(f"{layout} over {count} hosts: {len(expected)} tokens, the same as on one host", flush=True)


def attentions_passed(running, what):
    """By sequence-parallel ranks, of all ranks together."""
    with urllib.request.urlopen(running.metrics_url + "/metrics") as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("echelon_ring_attentions_total{") and f'passed="{what}"' in line)


def check_sequence_parallel(agent):
    """A prompt of some 1500 tokens in large chunks, for which keys go round between the hosts, and in small ones, for which queries do."""
    prompt = PROMPT["prompt"] * 210
    for rows, passed in (512, "keys"), (16, "queries"):
        layout = {"layout.sp": 2, "scheduler.step_tokens_max": rows}
        with service.Service({"model.path": service.SMOL, "worker.threads": 1, **layout}) as running:
            expected = ask(running, prompt=prompt)
        assert expected.error is None, expected.error
        with service.Service({**over_hosts(2, agent), **layout}) as running:
            answer = ask(running, prompt=prompt)
            assert answer.error is None, answer.error
            assert answer.token_ids == expected.token_ids, f"{answer.token_ids} instead of {expected.token_ids}"
            assert attentions_passed(running, passed) > 0, f"no {passed} passed with chunks of {rows}"
        print(f"sp = 2 over 2 hosts, {passed} passed: {len(expected.token_ids)} tokens, the same as on one host", flush=True)


def wait_for(condition, what, seconds, running):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}\n{running.log()[-3000:]}"
        time.sleep(0.1)


def worker_on(host):
    """The worker's pid on another host, found through its namespace."""
    inside = os.stat(f"/run/netns/{os.environ['ECHELON_TEST_NAMESPACE'].rsplit('-', 1)[0]}-{host}").st_ino
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.stat(entry / "ns" / "net").st_ino == inside and \
                    os.path.basename(os.readlink(entry / "exe")) == "echelon-worker":
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError(f"no worker on host {host}")


def check_lost_worker(agent):
    with service.Service(over_hosts(2, agent, tp=2)) as running:
        before = ask(running).token_ids
        epoch = running.status()["epoch"]
        os.kill(worker_on(2), signal.SIGKILL)
        wait_for(lambda: running.status().get("state") == "ready" and running.status()["epoch"] > epoch, "a new group", 60, running)
        assert ask(running).token_ids == before
    print("a worker killed on host 2: relaunched, the same answer", flush=True)


def check_pulled_cable(agent):
    """A host that nobody reaches: its worker's lease ends it, requests meanwhile get a definite answer, and when the cable is back so is the
    service. mpirun alone would keep a spinning orphan for minutes."""
    settings = {**over_hosts(2, agent, tp=2), "group.lease_ms": 3000, "group.join_deadline_ms": 5000, "group.relaunches_max": 20}
    with service.Service(settings) as running:
        before, epoch, orphan = ask(running).token_ids, running.status()["epoch"], worker_on(2)
        hosts.set_cable(os.environ["ECHELON_TEST_NAMESPACE"], 2, up=False)
        pulled = time.monotonic()
        try:
            wait_for(lambda: running.status().get("state") != "ready", "the loss is seen", 10, running)
            seen = time.monotonic() - pulled
            wait_for(lambda: not os.path.exists(f"/proc/{orphan}/exe"), "the worker that was cut off ends itself", 10, running)
            ended = time.monotonic() - pulled
        finally:
            hosts.set_cable(os.environ["ECHELON_TEST_NAMESPACE"], 2, up=True)
        wait_for(lambda: running.status().get("state") == "ready" and running.status()["epoch"] > epoch, "a new group", 90, running)
        assert ask(running).token_ids == before
    print(f"cable of host 2 pulled: seen after {seen:.1f} s, its worker gone after {ended:.1f} s, served again after it was back", flush=True)


def inside(agent):
    """Runs on host 1, coordinator included."""
    check_answer(2, agent, tp=2)
    check_answer(3, agent, pp=3)
    check_sequence_parallel(agent)
    check_lost_worker(agent)
    check_pulled_cable(agent)


if __name__ == "__main__":
    hosts.run_on_first(3, inside, __file__)
