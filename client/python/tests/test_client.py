import gc
import math

import pytest
from fake_service import FakeService

from echelon import (Accepted, Cancelled, Client, DeadlineExceeded, Done, EchelonError, InvalidArgument, NotFound, ProtocolError,
                     ResourceExhausted, Tokens, Unavailable, _core)


def kinds(service):
    return [kind for kind, _, _ in service.received if kind != "ping"]


def check(answer, tokens):
    assert answer.token_ids == [100 + i for i in range(tokens)]
    assert answer.text == "".join(f"t{i} " for i in range(tokens))
    assert answer.done.finish_reason == "stop"


def test_a_stream_gives_events_in_order():
    with FakeService() as service, Client(service.endpoint) as client:
        events = list(client.stream(prompt="hi"))
        assert [type(event) for event in events] == [Accepted] + [Tokens] * 5 + [Done]
        assert events[0].seed == 7
        assert events[2].logprobs[0][0].logprob == -math.inf
        assert events[-1].ranks[0].compute_s == 0.5 and events[-1].layout.tp == 2


def test_only_the_fields_given_are_sent():
    with FakeService() as service, Client(service.endpoint) as client:
        client.generate(prompt=[1, 2], max_tokens=0, temperature=0.0)
        assert service.received[-1][2] == {"prompt": [1, 2], "max_tokens": 0, "temperature": 0.0}
        with pytest.raises(TypeError):
            client.generate(prompt="hi", max_token=3)


def test_streams_do_not_mix():
    with FakeService(tokens=3) as service, Client(service.endpoint) as client:
        first, second = client.stream(prompt="a"), client.stream(prompt="b")
        check(second.collect(), 3)
        check(first.collect(), 3)


def test_a_broken_connection_resumes_where_it_stopped():
    with FakeService(tokens=8, break_before=3) as service, Client(service.endpoint) as client:
        check(client.generate(prompt="hi"), 8)
        assert kinds(service) == ["submit", "resume"]
        assert service.received[-1][2] == {"seq": 3}


def test_an_unanswered_submit_is_sent_again():
    with FakeService(drop_submits=1) as service, Client(service.endpoint) as client:
        check(client.generate(prompt="hi"), 5)
        assert kinds(service) == ["submit", "submit"]


@pytest.mark.parametrize("skip", [0, 2, 5])
def test_a_gap_is_filled_by_resuming(skip):
    with FakeService(tokens=6, skip=skip) as service, Client(service.endpoint) as client:
        check(client.generate(prompt="hi"), 6)
        assert kinds(service) == ["submit", "resume"]


def test_a_stream_that_stays_out_of_order_is_an_error():
    with FakeService(skip=2, always_skip=True) as service, Client(service.endpoint) as client:
        with pytest.raises(ProtocolError, match="out of order"):
            client.generate(prompt="hi")


def test_errors_carry_every_field():
    refusal = {"code": "resource_exhausted", "message": "queue full", "param": "prompt", "retryable": True,
               "retry_after_ms": 250, "rank": 3, "host": "n2"}
    with FakeService(refuse=refusal) as service, Client(service.endpoint) as client:
        with pytest.raises(ResourceExhausted) as raised:
            client.generate(prompt="hi")
        error = raised.value
        assert (error.code, error.param, error.retryable, error.retry_after_ms, error.rank, error.host) == \
            ("resource_exhausted", "prompt", True, 250, 3, "n2")
        assert str(error) == "queue full (resource_exhausted, field prompt, rank 3, on n2)"


def test_a_code_of_the_future_is_still_an_error():
    with FakeService(refuse={"code": "new", "message": "m"}) as service, Client(service.endpoint) as client:
        with pytest.raises(EchelonError) as raised:
            client.generate(prompt="hi")
        assert raised.value.code == "new"


def test_cancel_ends_the_stream():
    with FakeService(hold=True) as service, Client(service.endpoint) as client:
        stream = client.stream(prompt="hi")
        assert isinstance(next(stream), Accepted)
        stream.cancel()
        assert next(stream).finish_reason == "cancelled"
        assert list(stream) == []


def test_a_request_cancelled_before_it_was_accepted_ends():
    with FakeService(mute=True) as service, Client(service.endpoint) as client:
        stream = client.stream(prompt="hi", timeout_s=5)
        stream.cancel()
        assert next(stream).finish_reason == "cancelled"


def test_a_stream_left_early_is_cancelled():
    with FakeService(hold=True) as service, Client(service.endpoint) as client:
        for event in client.stream(prompt="hi"):
            assert isinstance(event, Accepted)
            break
        gc.collect()  # for Pythons that do not count references
        assert service.got("cancel") and not client._core.streams


def test_closing_a_stream_cancels_it():
    with FakeService(hold=True) as service, Client(service.endpoint) as client:
        with client.stream(prompt="hi") as stream:
            next(stream)
        assert service.got("cancel") and not client._core.streams
        assert list(stream) == []
        stream.close()
        client.ping()
        assert kinds(service) == ["submit", "cancel"]


