"""The asyncio client."""
from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from types import TracebackType
from typing import Any, AsyncIterator, Callable, Deque, Optional, Type

import zmq
import zmq.asyncio

from ._connection import LAST_WORDS_MS, POLL_S, Connection
from ._core import Collector, Core, Options, StreamState, build_request
from .errors import EchelonError, Unavailable
from .types import Completion, Done, Event, Request, Status


class AsyncStream(AsyncIterator[Event]):
    """The events of one request, in order; ends after Done. An error of the request is raised.

    A stream that is left early is closed: by aclose(), at the end of an `async with`, or soon after nobody holds it
    any more (as after `async for event in await client.stream(...): break`).
    """

    _ended = True  # until there is something to close

    def __init__(self, client: "AsyncClient", state: StreamState) -> None:
        self.id = state.id
        self._client = client
        self._state = state
        self._news = asyncio.Event()
        state.wake = self._news.set
        self._ended = False

    def __aiter__(self) -> "AsyncStream":
        return self

    async def __anext__(self) -> Event:
        if self._ended:
            raise StopAsyncIteration
        while not self._state.arrived:
            self._news.clear()
            await self._news.wait()
        try:
            event = self._client._core.take(self._state)
        except EchelonError:
            self._ended = True
            raise
        self._ended = isinstance(event, Done)
        return event

    async def cancel(self) -> None:
        """The stream ends with Done, finish_reason "cancelled", after what was generated until then."""
        self._client._core.cancel(self._state)
        await self._client._send()

    async def aclose(self) -> None:
        """Gives the stream up: the request is cancelled where it still runs, and what came for it is dropped."""
        self._ended = True
        self._client._core.close(self._state)
        with contextlib.suppress(EchelonError):  # a connection on which nothing leaves: the service ends what nobody reads
            await self._client._send()

    async def collect(self) -> Completion:
        """Reads the rest."""
        collector = Collector()
        async for event in self:
            completion = collector.add(event)
            if completion is not None:
                return completion
        raise ValueError(f"the stream of request {self.id} was read to its end or closed before")

    async def __aenter__(self) -> "AsyncStream":
        return self

    async def __aexit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                        trace: Optional[TracebackType]) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if not self._ended:  # the reader closes it: this may run in a thread that collects garbage
            self._client._abandoned.append(self._state)


