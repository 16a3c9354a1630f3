from typing import Any

import pytest

from medprov_ledger import evidence
from medprov_ledger.sealing import PayloadKeys, payload_keys
from medprov_sdk.metadata import Metadata, State, compare, unavailable

ATTRIBUTES = {"PatientName": "Doe^Jane", "Laterality": "", "PixelSpacing": "0.5\\0.5"}


@pytest.fixture(scope="module")
def keys() -> PayloadKeys:
    return payload_keys(b"hashhashseri", b"f" * 32)


def of(keys: PayloadKeys, attributes: dict[str, str]) -> Any:
    macs = evidence.attribute_macs(keys.evidence_key, attributes)
    return evidence.Evidence(8, 8, 1, 8, 32, bytes(8), b"", 1, macs)


def test_the_same_attributes_match(keys: PayloadKeys) -> None:
    found = compare(of(keys, ATTRIBUTES), keys, ATTRIBUTES)
    assert found == Metadata(State.MATCHES, (), 3, "")
    assert found.sentence == "all 3 recorded attributes of the file are as released"


@pytest.mark.parametrize("name", sorted(ATTRIBUTES))
@pytest.mark.parametrize("value", ["", "x", "Doe^Jane "])
def test_one_changed_attribute_is_named(keys: PayloadKeys, name: str, value: str) -> None:
    found = compare(of(keys, ATTRIBUTES), keys, ATTRIBUTES | {name: value})
    assert found.differing == ((name,) if value != ATTRIBUTES[name] else ())


def test_only_names_that_both_have_are_compared(keys: PayloadKeys) -> None:
    # a later release lists more attributes than this one, or fewer
    recorded = of(keys, ATTRIBUTES | {"BodyPartExamined": "KNEE"})
    assert compare(recorded, keys, ATTRIBUTES | {"StudyTime": "9"}) == Metadata(State.MATCHES, (), 3, "")


@pytest.mark.parametrize(("recorded", "given"), [({}, ATTRIBUTES), (ATTRIBUTES, {"TIFF Orientation": "1"})])
def test_another_kind_of_file_is_no_contradiction(
    keys: PayloadKeys, recorded: dict[str, str], given: dict[str, str]
) -> None:
    found = compare(of(keys, recorded), keys, given)
    assert found.state is State.NOT_AVAILABLE and "not compared" in found.sentence


def test_why_nothing_was_compared_is_said() -> None:
    assert unavailable("of the rain").sentence.endswith(": of the rain")
    assert Metadata().state is State.NOT_AVAILABLE and "no record" in Metadata().sentence
