from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.crypto.keys import PrivateKey
from codio_dht.crypto.peer_record import seal_peer_record
from codio_dht.errors import ProtocolError
from codio_dht.formats.ip import Reach
from codio_dht.formats.protobuf import bytes_field
from codio_dht.net.event_bus import EventBus
from codio_dht.net.host import HostEvent, PeerGone, PeerIdentified
from codio_dht.net.identify.known import KnownPeers, merged
from codio_dht.net.identify.limits import (
    MAX_IDENTIFY_BYTES,
    MAX_IDENTIFY_PROTOCOLS,
    MAX_IDENTIFY_TEXT_BYTES,
    MAX_KNOWN_PROTOCOL_BYTES,
)
from codio_dht.net.identify.message import (
    IdentifyMessage,
    MessageParts,
    decode_identify,
    encode_identify,
)
from codio_dht.params import MAX_ADDRS_PER_PEER

KEY = PrivateKey.from_ed25519_seed(bytes(32))
SENDER = KEY.peer_id()
ADDR = b"\x04\x7f\x00\x00\x01\x06\x0f\xa1"
short = st.binary(min_size=1, max_size=30)
text = st.text(max_size=30)


class RecordingBus(EventBus):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(Counter())
        self.events: list[HostEvent] = []

    def emit(self, event: HostEvent) -> None:
        self.events.append(event)


@given(
    st.builds(
        IdentifyMessage,
        public_key=st.none() | short,
        listen_addrs=st.lists(short, max_size=4).map(tuple),
        protocols=st.lists(st.text(min_size=1, max_size=9), max_size=4, unique=True).map(tuple),
        observed_addr=st.none() | short,
        protocol_version=st.none() | text,
        agent=st.none() | text,
        signed_peer_record=st.none() | short,
    )
)
def test_a_message_comes_back_as_it_was_written(message):
    assert message == decode_identify(encode_identify(message))


def test_the_fields_have_the_numbers_of_the_specification():
    message = IdentifyMessage(b"k", (b"l",), ("p",), b"o", "v", "a", b"r")
    assert b"\x12\x01l\x1a\x01p\x0a\x01k\x22\x01o\x2a\x01v\x32\x01a\x42\x01r" == encode_identify(
        message
    )


def test_an_empty_message_says_nothing():
    assert IdentifyMessage() == decode_identify(b"")


def test_no_number_of_private_addresses_hides_a_public_one():
    private = [b"\x04\x0a\x00" + i.to_bytes(2, "big") + b"\x06\x0f\xa1" for i in range(2_000)]
    junk = [b"\xff" * 9, bytes(1_500)]
    public = b"\x04\x01\x02\x03\x04\x06\x0f\xa1"
    addrs = (*junk, *[ADDR] * 50, *private, public)
    plain = decode_identify(encode_identify(IdentifyMessage(listen_addrs=addrs)))
    record = seal_peer_record(KEY, sequence=1, addrs=[*private[:500], public])
    signed = IdentifyMessage(signed_peer_record=record)

    wanted = [public, *private[:MAX_ADDRS_PER_PEER], ADDR]
    assert wanted == [addr.to_bytes() for addr in merged(plain, SENDER, None).addrs]
    assert wanted[:-1] == [addr.to_bytes() for addr in merged(signed, SENDER, None).addrs]


def test_few_addresses_stay_in_their_order_and_count_once():
    public = b"\x04\x01\x02\x03\x04\x06\x0f\xa1"
    own = ADDR + b"\xa5\x03" + bytes([len(SENDER.to_bytes())]) + SENDER.to_bytes()
    message = IdentifyMessage(listen_addrs=(own, public, ADDR, public))
    assert [ADDR, public] == [addr.to_bytes() for addr in merged(message, SENDER, None).addrs]


def test_protocols_are_kept_once_each_and_up_to_a_bound():
    names = [f"/p/{i}".encode() for i in range(MAX_IDENTIFY_PROTOCOLS + 50)]
    data = b"".join(bytes_field(3, name) for name in [names[0], *names])
    message = decode_identify(data)
    assert tuple(name.decode() for name in names[:MAX_IDENTIFY_PROTOCOLS]) == message.protocols


def test_texts_too_long_are_cut_and_bad_utf8_is_shown():
    data = bytes_field(6, b"x" * (MAX_IDENTIFY_TEXT_BYTES + 1)) + bytes_field(5, b"v\xff")
    message = decode_identify(data)
    assert "x" * MAX_IDENTIFY_TEXT_BYTES == message.agent
    assert "v\ufffd" == message.protocol_version


