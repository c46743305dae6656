import asyncio
import gc

import pytest
from fake_service import FakeService

from echelon import Accepted, AsyncClient, Done, InternalError, NotFound, Tokens, Unavailable, _core


def run(body, **faults):
    async def main():
        with FakeService(**faults) as service:
            async with AsyncClient(service.endpoint, silence_s=0.1, give_up_after_s=0.6) as client:
                await body(service, client)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_many_requests_on_one_connection():
    async def body(service, client):
        answers = await asyncio.gather(*(client.generate(prompt=f"{i}") for i in range(20)))
        assert all(answer.token_ids == [100, 101, 102, 103, 104] for answer in answers)

    run(body)


def test_a_stream_gives_events_in_order():
    async def body(service, client):
        events = [event async for event in await client.stream(prompt="hi")]
        assert [type(event) for event in events] == [Accepted] + [Tokens] * 5 + [Done]

    run(body)


def test_a_broken_connection_resumes_where_it_stopped():
    async def body(service, client):
        answer = await client.generate(prompt="hi")
        assert answer.text == "t0 t1 t2 t3 t4 t5 t6 t7 "
        assert ("resume", {"seq": 3}) in [(kind, body) for kind, _, body in service.received]

    run(body, tokens=8, break_before=3)


def test_cancel_ends_the_stream():
    async def body(service, client):
        stream = await client.stream(prompt="hi")
        assert isinstance(await stream.__anext__(), Accepted)
        await stream.cancel()
        assert (await stream.collect()).done.finish_reason == "cancelled"

    run(body, hold=True)


async def cancelled(service, client):
    got = await asyncio.get_running_loop().run_in_executor(None, service.got, "cancel")
    return got and not client._core.streams


def test_a_cancelled_task_cancels_its_request():
    async def body(service, client):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.generate(prompt="hi"), 0.2)
        assert await cancelled(service, client)

    run(body, hold=True)


def test_a_stream_left_early_is_cancelled():
    async def body(service, client):
        async for event in await client.stream(prompt="hi"):
            assert isinstance(event, Accepted)
            break
        gc.collect()  # for Pythons that do not count references
        assert await cancelled(service, client)

    run(body, hold=True)


def test_closing_a_stream_cancels_it():
    async def body(service, client):
        async with await client.stream(prompt="hi") as stream:
            await stream.__anext__()
        assert await cancelled(service, client)
        assert [event async for event in stream] == []

    run(body, hold=True)


def test_streams_that_are_not_read_stop_no_other(monkeypatch):
    monkeypatch.setattr(_core, "UNREAD_MAX", 8)

    async def body(service, client):
        unread = [await client.stream(prompt=f"{i}") for i in range(5)]
        answer = await client.generate(prompt="read")
        assert len(answer.token_ids) == 50
        assert all(len(stream._state.arrived) <= 8 for stream in unread)
        for stream in unread:
            assert (await stream.collect()).token_ids == answer.token_ids

    run(body, tokens=50)


def test_any_failure_ends_those_who_wait_and_nobody_later():
    async def body(service, client):
        on_message, failures = client._core.on_message, [ValueError("an answer nobody foresaw")]

        def fail_once(parts):
            if failures:
                raise failures.pop()
            on_message(parts)

        client._core.on_message = fail_once
        answers = await asyncio.gather(client.generate(prompt="a"), client.generate(prompt="b"), return_exceptions=True)
        assert all(isinstance(answer, InternalError) and "foresaw" in str(answer) for answer in answers), answers
        assert (await client.generate(prompt="c")).token_ids == [100, 101, 102, 103, 104]

    run(body)


def test_a_client_that_is_not_open_says_so():
    async def main():
        client = AsyncClient("tcp://127.0.0.1:1")
        with pytest.raises(Unavailable, match="async with"):
            await client.generate(prompt="hi")
        with FakeService(hold=True) as service:
            client = await AsyncClient(service.endpoint).open()
            waiting = asyncio.create_task(client.generate(prompt="hi"))
            await client.ping()
            await client.close()
            with pytest.raises(Unavailable, match="closed"):
                await waiting

    asyncio.run(asyncio.wait_for(main(), 20))


def test_errors_status_and_ping():
    async def body(service, client):
        await client.ping()
        assert (await client.status()).state == "ready"
        with pytest.raises(NotFound):
            await (await client.resume("never-seen", 0)).collect()

    run(body)


def test_a_service_that_dies_is_given_up():
    async def body(service, client):
        stream = await client.stream(prompt="hi")
        await stream.__anext__()
        await asyncio.get_running_loop().run_in_executor(None, service.stop)
        with pytest.raises(Unavailable):
            await stream.__anext__()

    run(body, hold=True)


def test_nobody_there():
    async def main():
        with pytest.raises(Unavailable):
            async with AsyncClient("tcp://127.0.0.1:1", connect_timeout_s=0.2):
                pass

    asyncio.run(main())
