from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.errors import ProtocolError
from codio_dht.net.stack.limits import MAX_NEGOTIATION_MESSAGE_BYTES, MAX_NEGOTIATION_ROUNDS
from codio_dht.net.stack.multistream import (
    HEADER,
    Listener,
    Proposer,
    ProtocolTable,
    Refused,
    Selected,
    accept_at_once,
    encode_message,
)
from fuzz_inputs import negotiation, negotiation_message

KAD = "/ipfs/kad/1.0.0"
PING = "/ipfs/ping/1.0.0"
TABLE = ProtocolTable([KAD, PING])
NA = b"\x03na\n"


def proposal(protocol: str) -> bytes:
    return encode_message(protocol.encode())


def chunks_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def outcome_of(machine, chunks):
    """What a machine makes of the chunks: outcome, answers, or the error's reason."""
    sent, outcome, rest = b"", None, b""
    try:
        for chunk in chunks:
            if outcome is None:
                outcome = machine.receive(chunk)
                sent += machine.data_to_send()
            else:
                rest += chunk
    except ProtocolError as error:
        return sent + machine.data_to_send(), error.reason
    if isinstance(outcome, Selected):
        outcome = Selected(outcome.protocol, outcome.rest + rest)
    elif isinstance(outcome, Refused):
        outcome = Refused(outcome.rest + rest)
    return sent, outcome


# --- listener -------------------------------------------------------------------------------------


def test_a_listener_answers_a_lone_header_at_once():
    listener = Listener(TABLE)
    assert listener.receive(HEADER) is None
    assert HEADER == listener.data_to_send()
    assert Selected(KAD, b"") == listener.receive(proposal(KAD))
    assert proposal(KAD) == listener.data_to_send()


def test_a_listener_answers_a_peer_that_pipelines_everything():
    listener = Listener(TABLE)
    outcome = listener.receive(HEADER + proposal("/other") + proposal(KAD) + b"request")
    assert Selected(KAD, b"request") == outcome
    assert HEADER + NA + proposal(KAD) == listener.data_to_send()


def test_a_listener_lists_its_protocols():
    listener = Listener(TABLE)
    assert listener.receive(HEADER + encode_message(b"ls")) is None
    names = proposal(KAD) + proposal(PING)
    assert HEADER + bytes([len(names) + 1]) + names + b"\n" == listener.data_to_send()


def test_a_long_listing_has_a_long_length():
    table = ProtocolTable([f"/{i:0100}" for i in range(5)])
    listing = table.listing()
    assert listing[0] & 0x7F | listing[1] << 7 == len(listing) - 2


def test_a_table_can_be_changed_while_it_is_used():
    table = ProtocolTable([KAD])
    listener = Listener(table)
    table.remove(KAD)
    table.remove("/never/there")
    assert listener.receive(HEADER + proposal(KAD)) is None
    table.add(KAD)
    assert Selected(KAD, b"") == listener.receive(proposal(KAD))
    assert proposal(KAD) in table.listing()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x05quic\n", "no multistream header"),
        (b"GET / HTTP/1.1\r\n" * 10, "message without a newline"),
        (HEADER + b"\xff\xff\xff\xff\x0f", "message too long"),
        (HEADER + b"\xff\x07", "message too long"),
        (HEADER + b"\x00", "message without a newline"),
        (HEADER + b"\x04abcd", "message without a newline"),
        (HEADER + b"\x01\n", "empty protocol id"),
        (HEADER + b"\x04\xff\xfe\xfd\n", "protocol id is not UTF-8"),
        (b"\x80\x80\x80\x80\x80", "message too long"),
    ],
)
def test_a_listener_refuses_what_is_not_multistream(data, reason):
    with pytest.raises(ProtocolError) as caught:
        Listener(TABLE).receive(data)
    assert (reason, "multistream") == (caught.value.reason, caught.value.layer)


def test_a_message_of_exactly_the_bound_is_read_and_one_byte_more_is_not():
    listener = Listener(TABLE, max_message_bytes=128)
    assert listener.receive(HEADER + encode_message(b"x" * 127)) is None
    with pytest.raises(ProtocolError, match="too long"):
        listener.receive(encode_message(b"x" * 128)[:2])


