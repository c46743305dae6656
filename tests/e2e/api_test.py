"""The client API against the real service: resubmission, resume, cancel, deadline, limits, bad input, a slow reader.

usage: api_test.py [CASE...]        needs the SmolLM2 checkpoint; tp=2, so two ranks and the real ring
"""
import asyncio
import json
import os
import pathlib
import re
import socket as socket_module
import subprocess
import sys
import time

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "support"), str(TESTS.parent / "client" / "python")]

import zmq

import echelon
import service
from echelon import Accepted, AsyncClient, Client, Done, Stream, Tokens

PROMPT = "Once upon a time there was a ladder"
CONTEXT = 8192  # of the checkpoint


def ended(running, seconds=10):
    """Waits until nothing runs; every KV page must be free then."""
    end = time.monotonic() + seconds
    while True:
        with Client(running.endpoint) as client:
            status = client.status()
        if status.running == status.waiting == 0 and status.kv_pages_free == status.kv_pages_total > 0:
            return
        assert time.monotonic() < end, f"not idle, or pages are held: {status}"
        time.sleep(0.1)


def refused(kind, call, field=None, words=()):
    try:
        call()
    except kind as error:
        assert field is None or error.param == field, f"param is {error.param!r}, not {field!r}: {error}"
        for word in words:
            assert word in error.message, f"{word!r} is not in {error.message!r}"
        return error
    raise AssertionError(f"not refused with {kind.__name__}")


def test_resubmission_is_idempotent(running):
    request = dict(prompt=PROMPT, max_tokens=12, temperature=0.8, seed=5)
    with Client(running.endpoint) as client, Client(running.endpoint) as other:
        first = client.generate(request_id="same", **request)
        again = client.generate(request_id="same", **request)
        elsewhere = other.generate(request_id="same", **request)
        for answer in (again, elsewhere):
            assert (answer.token_ids, answer.text, answer.done) == (first.token_ids, first.text, first.done)
        refused(echelon.InvalidArgument, lambda: client.generate(request_id="same", prompt="another"))
        # While it still runs: the second submission takes the stream over, from its start.
        stream = client.stream(request_id="long", prompt=PROMPT, max_tokens=40, temperature=0, ignore_eos=True)
        assert isinstance(next(stream), Accepted) and isinstance(next(stream), Tokens)
        whole = other.generate(request_id="long", prompt=PROMPT, max_tokens=40, temperature=0, ignore_eos=True)
        assert len(whole.token_ids) == 40
        assert client.generate(prompt=PROMPT, max_tokens=40, temperature=0, ignore_eos=True).token_ids == whole.token_ids


def test_resume_after_a_break(running):
    request = dict(prompt=PROMPT, max_tokens=48, temperature=0.7, seed=11, ignore_eos=True, logprobs=1)
    with Client(running.endpoint) as client:
        whole = client.generate(**request)
    ids, text, rows = [], "", []
    first = Client(running.endpoint)
    stream = first.stream(request_id="broken", **request)
    for event in stream:
        if isinstance(event, Tokens):
            ids, text, rows = ids + event.token_ids, text + event.text, rows + event.logprobs
            if len(ids) >= 5:
                break
    first.close()  # gone without a word
    with Client(running.endpoint) as second:
        rest = second.resume("broken", len(ids)).collect()
        assert ids + rest.token_ids == whole.token_ids
        assert text + rest.text == whole.text
        assert rows + rest.logprobs == whole.logprobs
        # Any index of the log may be asked for, also after the end; past it is an error that says so.
        assert second.resume("broken", 0).collect().token_ids == whole.token_ids
        assert second.resume("broken", 48).collect().token_ids == []
        refused(echelon.InvalidArgument, lambda: second.resume("broken", 49).collect(), "seq", ["48"])
        refused(echelon.NotFound, lambda: second.resume("never-seen", 0).collect())


def test_the_client_reopens_a_broken_connection(running):
    with Client(running.endpoint) as client:
        whole = client.generate(prompt=PROMPT, max_tokens=32, temperature=0, ignore_eos=True)
        ids, broken = [], False
        for event in client.stream(prompt=PROMPT, max_tokens=32, temperature=0, ignore_eos=True):
            if isinstance(event, Tokens):
                ids += event.token_ids
                if not broken and len(ids) >= 4:
                    broken = True
                    client._reopen()
        assert broken and ids == whole.token_ids


