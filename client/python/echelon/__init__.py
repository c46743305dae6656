"""Client of the Echelon language model service. See docs/client-api.md for the protocol."""
from .aio import AsyncClient, AsyncStream
from .client import Client, Stream
from .errors import (Cancelled, DeadlineExceeded, EchelonError, InternalError, InvalidArgument, NotFound, ProtocolError,
                     ResourceExhausted, Unavailable, Unsupported)
from .types import (Accepted, Completion, Done, Event, Layout, Logprob, RankProgress, RankReport, Request, Status, Timings,
                    Tokens, Usage)

__all__ = [
    "Accepted", "AsyncClient", "AsyncStream", "Cancelled", "Client", "Completion", "DeadlineExceeded", "Done",
    "EchelonError", "Event", "InternalError", "InvalidArgument", "Layout", "Logprob", "NotFound", "ProtocolError",
    "RankProgress", "RankReport", "Request", "ResourceExhausted", "Status", "Stream", "Timings", "Tokens", "Unavailable",
    "Unsupported", "Usage",
]
__version__ = "0.1.0"
