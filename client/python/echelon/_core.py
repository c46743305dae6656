"""The protocol without any input or output: frames in, events and frames out. Both clients drive it.

A stream is contiguous whatever happens below: what was already seen is dropped, a gap is closed by a
`resume`, and after a new connection every open stream is resumed (or submitted again, where the
service never said that it had it).
"""
from __future__ import annotations

import dataclasses
import json
import secrets
from typing import Any, Dict, List, Optional, Tuple, Union

from . import types
from .errors import EchelonError, ProtocolError, Unavailable, error_from_body

PROTOCOL = b"echelon/1"
RESYNCS_MAX = 3  # a gap that so many resumes do not close is an error

Frame = Tuple[str, str, Dict[str, Any]]  # type, request id, body
# The stream (or "" for status, pong and errors of no stream) and what came for it.
Arrival = Tuple[str, Union[types.Event, types.Status, EchelonError, None]]


@dataclasses.dataclass
class Options:
    connect_timeout_s: float = 5.0
    silence_s: float = 5.0  # nothing heard for so long while waiting: ask with a ping
    give_up_after_s: float = 30.0  # nothing heard for so long, pings included


def new_request_id() -> str:
    return "p-" + secrets.token_hex(16)


def encode(frame: Frame) -> List[bytes]:
    kind, request_id, body = frame
    return [PROTOCOL, kind.encode(), request_id.encode(), json.dumps(body, allow_nan=False).encode()]


def decode(parts: List[bytes]) -> Frame:
    if len(parts) != 4 or parts[0] != PROTOCOL:
        raise ProtocolError("an answer is not of protocol echelon/1; is that an Echelon service of this version?")
    try:
        body = json.loads(parts[3])
    except ValueError as error:
        raise ProtocolError(f"an answer is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise ProtocolError("an answer is not a JSON object")
    return parts[1].decode(errors="replace"), parts[2].decode(errors="replace"), body


def _rows(value: Any) -> List[types.LogprobRow]:
    return [_row(row) for row in value or []]


def _row(row: Any) -> types.LogprobRow:
    return [types.Logprob(entry["id"], float("-inf") if entry["logprob"] is None else entry["logprob"]) for entry in row]


def _pick(kind: Any, body: Dict[str, Any], **defaults: Any) -> Any:
    """The dataclass `kind` from the fields of the same names; newer fields are ignored."""
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{**defaults, **{name: value for name, value in body.items() if name in names}})


def _done(body: Dict[str, Any]) -> types.Done:
    return types.Done(
        seq=body["seq"], finish_reason=body["finish_reason"], text=body["text"], usage=_pick(types.Usage, body["usage"]),
        timings=_pick(types.Timings, body["timings"], queue_s=0.0, ttft_s=0.0, decode_tokens_per_s=0.0, total_s=0.0,
                      tokens_drafted=0, drafts_accepted=0),
        seed=body["seed"], layout=_pick(types.Layout, body["layout"]),
        ranks=[_pick(types.RankReport, rank, host="", steps=0, compute_s=0.0, comm_hidden_s=0.0, comm_exposed_s=0.0)
               for rank in body.get("ranks") or []],
        prompt_ids=body.get("prompt_ids") or [],
        prompt_logprobs=[None if row is None else _row(row) for row in body.get("prompt_logprobs") or []])


def _status(body: Dict[str, Any]) -> types.Status:
    ranks = [_pick(types.RankProgress, rank, host="", backend="", bytes_done=0, bytes_total=0, joined=False, ready=False)
             for rank in body.get("ranks") or []]
    status: types.Status = _pick(types.Status, {**body, "layout": _pick(types.Layout, body["layout"]), "ranks": ranks},
                                 version="", model="", epoch=0, schedule="", running=0, waiting=0, kv_pages_free=0,
                                 kv_pages_total=0, context_max=0, message="")
    return status


@dataclasses.dataclass
class _Stream:
    submitted: Optional[Dict[str, Any]]  # the body, until it was accepted
    next_seq: int = 0
    accepted: bool = False
    resyncing: bool = False
    cancelled: bool = False
    resyncs: int = 0  # without progress


