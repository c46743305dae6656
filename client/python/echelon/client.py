"""The blocking client."""
from __future__ import annotations

import collections
import time
from types import TracebackType
from typing import Any, Deque, Dict, Iterator, Optional, Type, Union

import zmq

from ._core import Collector, Core, Options, build_request, encode
from .errors import EchelonError, Unavailable
from .types import Completion, Done, Event, Request, Status

_POLL_S = 0.1


class Stream(Iterator[Event]):
    """The events of one request, in order; ends after Done. An error of the request is raised."""

    def __init__(self, client: "Client", request_id: str) -> None:
        self.id = request_id
        self._client = client
        self._ended = False

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Event:
        if self._ended:
            raise StopIteration
        try:
            event = self._client._next(self.id)
        except EchelonError:
            self._ended = True
            raise
        self._ended = isinstance(event, Done)
        return event

    def cancel(self) -> None:
        """The stream ends with Done, finish_reason "cancelled"."""
        self._client._core.cancel(self.id)
        self._client._send()

    def collect(self) -> Completion:
        """Reads the rest."""
        collector = Collector()
        for event in self:
            completion = collector.add(event)
            if completion is not None:
                return completion
        raise AssertionError("a stream ends with Done or an error")


class Client:
    """One connection, any number of streams on it. For one thread at a time."""

    def __init__(self, endpoint: str = "tcp://127.0.0.1:5760", *, connect_timeout_s: float = 5.0, silence_s: float = 5.0,
                 give_up_after_s: float = 30.0) -> None:
        self.endpoint = endpoint
        self._core = Core(Options(connect_timeout_s, silence_s, give_up_after_s))
        self._context = zmq.Context()
        self._waiting: Dict[str, Deque[Union[Event, Status, EchelonError]]] = collections.defaultdict(collections.deque)
        self._socket: Optional[zmq.Socket[bytes]] = None
        try:
            self._open()
            self.ping(connect_timeout_s)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._close_sockets()
        self._context.term()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

    def stream(self, request: Optional[Request] = None, *, request_id: str = "", **fields: Any) -> Stream:
        """Submits; `fields` are those of Request. The same id again starts the stream from its beginning."""
        self._waiting.pop(request_id, None)
        request_id = self._core.submit(build_request(request, fields), request_id)
        self._send()
        return Stream(self, request_id)

    def generate(self, request: Optional[Request] = None, *, request_id: str = "", **fields: Any) -> Completion:
        return self.stream(request, request_id=request_id, **fields).collect()

    def resume(self, request_id: str, seq: int) -> Stream:
        """The stream of a request that another connection submitted, from token `seq` on."""
        self._waiting.pop(request_id, None)
        self._core.resume(request_id, seq)
        self._send()
        return Stream(self, request_id)

    def status(self, timeout_s: float = 5.0) -> Status:
        self._core.ask_status()
        self._send()
        self._pump_until(lambda: bool(self._waiting[""]), timeout_s)
        answer = self._waiting[""].popleft()
        if isinstance(answer, EchelonError):
            raise answer
        assert isinstance(answer, Status)
        return answer

    def ping(self, timeout_s: float = 5.0) -> None:
        before = self._core.pongs
        self._core.ping()
        self._send()
        self._pump_until(lambda: self._core.pongs > before, timeout_s)

    def _pump_until(self, condition: Any, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                self._core.status_wanted = 0
                raise Unavailable(f"no answer from {self.endpoint} within {timeout_s:g} s; is the service running there?")
            self._pump(min(left, _POLL_S))

    def _next(self, request_id: str) -> Event:
        while not self._waiting[request_id]:
            self._pump(_POLL_S)
        arrival = self._waiting[request_id].popleft()
        if isinstance(arrival, (Done, EchelonError)):
            del self._waiting[request_id]
        if isinstance(arrival, EchelonError):
            raise arrival
        assert not isinstance(arrival, Status)
        return arrival

    def _pump(self, timeout_s: float) -> None:
        assert self._socket is not None
        started = time.monotonic()
        ready = dict(self._poller.poll(int(timeout_s * 1000)))
        if self._socket in ready:
            for request_id, arrival in self._core.on_message(self._socket.recv_multipart()):
                if arrival is not None:
                    self._waiting[request_id].append(arrival)
        elif self._monitor in ready:
            self._monitor.recv_multipart()  # the connection broke
            self._reopen()
        elif self._core.on_silence(time.monotonic() - started):
            self._reopen()
        self._send()

    def _send(self) -> None:
        assert self._socket is not None
        while self._core.outbox:
            try:
                self._socket.send_multipart(encode(self._core.outbox[0]), zmq.DONTWAIT)
            except zmq.Again:
                raise Unavailable(f"the queue to {self.endpoint} is full; is the service running there?") from None
            finally:
                self._core.outbox.pop(0)

    def _open(self) -> None:
        socket = self._context.socket(zmq.DEALER)
        self._socket = socket
        socket.linger = 0
        socket.heartbeat_ivl, socket.heartbeat_timeout = 2000, 6000
        self._monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        socket.connect(self.endpoint)
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)

    def _close_sockets(self) -> None:
        if self._socket is not None:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._socket.close()
            self._socket = None

    def _reopen(self) -> None:
        """ZeroMQ would reconnect by itself, but the service would know us under a new name then."""
        self._close_sockets()
        time.sleep(_POLL_S)
        self._open()
        self._core.on_reopened()