class AsyncClient:
    """One connection, any number of streams on it. For one event loop; `async with`, or open() and close().

    When nothing is heard of the service for `give_up_after_s`, or anything else goes wrong with the connection, every
    open stream and call ends with that error; what is asked for afterwards goes over a new connection.
    """

    def __init__(self, endpoint: str = "tcp://127.0.0.1:5760", *, connect_timeout_s: float = 5.0, silence_s: float = 5.0,
                 give_up_after_s: float = 30.0) -> None:
        self.endpoint = endpoint
        self._core = Core(Options(connect_timeout_s, silence_s, give_up_after_s))
        self._connection: Optional[Connection] = None
        self._reader: Optional["asyncio.Task[None]"] = None
        self._news: Optional[asyncio.Event] = None  # for those who wait for a status or a pong
        self._abandoned: Deque[StreamState] = collections.deque()

    async def open(self) -> "AsyncClient":
        """Connects and waits until the service answers."""
        if self._connection is not None:
            return self
        self._news = asyncio.Event()
        self._connection = Connection(self.endpoint, zmq.asyncio.Context(), zmq.asyncio.Poller)
        try:
            self._connection.open()
            self._reader = asyncio.create_task(self._read())
            await self.ping(self._core.options.connect_timeout_s)
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Streams that are still open go on in the service for its frontend.resume_ttl_ms: another client can resume() them."""
        if self._connection is None:
            return
        with contextlib.suppress(EchelonError):
            await self._send()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            self._reader = None
        self._fail(Unavailable("this client is closed"))
        connection, self._connection = self._connection, None
        connection.close(LAST_WORDS_MS)
        await asyncio.get_running_loop().run_in_executor(None, connection.context.term)  # waits for the last words

    async def __aenter__(self) -> "AsyncClient":
        return await self.open()

    async def __aexit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                        trace: Optional[TracebackType]) -> None:
        await self.close()

    async def stream(self, request: Optional[Request] = None, *, request_id: str = "", **fields: Any) -> AsyncStream:
        """Submits; `fields` are those of Request. The same id again starts the stream from its beginning."""
        self._need_open()
        stream = AsyncStream(self, self._core.submit(build_request(request, fields), request_id))
        await self._send()
        return stream

    async def generate(self, request: Optional[Request] = None, *, request_id: str = "", **fields: Any) -> Completion:
        """The whole answer. Where the caller is cancelled (asyncio.wait_for), so is the request."""
        async with await self.stream(request, request_id=request_id, **fields) as stream:
            return await stream.collect()

    async def resume(self, request_id: str, seq: int) -> AsyncStream:
        """The stream of a request that another connection submitted, from token `seq` on."""
        self._need_open()
        stream = AsyncStream(self, self._core.resume(request_id, seq))
        await self._send()
        return stream

    async def status(self, timeout_s: float = 5.0) -> Status:
        self._need_open()
        self._core.ask_status()
        await self._wait(lambda: bool(self._core.answers), timeout_s)
        answer = self._core.answers.popleft()
        if isinstance(answer, EchelonError):
            raise answer
        return answer

    async def ping(self, timeout_s: float = 5.0) -> None:
        self._need_open()
        before = self._core.pongs
        self._core.ping()
        await self._wait(lambda: self._core.pongs > before, timeout_s)

    async def _wait(self, condition: Callable[[], bool], timeout_s: float) -> None:
        assert self._news is not None
        failures = self._core.failures
        await self._send()
        end = time.monotonic() + timeout_s
        while not condition():
            if self._core.failures > failures:
                assert self._core.failure is not None
                raise self._core.failure
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), end - time.monotonic())
            except asyncio.TimeoutError:
                self._core.status_wanted = 0
                raise Unavailable(f"no answer from {self.endpoint} within {timeout_s:g} s; is the service running there?") \
                    from None

    async def _read(self) -> None:
        """Until it is cancelled: whatever goes wrong ends those who wait now, and nobody later."""
        while True:
            try:
                await self._pump()
            except Exception as error:
                self._fail(error)
                with contextlib.suppress(EchelonError, zmq.ZMQError):  # the next turn tries again
                    await self._reopen()

    async def _pump(self) -> None:
        """One wait for a message, and what follows from it."""
        connection = self._need_open()
        started = time.monotonic()
        if connection.socket is None:
            await self._reopen()
        ready = dict(await connection.poller.poll(int(POLL_S * 1000)))
        if connection.socket in ready:
            self._core.on_message(await connection.socket.recv_multipart())
            self._tell()
        elif self._core.on_silence(time.monotonic() - started) or connection.monitor in ready:
            await self._reopen()
        await self._send()

    async def _send(self) -> None:
        while self._abandoned:
            self._core.close(self._abandoned.popleft())
        while self._core.outbox and self._connection is not None and self._connection.socket is not None:
            message = self._core.outbox.popleft()
            try:
                await self._connection.socket.send_multipart(message, zmq.DONTWAIT)
            except zmq.Again:
                raise Unavailable(f"the queue to {self.endpoint} is full; is the service running there?") from None

    def _fail(self, error: Exception) -> None:
        self._core.fail(error)
        self._tell()

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()

    def _need_open(self) -> Connection:
        if self._connection is None:
            raise Unavailable("this client is not open: use `async with AsyncClient(...) as client`, or await client.open()")
        return self._connection

    async def _reopen(self) -> None:
        """ZeroMQ would reconnect by itself, but the service would know us under a new name then."""
        connection = self._need_open()
        connection.close()
        await asyncio.sleep(POLL_S)
        connection.open()
        self._core.on_reopened(POLL_S)
