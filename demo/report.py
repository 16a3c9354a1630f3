"""The demo's page: covers, marked pictures, differences, verdicts, heat maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from demo.cases import Shown
from demo.pictures import Case
from medprov_coordinator.run import FederationResult
from medprov_ledger.config import Config
from medprov_node.mark_result import MarkResult
from medprov_sdk.verification import Verification
from medprov_watermark import media

Samples = NDArray[np.unsignedinteger]
WIDTH = 260
TIMES = 20

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#1d2733}
h1,h2{font-weight:600} table{border-collapse:collapse;width:100%;margin:1em 0}
th,td{text-align:left;padding:.4em .6em;border-bottom:1px solid #dde3ea;vertical-align:top}
code{font-size:12px;word-break:break-all} img{display:block;border-radius:4px}
.row{display:flex;gap:14px;flex-wrap:wrap;margin-bottom:18px} figure{margin:0} figcaption{font-size:13px;color:#566}
.good{color:#116b3a;font-weight:600} .bad{color:#b00020;font-weight:600}
"""


@dataclass(frozen=True)
class Restored:
    """Content hashes of a cover and of what came back, hexadecimal."""

    title: str
    cover: str
    restored: str

    @property
    def same(self) -> bool:
        """Whether the cover came back bit for bit."""
        return self.cover == self.restored


def _window(picture: Samples) -> tuple[float, float]:
    low, high = np.quantile(picture, [0.005, 0.995])
    return float(low), float(max(high, low + 1))


def _eight(picture: Samples, window: tuple[float, float]) -> NDArray[np.uint8]:
    if picture.dtype == np.uint8:
        return np.asarray(picture, np.uint8)
    low, high = window
    return np.clip((picture.astype(np.float64) - low) / (high - low) * 255, 0, 255).astype(np.uint8)


def _figure(picture: NDArray[np.uint8], caption: str, boxes: Iterable[tuple[int, int, int, int]] = ()) -> str:
    image = Image.fromarray(picture).convert("RGB")
    scale = WIDTH / image.width
    image = image.resize((WIDTH, max(1, round(image.height * scale))))
    draw = ImageDraw.Draw(image, "RGBA")
    for top, left, bottom, right in boxes:
        draw.rectangle(
            (left * scale, top * scale, right * scale, bottom * scale), fill=(220, 0, 40, 90), outline=(220, 0, 40, 255)
        )
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    alt = escape(caption, quote=True)
    shown = f'<img alt="{alt}" src="data:image/png;base64,{data}">'
    return f"<figure>{shown}<figcaption>{escape(caption)}</figcaption></figure>"


def _difference(cover: Samples, marked: Samples, window: tuple[float, float]) -> NDArray[np.uint8]:
    unit = 1.0 if cover.dtype == np.uint8 else (window[1] - window[0]) / 255
    moved = (marked.astype(np.float64) - cover) / unit
    return np.clip(128 + TIMES * moved, 0, 255).astype(np.uint8)


def write(
    path: Path,
    chosen: list[Case],
    covers: dict[str, Samples],
    marked: dict[str, Path],
    results: list[MarkResult],
    found: list[tuple[Shown, Verification]],
    restored: list[Restored],
    trained: FederationResult,
    config: Config,
) -> Path:
    """Write the page; returns its path."""
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>medprov demo</title>',
        f"<style>{_STYLE}</style><h1>medprov: one run of the demo</h1>",
        f"<p>Chain {config.chain_id}, federation <code>{config.federation_address}</code>, registry "
        f"<code>{config.registry_address}</code>, {len(config.hospitals)} members.</p>",
        "<h2>Federated rounds</h2><table><tr><th>round</th><th>model</th><th>updates</th><th>probe accuracy</th>"
        "<th>transaction</th></tr>",
    ]
    for r in trained.rounds:
        probe = dict(r.probe).get("accuracy", float("nan"))
        updates = f"{len(r.updates)} accepted, {len(r.rejected)} rejected"
        parts.append(
            f"<tr><td>{r.number}</td><td><code>{escape(r.model)}</code></td><td>{updates}</td><td>{probe:.4f}</td>"
            f"<td><code>{escape(str(r.transaction))}</code></td></tr>"
        )
    parts.append("</table><h2>Marked pictures</h2>")
    for case, result in zip(chosen, results, strict=True):
        cover, after = covers[case.name], media.read(marked[case.name]).array
        window = _window(cover)
        parts.append(f"<h3>{escape(case.title)}</h3><div class=row>")
        parts.append(_figure(_eight(cover, window), "cover"))
        parts.append(_figure(_eight(after, window), f"marked, {result.psnr:.1f} dB"))
        parts.append(_figure(_difference(cover, after, window), f"difference times {TIMES}"))
        parts.append(f"</div><p>record <code>{escape(result.record_id)}</code></p>")
    parts.append("<h2>What an outsider found</h2><table><tr><th>case</th><th>verdict</th><th>metadata</th>")
    parts.append("<th>bits corrected</th><th>ms</th><th>transaction</th></tr>")
    for one, seen in found:
        kind = "good" if one.fits(seen) else "bad"
        bits = seen.corrected_bits if seen.payload else "-"
        parts.append(
            f"<tr><td>{escape(one.title)}</td><td class={kind}>{seen.verdict.value}</td>"
            f"<td>{escape(seen.metadata.sentence)}</td><td>{bits}</td><td>{seen.milliseconds['total']:.0f}</td>"
            f"<td><code>{escape(seen.transaction or '-')}</code></td></tr>"
        )
    parts.append("</table><div class=row>")
    for one, seen in found:
        if not seen.heat:
            continue
        picture = media.read(one.path).array
        boxes = [box for heat in seen.heat for box in heat.boxes]
        caption = f"{one.title}: {seen.verdict.value}"
        parts.append(_figure(_eight(picture, _window(picture)), caption, boxes))
    parts.append("</div><h2>Restoration</h2><table><tr><th>picture</th><th>cover</th><th>restored</th></tr>")
    for item in restored:
        kind = "good" if item.same else "bad"
        parts.append(
            f"<tr><td>{escape(item.title)}</td><td><code>{item.cover}</code></td>"
            f"<td class={kind}><code>{item.restored}</code></td></tr>"
        )
    parts.append("</table></html>")
    path.write_text("\n".join(parts), encoding="utf-8")
    return path
