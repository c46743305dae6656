"""The client API spoken straight over a ZeroMQ socket, by docs/client-api.md alone: no code of ours between test and service."""
import dataclasses
import json
import time

import zmq


@dataclasses.dataclass
class Answer:
    accepted: dict = None
    token_ids: list = dataclasses.field(default_factory=list)
    text: str = ""
    logprobs: list = dataclasses.field(default_factory=list)
    done: dict = None
    error: dict = None

    @property
    def ended(self):
        return self.done is not None or self.error is not None


class Connection:
    """One DEALER with any number of streams on it. Not for use by several threads."""

    def __init__(self, endpoint):
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(endpoint)
        self.answers = {}
        self.loose = []  # answers that belong to no stream: (type, body)

    def close(self):
        self.socket.close()

    def send(self, kind, request_id, body):
        self.socket.send_multipart([b"echelon/1", kind.encode(), request_id.encode(), json.dumps(body).encode()])

    def submit(self, request_id, **body):
        self.answers[request_id] = Answer()
        self.send("submit", request_id, body)

    def pump(self, timeout_s):
        """Takes one message; false when none came in time."""
        if not self.socket.poll(timeout_s * 1000):
            return False
        version, kind, request_id, body = self.socket.recv_multipart()
        assert version == b"echelon/1", version
        kind, body, answer = kind.decode(), json.loads(body), self.answers.get(request_id.decode())
        if answer is None:
            self.loose.append((kind, body))
        elif kind == "accepted":
            answer.accepted = body
        elif kind == "tokens":
            assert body["seq"] == len(answer.token_ids), f"{request_id}: seq {body['seq']}, {len(answer.token_ids)} tokens held"
            answer.token_ids += body["token_ids"]
            answer.text += body["text"]
            answer.logprobs += body.get("logprobs", [])
        elif kind == "done":
            assert body["seq"] == len(answer.token_ids), f"{request_id}: done at {body['seq']}, {len(answer.token_ids)} tokens held"
            answer.text += body.get("text", "")
            answer.done = body
        elif kind == "error":
            answer.error = body
        else:
            raise AssertionError(f"unexpected message type {kind}")
        return True

    def finish(self, request_ids=None, within_seconds=120):
        """Waits until the streams (default: all) ended."""
        end = time.monotonic() + within_seconds
        wanted = list(self.answers if request_ids is None else request_ids)
        while not all(self.answers[r].ended for r in wanted):
            left = end - time.monotonic()
            assert left > 0, f"not ended in {within_seconds} s: {[r for r in wanted if not self.answers[r].ended]}"
            self.pump(left)
        return [self.answers[r] for r in wanted]

    def ask(self, request_id, within_seconds=120, **body):
        self.submit(request_id, **body)
        return self.finish([request_id], within_seconds)[0]
