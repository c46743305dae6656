"""The asyncio client."""
from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, AsyncIterator, Deque, Dict, Optional, Type, Union

import collections

import zmq
import zmq.asyncio

from ._core import Collector, Core, Options, build_request, encode
from .errors import EchelonError, Unavailable
from .types import Completion, Done, Event, Request, Status

_POLL_S = 0.1
# Events that nobody took yet, all streams together. Above it nothing more is read: the service holds
# what is left in its token log. One stream that is never read can so stop its connection's others.
_BUFFERED_MAX = 65_536


class AsyncStream(AsyncIterator[Event]):
    """The events of one request, in order; ends after Done. An error of the request is raised."""

    def __init__(self, client: "AsyncClient", request_id: str) -> None:
        self.id = request_id
        self._client = client
        self._ended = False

    def __aiter__(self) -> "AsyncStream":
        return self

    async def __anext__(self) -> Event:
        if self._ended:
            raise StopAsyncIteration
        try:
            event = await self._client._next(self.id)
        except EchelonError:
            self._ended = True
            raise
        self._ended = isinstance(event, Done)
        return event

    async def cancel(self) -> None:
        """The stream ends with Done, finish_reason "cancelled"."""
        self._client._core.cancel(self.id)
        await self._client._send()

    async def collect(self) -> Completion:
        """Reads the rest."""
        collector = Collector()
        async for event in self:
            completion = collector.add(event)
            if completion is not None:
                return completion
        raise AssertionError("a stream ends with Done or an error")


class AsyncClient:
    """One connection, any number of streams on it. For one event loop; `async with` opens and closes it."""

    def __init__(self, endpoint: str = "tcp://127.0.0.1:5760", *, connect_timeout_s: float = 5.0, silence_s: float = 5.0,
                 give_up_after_s: float = 30.0) -> None:
        self.endpoint = endpoint
        self._core = Core(Options(connect_timeout_s, silence_s, give_up_after_s))
        self._context: Optional[zmq.asyncio.Context] = None
        self._socket: Optional[zmq.asyncio.Socket] = None
        self._reader: Optional["asyncio.Task[None]"] = None
        self._waiting: Dict[str, Deque[Union[Event, Status, EchelonError]]] = collections.defaultdict(collections.deque)
        self._buffered = 0
        self._failure: Optional[EchelonError] = None  # of the connection: every waiting call raises it
        self._arrived: Optional[asyncio.Condition] = None

    async def __aenter__(self) -> "AsyncClient":
        self._arrived = asyncio.Condition()
        self._context = zmq.asyncio.Context()
        self._open()
        self._reader = asyncio.create_task(self._read())
        try:
            await self.ping(self._core.options.connect_timeout_s)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                        trace: Optional[TracebackType]) -> None:
        await self.close()

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            self._reader = None
        self._close_sockets()
        if self._context is not None:
            self._context.term()
            self._context = None

    async def stream(self, request: Optional[Request] = None, *, request_id: str = "", **fields: Any) -> AsyncStream:
        """Submits; `fields` are those of Request. The same id again starts the stream from its beginning."""
        self._waiting.pop(request_id, None)
        request_id = self._core.submit(build_request(request, fields), request_id)
        await self._send()
        return AsyncStream(self, request_id)

    async def generate(self, request: Optional[Request] = None, *, request_id: str = "", **fields: Any) -> Completion:
        return await (await self.stream(request, request_id=request_id, **fields)).collect()

    async def resume(self, request_id: str, seq: int) -> AsyncStream:
        """The stream of a request that another connection submitted, from token `seq` on."""
        self._waiting.pop(request_id, None)
        self._core.resume(request_id, seq)
        await self._send()
        return AsyncStream(self, request_id)

    async def status(self, timeout_s: float = 5.0) -> Status:
        self._core.ask_status()
        await self._send()
        await self._wait(lambda: bool(self._waiting[""]), timeout_s)
        answer = self._waiting[""].popleft()
        if isinstance(answer, EchelonError):
            raise answer
        assert isinstance(answer, Status)
        return answer

    async def ping(self, timeout_s: float = 5.0) -> None:
        before = self._core.pongs
        self._core.ping()
        await self._send()
        await self._wait(lambda: self._core.pongs > before, timeout_s)

    async def _wait(self, condition: Any, timeout_s: Optional[float]) -> None:
        assert self._arrived is not None
        async with self._arrived:
            try:
                await asyncio.wait_for(self._arrived.wait_for(lambda: condition() or self._failure is not None), timeout_s)
            except asyncio.TimeoutError:
                self._core.status_wanted = 0
                raise Unavailable(f"no answer from {self.endpoint} within {timeout_s:g} s; is the service running there?") \
                    from None
            if not condition() and self._failure is not None:
                raise self._failure

    async def _next(self, request_id: str) -> Event:
        await self._wait(lambda: bool(self._waiting[request_id]), None)
        arrival = self._waiting[request_id].popleft()
        self._buffered -= 1
        if isinstance(arrival, (Done, EchelonError)):
            del self._waiting[request_id]
        if isinstance(arrival, EchelonError):
            raise arrival
        assert not isinstance(arrival, Status)
        return arrival

    async def _read(self) -> None:
        assert self._arrived is not None
        try:
            while True:
                await self._pump()
        except EchelonError as error:
            async with self._arrived:
                self._failure = error
                self._arrived.notify_all()

    async def _pump(self) -> None:
        assert self._socket is not None and self._arrived is not None
        if self._buffered >= _BUFFERED_MAX:
            await asyncio.sleep(_POLL_S)
            return
        started = time.monotonic()
        ready = dict(await self._poller.poll(int(_POLL_S * 1000)))
        if self._socket in ready:
            arrivals = self._core.on_message(await self._socket.recv_multipart())
            async with self._arrived:
                for request_id, arrival in arrivals:
                    if arrival is not None:
                        self._waiting[request_id].append(arrival)
                        self._buffered += 1 if request_id else 0
                self._arrived.notify_all()
        elif self._monitor in ready:
            await self._monitor.recv_multipart()  # the connection broke
            await self._reopen()
        elif self._core.on_silence(time.monotonic() - started):
            await self._reopen()
        await self._send()

    async def _send(self) -> None:
        if self._failure is not None:
            raise self._failure
        while self._core.outbox and self._socket is not None:
            try:
                await self._socket.send_multipart(encode(self._core.outbox.pop(0)), zmq.DONTWAIT)
            except zmq.Again:
                raise Unavailable(f"the queue to {self.endpoint} is full; is the service running there?") from None

    def _open(self) -> None:
        assert self._context is not None
        socket = self._context.socket(zmq.DEALER)
        self._socket = socket
        socket.linger = 0
        socket.heartbeat_ivl, socket.heartbeat_timeout = 2000, 6000
        self._monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        socket.connect(self.endpoint)
        self._poller = zmq.asyncio.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)

    def _close_sockets(self) -> None:
        if self._socket is not None:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._socket.close()
            self._socket = None

    async def _reopen(self) -> None:
        """ZeroMQ would reconnect by itself, but the service would know us under a new name then."""
        self._close_sockets()
        await asyncio.sleep(_POLL_S)
        self._open()
        self._core.on_reopened()
