"""The command line: ``medprov verify``, ``export``, ``checkpoint`` and ``serve``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medprov_ledger import terminal
from medprov_ledger.errors import StandardOutputError
from medprov_sdk.errors import SdkError, UnreadableError
from medprov_sdk.verdict import Basis, Verdict
from medprov_sdk.verification import moment

if TYPE_CHECKING:
    from medprov_sdk.verification import Verification
    from medprov_sdk.verifier import Verifier

USAGE, UNREADABLE = 2, 3
"""Exit codes beside those of the verdicts (:attr:`medprov_sdk.verdict.Verdict.exit_code`)."""

_CODES = """exit codes: 0 authentic, 10 authentic_derived, 20 tampered, 21 copied_mark, 22 conflicting_claims,
23 revoked, 24 unverifiable, 25 unknown, 2 wrong usage, configuration or output,
3 unreadable picture. They tell the verdict on the pixels; changed metadata is told in the text and in the JSON.
With --offline nothing is asked: what rests on the proof file's own word is 24, whatever the pixels say, until a
checkpoint or --anchor confirms the anchor; the verdict that would follow then is told beside it."""
_EXPORTED = """A proof file is for 'medprov verify --offline' and holds the sealed evidence. prov is PROV-JSON (W3C
Member Submission), fhir a Provenance resource of FHIR R5; neither names a patient. exit codes: 0 written,
2 wrong usage, configuration or output, or no such record, 3 unreadable picture."""
_CHECKPOINT = """A checkpoint says without the chain which anchors it holds up to a block, and which records were
revoked. Verifiers take it when enough of the members in their [trust] have signed it. FILE is made where it is not
there; otherwise it is checked against the chain. --hospital signs it, after that check."""

_KEY = "consortium's key, the bytes of the file as they are (default: key_file of [watermark] in the configuration)"
_CONFIG = "default: $MEDPROV_CONFIG, ./medprov.toml, ./.medprov/medprov.toml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code tells the verdict."""
    parser = argparse.ArgumentParser(prog="medprov", description="Verify medical pictures.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    verify = commands.add_parser("verify", help="verify one picture", description="Verify one picture.", epilog=_CODES)
    verify.add_argument("image", type=Path, metavar="IMAGE", help="PNG, TIFF, JPEG or DICOM file")
    verify.add_argument("--json", action="store_true", help="print everything as JSON")
    verify.add_argument("--report", type=Path, metavar="FILE", help="write a page for printing (HTML)")
    offline = verify.add_argument_group("without the chain")
    offline.add_argument(
        "--offline", type=Path, metavar="FILE", help="proof file of 'medprov export'; nothing is asked"
    )
    offline.add_argument("--federation", metavar="CHAIN:REGISTRY:ID", help="the federation meant, in place of --config")
    more = "signed checkpoint that confirms anchors (more than one may be given, also in [trust])"
    offline.add_argument("--checkpoint", type=Path, metavar="FILE", action="append", default=[], help=more)
    more = "anchor that you have looked up on the chain yourself; without it or a checkpoint no verdict is final"
    offline.add_argument("--anchor", metavar="OWNER:ROOT", action="append", default=[], help=more)
    text = "Write a record's proof file, or its provenance in a format of others."
    export = commands.add_parser("export", help="export a record", description=text, epilog=_EXPORTED)
    export.add_argument("image", type=Path, metavar="IMAGE", nargs="?", help="the released picture or a copy of it")
    export.add_argument("--record", metavar="ID", help="the record's id, in place of a picture")
    export.add_argument("--format", choices=("proof", "prov", "fhir"), default="proof", help="default: %(default)s")
    export.add_argument("--out", type=Path, metavar="FILE", required=True, help="file to write, not there yet")
    text = "Make, check or sign a checkpoint of the registry."
    point = commands.add_parser("checkpoint", help="make or sign a checkpoint", description=text, epilog=_CHECKPOINT)
    point.add_argument("file", type=Path, metavar="FILE")
    point.add_argument("--hospital", metavar="NAME", help="who of the configuration signs")
    text = "A page where pictures are verified: a form at /, POST /verify, GET /health."
    serve = commands.add_parser("serve", help="serve the verification page", description=text)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    serve.add_argument("--port", type=_port, default=8080, help="0 takes a free one (default: %(default)s)")
    for command in (verify, export, point, serve):
        command.add_argument("--config", type=Path, metavar="FILE", help=_CONFIG)
    for command in (verify, export, serve):
        command.add_argument("--key-file", type=Path, metavar="FILE", help=_KEY)
    terminal.prepare()
    try:
        chosen = terminal.parse(parser, arguments)
        if chosen.command == "serve":
            return _serve(chosen.config, chosen.key_file, chosen.host, chosen.port)
        if chosen.command == "export":
            return _export(chosen)
        if chosen.command == "checkpoint":
            return _checkpoint(chosen.config, chosen.file, chosen.hospital)
        if chosen.offline is None and (chosen.federation or chosen.checkpoint or chosen.anchor):
            verify.error("--federation, --checkpoint and --anchor are for --offline")
        if chosen.federation and chosen.config:
            verify.error("--federation stands in place of --config; give one of them")
        return _verify(chosen)
    except UnreadableError as error:
        return _fail(error, UNREADABLE)
    except (SdkError, StandardOutputError) as error:
        return _fail(error, USAGE)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _verify(chosen: argparse.Namespace) -> int:
    image: Path = chosen.image
    report: Path | None = chosen.report
    # what takes long to import comes after the arguments were checked
    from medprov_ledger.errors import LedgerError
    from medprov_watermark import media
    from medprov_watermark.errors import MediaError, WatermarkError
    from medprov_watermark.media.files import store

    if report is not None:
        _check_report(report, image)
    try:
        pixels = media.read(image)
    except MediaError as error:
        raise UnreadableError(str(error)) from None
    try:
        result = _verifier(chosen).verify(pixels, source=image.name)
    except (LedgerError, WatermarkError) as error:
        raise SdkError(str(error)) from None
    if report is not None:
        from medprov_sdk.report import page

        try:
            # a file name that is not UTF-8 is in the page
            store(report, page(result, pixels.array).encode("utf-8", "replace"), overwrite=True)
        except MediaError as error:
            raise SdkError(f"{report}: {error}") from None
    # every sign in ASCII: what the output's encoding lacks would not be JSON any more
    terminal.say(json.dumps(result.to_json(), indent=2) if chosen.json else summary(result))
    return result.verdict.exit_code


def _verifier(chosen: argparse.Namespace) -> Verifier:
    """The verifier of a chain, or of a proof file."""
    from medprov_sdk.verifier import Verifier

    if chosen.offline is None:
        return Verifier.from_config(chosen.config, key_file=chosen.key_file)
    from medprov_ledger.config import Config
    from medprov_sdk.offline import Home, trust

    key_file, checkpoints = chosen.key_file, chosen.checkpoint
    if chosen.federation:
        home = Home.parse(chosen.federation)
    else:
        config = Config.load(chosen.config)
        home = Home.of(config)
        key_file, checkpoints = key_file or config.key_file, [*config.trust.checkpoints, *checkpoints]
    return Verifier.from_proof(chosen.offline, home, trust(home, chosen.anchor, checkpoints), key_file=key_file)


def _export(chosen: argparse.Namespace) -> int:
    from medprov_ledger.errors import LedgerError
    from medprov_sdk.export_command import export_record
    from medprov_sdk.verifier import Verifier
    from medprov_watermark.errors import WatermarkError

    if (chosen.image is None) == (chosen.record is None):
        raise SdkError("give either a picture or --record ID")
    try:
        verifier = Verifier.from_config(chosen.config, key_file=chosen.key_file)
        export_record(verifier, chosen.image, chosen.record, chosen.format, chosen.out)
    except StandardOutputError:
        raise
    except (LedgerError, WatermarkError) as error:
        raise SdkError(str(error)) from None
    return 0


def _checkpoint(path: Path | None, file: Path, hospital: str | None) -> int:
    from medprov_ledger.config import Config
    from medprov_ledger.errors import LedgerError
    from medprov_sdk.export_command import checkpoint

    try:
        checkpoint(Config.load(path), file, hospital)
    except StandardOutputError:
        raise
    except LedgerError as error:
        raise SdkError(str(error)) from None
    return 0


def _check_report(report: Path, image: Path) -> None:
    """Refuse to replace what may be something else than an older report."""
    if os.path.exists(report) and os.path.exists(image) and report.samefile(image):
        raise SdkError(f"{report}: is the picture itself; name another file for the report")
    if os.path.lexists(report) and report.suffix.lower() not in (".html", ".htm"):
        raise SdkError(f"{report}: exists and is no .html file; name another file for the report")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError("must be a number from 0 to 65535")
    return int(text)


def _serve(config: Path | None, key_file: Path | None, host: str, port: int) -> int:
    from medprov_ledger.errors import LedgerError
    from medprov_watermark.errors import WatermarkError

    try:
        from medprov_sdk.server import serve
    except ModuleNotFoundError as error:
        raise SdkError(f"{error.name}: is not installed; install medprov-sdk[web]") from None
    from medprov_sdk.verifier import Verifier

    try:
        verifier = Verifier.from_config(config, key_file=key_file)
    except (LedgerError, WatermarkError) as error:
        raise SdkError(str(error)) from None
    serve(verifier, host, port)
    return 0


def summary(result: Verification) -> str:
    """A few lines for people."""
    lines = [f"{result.source}: {result.verdict.value}", f"  {result.sentence}"]
    lines.append(f"  reason: {result.reason.sentence}")
    lines.append(f"  metadata: {result.metadata.state.value}: {result.metadata.sentence}")
    for claim in result.claims:
        name = f" ({claim.member})" if claim.member else ""
        lines.append(f"  owner: {claim.owner}{name}")
        said = " (as the proof file states)" if result.offline and "block" in result.offline.stated else ""
        lines.append(f"  anchored {moment(claim.time)} in block {claim.block}, transaction {claim.transaction}{said}")
    if result.offline is not None:
        lines.append(f"  rests on: {result.offline.pinned}")
        if result.basis is Basis.FILE:
            lines.append(f"  if the chain holds this anchor, the verdict is: {result.offline.if_anchored.value}")
        lines += [f"  not known without the chain: {line}" for line in result.offline.not_known]
    if result.geometry != "upright":
        parts = [f"{heat.overlap:.0%} of the released picture compared" for heat in result.heat if heat.kind == "cells"]
        lines.append("  " + ", ".join([f"orientation: {result.geometry}", *parts]))
    for heat in result.heat:
        if heat.boxes:
            lines.append(f"  differs: {len(heat.boxes)} {heat.kind}, {heat.share:.1%} of what could be compared")
    lines += [f"  failed: {check.name}: {check.detail}" for check in result.checks if check.passed is False]
    if result.verdict is Verdict.UNVERIFIABLE:
        lines += [f"  open: {check.name}: {check.detail}" for check in result.checks if check.passed is None]
        lines += [f"  proved offline: {line}" for line in result.proved_offline]
    if result.verdict is Verdict.UNKNOWN:
        alarm = result.false_alarm
        lines.append(f"  false alarms: at most {alarm.computed:.1e} computed, {alarm.measured:.1e} measured")
    # a file name or an answer of a chain may hold anything
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)


def _fail(error: object, code: int) -> int:
    terminal.complain("medprov: " + " ".join(str(error).split()))
    return code


if __name__ == "__main__":
    sys.exit(main())