def test_a_listener_answers_a_bounded_number_of_proposals():
    listener = Listener(TABLE)
    assert listener.receive(HEADER + proposal("/x") * MAX_NEGOTIATION_ROUNDS) is None
    with pytest.raises(ProtocolError, match="too many proposals"):
        listener.receive(proposal(KAD))


# --- dialler --------------------------------------------------------------------------------------


def test_a_dialler_sends_header_and_proposal_together():
    assert HEADER + proposal(KAD) == Proposer([KAD]).data_to_send()


def test_a_dialler_takes_the_echo_and_leaves_the_rest():
    dialler = Proposer([KAD])
    assert Selected(KAD, b"reply") == dialler.receive(HEADER + proposal(KAD) + b"reply")


def test_a_dialler_falls_back_to_its_next_proposal():
    dialler = Proposer([KAD, PING])
    dialler.data_to_send()
    assert dialler.receive(HEADER + NA) is None
    assert proposal(PING) == dialler.data_to_send()
    assert Selected(PING, b"") == dialler.receive(proposal(PING))


def test_a_dialler_says_when_everything_was_refused():
    assert Refused(b"rest") == Proposer([KAD]).receive(HEADER + NA + b"rest")


@pytest.mark.parametrize("answer", [proposal(PING), encode_message(b"ls"), b"\x01\n"])
def test_a_dialler_refuses_an_answer_to_something_else(answer):
    with pytest.raises(ProtocolError, match="another proposal"):
        Proposer([KAD]).receive(HEADER + answer)


def test_a_dialler_wants_the_header_first():
    with pytest.raises(ProtocolError, match="no multistream header"):
        Proposer([KAD]).receive(NA)


# --- laws -----------------------------------------------------------------------------------------

cuts = st.lists(st.integers(min_value=0), max_size=8)
machine = st.sampled_from([lambda: Listener(TABLE), lambda: Proposer([KAD, PING])])


@given(machine, negotiation, cuts)
def test_any_bytes_in_any_chunks_give_the_same_outcome_and_only_the_documented_error(
    make, data, cuts
):
    whole = outcome_of(make(), [data])
    assert whole == outcome_of(make(), chunks_of(data, cuts))


@given(st.lists(negotiation_message, max_size=4).map(lambda tail: HEADER + b"".join(tail)))
def test_accepting_at_once_is_what_a_listener_would_do(data):
    accepted = accept_at_once(TABLE, data)
    if accepted is not None:
        answer, protocol, rest_at = accepted
        listener = Listener(TABLE)
        assert Selected(protocol, data[rest_at:]) == listener.receive(data)
        assert answer == listener.data_to_send()


@given(st.lists(st.sampled_from(["/a", "/b", KAD, PING]), min_size=1, max_size=4, unique=True))
def test_dialler_and_listener_agree_on_the_first_protocol_both_speak(proposals):
    dialler, listener = Proposer(proposals), Listener(TABLE)
    accepted = refused = None
    while accepted is None and refused is None:
        selected = listener.receive(dialler.data_to_send())
        outcome = dialler.receive(listener.data_to_send())
        if isinstance(outcome, Refused):
            refused = outcome
        elif outcome is not None:
            accepted = outcome
            assert selected is not None
            assert outcome.protocol == selected.protocol
    common = [protocol for protocol in proposals if protocol in (KAD, PING)]
    assert (common[0] if common else None) == (accepted.protocol if accepted else None)


@given(st.binary(max_size=4 * MAX_NEGOTIATION_MESSAGE_BYTES))
def test_a_machine_keeps_at_most_one_unfinished_message(data):
    listener = Listener(TABLE)
    try:
        for index in range(len(data)):
            if listener.receive(data[index : index + 1]) is not None:
                return
            kept = len(listener._messages._buffer)
            assert kept <= MAX_NEGOTIATION_MESSAGE_BYTES + 2
    except ProtocolError:
        pass
