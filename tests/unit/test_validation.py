"""Namespaces, and what a value is compared with the best one known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.clock import UnixTime
from codio_dht.core.validation import (
    Check,
    Validators,
    Verdict,
    check_namespaces,
    namespace_of,
)
from codio_dht.errors import ConfigError, InvalidValueError
from value_fakes import ApplicationValidator, VersionValidator, make_validators

NOW = UnixTime(1_000.0)
KEY = b"/v/\xff\x00key"


@pytest.mark.parametrize(
    ("key", "namespace"),
    [
        (b"/ipns/\x00\x24\xff", "ipns"),
        (b"/pk/x/y", "pk"),
        (b"/v/", "v"),
        (b"/v", None),
        (b"//x", None),
        (b"v/x", None),
        (b"/", None),
        (b"", None),
    ],
)
def test_the_namespace_stands_between_the_first_two_slashes(key, namespace) -> None:
    assert namespace_of(key) == namespace


@given(st.binary())
def test_any_bytes_have_a_namespace_or_none(key: bytes) -> None:
    name = namespace_of(key)
    assert name is None or key.startswith(b"/")
    assert not Validators({"v": VersionValidator()}).knows(b"\x00" + key)


@pytest.mark.parametrize(
    ("value", "best", "verdict"),
    [
        (b"x", None, Verdict.INVALID),
        (b"x", b"1:", Verdict.INVALID),
        (b"x", b"x", Verdict.INVALID),
        (b"1:", None, Verdict.BETTER),
        (b"1:", b"1:", Verdict.SAME),
        (b"1:", b"2:", Verdict.WORSE),
        (b"2:", b"1:", Verdict.BETTER),
        (b"1:new", b"1:old", Verdict.BETTER),
        (b"1:", b"corrupt", Verdict.BETTER),
        (b"1:", b"2:until=999", Verdict.BETTER),
        (b"1:", b"2:until=1001", Verdict.WORSE),
        (b"1:until=1000", None, Verdict.INVALID),
    ],
)
def test_a_value_is_judged_against_the_best_one_that_still_holds(value, best, verdict) -> None:
    assert make_validators().judge(KEY, value, best, NOW) is verdict


def test_a_key_of_no_known_namespace_has_no_valid_value() -> None:
    validators = make_validators()
    for key in (b"/other/x", b"/v", b"x", b""):
        assert not validators.knows(key)
        assert validators.judge(key, b"1:", None, NOW) is Verdict.INVALID
    assert validators.namespaces == ("app", "fixed", "v")
    assert validators.knows(KEY)


@pytest.mark.parametrize(
    ("value", "best", "verdict"),
    [
        (b"x", None, Verdict.INVALID),
        (b"1:", None, Verdict.BETTER),
        (b"1:", b"1:", Verdict.SAME),
        (b"1:", b"2:", Verdict.WORSE),
        (b"2:", b"1:", Verdict.BETTER),
        (b"1:", b"corrupt", Verdict.BETTER),
    ],
)
def test_an_application_is_asked_where_nobody_waits_for_it(value, best, verdict) -> None:
    validators = make_validators()
    check = validators.judge(b"/app/x", value, best, NOW)
    assert check == Check(b"/app/x", value, best)
    assert isinstance(check, Check)
    assert validators.perform(check) is verdict


@pytest.mark.parametrize("choice", [-1, 2, 7])
def test_a_choice_that_is_neither_of_two_values_refuses_the_new_one(choice: int) -> None:
    class Odd(VersionValidator):
        def select(self, key, values) -> int:
            return choice

    assert Validators({"v": Odd()}).judge(KEY, b"1:", b"2:", NOW) is Verdict.INVALID


def test_a_choice_that_cannot_be_made_refuses_the_new_value() -> None:
    class Unable(ApplicationValidator):
        def select(self, key, values) -> int:
            raise InvalidValueError("no idea")

    validators = Validators({}, {"app": Unable()})
    assert validators.perform(Check(b"/app/x", b"1:", b"2:")) is Verdict.INVALID


def test_an_applications_validator_takes_the_place_of_a_built_in_one() -> None:
    validators = Validators({"v": VersionValidator()}, {"v": ApplicationValidator()})
    assert isinstance(validators.judge(KEY, b"1:", None, NOW), Check)
    assert validators.namespaces == ("v",)


def test_a_namespace_is_immutable_only_if_its_validator_says_so() -> None:
    validators = make_validators()
    assert validators.is_immutable(b"/fixed/x")
    assert not validators.is_immutable(KEY)
    assert not validators.is_immutable(b"/other/x")


@pytest.mark.conformance("c23")
def test_namespaces_of_an_application_need_a_protocol_id_of_their_own() -> None:
    check_namespaces("/ipfs/kad/1.0.0", [])
    check_namespaces("/myapp/kad/1.0.0", ["v", "my-app"])
    for protocol_id in ("/ipfs/kad/1.0.0", "/ipfs/lan/kad/1.0.0"):
        with pytest.raises(ConfigError, match="protocol_id"):
            check_namespaces(protocol_id, ["v"])
    for name in ("", "a/b", "é"):
        with pytest.raises(ConfigError, match="namespace"):
            check_namespaces("/myapp/kad/1.0.0", [name])


class Choosy(ApplicationValidator):
    """Takes values from which it then cannot choose."""

    def select(self, key, values) -> int:
        if b"9:breaks" in values:
            raise InvalidValueError("no idea")
        return super().select(key, values)


@pytest.mark.parametrize(
    ("value", "best", "verdict"),
    [
        (b"9:breaks", None, Verdict.INVALID),
        (b"9:breaks", b"1:", Verdict.INVALID),
        (b"1:", b"9:breaks", Verdict.BETTER),
    ],
)
def test_a_value_that_breaks_the_choice_neither_enters_nor_keeps_the_place_of_others(
    value, best, verdict
) -> None:
    """It would stay for ever: no better value could be compared with it."""
    validators = Validators({}, {"app": Choosy()})
    assert validators.perform(Check(b"/app/x", value, best)) is verdict


def test_a_validator_that_only_ever_compares_two_values_is_enough() -> None:
    class Pairwise(ApplicationValidator):
        def select(self, key, values) -> int:
            first, second = values
            return 0 if first > second else 1

    validators = Validators({}, {"app": Pairwise()})
    verdicts = [
        validators.perform(Check(b"/app/x", value, best))
        for value, best in ((b"1:", None), (b"2:", b"1:"), (b"1:", b"2:"))
    ]
    assert verdicts == [Verdict.BETTER, Verdict.BETTER, Verdict.WORSE]
