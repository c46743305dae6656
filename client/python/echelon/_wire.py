"""Messages to bytes and back: the four parts, and bodies as the dataclasses of types.py."""
from __future__ import annotations

import dataclasses
import json
from typing import Any, Dict, List, Tuple

from . import types
from .errors import ProtocolError

PROTOCOL = b"echelon/1"

Message = List[bytes]  # the four parts
Frame = Tuple[str, str, Dict[str, Any]]  # type, request id, body


def encode(kind: str, request_id: str, body: Dict[str, Any]) -> Message:
    return [PROTOCOL, kind.encode(), request_id.encode(), json.dumps(body, allow_nan=False).encode()]


def decode(parts: Message) -> Frame:
    if len(parts) != 4 or parts[0] != PROTOCOL:
        raise ProtocolError("an answer is not of protocol echelon/1; is that an Echelon service of this version?")
    try:
        body = json.loads(parts[3])
    except ValueError as error:
        raise ProtocolError(f"an answer is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise ProtocolError("an answer is not a JSON object")
    return parts[1].decode(errors="replace"), parts[2].decode(errors="replace"), body


def rows(value: Any) -> List[types.LogprobRow]:
    return [_row(row) for row in value or []]


def _row(row: Any) -> types.LogprobRow:
    return [types.Logprob(entry["id"], float("-inf") if entry["logprob"] is None else entry["logprob"]) for entry in row]


def pick(kind: Any, body: Dict[str, Any], **defaults: Any) -> Any:
    """The dataclass `kind` from the fields of the same names; newer fields are ignored."""
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{**defaults, **{name: value for name, value in body.items() if name in names}})


def done(body: Dict[str, Any]) -> types.Done:
    return types.Done(
        seq=body["seq"], finish_reason=body["finish_reason"], text=body["text"], usage=pick(types.Usage, body["usage"]),
        timings=pick(types.Timings, body["timings"], queue_s=0.0, ttft_s=0.0, decode_tokens_per_s=0.0, total_s=0.0,
                      tokens_drafted=0, drafts_accepted=0),
        seed=body["seed"], layout=pick(types.Layout, body["layout"]),
        ranks=[pick(types.RankReport, rank, host="", steps=0, compute_s=0.0, comm_hidden_s=0.0, comm_exposed_s=0.0)
               for rank in body.get("ranks") or []],
        prompt_ids=body.get("prompt_ids") or [],
        prompt_logprobs=[None if row is None else _row(row) for row in body.get("prompt_logprobs") or []])


def status(body: Dict[str, Any]) -> types.Status:
    progress = [pick(types.RankProgress, rank, host="", backend="", bytes_done=0, bytes_total=0, joined=False, ready=False)
             for rank in body.get("ranks") or []]
    answer: types.Status = pick(types.Status, {**body, "layout": pick(types.Layout, body["layout"]), "ranks": progress},
                                 version="", model="", epoch=0, schedule="", running=0, waiting=0, kv_pages_free=0,
                                 kv_pages_total=0, context_max=0, message="")
    return answer
