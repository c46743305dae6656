"""The protocol without any input or output: messages in, events and messages out. Both clients drive it.

A stream is contiguous whatever happens below: what was already seen is dropped, a gap is closed by a
`resume`, and after a new connection every open stream is resumed (or submitted again, where the
service never said that it had it).
"""
from __future__ import annotations

import collections
import dataclasses
import re
import secrets
from typing import Any, Callable, Deque, Dict, List, Optional, Union

from . import _wire, types
from ._wire import Message, encode
from .errors import (Cancelled, EchelonError, InternalError, InvalidArgument, NotFound, ProtocolError, ResourceExhausted,
                     Unavailable, error_from_body)

RESYNCS_MAX = 3  # a gap that so many resumes do not close is an error
# Events of one stream that nobody took yet (some 500 bytes each). What comes above it is left in the service's log, and asked for
# when half of them are taken: a stream that is not read keeps neither memory nor its connection's other streams.
UNREAD_MAX = 65_536
# On a message above its frontend.message_bytes_max (4 MiB unless set) the service closes the connection without a word. A request
# of so many bytes that saw so many connections break is taken for one, and not sent again.
SUSPICIOUS_BYTES = 1 << 20
BREAKS_MAX = 3


@dataclasses.dataclass
class Options:
    connect_timeout_s: float = 5.0
    silence_s: float = 5.0  # nothing heard for so long while waiting: ask with a ping
    give_up_after_s: float = 30.0  # nothing heard for so long, pings included


def new_request_id() -> str:
    return "p-" + secrets.token_hex(16)


@dataclasses.dataclass(eq=False)
class StreamState:
    """One stream: what the service still owes us, and what came and was not taken."""

    id: str
    submitted: Optional[Message]  # until it was accepted
    next_seq: int = 0
    accepted: bool = False
    resyncing: bool = True  # until `accepted` answers a submit or a resume, what comes is old
    cancelled: bool = False
    held_back: bool = False  # UNREAD_MAX is reached
    resyncs: int = 0  # without progress
    breaks: int = 0  # of the connection, before it was accepted
    arrived: Deque[Union[types.Event, EchelonError]] = dataclasses.field(default_factory=collections.deque)
    wake: Callable[[], None] = lambda: None  # called when something arrived


