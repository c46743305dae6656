"""Requests and events as dataclasses; their fields are those of docs/client-api.md."""
from __future__ import annotations

import dataclasses
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Union


@dataclasses.dataclass
class Request:
    """One of `prompt` (text or token ids) and `messages`; what is None is left to the service's defaults."""

    prompt: Union[str, Sequence[int], None] = None
    messages: Optional[Sequence[Mapping[str, str]]] = None
    max_tokens: Optional[int] = None
    temperature: Optional[float] = None
    top_p: Optional[float] = None
    top_k: Optional[int] = None
    min_p: Optional[float] = None
    repetition_penalty: Optional[float] = None
    presence_penalty: Optional[float] = None
    frequency_penalty: Optional[float] = None
    logit_bias: Optional[Mapping[str, float]] = None
    seed: Optional[int] = None
    stop: Union[str, Sequence[str], None] = None
    stop_token_ids: Optional[Sequence[int]] = None
    ignore_eos: Optional[bool] = None
    logprobs: Union[int, bool, None] = None  # chat: True, with top_logprobs
    top_logprobs: Optional[int] = None
    prompt_logprobs: Optional[int] = None
    deadline_ms: Optional[int] = None
    speculation: Optional[str] = None  # "off" or "prompt_lookup"
    stream: Optional[bool] = None

    def body(self) -> Dict[str, Any]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if value is not None}


class Logprob(NamedTuple):
    id: int
    logprob: float  # natural log; minus infinity where the token is impossible


LogprobRow = List[Logprob]


@dataclasses.dataclass
class Accepted:
    prompt_tokens: int
    seed: int
    model: str


@dataclasses.dataclass
class Tokens:
    seq: int  # index of the first token in the generated text
    token_ids: List[int]
    text: str
    logprobs: List[LogprobRow]  # one row per id, or empty


@dataclasses.dataclass
class Usage:
    prompt_tokens: int
    completion_tokens: int


@dataclasses.dataclass
class Timings:
    """Seconds; queue_s, ttft_s and total_s count from the receipt of the request."""

    queue_s: float
    ttft_s: float
    decode_tokens_per_s: float
    total_s: float
    tokens_drafted: int  # guessed by speculation
    drafts_accepted: int  # and right


@dataclasses.dataclass
class Layout:
    tp: int
    pp: int
    sp: int


@dataclasses.dataclass
class RankReport:
    rank: int
    host: str
    steps: int
    compute_s: float
    comm_hidden_s: float  # in flight while the rank computed
    comm_exposed_s: float  # the rank waited


@dataclasses.dataclass
class Done:
    seq: int  # tokens in all
    finish_reason: str  # stop | length | cancelled
    text: str  # what was still held back
    usage: Usage
    timings: Timings
    seed: int
    layout: Layout
    ranks: List[RankReport]
    prompt_ids: List[int]
    prompt_logprobs: List[Optional[LogprobRow]]  # the first one None; empty where not asked for


Event = Union[Accepted, Tokens, Done]


@dataclasses.dataclass
class Completion:
    """A whole answer."""

    accepted: Accepted
    token_ids: List[int]
    text: str
    logprobs: List[LogprobRow]
    done: Done


@dataclasses.dataclass
class RankProgress:
    rank: int
    host: str
    backend: str
    bytes_done: int
    bytes_total: int
    joined: bool
    ready: bool


@dataclasses.dataclass
class Status:
    state: str  # starting | loading | ready | relaunching | failed | stopped
    version: str
    model: str
    epoch: int
    layout: Layout
    schedule: str
    running: int
    waiting: int
    kv_pages_free: int
    kv_pages_total: int
    context_max: int
    message: str
    ranks: List[RankProgress]
