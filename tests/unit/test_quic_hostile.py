"""Packets lost, late or sent in bad faith, below libp2p."""

from __future__ import annotations

from quic_ends import HERE, THERE, Ends, connected


def feed(ends: Ends, *datagrams: bytes) -> None:
    """Have the listener read datagrams of the dialler."""
    for data in datagrams:
        ends.listener.receive(data, HERE, ends.now)


def sent_by_dialler(ends: Ends) -> list[bytes]:
    return [data for data, _ in ends.dialler.datagrams_to_send(ends.now)]


# --- a stream that was reset ----------------------------------------------------------------------


def test_rfc_9000_section_3_1_after_a_reset_nothing_is_sent_on_the_stream_whatever_room_it_gets():
    ends = connected()
    number = ends.dialler.open_stream()
    ends.dialler.write(number, bytes(1_000_000))
    ends.run(1.0)  # all that the window allows has arrived
    ends.dialler.abort(number)
    told = sent_by_dialler(ends)
    used = ends.state(ends.dialler).flow.peer_data_used
    ends.listener.grant_stream(number, 300_000)  # before it heard of the reset
    for data, _ in ends.listener.datagrams_to_send(ends.now):
        ends.dialler.receive(data, THERE, ends.now)
    feed(ends, *told, *sent_by_dialler(ends))
    assert ends.listener.ended is None
    assert used == ends.state(ends.dialler).flow.peer_data_used
