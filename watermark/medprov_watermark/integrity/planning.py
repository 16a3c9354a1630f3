"""The choice of frame width and threshold: the thinnest frame that keeps the picture fine, else the least error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medprov_watermark.integrity import canvas, pee
from medprov_watermark.integrity.canvas import Places, Rules, Samples
from medprov_watermark.integrity.header import MAX_WIDTH, THRESHOLDS, max_threshold

PICTURE_RATIO = 10**6
"""Squared contrast over mean squared change of the whole picture, 60 dB: fine at or above this ratio ..."""
FRAME_RATIO = 63096
"""... and at or above this one, 48 dB, within the frame."""

_ENOUGH_PIXELS = 2**20  # wider frames are tried only while nothing fits: bounds the time


@dataclass(frozen=True)
class Task:
    """What is to be hidden in one colour plane.

    Parameters
    ----------
    values : uint8 or uint16 array (H * W,)
        The plane.
    shape : tuple of int
        H, W.
    site : int64 array
        Header cells.
    rules : Rules
        Which pixels may change and how.
    need : int
        Bits to hide.
    stream : callable
        The bits as 0 and 1, given the width of the frame.
    samples : int
        In the whole picture, all planes.
    """

    values: Samples
    shape: tuple[int, int]
    site: Places
    rules: Rules
    need: int
    stream: Callable[[int], NDArray[np.uint8]]
    samples: int

    def draw(self, width: int) -> canvas.Canvas:
        """Lay out a fresh canvas."""
        return canvas.build(self.values, self.shape, width, self.site, self.rules)


@dataclass(frozen=True)
class Choice:
    """How the bits are hidden, and the outcome.

    Parameters
    ----------
    width, threshold, share : int
        See :class:`.header.Header`.
    cost : int
        Twice the sum of squared changes.
    fine : bool
        The error is small enough.
    pixels, values : int64 and int32 arrays (n,)
        Flat numbers of the pixels that may have changed, and their new samples.
    """

    width: int
    threshold: int
    share: int
    cost: int
    fine: bool
    pixels: Places
    values: NDArray[np.int32]


def widths(shape: tuple[int, int], need: int) -> list[int]:
    """Frame widths to try, in ascending order: two per octave, and the whole picture."""
    full = min((min(shape) + 1) // 2, MAX_WIDTH)
    ladder = [step << octave for octave in range(10) for step in (2, 3)]
    tried = sorted({width for width in ladder if width < full} | {full})
    tried = [width for width in tried if canvas.frame_size(*shape, width) <= canvas.MAX_PIXELS]
    return [width for width in tried if width == tried[-1] or need < canvas.frame_size(*shape, width)]


def search(task: Task) -> Choice | int:
    """Choose and carry out the hiding in one colour plane.

    Returns
    -------
    Choice or int
        The number of bits that fit when `need` do not.
    """
    contrast = _contrast(task.values, task.rules)
    best: tuple[int, int, int] | None = None  # cost, width, threshold of a single pass
    rooms: dict[tuple[int, int], int] = {}
    for width in widths(task.shape, task.need):
        if best is not None and canvas.frame_size(*task.shape, width) > _ENOUGH_PIXELS:
            break
        here = _one_pass(task, width, rooms)
        if here is None:
            continue
        if _fine(task, width, here[0], contrast):
            return _finish(task, here, contrast)
        best = min(best or here, here)
    both, most = _two_passes(task, rooms, contrast)
    if both is not None and (best is None or both.fine or both.cost < best[0]):
        return both
    return max(most, _room(task, rooms)) if best is None else _finish(task, best, contrast)


def _one_pass(task: Task, width: int, rooms: dict[tuple[int, int], int]) -> tuple[int, int, int] | None:
    """Cost, width and threshold of the best single pass in this frame; notes the room at each threshold tried."""
    lattice = task.draw(width).lattice(0, task.rules)
    best: tuple[int, int, int] | None = None
    for threshold in _thresholds(task.rules):
        planned = pee.plan(lattice, threshold, task.need)
        rooms[width, threshold] = planned.available
        if planned.stop == 0:
            continue
        if best is not None and planned.cost >= best[0]:
            break
        best = planned.cost, width, threshold
    return best


def _two_passes(task: Task, rooms: dict[tuple[int, int], int], contrast: int) -> tuple[Choice | None, int]:
    """Find the best hiding in both lattices, and the most bits that fit anywhere."""
    best: Choice | None = None
    most = max(rooms.values(), default=0)
    for width in sorted({width for width, _ in rooms}):
        if best is not None and canvas.frame_size(*task.shape, width) > _ENOUGH_PIXELS:
            break
        least: int | None = None
        for threshold in (threshold for tried, threshold in rooms if tried == width):
            room = rooms[width, threshold]
            share = max(128, -(-256 * max(task.need - room, 0) // task.need))
            # The lattices are alike: the second will hardly have twice the room of the first.
            if 3 * room < task.need or share > 255:
                continue
            trial = _carry_out(task, width, threshold, share, contrast)
            if isinstance(trial, int):
                most = max(most, trial)
                continue
            if least is not None and trial.cost >= least:
                break
            least = trial.cost
            if best is None or least < best.cost:
                best = trial
        if best is not None and best.fine:
            break
    return best, most


def _room(task: Task, rooms: dict[tuple[int, int], int]) -> int:
    """Count the bits that fit into both lattices where the first has most room."""
    if not rooms:
        return 0
    (width, threshold), first = max(rooms.items(), key=lambda item: item[1])
    area = task.draw(width)
    pee.hide(area.plane, area.lattice(0, task.rules), threshold, task.stream(width)[:first])
    second = pee.plan(area.lattice(1, task.rules), threshold, 1).available
    return min(first + second, task.need - 1)


def _finish(task: Task, single: tuple[int, int, int], contrast: int) -> Choice | int:
    _, width, threshold = single
    return _carry_out(task, width, threshold, 0, contrast)


def _carry_out(task: Task, width: int, threshold: int, share: int, contrast: int) -> Choice | int:
    """Hide the bits on a fresh canvas; the number of bits that fit when they do not."""
    area, bits = task.draw(width), task.stream(width)
    second = bits.size * share // 256
    parts = bits[: bits.size - second], bits[bits.size - second :]
    for which, part in enumerate(parts):
        if part.size == 0:
            continue
        lattice = area.lattice(which, task.rules)
        if not pee.hide(area.plane, lattice, threshold, part):
            room = pee.plan(lattice, threshold, part.size).available
            return room if which == 0 else min(parts[0].size + room, bits.size - 1)
    pixels = np.concatenate(area.pixels)
    after = task.rules.from_line(area.plane[np.concatenate(area.places)])
    change = after.astype(np.int64) - task.values[pixels]
    cost = 2 * int((change * change).sum())
    return Choice(width, threshold, share, cost, _fine(task, width, cost, contrast), pixels, after)


def _thresholds(rules: Rules) -> list[int]:
    return [threshold for threshold in THRESHOLDS if threshold <= max_threshold(rules.span)]


def _fine(task: Task, width: int, cost: int, contrast: int) -> bool:
    peak = 2 * contrast * contrast
    frame = canvas.frame_size(*task.shape, width)
    return cost * PICTURE_RATIO <= peak * task.samples and cost * FRAME_RATIO <= peak * frame


def _contrast(values: Samples, rules: Rules) -> int:
    """Distance of the darkest and brightest per cent of a plane: 12 and 16 bits stored rarely mean so much contrast."""
    some = rules.to_line(values[:: max(values.size // 2**16, 1)].astype(np.int32))
    some = np.sort(some[some >= 0])
    seen = int(some[-1 - some.size // 100]) - int(some[some.size // 100]) if some.size else 0
    return min(max(seen, 255), rules.span)