def test_cancel(running):
    with Client(running.endpoint) as client, Client(running.endpoint) as other:
        stream = client.stream(request_id="mine", prompt=PROMPT, max_tokens=2000, ignore_eos=True)
        assert isinstance(next(stream), Accepted)
        count = len(next(stream).token_ids)
        # Another connection has no right to it.
        theirs = Stream(other, other._core.resume("mine", 0))
        other._core.outbox.clear()  # it knows the id, but has not taken the stream over
        theirs.cancel()
        refused(echelon.NotFound, lambda: next(theirs))
        stream.cancel()
        for event in stream:
            count += len(event.token_ids) if isinstance(event, Tokens) else 0
        assert event.finish_reason == "cancelled" and event.seq == count < 2000
        refused(echelon.NotFound, lambda: client.resume("unknown", 0).collect())
    ended(running)


def test_deadline(running):
    with Client(running.endpoint) as client:
        started = time.monotonic()
        refused(echelon.DeadlineExceeded, lambda: client.generate(prompt=PROMPT, max_tokens=4000, ignore_eos=True, deadline_ms=400))
        assert 0.3 < time.monotonic() - started < 5
    ended(running)


def test_chat_stop_and_logprobs(running):
    with Client(running.endpoint) as client:
        question = [{"role": "user", "content": "Name three uses of a ladder."}]
        answer = client.generate(messages=question, temperature=0, max_tokens=32, logprobs=True, top_logprobs=3)
        assert len(answer.text.split()) > 5 and len(answer.logprobs) == len(answer.token_ids)
        for row, chosen in zip(answer.logprobs, answer.token_ids):
            values = [entry.logprob for entry in row[:3]]
            assert values == sorted(values, reverse=True) and row[0].id == chosen, (row, chosen)  # greedy: the best one
        # A stop text across token borders: nothing of it is shown, the rest is unchanged.
        cut = len(answer.text) // 2
        stop = answer.text[cut:cut + 9]
        stopped = client.generate(messages=question, temperature=0, max_tokens=32, stop=stop)
        assert stopped.text == answer.text[:answer.text.index(stop)] and stopped.done.finish_reason == "stop", (stop, stopped)
        whole = client.generate(messages=question, temperature=0, max_tokens=32, stream=False)
        assert whole.text == answer.text
        scored = client.generate(prompt=whole.done.prompt_ids, max_tokens=0, prompt_logprobs=0)
        assert scored.token_ids == [] and scored.done.prompt_logprobs[0] is None
        assert [row[0].id for row in scored.done.prompt_logprobs[1:]] == whole.done.prompt_ids[1:]


def test_bad_input_names_field_and_limit(running):
    with Client(running.endpoint) as client:
        def bad(field, *words, kind=echelon.InvalidArgument, **fields):
            body = {"prompt": "x", "max_tokens": 1, **fields}
            body = {name: value for name, value in body.items() if value is not ...}
            stream = Stream(client, client._core.submit(body, ""))
            client._send()
            refused(kind, lambda: next(stream), field, words)

        bad("prompt", prompt=...)
        bad("prompt", prompt="")
        bad("prompt", prompt=[])
        bad("prompt", prompt=7)
        bad("prompt", "49151", prompt=[49152])
        bad("prompt", prompt=[-1])
        bad("prompt", messages=[{"role": "user", "content": "x"}])
        bad("messages[0].content", prompt=..., messages=[{"role": "user"}])
        bad("prompt", str(CONTEXT), prompt=[1] * (CONTEXT + 1))
        bad("max_tokens", "-1", max_tokens=-1)
        bad("max_tokens", max_tokens=1.5)
        bad("max_tokens", max_tokens="many")
        bad("temperature", "100", temperature=101)
        bad("temperature", temperature=-0.1)
        bad("temperature", temperature="hot")
        bad("top_p", "1", top_p=0)
        bad("top_k", top_k=-2)
        bad("min_p", min_p=2)
        bad("repetition_penalty", repetition_penalty=0)
        bad("presence_penalty", presence_penalty=-101)
        bad("seed", seed=-1)
        bad("stop", "16", stop=["x"] * 17)
        bad("stop", "256", stop="x" * 257)
        bad("stop_token_ids", "64", stop_token_ids=[1] * 65)
        bad("logit_bias", logit_bias={"x": 1})
        bad("logit_bias", "100", logit_bias={"1": 101})
        bad("logprobs", "20", logprobs=21)
        bad("prompt_logprobs", "20", prompt_logprobs=21)
        bad("n", n=2)
        bad("deadline_ms", deadline_ms=0)
        bad("ignore_eos", ignore_eos="yes")
        assert client.generate(prompt="x", max_tokens=1).done.seq == 1  # the connection is as good as before


