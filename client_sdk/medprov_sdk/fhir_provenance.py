"""A record as a FHIR R5 ``Provenance`` resource (http://hl7.org/fhir/R5/provenance.html).

Everything is named by identifier and nothing by a server's address (logical references): the resource can be put onto
any server. It names no patient.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from medprov_sdk import names

if TYPE_CHECKING:
    from medprov_ledger.eip712 import Domain
    from medprov_ledger.titles import Title
    from medprov_sdk.view import Found

URI = "urn:ietf:rfc:3986"
"""System of identifiers that are URIs."""
_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem/"
_AUTHOR_SIGNATURE = {
    "system": "urn:iso-astm:E1762-95:2013",
    "code": "1.2.840.10065.1.12.1.1",
    "display": "Author's Signature",
}


def resource(found: Found, title: Title, domain: Domain, signature: bytes | None) -> dict[str, Any]:
    """The provenance of one released picture.

    Parameters
    ----------
    found : Found
    title : Title
        What has become of the record. That it was revoked, or is contested, is a modifier extension: a reader that
        does not know it must not use the resource.
    domain : Domain
    signature : bytes or None
        The owner's over the record, 65 bytes.

    Returns
    -------
    dict
        JSON.
    """
    record, claim = found.record, found.claim
    owner = _reference("Organization", names.account(domain, record.owner), claim.member or "member of the federation")
    recorded = names.instant(claim.time)
    occurred = names.instant(record.time)
    out: dict[str, Any] = {
        "resourceType": "Provenance",
        "extension": [_anchor(found, domain)],
        "target": [
            _known(domain, "picture", record.released_hash, "released picture, by the SHA3-256 of its samples"),
            _known(domain, "record", record.leaf(domain), "record of the picture"),
            _reference("Binary", names.content(record.evidence_cid), "sealed evidence"),
        ],
        "activity": {
            "coding": [{"system": _TERMINOLOGY + "v3-DataOperation", "code": "CREATE", "display": "create"}],
            "text": "marking and anchoring of a medical picture",
        },
        "agent": [
            {"type": _participant("author", "Author"), "who": owner},
            {
                "type": _participant("assembler", "Assembler"),
                "who": _known(domain, "model", record.model, "marking networks, by the SHA-256", kind="Device"),
                "onBehalfOf": owner,
            },
        ],
        "entity": [
            {"role": "source", "what": _known(domain, "cover", record.cover_hash, "cover, by its salted hash")},
        ],
    }
    if occurred is not None:
        out["occurredDateTime"] = occurred
    if recorded is not None:
        out["recorded"] = recorded
    if signature is not None:
        made = {"when": occurred} if occurred is not None else {}
        data = base64.b64encode(signature).decode("ascii")
        sealed = {"type": [_AUTHOR_SIGNATURE], "who": owner, "sigFormat": "application/octet-stream", "data": data}
        out["signature"] = [sealed | made]
    if title.owner != record.owner:
        out["extension"].append(_extension("present-owner", "valueUri", names.account(domain, title.owner)))
    modifiers = []
    if title.revoked is not None:
        reason = _extension("reason", "valueCode", title.reason.name.lower().replace("_", "-"), inner=True)
        when = _extension("time", "valueInstant", names.instant(title.revoked), inner=True)
        modifiers.append({"url": names.VOCABULARY + "revoked", "extension": [when, reason]})
    if title.contested_by is not None:
        contested = names.thing(domain, "record", title.contested_by)
        modifiers.append(_extension("contested-by", "valueUri", contested))
    if modifiers:
        out["modifierExtension"] = modifiers
    return out


def _anchor(found: Found, domain: Domain) -> dict[str, Any]:
    """Where the record stands on the chain; Provenance has no element for it."""
    claim = found.claim
    parts = [
        _extension("registry", "valueUri", names.account(domain, domain.registry), inner=True),
        # a chain may count further than FHIR's integers do
        _extension("block", "valueString", str(claim.block), inner=True),
    ]
    if claim.transaction:
        parts.append(_extension("transaction", "valueString", claim.transaction, inner=True))
    if claim.manifest:
        parts.append(_extension("manifest", "valueUri", names.content(claim.manifest), inner=True))
    return {"url": names.VOCABULARY + "anchor", "extension": parts}


def _extension(name: str, kind: str, value: object, *, inner: bool = False) -> dict[str, Any]:
    """An extension; inside another one its name is relative."""
    return {"url": name if inner else names.VOCABULARY + name, kind: value}


def _known(domain: Domain, what: str, name: bytes, display: str, kind: str = "DocumentReference") -> dict[str, Any]:
    return _reference(kind, names.thing(domain, what, name), display)


def _reference(kind: str, uri: str, display: str) -> dict[str, Any]:
    return {"type": kind, "identifier": {"system": URI, "value": uri}, "display": display}


def _participant(code: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": _TERMINOLOGY + "provenance-participant-type", "code": code, "display": display}]}
