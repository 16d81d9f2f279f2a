"""Lines and messages of the control API, and its parameters: sans I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.peer import PeerId
from codio_dht.daemon.methods import code_of
from codio_dht.daemon.parameters import Params, parse_cid, parse_key
from codio_dht.daemon.protocol import (
    Answer,
    ControlError,
    ErrorCode,
    Failure,
    Hello,
    Item,
    LineReader,
    LineTooLongError,
    Request,
    Result,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
)
from codio_dht.errors import CodioError, UsageError
from fake_dht import CID, peer

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
request_ids = st.integers(-(2**53) + 1, 2**53 - 1) | st.text(min_size=1, max_size=64)
answers: st.SearchStrategy[Answer] = st.one_of(
    st.builds(Hello, st.integers(0, 99), st.text(), st.text()),
    st.builds(Item, request_ids, json_values),
    st.builds(Result, request_ids, json_values),
    st.builds(Failure, st.none() | request_ids, st.text(), st.text()),
)


def _code_of(act: Callable[[], object]) -> ErrorCode | None:
    """The code of the error that ``act`` ends with, if any; another error passes through."""
    try:
        act()
    except ControlError as error:
        return error.code
    except CodioError as error:
        return code_of(error)
    return None


@given(st.lists(st.binary(max_size=40)), st.integers(1, 7))
def test_lines_come_out_whole_however_the_bytes_are_cut(parts: list[bytes], step: int) -> None:
    lines = [part.replace(b"\n", b"").strip() for part in parts]
    stream = b"".join(line + b"\n" for line in lines)
    reader = LineReader(40)
    cut = [stream[start : start + step] for start in range(0, len(stream), step)]
    assert [line for line in lines if line] == [line for data in cut for line in reader.feed(data)]


def test_a_line_of_exactly_the_bound_is_read_and_one_byte_more_is_not() -> None:
    assert [b"x" * 10] == LineReader(10).feed(b"x" * 10 + b"\n")
    with pytest.raises(LineTooLongError):
        LineReader(10).feed(b"x" * 11 + b"\n")


def test_an_unfinished_line_does_not_grow_past_the_bound() -> None:
    reader = LineReader(10)
    for _ in range(10):
        reader.feed(b"x")
    with pytest.raises(LineTooLongError):
        reader.feed(b"x")


@given(request_ids, st.text(max_size=20), st.dictionaries(st.text(max_size=5), json_values))
def test_a_request_survives_the_line(
    request_id: int | str, method: str, params: dict[str, Any]
) -> None:
    request = Request(request_id, method, params)
    line = encode_request(request)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert request == decode_request(line)


@given(answers)
def test_an_answer_survives_the_line(answer: Answer) -> None:
    line = encode_answer(answer)
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert answer == decode_answer(line)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_parse_error(line: bytes) -> None:
    assert _code_of(lambda: decode_request(line)) in (None, ErrorCode.PARSE)


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 60_000,
        b'{"id":' + b"9" * 10_000 + b',"method":"id"}',
        b'{"id":1e400,"method":"id"}',
        b'{"id":NaN,"method":"id"}',
        b'{"id":true,"method":"id"}',
        b'{"id":"","method":"id"}',
        b'{"id":1.5,"method":"id"}',
        b'{"method":"id"}',
        b'{"id":1}',
        b'{"id":1,"method":7}',
        b'{"id":1,"method":"id","params":[]}',
        b'"id"',
        b"\xff\xfe",
    ],
)
def test_a_line_that_is_no_request_is_a_parse_error(line: bytes) -> None:
    with pytest.raises(ControlError) as caught:
        decode_request(line)
    assert caught.value.code is ErrorCode.PARSE


def test_a_refused_request_is_answered_under_its_own_id() -> None:
    with pytest.raises(ControlError) as caught:
        decode_request(b'{"id":"mine","method":"id","params":3}')
    assert caught.value.request_id == "mine"


def test_unknown_fields_of_an_answer_are_skipped() -> None:
    assert Result(1, {}) == decode_answer(b'{"id":1,"result":{},"took":3}')


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_does_not_know_is_never_sent(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_answer(Result(1, {"seconds": number}))
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_request(Request(1, "ping", {"interval": number}))


# --- parameters -----------------------------------------------------------------------------------


def _usage(values: dict[str, Any], read: Any) -> str:
    params = Params(values)

    def read_all() -> None:
        read(params)
        params.done()

    with pytest.raises(UsageError) as caught:
        read_all()
    assert code_of(caught.value) is ErrorCode.USAGE
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "read", "named"),
    [
        ({}, lambda p: p.text("cid"), "cid"),
        ({"cid": 3}, lambda p: p.text("cid"), "cid"),
        ({"cid": ""}, lambda p: p.text("cid"), "cid"),
        ({"cid": "é"}, lambda p: p.text("cid"), "cid"),
        ({"cid": "\ud800"}, lambda p: p.text("cid"), "cid"),
        ({"cid": "x" * 5000}, lambda p: p.text("cid"), "cid"),
        ({"count": True}, lambda p: p.integer("count", 1, 0, 9), "count"),
        ({"count": 10}, lambda p: p.integer("count", 1, 0, 9), "count"),
        ({"count": "3"}, lambda p: p.integer("count", 1, 0, 9), "count"),
        ({"pause": "1"}, lambda p: p.number("pause", 1, 0, 9), "pause"),
        ({"pause": -1}, lambda p: p.number("pause", 1, 0, 9), "pause"),
        ({"local": 1}, lambda p: p.flag("local"), "local"),
        ({"addrs": "/ip4/"}, lambda p: p.texts("addrs"), "addrs"),
        ({"addrs": [1]}, lambda p: p.texts("addrs"), "addrs"),
        ({"addrs": ["x"] * 101}, lambda p: p.texts("addrs"), "addrs"),
        ({"peer": "12D3"}, lambda p: p.peer("peer"), "peer"),
        ({"cid": "nonsense"}, lambda p: p.cid("cid"), "cid"),
        ({"typo": 1}, lambda p: None, "typo"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(
    values: dict[str, Any], read: Any, named: str
) -> None:
    assert named in _usage(values, read)


@pytest.mark.parametrize("text", [CID, f"ipfs://{CID}", f"ipfs://{CID}/", f"/ipfs/{CID}"])
def test_a_cid_may_be_written_as_a_uri(text: str) -> None:
    assert parse_cid(CID, "cid") == parse_cid(text, "cid")


@pytest.mark.parametrize("text", [f"\ufeff{CID}", f" {CID}\n", f"\u200b{CID}\u00a0"])
def test_what_pasting_leaves_around_a_text_does_not_count(text: str) -> None:
    assert CID == Params({"cid": text}).cid("cid")
    assert [CID] == Params({"addrs": [text]}).texts("addrs")


def test_a_path_below_a_cid_is_refused_with_the_root_named() -> None:
    with pytest.raises(UsageError, match=CID):
        parse_cid(f"ipfs://{CID}/index.html", "cid")


def test_a_key_is_a_peer_id_a_cid_or_hex() -> None:
    assert peer(1).to_bytes() == parse_key(str(peer(1)), "key")
    assert parse_cid(CID, "cid")[1] == parse_key(CID, "key")
    assert b"hello" == parse_key("0x68656c6c6f", "key")


@pytest.mark.parametrize("text", ["0x", "0xzz", "0x" + "00" * 1025, "hello", "/ip4/1.2.3.4"])
def test_anything_else_is_no_key(text: str) -> None:
    with pytest.raises(UsageError, match=r"^key: "):
        parse_key(text, "key")


@given(st.text(alphabet=st.characters(min_codepoint=1, max_codepoint=127), max_size=80))
def test_any_text_is_a_cid_or_a_usage_error(text: str) -> None:
    assert _code_of(lambda: parse_cid(text, "cid")) in (None, ErrorCode.USAGE)
    assert _code_of(lambda: parse_key(text, "key")) in (None, ErrorCode.USAGE)


def test_a_peer_id_as_a_cid_is_the_same_peer() -> None:
    assert PeerId.from_string(str(peer(3))).to_bytes() == parse_key(f"/p2p/{peer(3)}", "key")
