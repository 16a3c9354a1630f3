"""medprov_sdk.prov_json, read back by the reference implementation of PROV in Python."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from prov.model import (
    ProvActivity,
    ProvAgent,
    ProvAssociation,
    ProvAttribution,
    ProvDerivation,
    ProvDocument,
    ProvEntity,
    ProvGeneration,
    ProvInvalidation,
    ProvUsage,
)

from medprov_ledger import cid
from medprov_ledger.titles import Reason, Title
from medprov_sdk import export, prov_json

NAMES = {"PatientName": "SOMEBODY^ELSE", "PatientID": "patient-4711"}


def found(world: Any, **changes: Any) -> Any:
    record = world.record(world.phantom(), world.alice, attributes=NAMES, **changes)
    world.anchor(world.alice, record)
    return export.find(world.verifier.ledger, record.leaf(world.domain))


def read(world: Any, one: Any, title: Any) -> ProvDocument:
    text = json.dumps(prov_json.document(one, title, world.domain))
    document = ProvDocument.deserialize(content=text, format="json")
    # what was read says the same as what was written: nothing was dropped on the way
    assert ProvDocument.deserialize(content=document.serialize(format="json"), format="json") == document
    return document


def uris(document: ProvDocument, kind: Any) -> set[str]:
    return {record.identifier.uri for record in document.get_records(kind)}


def test_the_reference_implementation_reads_every_statement(world: Any) -> None:
    one, title = found(world, bundle_cid=cid.of(b"bundle"))
    document, record = read(world, one, title), one.record
    here = f"did:pkh:eip155:31337:{world.domain.registry}#"
    assert uris(document, ProvAgent) == {f"did:pkh:eip155:31337:{world.alice.address}"}
    assert uris(document, ProvActivity) == {
        f"{here}marking-{one.claim.record_id}",
        f"{here}anchoring-{one.claim.record_id}",
    }
    assert uris(document, ProvEntity) == {
        f"{here}picture-0x{record.released_hash.hex()}",
        f"{here}marked-0x{record.marked_hash.hex()}",
        f"{here}cover-0x{record.cover_hash.hex()}",
        f"{here}model-0x{record.model.hex()}",
        f"{here}record-{one.claim.record_id}",
        f"ipfs://{record.evidence_cid}",
        f"ipfs://{record.bundle_cid}",
    }
    kinds = (ProvUsage, ProvGeneration, ProvDerivation, ProvAttribution, ProvAssociation, ProvInvalidation)
    assert [len(list(document.get_records(kind))) for kind in kinds] == [3, 4, 3, 2, 2, 0]


def test_every_name_that_a_relation_uses_is_declared(world: Any) -> None:
    document = prov_json.document(*found(world), world.domain)
    declared = {name for kind in ("entity", "activity", "agent") for name in document[kind]}
    roles = ("entity", "activity", "agent", "generatedEntity", "usedEntity")
    relations = [name for name in document if name not in ("prefix", "entity", "activity", "agent")]
    for relation in relations:
        for statement in document[relation].values():
            used = {value for role, value in statement.items() if role.removeprefix("prov:") in roles}
            assert used and used <= declared, (relation, statement)
    assert {name.partition(":")[0] for name in declared} <= set(document["prefix"])


def test_the_anchors_time_is_the_blocks_and_the_markings_is_the_owners(world: Any) -> None:
    document = prov_json.document(*found(world), world.domain)
    times = {values["prov:label"]: values["prov:endTime"] for values in document["activity"].values()}
    assert times == {"marking": "2023-11-14T22:13:20Z", "anchoring": "2023-11-14T22:15:00Z"}


def test_a_time_that_no_calendar_has_is_left_out(world: Any) -> None:
    document = prov_json.document(*found(world, time=2**62), world.domain)
    (marking,) = [values for values in document["activity"].values() if values["prov:label"] == "marking"]
    assert "prov:endTime" not in marking
    read(world, *found(world, time=2**62))


def test_revocation_transfer_and_dispute_are_told(world: Any) -> None:
    one, _ = found(world)
    title = Title(world.bob.address, None, 1_800_000_000, Reason.CONSENT_WITHDRAWN, b"e" * 32)
    document = read(world, one, title)
    (gone,) = document.get_records(ProvInvalidation)
    assert str(gone.args[2]) == "2027-01-15 08:00:00+00:00"
    assert len(uris(document, ProvAgent)) == 2 and len(uris(document, ProvActivity)) == 3
    text = json.dumps(prov_json.document(one, title, world.domain))
    assert "consent withdrawn" in text and (b"e" * 32).hex() in text


@pytest.mark.parametrize("alone", [False, True])
def test_nothing_personal_is_in_it(world: Any, alone: bool) -> None:
    one, title = found(world)
    if alone:
        one = replace(one, claim=replace(one.claim, member=None, manifest="", transaction=None))
        read(world, one, title)
    text = json.dumps(prov_json.document(one, title, world.domain))
    assert text.isascii()
    for secret in (*NAMES.values(), *NAMES, world.payload.data.hex(), "hashhash"):
        assert secret not in text
