"""A record as PROV-JSON (W3C Member Submission of 24 April 2013), in the terms of PROV-DM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medprov_sdk import names

if TYPE_CHECKING:
    from medprov_ledger.eip712 import Domain
    from medprov_ledger.titles import Title
    from medprov_sdk.view import Found

_Statements = dict[str, dict[str, Any]]


def document(found: Found, title: Title, domain: Domain) -> dict[str, Any]:
    """The provenance of one released picture.

    The hospital marked the cover with a model, which gave the released picture and its evidence, and anchored the
    record of it. The time of marking is the hospital's word, that of the anchor the block's.

    Parameters
    ----------
    found : Found
    title : Title
        What has become of the record; a revoked one is invalidated, and its reason named.
    domain : Domain

    Returns
    -------
    dict
        JSON.
    """
    record, claim = found.record, found.claim
    record_id = record.leaf(domain)

    def here(kind: str, name: bytes) -> str:
        return "ledger:" + names.local(kind, name)

    released, cover = here("picture", record.released_hash), here("cover", record.cover_hash)
    marked, model = here("marked", record.marked_hash), here("model", record.model)
    entry, owner = here("record", record_id), f"account:{record.owner}"
    marking, anchoring = here("marking", record_id), here("anchoring", record_id)
    evidence = f"ipfs:{record.evidence_cid}"
    entity: _Statements = {
        released: {"prov:label": "released picture", "medprov:contentHash": "0x" + record.released_hash.hex()},
        marked: {"prov:label": "picture with the ownership mark"},
        cover: {"prov:label": "cover, by its salted hash"},
        model: {"prov:label": "weights of the marking networks", "medprov:sha256": "0x" + record.model.hex()},
        evidence: {"prov:label": "sealed evidence", "prov:location": names.content(record.evidence_cid)},
        entry: {"prov:label": "record of the picture", "medprov:recordKey": "0x" + record.key.hex()},
    }
    if record.bundle_cid:
        location = names.content(record.bundle_cid)
        entity[f"ipfs:{record.bundle_cid}"] = {"prov:label": "sealed bundle", "prov:location": location}
    agents: _Statements = {owner: _member(found.claim.member)}
    out: dict[str, Any] = {
        "prefix": {
            "prov": "http://www.w3.org/ns/prov#",
            "xsd": "http://www.w3.org/2001/XMLSchema#",
            "medprov": names.VOCABULARY,
            "ledger": names.account(domain, domain.registry) + "#",
            "account": names.account(domain, ""),
            "ipfs": names.content(""),
        },
        "entity": entity,
        "activity": {
            marking: _times({"prov:label": "marking"}, "prov:endTime", record.time),
            anchoring: _times(_anchor(found), "prov:endTime", claim.time),
        },
        "agent": agents,
        "used": _numbered(
            "u",
            {"prov:activity": marking, "prov:entity": cover},
            {"prov:activity": marking, "prov:entity": model},
            {"prov:activity": anchoring, "prov:entity": released},
        ),
        "wasGeneratedBy": _numbered(
            "g",
            _times({"prov:entity": released, "prov:activity": marking}, "prov:time", record.time),
            {"prov:entity": marked, "prov:activity": marking},
            {"prov:entity": evidence, "prov:activity": marking},
            _times({"prov:entity": entry, "prov:activity": anchoring}, "prov:time", claim.time),
        ),
        "wasDerivedFrom": _numbered(
            "d",
            {"prov:generatedEntity": marked, "prov:usedEntity": cover, "prov:activity": marking},
            {"prov:generatedEntity": released, "prov:usedEntity": marked},
            {"prov:generatedEntity": evidence, "prov:usedEntity": released},
        ),
        "wasAttributedTo": _numbered(
            "a", {"prov:entity": released, "prov:agent": owner}, {"prov:entity": entry, "prov:agent": owner}
        ),
        "wasAssociatedWith": _numbered(
            "w",
            {"prov:activity": marking, "prov:agent": owner},
            {"prov:activity": anchoring, "prov:agent": owner},
        ),
    }
    if title.owner != record.owner:
        agents[f"account:{title.owner}"] = _member(None)
        entity[entry]["medprov:presentOwner"] = _name(f"account:{title.owner}")
    if title.contested_by is not None:
        entity[entry]["medprov:contestedBy"] = _name(here("record", title.contested_by))
    if title.revoked is not None:
        revoking = here("revoking", record_id)
        reason = title.reason.name.lower().replace("_", " ")
        out["activity"][revoking] = _times(
            {"prov:label": "revocation", "medprov:reason": reason}, "prov:endTime", title.revoked
        )
        gone = _times({"prov:entity": entry, "prov:activity": revoking}, "prov:time", title.revoked)
        out["wasInvalidatedBy"] = _numbered("i", gone)
    return out


def _anchor(found: Found) -> dict[str, Any]:
    claim = found.claim
    said: dict[str, Any] = {"prov:label": "anchoring", "medprov:block": {"$": str(claim.block), "type": "xsd:long"}}
    if claim.transaction:
        said["medprov:transaction"] = claim.transaction
    if claim.manifest:
        said["medprov:manifest"] = names.content(claim.manifest)
    return said


def _member(name: str | None) -> dict[str, Any]:
    return {"prov:type": _name("prov:Organization"), "prov:label": name or "member of the federation"}


def _name(qualified: str) -> dict[str, str]:
    """A value that is the name of something."""
    return {"$": qualified, "type": "xsd:QName"}


def _times(values: dict[str, Any], name: str, seconds: int) -> dict[str, Any]:
    moment = names.instant(seconds)
    return values if moment is None else values | {name: moment}


def _numbered(letter: str, *statements: dict[str, Any]) -> _Statements:
    """Relations have no names of their own: blank ones do."""
    return {f"_:{letter}{number}": statement for number, statement in enumerate(statements, 1)}
