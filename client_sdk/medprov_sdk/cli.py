"""The command line: ``medprov verify IMAGE`` and ``medprov serve``."""

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
from medprov_sdk.verdict import Verdict
from medprov_sdk.verification import moment

if TYPE_CHECKING:
    from medprov_sdk.verification import Verification

USAGE, UNREADABLE = 2, 3
"""Exit codes beside those of the verdicts (:attr:`medprov_sdk.verdict.Verdict.exit_code`)."""

_CODES = """exit codes: 0 authentic, 10 authentic_derived, 20 tampered, 21 copied_mark, 22 conflicting_claims,
23 revoked, 24 unverifiable, 25 unknown, 2 wrong usage, configuration or output,
3 unreadable picture. They tell the verdict on the pixels; changed metadata is told in the text and in the JSON."""

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
    text = "A page where pictures are verified: a form at /, POST /verify, GET /health."
    serve = commands.add_parser("serve", help="serve the verification page", description=text)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    serve.add_argument("--port", type=_port, default=8080, help="0 takes a free one (default: %(default)s)")
    for command in (verify, serve):
        command.add_argument("--config", type=Path, metavar="FILE", help=_CONFIG)
        command.add_argument("--key-file", type=Path, metavar="FILE", help=_KEY)
    terminal.prepare()
    try:
        chosen = terminal.parse(parser, arguments)
        if chosen.command == "serve":
            return _serve(chosen.config, chosen.key_file, chosen.host, chosen.port)
        return _verify(chosen.image, chosen.config, chosen.key_file, chosen.json, chosen.report)
    except UnreadableError as error:
        return _fail(error, UNREADABLE)
    except (SdkError, StandardOutputError) as error:
        return _fail(error, USAGE)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _verify(image: Path, config: Path | None, key_file: Path | None, as_json: bool, report: Path | None) -> int:
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
    from medprov_sdk.verifier import Verifier

    try:
        result = Verifier.from_config(config, key_file=key_file).verify(pixels, source=image.name)
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
    terminal.say(json.dumps(result.to_json(), indent=2) if as_json else summary(result))
    return result.verdict.exit_code


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
        lines.append(f"  anchored {moment(claim.time)} in block {claim.block}, transaction {claim.transaction}")
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
