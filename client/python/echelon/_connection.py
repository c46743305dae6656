"""The DEALER socket, and a monitor that tells when its connection broke."""
from __future__ import annotations

from typing import Any, Callable, Optional

import zmq

from .errors import InvalidArgument

POLL_S = 0.1  # one wait, and the pause before a new connection
# A cancel that was just sent may take so long to leave when the client is closed.
LAST_WORDS_MS = 200


class Connection:
    """`context` and `make_poller` are zmq's or zmq.asyncio's. open() and close() may alternate."""

    def __init__(self, endpoint: str, context: Any, make_poller: Callable[[], Any]) -> None:
        self.endpoint = endpoint
        self.context = context
        self.socket: Optional[Any] = None
        self.monitor: Optional[Any] = None
        self.poller: Any = make_poller()
        self._make_poller = make_poller

    def open(self) -> None:
        socket = self.context.socket(zmq.DEALER)
        socket.linger = 0
        socket.heartbeat_ivl, socket.heartbeat_timeout = 2000, 6000
        try:
            socket.connect(self.endpoint)
        except zmq.ZMQError as error:
            socket.close()
            raise InvalidArgument(f"cannot connect to {self.endpoint!r}: {error}; an endpoint looks like tcp://host:port or "
                                  "ipc:///path", param="endpoint") from None
        self.socket, self.monitor = socket, socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.poller = self._make_poller()
        self.poller.register(self.socket, zmq.POLLIN)
        self.poller.register(self.monitor, zmq.POLLIN)

    def close(self, linger_ms: int = 0) -> None:
        if self.socket is not None and self.monitor is not None:
            self.socket.disable_monitor()
            self.monitor.close(linger=0)
            self.socket.close(linger=linger_ms)
        self.socket = self.monitor = None
