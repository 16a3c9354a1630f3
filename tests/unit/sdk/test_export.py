"""medprov_sdk.export; test_links has the real contracts, test_offline what is verified with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medprov_ledger.errors import ChainError
from medprov_ledger.proof_file import Proof
from medprov_sdk import export
from medprov_sdk.errors import SdkError


def released(world: Any) -> Proof:
    """The proof of a picture that was anchored after another owner's."""
    image = world.phantom()
    world.anchor(world.bob, world.record(world.phantom(9), world.bob, released_hash=b"o" * 32, key=b"o" * 32))
    world.release(image, world.alice)
    found, title = export.find(world.verifier.ledger, world.record(image, world.alice).leaf(world.domain))
    made, missing = export.proof(world.verifier.ledger, found, title)
    assert missing == ""
    return made


def test_nothing_is_exported_that_the_chain_does_not_prove(world: Any) -> None:
    proof = released(world)
    view = world.verifier.ledger
    with pytest.raises(SdkError, match="the chain proves no such record"):
        export.find(view, b"x" * 32)
    world.contracts.forged = True
    with pytest.raises(SdkError, match="the chain proves no such record"):
        export.find(view, proof.record_id)
    world.contracts.forged, world.contracts.away = False, True
    with pytest.raises(SdkError, match="no chain answers there"):
        export.find(view, proof.record_id)


def test_a_checkpoint_is_checked_against_the_chain_before_it_is_signed(world: Any) -> None:
    released(world)
    view = world.verifier.ledger
    known = export.checkpoint(view, 50)
    export.confirm(view, known)
    for false in (
        replace(known, anchors=known.anchors[:1]),
        replace(known, revoked=(b"r" * 32,)),
        replace(known, block_hash=b"x" * 32),
        replace(known, federation_id=b"x" * 32),
    ):
        with pytest.raises(SdkError, match="is not what the chain says"):
            export.confirm(view, false)
    world.contracts.away = True
    with pytest.raises(ChainError):
        export.confirm(view, known)


def test_an_export_without_the_store_says_what_is_missing(world: Any, tmp_path: Path) -> None:
    proof = released(world)
    (tmp_path / "blocks").rename(tmp_path / "elsewhere")
    found, title = export.find(world.verifier.ledger, proof.record_id)
    made, missing = export.proof(world.verifier.ledger, found, title)
    assert made.evidence is None and missing
