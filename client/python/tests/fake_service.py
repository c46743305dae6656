"""A service in a thread that speaks docs/client-api.md: a token log per request, and faults on demand."""
import json
import threading
import time

import zmq

DONE = {"finish_reason": "stop", "text": "", "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
        "timings": {"queue_s": 0, "ttft_s": 0.5, "decode_tokens_per_s": 20, "total_s": 1}, "seed": 7,
        "layout": {"tp": 2, "pp": 1, "sp": 1}, "ranks": [{"rank": 0, "host": "h", "steps": 5, "compute_s": 0.5}],
        "prompt_ids": [1, 2, 3]}
STATUS = {"state": "ready", "version": "0.1.0", "model": "fake", "layout": {"tp": 2, "pp": 1, "sp": 1},
          "ranks": [{"rank": 0, "joined": True, "ready": True}], "a_newer_field": 1}


class FakeService:
    """Answers request r with tokens 100, 101, ... Faults: break the connections before a token once, leave one out once,
    at the first submits, leave a token out, refuse, stay silent after `accepted` or before it, send nonsense."""

    def __init__(self, tokens=5, break_before=None, skip=None, refuse=None, hold=False, always_skip=False, nonsense=False,
                 drop_submits=0, mute=False):
        self.tokens, self.break_before, self.skip = tokens, break_before, skip
        self.refuse, self.hold, self.always_skip, self.nonsense = refuse, hold, always_skip, nonsense
        self.drop_submits, self.mute = drop_submits, mute
        self.received = []
        self.bodies = {}
        self.context = zmq.Context()
        self.endpoint = "tcp://127.0.0.1:*"
        self._bind()
        self.endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *rest):
        self.stop()

    def stop(self):
        self.stopping.set()
        if self.thread.is_alive():
            self.thread.join()
        self.context.destroy(linger=0)

    def got(self, kind, within_s=5):
        """Whether a message of this type came, or comes soon."""
        end = time.monotonic() + within_s
        while kind not in [kind for kind, _, _ in self.received]:
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def _bind(self):
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.linger = 0
        for _ in range(200):  # the port of a socket that was just closed is free again after a moment
            try:
                return self.socket.bind(self.endpoint)
            except zmq.ZMQError:
                self.stopping.wait(0.01) if hasattr(self, "stopping") else None
        raise AssertionError("cannot bind again")

    def _break(self):
        self.socket.close()
        self._bind()

    def _run(self):
        while not self.stopping.is_set():
            if self.socket.poll(10):
                peer, version, kind, request_id, body = self.socket.recv_multipart()
                assert version == b"echelon/1"
                kind, request_id, body = kind.decode(), request_id.decode(), json.loads(body)
                self.received.append((kind, request_id, body))
                self._answer(peer, kind, request_id, body)
        self.socket.close()

    def _send(self, peer, kind, request_id, body):
        self.socket.send_multipart([peer, b"echelon/1", kind.encode(), request_id.encode(), json.dumps(body).encode()])

    def _answer(self, peer, kind, request_id, body):
        if kind == "ping":
            self._send(peer, "pong", "", {})
        elif kind == "status":
            self._send(peer, "status", "", STATUS)
        elif kind == "submit" and self.drop_submits > 0:
            self.drop_submits -= 1
            self._break()
        elif kind == "submit" and self.nonsense:
            self._send(peer, "accepted", request_id, {"prompt_tokens": 1})
        elif kind == "submit" and self.refuse:
            self._send(peer, "error", request_id, self.refuse)
        elif kind == "submit":
            if self.bodies.setdefault(request_id, body) != body:
                return self._error(peer, request_id, "invalid_argument", "this id has another body")
            if not self.mute:
                self._stream(peer, request_id, 0)
        elif request_id not in self.bodies:
            self._error(peer, request_id, "not_found", "no such request")
        elif kind == "cancel":
            self._send(peer, "done", request_id, {**DONE, "seq": 0, "finish_reason": "cancelled"})
        else:
            self._stream(peer, request_id, body["seq"])

    def _error(self, peer, request_id, code, message):
        self._send(peer, "error", request_id, {"code": code, "message": message, "param": None, "retryable": False})

    def _stream(self, peer, request_id, start):
        self._send(peer, "accepted", request_id, {"prompt_tokens": 3, "seed": 7, "model": "fake", "created": 0})
        if self.hold:
            return
        for i in range(start, self.tokens):
            if i == self.break_before:
                self.break_before = None
                return self._break()
            if i == self.skip:
                self.skip = self.skip if self.always_skip else None
                continue
            self._send(peer, "tokens", request_id, {"seq": i, "token_ids": [100 + i], "text": f"t{i} ",
                                                    "logprobs": [[{"id": 100 + i, "logprob": None if i == 1 else -0.5}]]})
        self._send(peer, "done", request_id, {**DONE, "seq": self.tokens})