GOOD = [b"echelon/1", b"submit", b"id", b'{"prompt":"x","max_tokens":1}']
EXTREMES = [-1, 2**31 - 1, 2**31, -2**31, 2**53, 2**63 - 1, 2**63, -2**63, 2**64, 1e308, -0.0, 1.5]


def hostile_messages():
    """What no honest client sends: each part missing, truncated, of another version or kind, and numbers at every limit."""
    yield from ([b"x"] * count for count in range(1, 33) if count != 4)
    yield from (GOOD[:count] for count in range(1, 4))
    for part, whole in enumerate(GOOD):
        for length in range(len(whole)):
            if part != 2 or length == 0:  # a shorter id is as good as the whole one
                yield [*GOOD[:part], whole[:length], *GOOD[part + 1:]]
    for version in (b"echelon/0", b"echelon/2", b"echelon/11", b"ECHELON/1", b"echelon/1\0"):
        yield [version, *GOOD[1:]]
    for kind in (b"explode", b"accepted", b"done", b"\xff\x00", b"submit "):
        yield [GOOD[0], kind, *GOOD[2:]]
    for request_id in (b"a b", b"x" * 65, b"\xff", b"\0", b"../../etc", b'"'):
        yield [*GOOD[:2], request_id, GOOD[3]]
    for body in (b"", b"{", b"[]", b"null", b"7", b"\xff\xfe", b'{"prompt":"a","prompt":"b"}', b'{"prompt":"\xff"}',
                 b'{"prompt":"x","temperature":NaN}', b'{"prompt":"x","temperature":1e999}', b"[" * 100_000,
                 b'{"a":' * 1000 + b"1" + b"}" * 1000, b'{"prompt":"\\ud800"}'):
        yield [*GOOD[:3], body]
    for field in ("max_tokens", "seed", "top_k", "n", "logprobs", "prompt_logprobs", "deadline_ms", "top_p", "min_p"):
        for value in EXTREMES:
            yield [*GOOD[:2], b"extreme", json.dumps({"prompt": [], field: value}).encode()]  # refused for its prompt at the latest
    for value in EXTREMES:
        yield [GOOD[0], b"resume", b"id", json.dumps({"seq": value}).encode()]
        yield [*GOOD[:3], json.dumps({"prompt": [value]}).encode()] if value not in (-0.0,) else [*GOOD[:3], b"{}"]
    yield [GOOD[0], b"resume", b"id", b"{}"]
    yield [GOOD[0], b"cancel", b"id", b"{}"]


class Witness:
    """Another client's stream, which must notice nothing of what happens beside it."""

    def __init__(self, running):
        self.client = Client(running.endpoint)
        self.stream = self.client.stream(prompt=PROMPT, max_tokens=40, temperature=0, ignore_eos=True)
        next(self.stream)

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        if kind is None:
            assert len(self.stream.collect().token_ids) == 40
            assert self.client.status().state == "ready"
        self.client.close()


def dealer(running):
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(running.endpoint)
    return socket


def test_malformed_frames_harm_nobody(running):
    with Witness(running):
        hostile, codes, sent = dealer(running), set(), 0
        for parts in hostile_messages():
            hostile.send_multipart(parts)
            sent += 1
            while hostile.poll(0):
                codes.add(error_code(hostile))
        while hostile.poll(1500):
            codes.add(error_code(hostile))
        hostile.close()
        assert sent > 200 and codes <= {"invalid_argument", "not_found", "unsupported"} and "invalid_argument" in codes, codes
    ended(running)


