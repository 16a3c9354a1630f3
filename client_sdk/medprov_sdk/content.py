"""The picture against the evidence of its record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medprov_ledger import evidence as sealed_evidence
from medprov_ledger.errors import LedgerError, StoreError
from medprov_ledger.record import Record
from medprov_ledger.sealing import PayloadKeys
from medprov_sdk.verdict import Blocks, Content
from medprov_sdk.verification import Box, Check, Heat
from medprov_watermark import features, registration
from medprov_watermark.geometry import Geometry, Warp
from medprov_watermark.pixels import Samples


class Source(Protocol):
    """What is needed of a store: :class:`medprov_ledger.store.Store` is one."""

    def get(self, name: str) -> bytes:
        """Exactly the bytes that a CID names."""


@dataclass(frozen=True)
class Opened:
    """One record's evidence, or why there is none.

    Parameters
    ----------
    evidence : Evidence or None
    trouble : Content
        ``UNREACHABLE`` or ``UNREADABLE`` where there is none.
    check : Check
    """

    evidence: sealed_evidence.Evidence | None
    trouble: Content
    check: Check


@dataclass(frozen=True)
class Compared:
    """What the comparison with one record's evidence gave."""

    blocks: Blocks = Blocks.NOT_COMPARED
    content: Content = Content.NOT_COMPARED
    heat: tuple[Heat, ...] = ()
    checks: tuple[Check, ...] = ()

    @property
    def differing(self) -> float:
        """Differing share, to choose the best of several records; 1 where nothing was compared."""
        if self.blocks is Blocks.EQUAL:
            return 0.0
        shares = [heat.share for heat in self.heat if heat.kind == "cells"]
        return shares[0] if shares else 1.0


def fetch(record: Record, keys: PayloadKeys, store: Source) -> Opened:
    """Fetch and open a record's evidence.

    Parameters
    ----------
    record : Record
    keys : PayloadKeys
        Of the payload in the picture.
    store : Source
    """
    try:
        sealed = store.get(record.evidence_cid)
    except StoreError as error:
        return unreachable(error)
    except LedgerError as error:
        return Opened(None, Content.UNREADABLE, Check("evidence fetched", False, str(error)))
    try:
        evidence = sealed_evidence.open(sealed, keys)
    except LedgerError as error:
        return Opened(None, Content.UNREADABLE, Check("evidence opened", False, str(error)))
    detail = f"{record.evidence_cid}, opened with the payload of this picture"
    return Opened(evidence, Content.NOT_COMPARED, Check("evidence opened", True, detail))


def unreachable(error: StoreError) -> Opened:
    """Evidence that the store did not give."""
    return Opened(None, Content.UNREACHABLE, Check("evidence fetched", False, str(error)))


def compare(opened: Opened, image: Samples, geometry: Geometry) -> Compared:
    """Compare the picture with a record's evidence.

    Parameters
    ----------
    opened : Opened
    image : uint8 or uint16 array (H, W) or (H, W, 3)
        As it was given.
    geometry : Geometry
        How it stands to the cover. A picture that was turned by any angle or cut out is compared where it shows
        something of the cover, in the cover's frame.
    """
    evidence = opened.evidence
    if evidence is None:
        return Compared(content=opened.trouble, checks=(opened.check,))
    try:
        if evidence.feature_version != features.VERSION:
            raise ValueError(f"features of version {evidence.feature_version}, this release reads {features.VERSION}")
        geometry = registration.refined(evidence.features, image, geometry)
        upright = geometry.undo(image)
        shown = geometry.shown(*image.shape[:2]) if geometry.warp is not None else None
        result = features.compare(evidence.features, upright, shown)
    except ValueError as error:
        unreadable = Check("features readable", False, str(error))
        return Compared(content=Content.UNREADABLE, checks=(opened.check, unreadable))
    blocks, block_heat, block_check = _blocks(evidence, upright, image, geometry)
    content, cell_heat, cell_check = _cells(result, upright, image, geometry)
    heat = tuple(one for one in (block_heat, cell_heat) if one is not None)
    return Compared(blocks, content, heat, (opened.check, block_check, cell_check))


