import json
from dataclasses import fields
from typing import Any

import pytest

from medprov_sdk import Verification
from medprov_sdk.verification import FORMAT, moment


@pytest.fixture
def result(world: Any) -> Verification:
    image = world.phantom()
    world.release(image, world.alice)
    changed = image.copy()
    changed[70, 40] ^= 1
    world.reader.say(changed, world.payload)
    verified: Verification = world.verifier.verify(changed)
    return verified


def test_json_holds_every_field_and_the_shortcuts(result: Verification) -> None:
    out = json.loads(json.dumps(result.to_json()))
    assert {field.name for field in fields(Verification)} <= set(out)
    assert out["format"] == FORMAT
    assert out["verdict"] == "tampered"
    assert out["reason"] == {"code": "blocks_differ", "text": result.reason.sentence}
    assert out["sentence"] == result.sentence
    assert out["metadata"] == {"state": "not_available", "differing": [], "text": result.metadata.sentence}
    assert out["heat"][0]["boxes"] == [[64, 32, 96, 64]]
    assert out["record"]["record"]["evidence_cid"] == out["evidence_cid"] == result.evidence_cid
    assert (out["owner"], out["block"], out["time"]) == (result.owner, 10, 1_700_000_100)
    assert out["checks"][0]["name"] == "ownership mark"


def test_json_of_an_unknown_picture_has_the_same_keys(result: Verification, world: Any) -> None:
    unknown = world.verifier.verify(world.phantom(9)).to_json()
    assert set(unknown) == set(result.to_json())
    assert unknown["record"] is None and unknown["owner"] is None and unknown["claims"] == []
    json.dumps(unknown)


def test_shortcuts_are_empty_without_a_record(world: Any) -> None:
    unknown = world.verifier.verify(world.phantom(9))
    shortcuts = (unknown.owner, unknown.member, unknown.transaction, unknown.block, unknown.time, unknown.evidence_cid)
    assert shortcuts == (None,) * 6


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01 00:00:00 UTC"),
        (1_700_000_000, "2023-11-14 22:13:20 UTC"),
        (2**64 - 1, f"{2**64 - 1} s after 1970"),
    ],
)
def test_moments_of_any_chain_can_be_shown(seconds: int, text: str) -> None:
    assert moment(seconds) == text