def error_code(socket):
    answer = socket.recv_multipart()
    assert answer[:2] == [b"echelon/1", b"error"], answer
    body = json.loads(answer[3])
    assert body["message"] and not body["retryable"], body
    return body["code"]


def test_an_oversized_message_drops_only_its_sender(running):
    with Witness(running):
        for size in (5 << 20, 64 << 20):
            hostile = dealer(running)
            hostile.send_multipart([*GOOD[:3], b" " * size])
            assert not hostile.poll(500) or hostile.recv_multipart()[1] == b"error"
            hostile.close()


def test_raw_bytes_harm_nobody(running):
    """Peers that do not speak ZeroMQ, speak half of it, or never finish their handshake."""
    host, port = running.endpoint[len("tcp://"):].rsplit(":", 1)
    greeting = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    with Witness(running):
        held = []
        for data in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 64, greeting[:10], greeting, greeting + b"\xff" * 4096,
                     greeting + b"\x04\x26\x05READY" + b"\xff" * 32):
            peer = socket_module.create_connection((host.strip("[]"), int(port)), timeout=5)
            try:
                peer.sendall(data)
            except OSError:
                pass  # it hung up on us already
            held.append(peer)
        time.sleep(0.5)
    for peer in held:
        peer.close()


def test_a_flood_of_cancels_harms_nobody(running):
    with Witness(running):
        hostile = dealer(running)
        for i in range(20_000):
            hostile.send_multipart([b"echelon/1", b"cancel", b"nothing", b"{}"])
        hostile.close()


def test_a_slow_reader_slows_nobody(running):
    """One client asks for much and reads nothing; another's requests are as fast as ever, and in the end the first gets all."""
    with Client(running.endpoint) as quick:
        quick.generate(prompt=PROMPT, max_tokens=24, temperature=0, ignore_eos=True)
        slow = Client(running.endpoint)
        streams = [slow.stream(prompt=PROMPT, max_tokens=200, temperature=0, ignore_eos=True, logprobs=20) for _ in range(4)]
        for _ in range(3):
            assert len(quick.generate(prompt=PROMPT, max_tokens=24, temperature=0, ignore_eos=True).token_ids) == 24
        time.sleep(1)
        answers = [stream.collect() for stream in streams]
        assert all(len(answer.token_ids) == len(answer.logprobs) == 200 for answer in answers)
        assert all(answer.token_ids == answers[0].token_ids for answer in answers)
        slow.close()
    ended(running)


