"""A value that is delivered: who counts as holding it, by the answer to the put."""

from __future__ import annotations

import pytest

from codio_dht.core.delivery import Delivery, Give, value_parcel
from codio_dht.core.messages import FailureReason, GetValue, MessageType, PutValue, Record, Reply
from codio_dht.core.steps import Ask
from searching import PREIMAGE, now, peers_of, searches_of
from test_delivery import AT, Course, Fixture, to

RECORD = Record(PREIMAGE, b"value")
WRONG = [None, Record(PREIMAGE, b"another"), Record(PREIMAGE, b"")]


def value_delivery() -> Fixture:
    searches = searches_of()
    searches.network.k = 3
    course = Course(searches)
    searches.closest = lambda preimage, now: course
    return Fixture(searches, course, Delivery(searches, value_parcel(RECORD), AT, quorum=2))


def answer(plan: Fixture, give: Give, record: Record | None) -> list[Give | Ask]:
    plan.delivery.on_given(give, Reply(MessageType.PUT_VALUE, PREIMAGE, record))
    return plan.steps()


def test_each_is_sent_the_record_and_holds_it_if_it_repeats_it() -> None:
    plan = value_delivery()
    gives = plan.settled(peers_of(1, 2, 3))
    assert [give.request for give in gives] == [PutValue(PREIMAGE, RECORD)] * 3
    for give in gives:
        assert answer(plan, give, Record(PREIMAGE, b"value", "2026-01-01T00:00:00Z")) == []
    assert plan.counts() == (3, 0, 3)
    assert plan.delivery.confirmed == 3


@pytest.mark.parametrize("record", WRONG)
def test_who_answers_anything_else_does_not_hold_it_and_is_replaced(record: Record | None) -> None:
    plan = value_delivery()
    first, *others = plan.settled(peers_of(1, 2, 3), spares=peers_of(4))
    assert to(answer(plan, first, record)) == peers_of(4)
    assert (plan.delivery.holders, plan.delivery.confirmed) == (0, 0)
    assert len(others) == 2


@pytest.mark.parametrize("record", [RECORD, *WRONG])
def test_who_breaks_the_stream_is_asked_whether_it_holds_the_value(record: Record | None) -> None:
    plan = value_delivery()
    [give] = plan.settled(peers_of(1))
    plan.delivery.on_not_given(give, FailureReason.BROKEN, AT)
    [ask] = plan.steps()
    assert isinstance(ask, Ask)
    assert ask.request == GetValue(PREIMAGE)
    plan.delivery.on_reply(ask, Reply(MessageType.GET_VALUE, PREIMAGE, record), now(2))
    plan.steps()
    assert plan.delivery.holders == (record == RECORD)


def test_an_answer_that_was_not_expected_is_a_no_op() -> None:
    plan = value_delivery()
    [give] = plan.settled(peers_of(1))
    answer(plan, give, None)
    answer(plan, give, RECORD)
    assert plan.delivery.holders == 0
