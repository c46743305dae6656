import math

import pytest
from fake_service import FakeService

from echelon import (Accepted, Client, Done, EchelonError, InvalidArgument, NotFound, ProtocolError, ResourceExhausted, Tokens,
                     Unavailable)


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
    with FakeService(drop_first_submit=True) as service, Client(service.endpoint) as client:
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
        with pytest.raises(ProtocolError, match="accepted"):
            client.generate(prompt="hi")