def test_the_readme_of_the_python_client(running):
    """Its examples, as they stand there."""
    text = (TESTS.parent / "client" / "python" / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2 and all("tcp://127.0.0.1:5760" in block for block in blocks)
    for block in blocks:
        code = block.replace("tcp://127.0.0.1:5760", running.endpoint)
        subprocess.run([sys.executable, "-B", "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL,
                       env={**os.environ, "PYTHONPATH": str(TESTS.parent / "client" / "python")})


def test_speculation_changes_speed_alone(running):
    """Two ranks, several streams at once: the same tokens, log-probabilities, texts and ends with and without guessing."""
    story = "The wind rose. The wind fell. The wind rose. The wind fell. The wind rose."
    requests = [dict(prompt=story, temperature=0, max_tokens=60, ignore_eos=True, logprobs=2), dict(prompt=story, temperature=0.7, seed=3, max_tokens=60),
                dict(prompt=story, temperature=0, max_tokens=60, stop=["rose. The wind fell."]), dict(prompt=story, max_tokens=1, temperature=0),
                dict(prompt=story, temperature=0, max_tokens=40, repetition_penalty=1.2), dict(prompt=story, temperature=0, max_tokens=33, stream=False)]
    with Client(running.endpoint) as client:
        answers = {}
        for speculation in ("off", "prompt_lookup"):
            streams = [client.stream(speculation=speculation, **request) for request in requests]
            answers[speculation] = [stream.collect() for stream in streams]
        for plain, guessed in zip(answers["off"], answers["prompt_lookup"]):
            assert (guessed.token_ids, guessed.text, guessed.logprobs) == (plain.token_ids, plain.text, plain.logprobs)
            assert guessed.done.finish_reason == plain.done.finish_reason
        drafts = [(answer.done.timings.tokens_drafted, answer.done.timings.drafts_accepted) for answer in answers["prompt_lookup"]]
        print(f"     drafted and accepted: {drafts}")
        assert drafts[0][1] > 20 and drafts[2][1] > 0 and drafts[5][1] > 0, drafts
        assert drafts[3] == drafts[4] == (0, 0), "one token leaves nothing to guess, and penalties forbid it"
        assert all(answer.done.timings.tokens_drafted == 0 for answer in answers["off"])
    ended(running)


def test_a_full_queue_answers_at_once(_):
    """A service of its own: one sequence at a time, two may wait."""
    limits = {"scheduler.queue_requests_max": 2, "scheduler.sequences_max": 1}
    with service.Service({"model.path": service.SMOL, **limits}) as small, Client(small.endpoint) as client:
        streams = [client.stream(prompt=PROMPT, max_tokens=300, ignore_eos=True) for _ in range(6)]
        errors = []
        for stream in streams:
            started = time.monotonic()
            try:
                assert isinstance(next(stream), Accepted)
            except echelon.ResourceExhausted as error:
                errors.append(error)
                assert error.retryable and error.retry_after_ms > 0, vars(error)
                assert time.monotonic() - started < 2
        assert 3 <= len(errors) <= 4, errors  # one may have begun to run before the last came
        for stream in streams:
            stream.cancel()
        ended(small)


async def hammer(endpoint, expected):
    """The 32 clients of the concurrency case live in one event loop."""
    import random
    chance = random.Random(2024)
    outcomes = {"whole": 0, "cancelled": 0}

    async def one_client(number, requests):
        async with AsyncClient(endpoint, connect_timeout_s=30) as client:
            for _ in range(requests):
                request, whole = chance.choice(expected)
                cancel_after = chance.choice([None, None, None, 0, 1, 3, 7])
                stream = await client.stream(**request)
                ids, text = [], ""
                async for event in stream:
                    if isinstance(event, Tokens):
                        ids, text = ids + event.token_ids, text + event.text
                    if isinstance(event, Done):
                        text += event.text
                        reason = event.finish_reason
                    elif cancel_after is not None and len(ids) >= cancel_after:
                        cancel_after = None
                        await stream.cancel()
                if reason == "cancelled":
                    outcomes["cancelled"] += 1
                    assert whole.token_ids[:len(ids)] == ids and whole.text.startswith(text.rstrip("\ufffd")), (ids, whole.token_ids)
                else:
                    outcomes["whole"] += 1
                    assert (ids, text, reason) == (whole.token_ids, whole.text, whole.done.finish_reason), (ids, whole.token_ids)

    counts = [200 // 32 + (1 if i < 200 % 32 else 0) for i in range(32)]
    await asyncio.gather(*(one_client(i, count) for i, count in enumerate(counts)))
    return outcomes


def test_200_requests_from_32_clients_with_random_cancels(running):
    """Every stream equals the same request's answer when it was alone, bit for bit; a cancelled one is its beginning."""
    requests = [dict(prompt=prompt, max_tokens=length, temperature=temperature, seed=seed, ignore_eos=ignore)
                for prompt, length, temperature, seed, ignore in [
                    (PROMPT, 24, 0, 1, True), (PROMPT, 16, 1.0, 2, True), ("def fibonacci(n):\n", 20, 0, 3, False),
                    ("The capital of France is", 8, 0.7, 4, False), ("1 2 3 4 5 6 7", 12, 0, 5, True),
                    ("Wände, 漢字 and 🦜:", 16, 1.2, 6, True), ("a " * 150, 10, 0, 7, True), ("Dear", 1, 0, 8, True)]]
    with Client(running.endpoint) as client:
        expected = [(request, client.generate(**request)) for request in requests]
    started = time.monotonic()
    outcomes = asyncio.run(asyncio.wait_for(hammer(running.endpoint, expected), 300))
    print(f"     {outcomes} in {time.monotonic() - started:.1f} s")
    assert sum(outcomes.values()) == 200 and min(outcomes.values()) >= 20
    ended(running)


if __name__ == "__main__":
    service.run_cases(globals(), sys.argv[1:])
