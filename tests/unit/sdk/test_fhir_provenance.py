"""medprov_sdk.fhir_provenance, checked by the models of FHIR R5."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from fhir.resources import get_fhir_model_class
from fhir.resources.provenance import Provenance
from pydantic import ValidationError

from medprov_ledger.titles import Reason, Title
from medprov_sdk import export, fhir_provenance

NAMES = {"PatientName": "SOMEBODY^ELSE", "PatientID": "patient-4711"}


def made(world: Any, **changes: Any) -> tuple[Any, Any, dict[str, Any]]:
    record = world.record(world.phantom(), world.alice, attributes=NAMES, **changes)
    world.anchor(world.alice, record)
    one, title = export.find(world.verifier.ledger, record.leaf(world.domain))
    return one, title, fhir_provenance.resource(one, title, world.domain, export.signature_of(one))


def read(resource: dict[str, Any]) -> Any:
    """Validated, and nothing was dropped."""
    found = Provenance.model_validate_json(json.dumps(resource))
    assert json.loads(found.model_dump_json()) == json.loads(json.dumps(resource))
    return found


def test_the_models_of_the_test_are_of_r5() -> None:
    # R5 has authorization and basedOn, and lets a provenance be without the time of its recording; R4 has neither
    assert {"authorization", "basedOn", "encounter"} <= set(Provenance.model_fields)
    assert get_fhir_model_class("Provenance") is Provenance


def test_it_is_a_valid_resource(world: Any) -> None:
    one, _, resource = made(world)
    found = read(resource)
    assert found.recorded.isoformat() == "2023-11-14T22:15:00+00:00"
    assert found.occurredDateTime.isoformat() == "2023-11-14T22:13:20+00:00"
    assert found.target[0].identifier.value.endswith(f"#picture-0x{one.record.released_hash.hex()}")
    assert found.agent[0].who.identifier.value == f"did:pkh:eip155:31337:{world.alice.address}"
    assert found.agent[0].who.display == "alice"
    assert [entity.role for entity in found.entity] == ["source"]
    assert found.modifierExtension is None


def test_the_signature_is_the_owners_over_the_record(world: Any) -> None:
    from medprov_ledger import eip712

    one, _, resource = made(world)
    (signature,) = read(resource).signature
    signer = eip712.recover_record(one.record, base64.b64decode(resource["signature"][0]["data"]), world.domain)
    assert signer == world.alice.address
    assert signature.who.identifier.value.endswith(signer)


def test_every_reference_is_by_identifier(world: Any) -> None:
    _, _, resource = made(world)
    references = [*resource["target"], *(agent["who"] for agent in resource["agent"]), resource["entity"][0]["what"]]
    for reference in references:
        assert "reference" not in reference
        assert reference["identifier"]["system"] == "urn:ietf:rfc:3986"
        assert reference["identifier"]["value"].startswith(("did:pkh:", "ipfs://"))


def test_a_revoked_or_contested_record_must_not_be_read_as_a_standing_one(world: Any) -> None:
    one, _, _ = made(world)
    title = Title(world.bob.address, None, 1_800_000_000, Reason.CONSENT_WITHDRAWN, b"e" * 32)
    found = read(fhir_provenance.resource(one, title, world.domain, None))
    urls = [extension.url.rpartition("#")[2] for extension in found.modifierExtension]
    assert urls == ["revoked", "contested-by"]
    assert found.modifierExtension[0].extension[1].valueCode == "consent-withdrawn"
    assert any(extension.valueUri and world.bob.address in extension.valueUri for extension in found.extension)
    assert found.signature is None


def test_a_time_that_no_calendar_has_is_left_out(world: Any) -> None:
    _, _, resource = made(world, time=2**62)
    found = read(resource)
    assert found.occurredDateTime is None and found.signature[0].when is None


@pytest.mark.parametrize("alone", [False, True])
def test_nothing_personal_is_in_it(world: Any, alone: bool) -> None:
    one, title, resource = made(world)
    if alone:
        one = replace(one, claim=replace(one.claim, member=None, manifest="", transaction=None))
        resource = fhir_provenance.resource(one, title, world.domain, None)
        read(resource)
    text = json.dumps(resource)
    assert "patient" not in {name.lower() for name in resource}
    for secret in (*NAMES.values(), *NAMES, world.payload.data.hex(), "hashhash"):
        assert secret not in text


def test_the_models_would_refuse_a_wrong_one(world: Any) -> None:
    _, _, resource = made(world)
    for wrong in ({"agent": None}, {"target": None}, {"occured": "2023"}, {"recorded": "yesterday"}):
        with pytest.raises(ValidationError):
            read(resource | wrong)
