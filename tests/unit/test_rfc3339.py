"""Times as text: to the nanosecond, and only what RFC 3339 has."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.formats.rfc3339 import NS_PER_S, format_rfc3339, parse_rfc3339

SECOND = 1_700_000_000 * NS_PER_S


@given(st.integers(-(10**18), 10**20))
def test_a_moment_is_read_back_as_it_was_written(moment_ns: int) -> None:
    assert parse_rfc3339(format_rfc3339(moment_ns)) == moment_ns


@given(st.datetimes(min_value=datetime(1, 1, 1)))  # noqa: DTZ001 - hypothesis wants it naive
def test_it_agrees_with_the_standard_library(moment: datetime) -> None:
    aware = moment.replace(tzinfo=UTC)
    expected = parse_rfc3339(aware.strftime("%Y").zfill(4) + aware.strftime("-%m-%dT%H:%M:%S.%fZ"))
    whole = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // datetime.resolution * 1_000
    assert expected == whole


@pytest.mark.parametrize(
    ("text", "moment_ns"),
    [
        ("2023-11-14T22:13:20Z", SECOND),
        ("2023-11-14T22:13:20.5Z", SECOND + 500_000_000),
        ("2023-11-14T22:13:20.0000000019Z", SECOND + 1),
        ("2023-11-15T00:13:20+02:00", SECOND),
        ("2023-11-14T20:43:20-01:30", SECOND),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("9999-12-31T23:59:59-01:00", 253_402_304_399 * NS_PER_S),
        ("2023-11-14t22:13:20z", None),
        ("2023-11-14 22:13:20Z", None),
        ("2023-11-14T22:13:20", None),
        ("2023-11-14T22:13Z", None),
        ("2023-02-29T00:00:00Z", None),
        ("2023-11-14T24:00:00Z", None),
        ("2023-11-14T23:59:60Z", None),
        ("2023-11-14T22:13:20.Z", None),
        ("2023-11-14T22:13:20+24:00", None),
        ("2023-11-14T22:13:20+00:60", None),
        ("2023-11-14T22:13:20Z\n", None),
        ("٢٠٢٣-11-14T22:13:20Z", None),
        ("", None),
    ],
)
def test_what_is_a_time_and_which(text: str, moment_ns: int | None) -> None:
    assert parse_rfc3339(text) == moment_ns
