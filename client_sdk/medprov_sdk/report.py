"""One verification as a page that can be printed: plain HTML with everything inside, no script, no link outside."""

from __future__ import annotations

import base64
import io
import string
from datetime import UTC, datetime
from html import escape
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medprov_sdk.verdict import Basis, Verdict
from medprov_sdk.verification import Check, Claim, Offline, Verification, moment
from medprov_watermark.payload import CODE_BITS
from medprov_watermark.pixels import Samples

SHOWN = 512
"""Longer side of the embedded pictures, pixels."""

_COLOURS = {
    Verdict.AUTHENTIC: "#1b6e3c",
    Verdict.AUTHENTIC_DERIVED: "#3a6f1b",
    Verdict.TAMPERED: "#a31515",
    Verdict.COPIED_MARK: "#a31515",
    Verdict.CONFLICTING_CLAIMS: "#a35a00",
    Verdict.REVOKED: "#a31515",
    Verdict.UNVERIFIABLE: "#8a6d00",
    Verdict.UNKNOWN: "#555555",
}
_MARKS = {True: "yes", False: "no", None: "open"}
_PAGE = string.Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Verification: $source</title>
<style>
body { font: 11pt/1.4 Georgia, serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #111 }
h1 { font-size: 1.5rem; margin-bottom: .2rem }
h2 { font-size: 1.1rem; margin-top: 1.6rem; border-bottom: 1px solid #999 }
.verdict { border: 3px solid $colour; padding: .6rem 1rem; margin: 1rem 0 }
.differs { border: 3px solid #a31515; padding: .6rem 1rem }
.verdict b { color: $colour; font-size: 1.3rem }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; vertical-align: top; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid #ddd }
td:last-child { overflow-wrap: anywhere }
figure { display: inline-block; width: 47%; margin: 0 1% 0 0 }
figure img { width: 100%; image-rendering: auto; border: 1px solid #999 }
tr, figure { break-inside: avoid }
@media print { body { margin: 0 } }
</style>
</head>
<body>
<h1>Verification of a medical picture</h1>
<p>$source, $width &times; $height pixels, made $made by medprov-sdk $software</p>
<div class="verdict"><b>$verdict</b><br>$sentence<br>Reason: $reason ($code).</div>
<p class="$state">Metadata: <b>$metadata</b>: $header.</p>
$pictures
<h2>What was found</h2>
<table>$facts</table>
<h2>Records</h2>
$claims
$basis
<h2>Checks</h2>
<table><tr><th>check</th><th>passed</th><th>detail</th></tr>$checks</table>
<h2>Proved without chain and store</h2>
$offline
<h2>False alarms</h2>
<p>Of pictures without a mark, evidence $like would make at most $computed seem to have one, by computation;
by counting on unmarked pictures it is at most $measured (95 % confidence).</p>
<h2>Time taken</h2>
<table>$stages</table>
</body>
</html>
"""
)


def page(result: Verification, image: Samples | None = None) -> str:
    """The report of one verification.

    Parameters
    ----------
    result : Verification
    image : uint8 or uint16 array (H, W) or (H, W, 3) or None
        The picture as it was verified; None leaves pictures out.

    Returns
    -------
    str
        HTML; everything that comes from the picture, its file name or the ledger is escaped.
    """
    return _PAGE.substitute(
        source=escape(result.source),
        width=result.width,
        height=result.height,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        software=escape(_version()),
        colour=_COLOURS[result.verdict],
        verdict=escape(result.verdict.value.replace("_", " ")),
        sentence=escape(result.sentence),
        reason=escape(result.reason.sentence),
        code=escape(result.reason.value),
        state=result.metadata.state.value,
        metadata=result.metadata.state.value.replace("_", " "),
        header=escape(result.metadata.sentence),
        pictures=_pictures(result, image) if image is not None else "",
        facts=_rows(_facts(result)),
        claims="".join(_claim(claim) for claim in result.claims) or "<p>None.</p>",
        basis=_basis(result.basis, result.offline) if result.offline is not None else "",
        checks="".join(_check(check) for check in result.checks),
        offline=_list(result.proved_offline),
        like="as strong as here" if result.verdict is not Verdict.UNKNOWN else "just strong enough to count",
        computed=f"{result.false_alarm.computed:.1e}",
        measured=f"{result.false_alarm.measured:.1e}",
        stages=_rows([(name, f"{value:.0f} ms") for name, value in result.milliseconds.items()]),
    )


def _facts(result: Verification) -> list[tuple[str, str]]:
    facts = [
        ("Content hash (SHA3-256)", result.content_hash),
        ("Samples", f"{result.channels} channel(s), {result.bits} bits"),
        ("Ownership mark", f"score {result.presence:.1f}, {result.corrected_bits} of {CODE_BITS} bits corrected"),
        ("Payload", result.payload or "not read"),
        ("Orientation", result.geometry),
        ("Integrity mark", result.seal),
        ("Signed by", result.signer or "nobody, or not checkable"),
        ("Model (SHA-256 of the weights)", result.model or "not known"),
    ]
    for heat in result.heat:
        what = "exact blocks" if heat.kind == "blocks" else "content cells"
        facts.append((f"Differing {what}", f"{len(heat.boxes)} ({heat.share:.1%} of what could be compared)"))
    return facts


def _check(check: Check) -> str:
    cells = (escape(check.name), _MARKS[check.passed], escape(check.detail))
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _claim(claim: Claim) -> str:
    rows = [
        ("Owner", claim.owner + (f" ({claim.member})" if claim.member else "")),
        ("Record", claim.record_id),
        ("Transaction", claim.transaction or "not known"),
        ("Block", str(claim.block)),
        ("Anchored", moment(claim.time)),
        ("Manifest", claim.manifest or "none: registered by itself"),
        *((str(name), str(value)) for name, value in claim.record.items()),
    ]
    return f"<table>{_rows(rows)}</table><br>"


def _basis(basis: Basis | None, offline: Offline) -> str:
    """What stands in place of the chain; a court must see it beside the verdict."""
    lines = [f"Rests on: {offline.pinned}."]
    if basis is Basis.FILE:
        would = offline.if_anchored.value.replace("_", " ")
        lines.append(f"If the chain holds this anchor, the verdict is: {would}.")
    stated = ", ".join(f"{name} {_shown(value)}" for name, value in offline.stated.items())
    lines.append(f"By the word of the proof file alone: {stated}.")
    lines += [f"Not known: {line}." for line in offline.not_known]
    return "<h2>Without the chain</h2>\n" + _list(tuple(lines))


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _rows(rows: list[tuple[str, str]]) -> str:
    return "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)


def _list(lines: tuple[str, ...]) -> str:
    if not lines:
        return "<p>Nothing.</p>"
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _pictures(result: Verification, image: Samples) -> str:
    shown = _to_eight_bits(image)
    picture = Image.fromarray(shown)
    scale = min(1.0, SHOWN / max(picture.size))
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    figures = [_figure(picture, "The picture as it was verified")]
    for heat in result.heat:
        if heat.boxes:
            what = "blocks that are not as released" if heat.kind == "blocks" else "places whose content differs"
            figures.append(_figure(_overlay(picture, heat.boxes, scale), f"Red: {what}"))
    return "".join(figures)


def _to_eight_bits(image: Samples) -> NDArray[np.uint8]:
    if image.dtype == np.uint8:
        return image.astype(np.uint8)
    low, high = (float(q) for q in np.percentile(image, (0.5, 99.5)))
    return np.asarray(np.clip((image.astype(np.float32) - low) * (255 / max(1.0, high - low)), 0, 255), np.uint8)


def _overlay(picture: Image.Image, boxes: tuple[tuple[int, int, int, int], ...], scale: float) -> Image.Image:
    colour = np.array(picture.convert("RGB"), np.float32)
    inside = np.zeros(colour.shape[:2], np.bool_)
    for top, left, bottom, right in boxes:
        # at least one pixel, however small the picture is shown
        y, x = int(top * scale), int(left * scale)
        inside[y : max(y + 1, round(bottom * scale)), x : max(x + 1, round(right * scale))] = True
    colour[inside] = 0.5 * colour[inside] + 0.5 * np.array([220, 0, 0], np.float32)
    return Image.fromarray(colour.astype(np.uint8))


def _figure(picture: Image.Image, caption: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def _version() -> str:
    try:
        return version("medprov-sdk")
    except PackageNotFoundError:
        return "(not installed)"
