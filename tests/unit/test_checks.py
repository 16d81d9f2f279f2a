"""One set of checks for whatever people give: what passes, and how a refusal reads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.checks import Checks, shown
from codio_dht.errors import ConfigError, UsageError

CHECKS = Checks()
Check = Callable[[object], object]


@pytest.mark.parametrize(
    ("check", "values"),
    [
        (lambda value: CHECKS.whole_number(value, "x", 1, 9), (1, 9)),
        (lambda value: CHECKS.whole_number(value, "x", 0), (0, 10**30)),
        (lambda value: CHECKS.number(value, "x", 0.5, 2), (0.5, 1, 2)),
        (lambda value: CHECKS.seconds(value, "x", 60), (0.001, 1, 60)),
        (lambda value: CHECKS.flag(value, "x"), (True, False)),
        (lambda value: CHECKS.text(value, "x"), ("", "\N{ROCKET}", "a" * 10_000)),
        (lambda value: CHECKS.text(value, "x", 3), ("a", "abc")),
        (lambda value: CHECKS.texts(value, "x", 3, 2), ([], ["a", "abc"])),
        (lambda value: CHECKS.choice(value, "x", ("a", "b")), ("a", "b")),
        (lambda value: CHECKS.table(value, "x"), ({}, {"a": 1})),
    ],
)
def test_what_is_right_comes_back_as_it_is(check: Check, values: tuple[object, ...]) -> None:
    assert list(values) == [check(value) for value in values]


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (
            lambda value: CHECKS.whole_number(value, "x", 1, 9),
            10,
            "x must be a whole number from 1 to 9, not 10",
        ),
        (
            lambda value: CHECKS.whole_number(value, "x", 1),
            0,
            "x must be a whole number of at least 1, not 0",
        ),
        (
            lambda value: CHECKS.whole_number(value, "x", 0, 1),
            True,
            "x must be a whole number from 0 to 1, not True",
        ),
        (
            lambda value: CHECKS.whole_number(value, "x", 0, 9),
            1.0,
            "x must be a whole number from 0 to 9, not 1.0",
        ),
        (
            lambda value: CHECKS.number(value, "x", 0, 1),
            "1",
            "x must be a number from 0 to 1, not '1'",
        ),
        (
            lambda value: CHECKS.number(value, "x", 0, 1),
            float("nan"),
            "x must be a number from 0 to 1, not nan",
        ),
        (
            lambda value: CHECKS.number(value, "x", 0, 1),
            10**400,
            f"x must be a number from 0 to 1, not 1{'0' * 79}...",
        ),
        (
            lambda value: CHECKS.seconds(value, "x"),
            float("inf"),
            "x must be a positive number of seconds, not inf",
        ),
        (
            lambda value: CHECKS.seconds(value, "x", 60),
            61,
            "x must be a positive number of seconds, at most 60, not 61",
        ),
        (
            lambda value: CHECKS.seconds(value, "x"),
            0,
            "x must be a positive number of seconds, not 0",
        ),
        (lambda value: CHECKS.flag(value, "x"), 1, "x must be true or false, not 1"),
        (lambda value: CHECKS.text(value, "x"), b"a", "x must be text, not b'a'"),
        (
            lambda value: CHECKS.text(value, "x", 3),
            "abcd",
            "x must be ASCII text of 1 to 3 characters, not 'abcd'",
        ),
        (
            lambda value: CHECKS.text(value, "x", 3),
            "",
            "x must be ASCII text of 1 to 3 characters, not ''",
        ),
        (lambda value: CHECKS.texts(value, "x"), "ab", "x must be a list of texts, not 'ab'"),
        (lambda value: CHECKS.texts(value, "x"), ["a", 5], "x[1] must be text, not 5"),
        (
            lambda value: CHECKS.texts(value, "x", None, 1),
            ["a", "b"],
            "x must be a list of at most 1 texts, not ['a', 'b']",
        ),
        (
            lambda value: CHECKS.choice(value, "x", ("a", "b")),
            "c",
            "x must be one of a, b, not 'c'",
        ),
        (lambda value: CHECKS.table(value, "x"), [], "x must be a table, not []"),
    ],
)
def test_a_refusal_names_what_was_given_and_says_what_it_must_be(
    check: Check, value: object, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        check(value)
    assert message == str(caught.value)


def test_a_refusal_is_of_the_class_that_the_caller_chose() -> None:
    with pytest.raises(ConfigError):
        Checks(ConfigError).flag(None, "x")


def test_a_long_value_is_quoted_cut_off() -> None:
    assert 83 == len(shown("a" * 1_000))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        ("30m", 1800.0),
        ("24h", 86400.0),
        ("2 d", 172800.0),
    ],
)
def test_a_duration_has_a_unit_or_is_seconds(text: str, seconds: float) -> None:
    assert seconds == CHECKS.duration(text, "x")


@pytest.mark.parametrize("text", ["", "0", "0h", "-1", "soon", "1h30m", "1e3", "inf", "9" * 400])
def test_any_other_text_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match=r"^x must be a duration like 30s"):
        CHECKS.duration(text, "x")


@given(st.text(max_size=12))
def test_any_text_is_a_positive_duration_or_refused(text: str) -> None:
    try:
        seconds = CHECKS.duration(text, "x")
    except UsageError:
        return
    assert 0 < seconds < float("inf")