def _blocks(
    evidence: sealed_evidence.Evidence, upright: Samples, image: Samples, geometry: Geometry
) -> tuple[Blocks, Heat | None, Check]:
    if geometry.warp is not None:
        detail = "not compared: turned or cut out, no block lies where it lay"
        return Blocks.NOT_COMPARED, None, Check("exact blocks", None, detail)
    channels = 1 if upright.ndim == 2 else 3
    if (*upright.shape[:2], channels) != (evidence.height, evidence.width, evidence.channels):
        detail = (
            f"not compared: released were {evidence.width} x {evidence.height} pixels, {evidence.channels} channel(s)"
        )
        return Blocks.NOT_COMPARED, None, Check("exact blocks", None, detail)
    exact = features.compare_exact(evidence.grid, upright, evidence.block)
    differing = ~exact.agree
    detail = f"{int(exact.agree.sum())} of {exact.agree.size} blocks are exactly as released"
    if exact.equal:
        return Blocks.EQUAL, None, Check("exact blocks", True, detail)
    if not exact.mixed:
        return Blocks.NONE, None, Check("exact blocks", None, detail + ": the picture as a whole was processed")
    rows = np.minimum(np.arange(differing.shape[0] + 1) * exact.block, upright.shape[0])
    columns = np.minimum(np.arange(differing.shape[1] + 1) * exact.block, upright.shape[1])
    boxes = boxes_of(differing, rows, columns, image.shape[:2], geometry)
    return Blocks.MIXED, Heat("blocks", boxes, float(differing.mean()), 1.0), Check("exact blocks", False, detail)


def _cells(
    result: features.Comparison, upright: Samples, image: Samples, geometry: Geometry
) -> tuple[Content, Heat | None, Check]:
    if result.vanished:
        detail = f"the released picture has contrast in {result.expected:.0%} of its area, this one shows "
        return Content.DIFFERS, None, Check("content", False, detail + f"it in {result.overlap:.0%}")
    if result.overlap < features.MIN_OVERLAP:
        detail = f"{result.expected:.0%} of the released picture has enough contrast"
        if geometry.warp is not None:
            detail = f"{result.overlap:.0%} of the released picture is shown here with enough contrast"
        detail = "not compared: only " + detail
        return Content.TOO_LITTLE, None, Check("content", None, detail)
    rows, columns = (features.cell_edges(length) for length in upright.shape[:2])
    boxes = boxes_of(result.differs, rows, columns, image.shape[:2], geometry)
    heat = Heat("cells", boxes, result.share, result.overlap)
    part = f", {result.shown.mean():.0%} is shown" if geometry.warp is not None else ""
    detail = f"{result.share:.1%} of the compared cells differ ({result.overlap:.0%} could be compared{part})"
    if result.share >= features.COPIED_SHARE:
        return Content.DIFFERS, heat, Check("content", False, detail)
    if result.differs.any():
        return Content.DIFFERS_IN_PART, heat, Check("content", False, detail)
    return Content.AGREES, heat, Check("content", True, detail)


def boxes_of(
    marked: NDArray[np.bool_],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    shape: tuple[int, int],
    geometry: Geometry,
) -> tuple[Box, ...]:
    """The marked cells of a grid on the upright picture, as boxes on the picture as given.

    Parameters
    ----------
    marked : bool array (R, C)
    rows, columns : int array (R + 1,), (C + 1,)
        Edges of the cells, pixels of the upright picture.
    shape : tuple of int
        Height and width of the picture as given.
    geometry : Geometry
        Through a warp a cell becomes the smallest box around it, cut off where the picture ends.
    """
    height, width = (shape[1], shape[0]) if geometry.turns % 2 else shape
    boxes = []
    for row, column in np.argwhere(marked):
        box = (int(rows[row]), int(columns[column]), int(rows[row + 1]), int(columns[column + 1]))
        if geometry.warp is not None:
            box = _around(box, geometry.warp, shape)
        if box[0] < box[2] and box[1] < box[3]:
            boxes.append(_as_given(box, height, width, geometry))
    return tuple(boxes)


def _around(box: Box, warp: Warp, shape: tuple[int, int]) -> Box:
    """The box around a box of the cover's frame, on a picture of this shape."""
    top, left, bottom, right = box
    corners = np.array([(left, right, left, right), (top, top, bottom, bottom), (1, 1, 1, 1)])
    x, y = np.reshape(warp.matrix, (2, 3)) @ corners

    def within(value: float, length: int) -> int:
        return min(max(0, int(value)), length)

    height, width = shape
    above, before = within(np.floor(y.min()), height), within(np.floor(x.min()), width)
    return above, before, within(np.ceil(y.max()), height), within(np.ceil(x.max()), width)


def _as_given(box: Box, height: int, width: int, geometry: Geometry) -> Box:
    top, left, bottom, right = box
    if geometry.flipped:
        left, right = width - right, width - left
    for _ in range(geometry.turns % 4):
        # a quarter turn counter-clockwise: columns become rows, counted from the right
        top, left, bottom, right = width - right, top, width - left, bottom
        height, width = width, height
    return top, left, bottom, right