class Core:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.outbox: Deque[Message] = collections.deque()  # to be sent, in order
        self.streams: Dict[str, StreamState] = {}  # those that the service has not ended
        self.answers: Deque[Union[types.Status, EchelonError]] = collections.deque()  # to `status`
        self.status_wanted = 0
        self.pongs = 0
        self.failures = 0  # of the connection
        self.failure: Optional[EchelonError] = None  # the last one
        self._silent_s = 0.0
        self._pings = 0

    # What the caller wants.

    def submit(self, body: Dict[str, Any], request_id: str) -> StreamState:
        request_id = request_id or new_request_id()
        _check_id(request_id)
        message = encode("submit", request_id, body)
        stream = self._open(StreamState(request_id, message))
        self.outbox.append(message)
        return stream

    def resume(self, request_id: str, seq: int) -> StreamState:
        _check_id(request_id)
        stream = self._open(StreamState(request_id, None, next_seq=seq))
        self._resume(stream)
        return stream

    def cancel(self, stream: StreamState) -> None:
        if self._is_open(stream):
            stream.cancelled = True
            self._send("cancel", stream.id, {})

    def close(self, stream: StreamState) -> None:
        """Nothing more of it is wanted: the request ends where it still runs, and what came is dropped."""
        if not stream.cancelled:
            self.cancel(stream)
        stream.arrived.clear()
        self._end(stream, Cancelled(f"the stream of request {stream.id} was closed"))

    def take(self, stream: StreamState) -> types.Event:
        """The next of what arrived; there must be something."""
        arrival = stream.arrived.popleft()
        if stream.held_back and len(stream.arrived) <= UNREAD_MAX // 2:
            stream.held_back = False
            if self._is_open(stream):
                self._resume(stream)
        if isinstance(arrival, EchelonError):
            raise arrival
        return arrival

    def ask_status(self) -> None:
        if self.status_wanted == 0:
            self.answers.clear()  # one that came too late
        self.status_wanted += 1
        self._send("status", "", {})

    def ping(self) -> None:
        self._send("ping", "", {})

    # What the connection says.

    def on_reopened(self, took_s: float) -> None:
        """A new connection stands: everything the old one owed us is asked for again."""
        self._silent_s += took_s
        self.outbox.clear()
        self.ping()  # for whoever waits for a pong
        for stream in list(self.streams.values()):
            if stream.submitted is None:
                self._resume(stream)
            elif not self._is_refused(stream, stream.submitted):
                self.outbox.append(stream.submitted)
            if stream.cancelled:
                self._send("cancel", stream.id, {})
        for _ in range(self.status_wanted):
            self._send("status", "", {})

    def on_silence(self, waited_s: float) -> bool:
        """Nothing came during a wait. True: open a new connection. Raises Unavailable in the end."""
        if not self.streams and not self.status_wanted:
            return False
        self._silent_s += waited_s
        if self._silent_s >= self.options.give_up_after_s:
            self._silent_s, self._pings = 0.0, 0
            raise Unavailable(f"nothing heard from the service for {self.options.give_up_after_s:g} s; is it still running?")
        if self._silent_s < self.options.silence_s * (self._pings + 1):
            return False
        self._pings += 1
        self.ping()
        return self._pings % 2 == 0  # the second unanswered ping in a row: this connection leads nowhere

    def on_message(self, parts: Message) -> None:
        self._silent_s, self._pings = 0.0, 0
        kind, request_id, body = _wire.decode(parts)
        try:
            self._on_frame(kind, request_id, body)
        except (KeyError, TypeError, AttributeError) as error:
            problem = ProtocolError(f"a {kind} answer has a missing or wrong field: {error!r}")
            stream = self.streams.get(request_id)
            if stream is None:
                raise problem from None
            self._give_up(stream, problem)

    def fail(self, error: Exception) -> EchelonError:
        """The connection's error is everybody's: every open stream ends with it. What the service has of them stays there."""
        failure = error if isinstance(error, EchelonError) else InternalError(f"the connection failed: {error!r}")
        for stream in list(self.streams.values()):
            self._end(stream, failure)
        self.status_wanted = 0
        self.failures += 1
        self.failure = failure
        return failure

    def _on_frame(self, kind: str, request_id: str, body: Dict[str, Any]) -> None:
        if kind == "pong":
            self.pongs += 1
            return
        if kind == "status":
            self._answer(_wire.status(body))
            return
        stream = self.streams.get(request_id)
        if kind == "error":
            self._on_error(request_id, stream, error_from_body(body))
        elif stream is None:
            return  # the tail of a stream nobody reads any more
        elif kind == "accepted":
            first, stream.accepted, stream.submitted, stream.resyncing = not stream.accepted, True, None, False
            if first:
                self._deliver(stream, _wire.pick(types.Accepted, body, model=""))
        elif stream.resyncing and not (kind == "done" and stream.cancelled and stream.submitted is not None):
            return  # but a request that was cancelled before it was accepted has only its `done`
        elif kind == "tokens":
            self._on_tokens(stream, body)
        elif kind == "done":
            if body["seq"] != stream.next_seq:
                self._resync(stream, body["seq"])
            else:
                self._end(stream, _wire.done(body))
        # else: a type newer than this client

    def _on_error(self, request_id: str, stream: Optional[StreamState], error: EchelonError) -> None:
        if not request_id:
            self._answer(error)
        elif stream is not None and not (stream.submitted is not None and isinstance(error, NotFound)):
            self._end(stream, error)
        # else: it answers the cancel of a stream that had just ended, perhaps an earlier one of this id

    def _on_tokens(self, stream: StreamState, body: Dict[str, Any]) -> None:
        tokens = types.Tokens(body["seq"], list(body["token_ids"]), body["text"], _wire.rows(body.get("logprobs")))
        if tokens.seq == stream.next_seq:
            stream.next_seq += len(tokens.token_ids)
            stream.resyncs = 0
            self._deliver(stream, tokens)
        elif tokens.seq + len(tokens.token_ids) > stream.next_seq:  # else all of it is known already
            self._resync(stream, tokens.seq)

    def _resync(self, stream: StreamState, seq: int) -> None:
        stream.resyncs += 1
        if stream.resyncs <= RESYNCS_MAX:
            self._resume(stream)
            return
        problem = f"stream {stream.id} is out of order: token {stream.next_seq} is due and the service sends {seq}"
        self._give_up(stream, ProtocolError(problem))

    def _is_refused(self, stream: StreamState, message: Message) -> bool:
        """Whether the service breaks the connection on this message, again and again."""
        stream.breaks += 1
        size = len(message[3])
        if size < SUSPICIOUS_BYTES or stream.breaks <= BREAKS_MAX:
            return False
        problem = f"the connection broke {stream.breaks} times on this request of {size} bytes: does frontend.message_bytes_max allow it?"
        self._end(stream, ResourceExhausted(problem))
        return True

    def _answer(self, answer: Union[types.Status, EchelonError]) -> None:
        if self.status_wanted > 0:
            self.status_wanted -= 1
            self.answers.append(answer)

    def _deliver(self, stream: StreamState, event: types.Event) -> None:
        stream.arrived.append(event)
        if len(stream.arrived) >= UNREAD_MAX:
            stream.held_back = stream.resyncing = True
        stream.wake()

    def _end(self, stream: StreamState, last: Union[types.Done, EchelonError]) -> None:
        if self._is_open(stream):
            del self.streams[stream.id]
        stream.arrived.append(last)
        stream.wake()

    def _give_up(self, stream: StreamState, error: EchelonError) -> None:
        self.cancel(stream)
        self._end(stream, error)

    def _open(self, stream: StreamState) -> StreamState:
        former = self.streams.get(stream.id)
        if former is not None:
            self._end(former, Cancelled(f"request {stream.id} was asked for again, and its stream goes there"))
        self.streams[stream.id] = stream
        self._silent_s = 0.0
        return stream

    def _is_open(self, stream: StreamState) -> bool:
        return self.streams.get(stream.id) is stream

    def _resume(self, stream: StreamState) -> None:
        stream.resyncing = True
        self._send("resume", stream.id, {"seq": stream.next_seq})

    def _send(self, kind: str, request_id: str, body: Dict[str, Any]) -> None:
        self.outbox.append(encode(kind, request_id, body))

def _check_id(request_id: str) -> None:
    # The service cannot name a request whose id is wrong in its answer, so that nobody would hear of it.
    if not re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", request_id):
        raise InvalidArgument(f"request id {request_id[:80]!r}: 1 to 64 of A-Z a-z 0-9 . _ : - are allowed", param="id")


class Collector:
    """Puts the events of one stream together."""

    def __init__(self) -> None:
        self.accepted = types.Accepted(0, 0, "")
        self.token_ids: List[int] = []
        self.text = ""
        self.logprobs: List[types.LogprobRow] = []

    def add(self, event: types.Event) -> Optional[types.Completion]:
        if isinstance(event, types.Accepted):
            self.accepted = event
            return None
        self.text += event.text
        if isinstance(event, types.Tokens):
            self.token_ids += event.token_ids
            self.logprobs += event.logprobs
            return None
        return types.Completion(self.accepted, self.token_ids, self.text, self.logprobs, event)


def build_request(request: Optional[types.Request], fields: Dict[str, Any]) -> Dict[str, Any]:
    if request is not None and fields:
        raise TypeError("give a Request or fields, not both")
    return (request or types.Request(**fields)).body()
