"""Two hosts on an emulated link (tests/net/link_relay.cc). First the link keeps what it promises, then a tensor-parallel group over it
answers through loss, jitter and reordering with the tokens of a clean link, and under every kind of parallelism a stalled link costs an epoch, within
the step deadline, and never a wrong token.

usage: link_test.py          as root
"""
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import hosts
import hosts_test
import service

ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("10.99.0.2", 7))
while True:
    data, sender = s.recvfrom(65536)
    s.sendto(data, sender)
"""
SINK = """
import socket
s = socket.create_server(("10.99.0.2", 9))
while True:
    c, _ = s.accept()
    left = 4 << 20
    while left:
        left -= len(c.recv(1 << 20))
    c.sendall(b"got it")
"""


def datagrams(count, gap_s=0.0, wait_s=0.3):
    """Sends numbered datagrams to host 2's echo; (number, round trip in us) in the order they came back."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(wait_s)
        s.connect(("10.99.0.2", 7))
        back, sent = [], {}
        for i in range(count):
            sent[i] = time.monotonic()
            s.send(i.to_bytes(4, "big"))
            if gap_s:
                back += receive(s, sent, 1)
                time.sleep(gap_s)
        return back if gap_s else receive(s, sent, 4 * count)  # duplicates included, until none comes any more


def receive(s, sent, count):
    back = []
    try:
        while len(back) < count:
            number = int.from_bytes(s.recv(4), "big")
            back.append((number, 1e6 * (time.monotonic() - sent[number])))
    except TimeoutError:
        pass
    return back


def check_promises(link):
    datagrams(3, 0.01)  # addresses are learned
    link.set(latency_us=20000)
    trips = [us for _, us in datagrams(10, 0.001)]
    assert len(trips) == 10 and 40000 <= min(trips), trips
    link.set(latency_us=1000, loss=0.3)
    came = len(datagrams(400))  # both ways: 0.49 come back, standard deviation 0.025
    assert 400 * 0.35 < came < 400 * 0.63, came
    link.set(loss=0, duplicate=0.5)
    assert len(datagrams(200)) > 200  # what is sent once arrives up to four times
    link.set(duplicate=0, reorder=0.2)
    order = [number for number, _ in datagrams(200)]
    assert sorted(order) == list(range(200)) and order != sorted(order), order
    link.set(reorder=0, stalled=1)
    time.sleep(0.05)
    assert datagrams(3) == []
    link.set(stalled=0)
    time.sleep(0.05)
    link.stats()
    link.set(rate_mbit=100)
    began = time.monotonic()
    with socket.create_connection(("10.99.0.2", 9)) as s:
        s.sendall(bytes(4 << 20))
        assert s.recv(16) == b"got it"
    took = time.monotonic() - began
    stats = link.stats()
    assert took >= (4 << 20) * 8 / 100e6, took
    assert stats["bytes"] >= 4 << 20, stats
    print(f"link: round trip {statistics.median(trips) / 1e3:.1f} ms at 2 x 20 ms; 4 MiB at 100 Mbit/s in {took:.2f} s; {stats}", flush=True)
    link.set(rate_mbit=0, latency_us=0)


STEP_DEADLINE_MS = 2000


def check_stall(agent, link, **layout):
    """A link that stalls in the midst of an answer: the step deadline ends the epoch in time and says so, and the answer is the one of a clean link."""
    settings = {**hosts_test.over_hosts(2, agent, **layout), "group.step_deadline_ms": STEP_DEADLINE_MS}
    with service.Service(settings) as running:
        expected = hosts_test.ask(running, max_tokens=100)
        epoch, answers = running.status()["epoch"], []
        asker = threading.Thread(target=lambda: answers.append(hosts_test.ask(running, max_tokens=100)))
        asker.start()
        time.sleep(0.3)
        link.set(stalled=1)
        began = time.monotonic()
        assert asker.is_alive(), "the answer was there before the link stalled"
        try:
            hosts_test.wait_for(lambda: running.status().get("state") != "ready", "the loss is seen", 20, running)
            seen = time.monotonic() - began
        finally:
            link.set(stalled=0)
        asker.join()
        assert seen < STEP_DEADLINE_MS / 1e3 + 1.5, f"seen after {seen:.1f} s"
        assert f"epoch {epoch} is lost: step " in running.log() and f"group.step_deadline_ms = {STEP_DEADLINE_MS}" in running.log(), running.log()[-3000:]
        told = re.search(r"rank 0 on host host1 has waited \d+ ms for rank 1 on host host2|rank 1 on host host2 has not been heard for \d+ ms", running.log())
        assert told, running.log()[-3000:]
        assert answers[0].error is None and answers[0].token_ids == expected.token_ids, answers
        assert running.status()["epoch"] > epoch
    print(f"{layout}, stalled link: seen after {seen:.1f} s ({told[0]}), the same tokens in the next epoch", flush=True)


def check_service(agent, link):
    expected = hosts_test.ask_one_host(tp=2)
    with service.Service(hosts_test.over_hosts(2, agent, tp=2)) as running:
        assert hosts_test.ask(running).token_ids == expected
        epoch = running.status()["epoch"]
        for fault in ({"latency_us": 300, "jitter_us": 500}, {"loss": 0.01}, {"reorder": 0.05, "duplicate": 0.02}):
            link.set(**fault)
            assert hosts_test.ask(running).token_ids == expected, fault
        assert running.status()["epoch"] == epoch, "lost, late and reordered frames are the transport's to mend"
        print("loss, jitter, reordering, duplicates: the tokens of a clean link", flush=True)
        link.set(latency_us=100, jitter_us=0, loss=0, reorder=0, duplicate=0)


def inside(agent):
    link = hosts.Link.of_this_test()
    check_service(agent, link)
    for layout in {"tp": 2}, {"pp": 2}, {"sp": 2}:
        check_stall(agent, link, **layout)


def main():
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2])
        return
    if sys.argv[1:2] == ["--promises"]:
        check_promises(hosts.Link.of_this_test())
        return
    with hosts.Hosts(2, link={"seed": 5}) as network:
        helpers = [subprocess.Popen([*network.on(2), sys.executable, "-c", text]) for text in (ECHO, SINK)]
        time.sleep(0.3)
        status = network.run_on(1, [sys.executable, "-B", "-u", __file__, "--promises"])
        for helper in helpers:
            helper.kill()
            helper.wait()
    if status:
        sys.exit(status)
    hosts.run_on_first(2, inside, __file__, link={"seed": 5})


if __name__ == "__main__":
    main()
