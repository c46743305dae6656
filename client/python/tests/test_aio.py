import asyncio

import pytest
from fake_service import FakeService

from echelon import Accepted, AsyncClient, Done, NotFound, Tokens, Unavailable


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