class Core:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.outbox: List[Frame] = []  # to be sent, in order
        self.streams: Dict[str, _Stream] = {}
        self.status_wanted = 0
        self.pongs = 0
        self._silent_s = 0.0
        self._pings = 0

    # What the caller wants.

    def submit(self, body: Dict[str, Any], request_id: str) -> str:
        request_id = request_id or new_request_id()
        self.streams[request_id] = _Stream(body)
        self._silent_s = 0.0
        self.outbox.append(("submit", request_id, body))
        return request_id

    def resume(self, request_id: str, seq: int) -> None:
        self.streams[request_id] = _Stream(None, next_seq=seq)
        self._silent_s = 0.0
        self._resume(request_id)

    def cancel(self, request_id: str) -> None:
        if request_id in self.streams:
            self.streams[request_id].cancelled = True
        self.outbox.append(("cancel", request_id, {}))

    def ask_status(self) -> None:
        self.status_wanted += 1
        self.outbox.append(("status", "", {}))

    def ping(self) -> None:
        self.outbox.append(("ping", "", {}))

    # What the connection says.

    def on_reopened(self) -> None:
        """A new connection stands: everything the old one owed us is asked for again."""
        self.outbox.clear()
        for request_id, stream in self.streams.items():
            if stream.submitted is None:
                self._resume(request_id)
            else:
                self.outbox.append(("submit", request_id, stream.submitted))
            if stream.cancelled:
                self.outbox.append(("cancel", request_id, {}))
        self.outbox.extend([("status", "", {})] * self.status_wanted)

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

    def on_message(self, parts: List[bytes]) -> List[Arrival]:
        self._silent_s, self._pings = 0.0, 0
        kind, request_id, body = decode(parts)
        try:
            return self._on_frame(kind, request_id, body)
        except (KeyError, TypeError, AttributeError) as error:
            raise ProtocolError(f"a {kind} answer has a missing or wrong field: {error!r}") from None

    def _on_frame(self, kind: str, request_id: str, body: Dict[str, Any]) -> List[Arrival]:
        if kind == "pong":
            self.pongs += 1
            return [("", None)]
        if kind == "status":
            self.status_wanted = max(0, self.status_wanted - 1)
            return [("", _status(body))]
        if kind == "error":
            if request_id and self.streams.pop(request_id, None) is None:
                return []
            return [(request_id, error_from_body(body))]
        stream = self.streams.get(request_id)
        if stream is None:
            return []  # the tail of a stream nobody reads any more
        if kind == "accepted":
            first, stream.accepted, stream.submitted, stream.resyncing = not stream.accepted, True, None, False
            return [(request_id, _pick(types.Accepted, body, model=""))] if first else []
        if stream.resyncing:
            return []
        if kind == "tokens":
            return self._on_tokens(request_id, stream, body)
        if kind == "done":
            if body["seq"] != stream.next_seq:
                return self._resync(request_id, stream, body["seq"])
            del self.streams[request_id]
            return [(request_id, _done(body))]
        return []  # a type newer than this client

    def _on_tokens(self, request_id: str, stream: _Stream, body: Dict[str, Any]) -> List[Arrival]:
        tokens = types.Tokens(body["seq"], list(body["token_ids"]), body["text"], _rows(body.get("logprobs")))
        if tokens.seq == stream.next_seq:
            stream.next_seq += len(tokens.token_ids)
            stream.resyncs = 0
            return [(request_id, tokens)]
        if tokens.seq + len(tokens.token_ids) <= stream.next_seq:
            return []  # all of it is known already
        return self._resync(request_id, stream, tokens.seq)

    def _resync(self, request_id: str, stream: _Stream, seq: int) -> List[Arrival]:
        stream.resyncs += 1
        if stream.resyncs > RESYNCS_MAX:
            del self.streams[request_id]
            problem = f"stream {request_id} is out of order: token {stream.next_seq} is due and the service sends {seq}"
            return [(request_id, ProtocolError(problem))]
        self._resume(request_id)
        return []

    def _resume(self, request_id: str) -> None:
        stream = self.streams[request_id]
        stream.resyncing = True
        self.outbox.append(("resume", request_id, {"seq": stream.next_seq}))


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
