"""The blocking client."""
from __future__ import annotations

import collections
import contextlib
import threading
import time
from types import TracebackType
from typing import Any, Callable, Deque, Iterator, Optional, Type

import zmq

from ._connection import LAST_WORDS_MS, POLL_S, Connection
from ._core import Collector, Core, Options, StreamState, build_request
from .errors import DeadlineExceeded, EchelonError, Unavailable
from .types import Completion, Done, Event, Request, Status


class Stream(Iterator[Event]):
    """The events of one request, in order; ends after Done. An error of the request is raised.

    A stream that is left early is closed: by close(), at the end of a `with`, or when nobody holds it any more (as
    after `for event in client.stream(...): break`).
    """

    _ended = True  # until there is something to close

    def __init__(self, client: "Client", state: StreamState, timeout_s: Optional[float] = None) -> None:
        self.id = state.id
        self._client = client
        self._state = state
        self._timeout_s = timeout_s
        self._end_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._ended = False

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Event:
        if self._ended:
            raise StopIteration
        try:
            event = self._wait()
        except EchelonError:
            self._ended = True
            raise
        self._ended = isinstance(event, Done)
        return event

    def cancel(self) -> None:
        """The stream ends with Done, finish_reason "cancelled", after what was generated until then."""
        self._client._core.cancel(self._state)
        self._client._send()

    def close(self) -> None:
        """Gives the stream up: the request is cancelled where it still runs, and what came for it is dropped."""
        self._ended = True
        self._client._core.close(self._state)
        with contextlib.suppress(EchelonError):  # a connection on which nothing leaves: the service ends what nobody reads
            self._client._send()

    def collect(self) -> Completion:
        """Reads the rest."""
        collector = Collector()
        for event in self:
            completion = collector.add(event)
            if completion is not None:
                return completion
        raise ValueError(f"the stream of request {self.id} was read to its end or closed before")

    def _wait(self) -> Event:
        while not self._state.arrived:
            left = POLL_S if self._end_s is None else self._end_s - time.monotonic()
            if left <= 0:
                self.close()
                raise DeadlineExceeded(f"the answer was not complete within {self._timeout_s:g} s (timeout_s)")
            self._client._pump(min(left, POLL_S))
        return self._client._core.take(self._state)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._ended:
            self._client._abandon(self._state)


class Client:
    """One connection, any number of streams on it. For one thread at a time."""

    def __init__(self, endpoint: str = "tcp://127.0.0.1:5760", *, connect_timeout_s: float = 5.0, silence_s: float = 5.0,
                 give_up_after_s: float = 30.0) -> None:
        self.endpoint = endpoint
        self._core = Core(Options(connect_timeout_s, silence_s, give_up_after_s))
        self._thread = threading.get_ident()
        self._abandoned: Deque[StreamState] = collections.deque()
        self._connection: Optional[Connection] = Connection(endpoint, zmq.Context(), zmq.Poller)
        try:
            self._connection.open()
            self.ping(connect_timeout_s)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Streams that are still open go on in the service for its frontend.resume_ttl_ms: another client can resume() them."""
        if self._connection is None:
            return
        with contextlib.suppress(EchelonError):
            self._send()
        self._core.fail(Unavailable("this client is closed"))
        connection, self._connection = self._connection, None
        connection.close(LAST_WORDS_MS)
        connection.context.term()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

    def stream(self, request: Optional[Request] = None, *, request_id: str = "", timeout_s: Optional[float] = None,
               **fields: Any) -> Stream:
        """Submits; `fields` are those of Request. The same id again starts the stream from its beginning.

        An answer that is not complete after `timeout_s` is cancelled, and DeadlineExceeded raised.
        """
        self._need_open()
        stream = Stream(self, self._core.submit(build_request(request, fields), request_id), timeout_s)
        self._send()
        return stream

    def generate(self, request: Optional[Request] = None, *, request_id: str = "", timeout_s: Optional[float] = None,
                 **fields: Any) -> Completion:
        with self.stream(request, request_id=request_id, timeout_s=timeout_s, **fields) as stream:
            return stream.collect()

    def resume(self, request_id: str, seq: int) -> Stream:
        """The stream of a request that another connection submitted, from token `seq` on."""
        self._need_open()
        stream = Stream(self, self._core.resume(request_id, seq))
        self._send()
        return stream

    def status(self, timeout_s: float = 5.0) -> Status:
        self._need_open()
        self._core.ask_status()
        self._pump_until(lambda: bool(self._core.answers), timeout_s)
        answer = self._core.answers.popleft()
        if isinstance(answer, EchelonError):
            raise answer
        return answer

    def ping(self, timeout_s: float = 5.0) -> None:
        self._need_open()
        before = self._core.pongs
        self._core.ping()
        self._pump_until(lambda: self._core.pongs > before, timeout_s)

    def _pump_until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        self._send()
        end = time.monotonic() + timeout_s
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                self._core.status_wanted = 0
                raise Unavailable(f"no answer from {self.endpoint} within {timeout_s:g} s; is the service running there?")
            self._pump(min(left, POLL_S))

    def _pump(self, timeout_s: float) -> None:
        """One wait for a message, and what follows from it. An error here is the connection's, and everybody's."""
        connection = self._need_open()
        started = time.monotonic()
        try:
            if connection.socket is None:  # it could not be opened again
                self._reopen()
            ready = dict(connection.poller.poll(int(timeout_s * 1000)))
            if connection.socket in ready:
                self._core.on_message(connection.socket.recv_multipart())
            elif self._core.on_silence(time.monotonic() - started) or connection.monitor in ready:
                self._reopen()
            self._send()
        except Exception as error:
            raise self._core.fail(error) from None

    def _send(self) -> None:
        while self._abandoned:
            self._core.close(self._abandoned.popleft())
        while self._core.outbox and self._connection is not None and self._connection.socket is not None:
            message = self._core.outbox.popleft()
            try:
                self._connection.socket.send_multipart(message, zmq.DONTWAIT)
            except zmq.Again:
                raise Unavailable(f"the queue to {self.endpoint} is full; is the service running there?") from None

    def _abandon(self, state: StreamState) -> None:
        """For Stream.__del__, which runs anywhere: inside of any call here, or in a thread that collects garbage."""
        self._abandoned.append(state)
        if threading.get_ident() == self._thread:
            with contextlib.suppress(EchelonError):
                self._send()

    def _need_open(self) -> Connection:
        if self._connection is None:
            raise Unavailable("this client is closed")
        return self._connection

    def _reopen(self) -> None:
        """ZeroMQ would reconnect by itself, but the service would know us under a new name then."""
        connection = self._need_open()
        connection.close()
        time.sleep(POLL_S)
        connection.open()
        self._core.on_reopened(POLL_S)