def test_closing_the_client_sends_what_was_cancelled_before():
    with FakeService(hold=True) as service:
        with Client(service.endpoint) as client:
            client.stream(prompt="hi").close()
        assert service.got("cancel")


def test_what_was_read_to_its_end_is_not_cancelled():
    with FakeService() as service, Client(service.endpoint) as client:
        with client.stream(prompt="hi") as stream:
            check(stream.collect(), 5)
        del stream
        client.ping()
        assert kinds(service) == ["submit"]


def test_an_answer_that_takes_too_long_is_cancelled():
    with FakeService(hold=True) as service, Client(service.endpoint) as client:
        with pytest.raises(DeadlineExceeded, match="0.2 s"):
            client.generate(prompt="hi", timeout_s=0.2)
        assert service.got("cancel") and not client._core.streams


def test_an_id_used_again_has_nothing_of_its_former_stream():
    with FakeService() as service, Client(service.endpoint) as client:
        former = client.stream(prompt="hi", request_id="same")
        next(former)
        former.close()
        check(client.generate(prompt="hi", request_id="same"), 5)


def test_a_former_stream_of_an_id_does_not_cancel_the_new_one():
    with FakeService(hold=True) as service, Client(service.endpoint) as client:
        former = client.stream(prompt="hi", request_id="same")
        next(former)
        stream = client.stream(prompt="hi", request_id="same")
        with pytest.raises(Cancelled, match="again"):
            next(former)
        former.close()
        del former
        assert isinstance(next(stream), Accepted)
        client.ping()
        assert kinds(service) == ["submit", "submit"]


def test_a_stream_that_is_not_read_is_left_to_the_service(monkeypatch):
    monkeypatch.setattr(_core, "UNREAD_MAX", 8)
    with FakeService(tokens=50) as service, Client(service.endpoint) as client:
        stream = client.stream(prompt="hi")
        for _ in range(60):
            client.ping()
        assert len(stream._state.arrived) == 8
        check(stream.collect(), 50)
        assert "resume" in kinds(service)


def test_resume_and_resubmission():
    with FakeService() as service, Client(service.endpoint) as client:
        check(client.generate(prompt="hi", request_id="same"), 5)
        check(client.generate(prompt="hi", request_id="same"), 5)
        with pytest.raises(InvalidArgument):
            client.generate(prompt="other", request_id="same")
        with Client(service.endpoint) as other:
            assert other.resume("same", 3).collect().token_ids == [103, 104]
            with pytest.raises(NotFound):
                other.resume("never-seen", 0).collect()


def test_status_and_ping():
    with FakeService() as service, Client(service.endpoint) as client:
        client.ping()
        status = client.status()
        assert status.state == "ready" and status.ranks[0].ready and status.layout.tp == 2


def test_nobody_there():
    with pytest.raises(Unavailable, match="127.0.0.1:1"):
        Client("tcp://127.0.0.1:1", connect_timeout_s=0.2)


def test_what_cannot_be_sent_is_refused_at_once():
    with pytest.raises(InvalidArgument, match="tcp://host:port"):
        Client("localhost:5760")
    with FakeService() as service, Client(service.endpoint) as client:
        with pytest.raises(InvalidArgument, match="A-Z a-z"):
            client.generate(prompt="hi", request_id="no blanks")
        with pytest.raises(ValueError):
            client.generate(prompt="hi", temperature=math.nan)
        check(client.generate(prompt="hi"), 5)
        assert not client._core.streams
        client.close()
        with pytest.raises(Unavailable, match="closed"):
            client.generate(prompt="hi")


def test_a_connection_that_breaks_on_every_submit_is_given_up():
    with FakeService(drop_submits=1000) as service, Client(service.endpoint) as client:
        with pytest.raises(ResourceExhausted, match="message_bytes_max"):
            client.generate(prompt="x" * (2 << 20), timeout_s=20)


def test_a_service_that_dies_is_given_up():
    service = FakeService(hold=True)
    with service, Client(service.endpoint, silence_s=0.1, give_up_after_s=0.6) as client:
        stream = client.stream(prompt="hi")
        next(stream)
        service.stop()
        with pytest.raises(Unavailable):
            next(stream)


def test_a_silent_service_that_answers_pings_is_waited_for():
    with FakeService(hold=True) as service, Client(service.endpoint, silence_s=0.1, give_up_after_s=0.4) as client:
        stream = client.stream(prompt="hi")
        next(stream)
        with pytest.raises(Unavailable):  # the caller's own limit, not the client's: 0.8 s > give_up_after_s
            client._pump_until(lambda: False, 0.8)
        assert kinds(service) == ["submit"]


def test_nonsense_is_a_protocol_error():
    with FakeService(nonsense=True) as service, Client(service.endpoint) as client:
        stream = client.stream(prompt="hi")
        assert client.status().state == "ready"  # the other stream's trouble is not ours
        with pytest.raises(ProtocolError, match="accepted"):
            stream.collect()
