"""``medprov export`` and ``medprov checkpoint``."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from medprov_ledger import checkpoint as checkpoints
from medprov_ledger import terminal
from medprov_ledger.config import Config
from medprov_ledger.keys import load_signer
from medprov_sdk import export, fhir_provenance, prov_json
from medprov_sdk.errors import SdkError, UnreadableError
from medprov_sdk.ledger_view import LedgerView
from medprov_sdk.offline import Home
from medprov_sdk.verdict import Verdict
from medprov_sdk.verification import moment
from medprov_watermark import media
from medprov_watermark.errors import MediaError
from medprov_watermark.media.files import store

if TYPE_CHECKING:
    from medprov_ledger.titles import Title
    from medprov_sdk.verifier import Verifier
    from medprov_sdk.view import Found

FORMATS = ("proof", "prov", "fhir")


def export_record(verifier: Verifier, picture: Path | None, record: str | None, kind: str, out: Path) -> None:
    """Write a record's proof file, or its provenance in a format of others.

    Parameters
    ----------
    verifier : Verifier
        Of a chain.
    picture : Path or None
        Whose record it is; None takes `record`.
    record : str or None
        The record's id, 0x and 64 hexadecimal digits.
    kind : str
        One of :data:`FORMATS`.
    out : Path
        A file that is not there yet.

    Raises
    ------
    SdkError, LedgerError
    """
    ledger = verifier.ledger
    assert isinstance(ledger, LedgerView)
    if os.path.lexists(out):
        raise SdkError(f"{out}: exists; name another file, or remove it first")
    lines = []
    if picture is not None:
        record_id, verdict = _record_of(verifier, picture)
        if verdict is not Verdict.AUTHENTIC:
            lines.append(f"  the picture itself is {verdict.value}: see 'medprov verify'")
    elif record is not None:
        record_id = _id(record)
    else:
        raise SdkError("give a picture, or a record's id with --record")
    found, title = export.find(ledger, record_id)
    if kind == "proof":
        lines = _proof(ledger, found, title, picture, out) + lines
    else:
        _interchange(ledger, found, title, kind, out)
    name = f" ({found.claim.member})" if found.claim.member else ""
    first = f"{out}: record {found.claim.record_id} of {found.claim.owner}{name}, "
    first += f"anchored {moment(found.claim.time)} in block {found.claim.block}"
    terminal.say("\n".join([first, *lines]), f"{out} is written")


def _record_of(verifier: Verifier, picture: Path) -> tuple[bytes, Verdict]:
    try:
        pixels = media.read(picture)
    except MediaError as error:
        raise UnreadableError(str(error)) from None
    result = verifier.verify(pixels, source=picture.name)
    if result.verdict is Verdict.CONFLICTING_CLAIMS:
        ids = ", ".join(f"{claim.record_id} of {claim.owner}" for claim in result.claims)
        raise SdkError(f"{picture}: more than one owner claims it; choose with --record: {ids}")
    if result.record is None:
        raise SdkError(f"{picture}: no record to export, it is {result.verdict.value} ({result.reason.sentence})")
    return _id(result.record.record_id), result.verdict


def _id(text: str) -> bytes:
    if not re.fullmatch(r"0x[0-9a-fA-F]{64}", text):
        raise SdkError(f"{text[:200]!r}: is no record's id; it must be 0x and 64 hexadecimal digits")
    return bytes.fromhex(text[2:])


def _proof(ledger: LedgerView, found: Found, title: Title, picture: Path | None, out: Path) -> list[str]:
    made, missing = export.proof(ledger, found, title)
    _write(out, made.to_bytes())
    given = picture if picture is not None else "PICTURE"
    lines = [
        f"  verify with: medprov verify {given} --offline {out} --federation {Home.of(ledger.config).spelled()}",
        f"  its anchor, to be looked up on the chain: {found.record.owner}:0x{made.anchored.hex()}",
    ]
    if missing:
        lines.append(f"  without the evidence ({missing}): with it only the untouched picture can be verified")
    return lines


def _interchange(ledger: LedgerView, found: Found, title: Title, kind: str, out: Path) -> None:
    if kind == "prov":
        document = prov_json.document(found, title, ledger.domain)
    else:
        document = fhir_provenance.resource(found, title, ledger.domain, export.signature_of(found))
    _write(out, (json.dumps(document, indent=2) + "\n").encode("ascii"))


def checkpoint(config: Config, file: Path, hospital: str | None) -> None:
    """Make a checkpoint, or check one against the chain; and sign it.

    Parameters
    ----------
    config : Config
    file : Path
        Made where it is not there.
    hospital : str or None
        Which of the configuration's hospitals signs; None signs nothing.

    Raises
    ------
    SdkError, LedgerError
    """
    ledger = LedgerView(config, ":memory:")
    if os.path.lexists(file):
        known = checkpoints.read(file)
        export.confirm(ledger, known)
    else:
        known = export.checkpoint(ledger)
    if hospital is not None:
        known = known.sign(load_signer(config.hospital(hospital)))
    if hospital is not None or not file.exists():
        _write(file, known.to_bytes(), overwrite=True)
    signers = ", ".join(sorted(known.signers())) or "nobody"
    what = f"{len(known.anchors)} anchors and {len(known.revoked)} revoked records"
    terminal.say(
        f"{file}: {what} up to block {known.block} of {moment(known.time)}, as the chain says; signed by {signers}"
    )


def _write(file: Path, data: bytes, *, overwrite: bool = False) -> None:
    try:
        store(file, data, overwrite=overwrite)
    except MediaError as error:
        raise SdkError(f"{file}: {error}") from None