def test_a_protocol_id_too_long_is_left_out_for_a_part_of_it_is_another_one():
    longest = b"p" * MAX_IDENTIFY_TEXT_BYTES
    message = decode_identify(bytes_field(3, longest + b"p") + bytes_field(3, longest))
    assert (longest.decode(),) == message.protocols


def test_parts_sent_one_after_another_add_up():
    first = encode_identify(IdentifyMessage(agent="a", protocols=("/p",), listen_addrs=(ADDR,)))
    second = encode_identify(IdentifyMessage(agent="b", protocols=("/q",), public_key=b"k"))
    message = decode_identify(first + second)
    assert IdentifyMessage(b"k", (ADDR,), ("/p", "/q"), agent="b") == message


@pytest.mark.parametrize("data", [bytes(MAX_IDENTIFY_BYTES + 1), b"\x0a\x05x", b"\x08\x01" * 5_000])
def test_what_is_too_large_or_no_message_is_refused(data):
    with pytest.raises(ProtocolError) as caught:
        decode_identify(data)
    assert "identify" == caught.value.layer


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_the_documented_error(data):
    try:
        decode_identify(data)
    except ProtocolError as error:
        if error.layer != "identify":
            raise


@given(st.lists(st.binary(max_size=100)))
def test_any_bytes_in_any_pieces_are_parts_or_the_documented_error(pieces):
    parts = MessageParts()
    try:
        for piece in pieces:
            parts.feed(piece)
        parts.message()
    except ProtocolError as error:
        if error.layer != "identify":
            raise


@given(
    st.builds(
        IdentifyMessage,
        listen_addrs=st.lists(st.binary(max_size=40), max_size=50).map(tuple),
        observed_addr=st.none() | st.binary(max_size=40),
        protocols=st.lists(st.text(max_size=400), max_size=5).map(tuple),
        agent=st.none() | st.text(max_size=400),
        signed_peer_record=st.none() | st.binary(max_size=100),
    )
)
def test_what_is_kept_of_any_message_is_within_its_bounds(message):
    said = merged(decode_identify(encode_identify(message)), SENDER, None)

    assert MAX_ADDRS_PER_PEER * len(Reach) >= len(said.addrs)
    assert MAX_IDENTIFY_TEXT_BYTES >= len(said.agent)
    assert all(len(name.encode()) <= MAX_IDENTIFY_TEXT_BYTES * 3 for name in said.protocols)
    assert MAX_KNOWN_PROTOCOL_BYTES >= sum(map(len, said.protocols))


def test_protocols_past_their_bytes_in_all_are_left_out():
    names = tuple(f"/{number:03}".ljust(100, "x") for number in range(100))
    assert frozenset(names[:81]) == merged(IdentifyMessage(protocols=names), SENDER, None).protocols


def test_what_a_push_does_not_mention_stays_as_it_was():
    whole = IdentifyMessage(listen_addrs=(ADDR,), protocols=("/p",), agent="a", observed_addr=ADDR)
    before = merged(whole, SENDER, None)

    assert before == merged(IdentifyMessage(), SENDER, before)
    assert replace(before, agent="b") == merged(IdentifyMessage(agent="b"), SENDER, before)
    changed = merged(IdentifyMessage(protocols=("/q",)), SENDER, before)
    assert replace(before, protocols=frozenset({"/q"})) == changed


def test_what_is_not_printable_in_an_agent_shows_as_question_marks():
    assert "a?b?" == merged(IdentifyMessage(agent="a\nb\x1b"), SENDER, None).agent


# --- who is known ---------------------------------------------------------------------------------


def test_a_message_is_told_if_it_changes_what_is_known_and_its_peer_is_connected():
    bus, connected = RecordingBus(), {SENDER}
    known = KnownPeers(bus, connected.__contains__)
    message = IdentifyMessage(agent="a")
    known.learn(SENDER, message)
    known.learn(SENDER, message)
    first = [PeerIdentified(SENDER, frozenset(), (), "a")]
    assert (first, first) == (list(known), bus.events)

    known.learn(SENDER, message, new_connection=True)
    again = [*first, *first]
    assert (first, again) == (list(known), bus.events)
    assert [False, True] == [getattr(event, "new_connection", None) for event in bus.events]
    assert [False] == [said.new_connection for said in known]

    connected.clear()
    known.gone(SENDER)
    known.learn(SENDER, message)  # read after the end of its last connection
    assert ([], [*again, PeerGone(SENDER)]) == (list(known), bus.events)
    assert (0, None) == (len(known), known.get(SENDER))
