"""Times as text (RFC 3339), to the nanosecond: how IPNS and value records write them.

Python's own times end at microseconds, so moments are whole numbers of nanoseconds of Unix time.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

NS_PER_S: Final = 1_000_000_000
"""Nanoseconds in a second."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FORM: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", re.ASCII
)


def parse_rfc3339(text: str) -> int | None:
    """The moment in ``text``, nanoseconds of Unix time; None if it is not RFC 3339.

    Decimals after the ninth are cut off. As in GO, ``T`` and ``Z`` are capitals, and there is no
    leap second.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    *parts, fraction, zone = match.groups()
    year, month, day, hour, minute, second = map(int, parts)
    try:
        since = datetime(year, month, day, hour, minute, second, tzinfo=UTC) - _EPOCH
    except ValueError:
        return None
    offset = 0
    if zone != "Z":
        hours, minutes = int(zone[1:3]), int(zone[4:6])
        if hours >= 24 or minutes >= 60:
            return None
        offset = (hours * 60 + minutes) * (-60 if zone[0] == "-" else 60)
    seconds = since.days * 86_400 + since.seconds - offset
    return seconds * NS_PER_S + int((fraction or "0")[:9].ljust(9, "0"))


def format_rfc3339(moment_ns: int) -> str:
    """The moment as text in UTC, with nine decimals.

    Raises:
        OverflowError: it is before the year 1 or after the year 9999.
    """
    seconds, fraction = divmod(moment_ns, NS_PER_S)
    moment = _EPOCH + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{fraction:09}Z"
