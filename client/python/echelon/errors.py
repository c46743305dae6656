"""What the service, or the way to it, can answer instead of a stream."""
from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Type


class EchelonError(Exception):
    """Every error of this package. `code` is one of docs/client-api.md."""

    code = "internal"

    def __init__(self, message: str, *, code: Optional[str] = None, param: Optional[str] = None, retryable: bool = False,
                 retry_after_ms: Optional[int] = None, rank: Optional[int] = None, host: Optional[str] = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.param = param  # the request's field that is wrong
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms
        self.rank = rank  # of the worker it happened on
        self.host = host

    def __str__(self) -> str:
        where = [text for text in (self.code, self.param and f"field {self.param}",
                                   self.rank is not None and f"rank {self.rank}", self.host and f"on {self.host}") if text]
        return f"{self.message} ({', '.join(where)})"


class InvalidArgument(EchelonError):
    code = "invalid_argument"


class NotFound(EchelonError):
    code = "not_found"


class Unsupported(EchelonError):
    code = "unsupported"


class ResourceExhausted(EchelonError):
    code = "resource_exhausted"


class Unavailable(EchelonError):
    """The worker group is down or starting, or the service does not answer at all."""
    code = "unavailable"


class DeadlineExceeded(EchelonError):
    code = "deadline_exceeded"


class Cancelled(EchelonError):
    code = "cancelled"


class InternalError(EchelonError):
    code = "internal"


class ProtocolError(EchelonError):
    """The other side does not speak docs/client-api.md."""
    code = "corrupt"


_BY_CODE: Dict[str, Type[EchelonError]] = {
    kind.code: kind for kind in (InvalidArgument, NotFound, Unsupported, ResourceExhausted, Unavailable, DeadlineExceeded,
                                 Cancelled, InternalError)
}


def error_from_body(body: Mapping[str, Any]) -> EchelonError:
    code = body.get("code", "internal")
    kind = _BY_CODE.get(code, EchelonError)
    return kind(body.get("message", ""), code=code, param=body.get("param"), retryable=bool(body.get("retryable", False)),
                retry_after_ms=body.get("retry_after_ms"), rank=body.get("rank"), host=body.get("host"))
