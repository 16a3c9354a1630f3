"""The integer coupling: bit for bit there and back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medprov_watermark import carriers as cr
from medprov_watermark.coupling import GAIN_ONE, Frozen, forward, inverse, luminance
from medprov_watermark.coupling_network import CouplingNetwork
from medprov_watermark.tuning import LEVELS

KINDS = ["phantom", "noise", "black", "top", "extremes", "stripes", "ramp"]


def checkerboard(height: int, width: int) -> NDArray[np.bool_]:
    """True on the half that moves first: row + column even."""
    return np.asarray(np.add.outer(np.arange(height), np.arange(width)) % 2 == 0)


@dataclass(frozen=True)
class Setup:
    cover: NDArray[np.uint8] | NDArray[np.uint16]
    values: NDArray[np.int64]
    frozen: Frozen


def draw_cover(kind: str, shape: tuple[int, ...], top: int, random: np.random.Generator) -> NDArray[np.int64]:
    row, column = np.mgrid[: shape[0], : shape[1]]
    base = {
        "phantom": 0.5 * top * (np.hypot(row / shape[0] - 0.5, column / shape[1] - 0.5) < 0.4) + 0.1 * top,
        "noise": random.uniform(0, top, shape[:2]),
        "black": np.zeros(shape[:2]),
        "top": np.full(shape[:2], top),
        "extremes": random.integers(0, 2, shape[:2]) * top,
        "stripes": (column // 5 % 2) * top,
        "ramp": top * row / max(1, shape[0] - 1),
    }[kind]
    made = np.broadcast_to(base[..., None], shape) if len(shape) == 3 else base
    if kind in ("phantom", "ramp"):
        made = made + random.normal(0, 0.01 * top, shape)
    return np.clip(np.rint(made), 0, top).astype(np.int64)


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    size = st.integers(48, 130)
    shape: tuple[int, ...] = (draw(size), draw(size))
    if draw(st.booleans()):
        shape = (*shape, 3)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    deep = draw(st.booleans())
    top = draw(st.sampled_from([1023, 4095, 65535])) if deep else 255
    low = draw(st.sampled_from([0, 0, 1, top // 5]))
    high = draw(st.sampled_from([top, top, top - 1, top - top // 5]))
    cover = draw_cover(draw(st.sampled_from(KINDS)), shape, top, random)
    padding = draw(st.sampled_from([None, 0, top, top // 2, low, high, int(cover.flat[0])]))
    if padding is not None and draw(st.booleans()):
        cover[random.random(shape[:2]) < 0.3] = padding
    roi = None
    if draw(st.booleans()):
        roi = np.zeros(shape[:2], np.bool_)
        roi[
            draw(st.integers(0, 20)) : draw(st.integers(10, 130)), draw(st.integers(0, 20)) : draw(st.integers(10, 130))
        ] = True
    gain = draw(st.sampled_from([1, GAIN_ONE // 4, GAIN_ONE, 3 * GAIN_ONE, 65535]))
    base, shift = draw(st.sampled_from([0, 0, top // 7])), draw(st.integers(0, 8 if deep else 0))
    values = random.choice(LEVELS, cr.WRITTEN) * random.choice([-1, 1], cr.WRITTEN)
    frozen = Frozen(gain, base, shift, (low, high), padding, roi, attenuate=draw(st.booleans()))
    return Setup(cover.astype(np.uint16 if deep else np.uint8), values, frozen)


def any_channel(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return mask.any(axis=2) if mask.ndim == 3 else mask


@settings(max_examples=50, deadline=None)
@given(setups())
def test_every_promise_of_the_coupling(small_network: CouplingNetwork, setup: Setup) -> None:
    cover, frozen = setup.cover, setup.frozen
    before = cover.copy()
    coupled = forward(cover, setup.values, small_network, frozen)
    picture, exceptions = coupled.picture, coupled.exceptions
    np.testing.assert_array_equal(cover, before)
    assert picture.shape == cover.shape

    changed = any_channel(picture != cover)
    low, high = frozen.legal
    moved = picture[picture != cover]
    assert ((moved >= low) & (moved <= high)).all()
    if frozen.padding is not None:
        np.testing.assert_array_equal(picture == frozen.padding, cover == frozen.padding)
        assert not changed[any_channel(cover == frozen.padding)].any()
    if frozen.roi is not None and not frozen.attenuate:
        assert not changed[frozen.roi].any()
    assert not changed.reshape(-1)[exceptions].any()
    assert (np.diff(exceptions) > 0).all()
    if cover.ndim == 3:
        step = picture.astype(np.int64) - cover
        np.testing.assert_array_equal(step[..., 0], step[..., 2])

    first = picture.astype(cover.dtype)
    back = inverse(first, setup.values, exceptions, small_network, frozen)
    np.testing.assert_array_equal(back, cover)


def plain(cover: NDArray[np.uint8] | NDArray[np.uint16], gain: int = GAIN_ONE, **other: object) -> Frozen:
    top = 255 if cover.dtype == np.uint8 else 4095
    return Frozen(gain, 0, 0, (0, top), **other)  # type: ignore[arg-type]


def some_values(seed: int = 0) -> NDArray[np.int64]:
    random = np.random.default_rng(seed)
    return np.asarray(random.choice(LEVELS, cr.WRITTEN) * random.choice([-1, 1], cr.WRITTEN))


def test_both_halves_change_and_gain_means_energy(small_network: CouplingNetwork, phantom) -> None:  # type: ignore[no-untyped-def]
    cover = phantom(96, 96)
    energies = []
    for gain in (GAIN_ONE, 2 * GAIN_ONE, 4 * GAIN_ONE):
        step = forward(cover, some_values(), small_network, plain(cover, gain)).picture - cover.astype(np.int64)
        even = checkerboard(96, 96)
        assert np.count_nonzero(step[even]) > 500
        assert np.count_nonzero(step[~even]) > 500
        energies.append(np.mean(step**2.0))
    assert energies[0] < energies[1] < energies[2]


def test_shift_scales_the_residual(small_network: CouplingNetwork, phantom) -> None:  # type: ignore[no-untyped-def]
    cover = phantom(96, 96).astype(np.uint16)
    flat = forward(cover, some_values(), small_network, Frozen(GAIN_ONE, 0, 0, (0, 65535))).picture
    deep_cover = cover * 16
    deep = forward(deep_cover, some_values(), small_network, Frozen(GAIN_ONE, 0, 4, (0, 65535))).picture
    inside = (cover > 40) & (cover < 215)
    step, deep_step = (flat - cover.astype(np.int64))[inside], (deep - deep_cover.astype(np.int64))[inside]
    assert np.corrcoef(step, deep_step)[0, 1] > 0.9
    assert 12 < np.std(deep_step) / np.std(step) < 20


def test_an_attenuated_region_gets_half(small_network: CouplingNetwork) -> None:
    # flat, so that the second half of the checkerboard sees nearly the same in both pictures
    cover = np.full((96, 96), 30000, np.uint16)
    region = np.zeros((96, 96), np.bool_)
    region[20:70, 10:60] = True
    full = Frozen(GAIN_ONE, 0, 8, (0, 65535))
    step = forward(cover, some_values(), small_network, full).picture - cover.astype(np.int64)
    faint = replace(full, roi=region, attenuate=True)
    less = forward(cover, some_values(), small_network, faint).picture - cover.astype(np.int64)
    even = checkerboard(96, 96)
    np.testing.assert_array_equal(less[even & ~region], step[even & ~region])
    assert np.abs(2 * less - step)[even & region].max() <= 1
    assert np.std(less[~even & region]) == pytest.approx(np.std(step[~even & region]) / 2, rel=0.1)


def test_exceptions_are_needed_and_used(small_network: CouplingNetwork) -> None:
    cover = np.random.default_rng(0).integers(0, 2, (64, 65)).astype(np.uint8) * 255
    coupled = forward(cover, some_values(), small_network, plain(cover, 4 * GAIN_ONE))
    assert coupled.exceptions.size > 0
    nothing = np.zeros(0, np.int64)
    back = inverse(coupled.picture.astype(np.uint8), some_values(), nothing, small_network, plain(cover, 4 * GAIN_ONE))
    assert not np.array_equal(back, cover)


def test_other_settings_do_not_restore(small_network: CouplingNetwork, phantom) -> None:  # type: ignore[no-untyped-def]
    cover = phantom(64, 80)
    coupled = forward(cover, some_values(), small_network, plain(cover))
    first = coupled.picture.astype(np.uint8)
    for values, frozen in ((some_values(1), plain(cover)), (some_values(), plain(cover, GAIN_ONE + 200))):
        assert not np.array_equal(inverse(first, values, coupled.exceptions, small_network, frozen), cover)


@pytest.mark.parametrize("padding", [None, 0])
@pytest.mark.parametrize("layout", ["fortran", "transposed view", "reversed view"])
def test_the_layout_in_memory_does_not_matter(small_network: CouplingNetwork, padding: int | None, layout: str) -> None:
    cover = np.random.default_rng(0).integers(0, 2, (64, 65)).astype(np.uint8) * 255
    frozen = plain(cover, 4 * GAIN_ONE, padding=padding)
    coupled = forward(cover, some_values(), small_network, frozen)
    assert coupled.exceptions.size > 0

    def laid_out(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return {
            "fortran": np.asfortranarray(image),
            "transposed view": np.ascontiguousarray(image.T).T,
            "reversed view": np.ascontiguousarray(image[::-1, ::-1])[::-1, ::-1],
        }[layout]

    again = forward(laid_out(cover), some_values(), small_network, frozen)
    np.testing.assert_array_equal(again.picture, coupled.picture)
    np.testing.assert_array_equal(again.exceptions, coupled.exceptions)
    first = laid_out(coupled.picture.astype(np.uint8))
    back = inverse(first, some_values(), coupled.exceptions, small_network, frozen)
    np.testing.assert_array_equal(back, cover)


def test_a_region_over_everything_changes_nothing(small_network: CouplingNetwork, phantom) -> None:  # type: ignore[no-untyped-def]
    cover = phantom(64, 64)
    frozen = plain(cover, roi=np.ones((64, 64), np.bool_))
    coupled = forward(cover, some_values(), small_network, frozen)
    np.testing.assert_array_equal(coupled.picture, cover)
    assert coupled.exceptions.size == 0


def test_luminance() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(luminance(grey), grey)
    np.testing.assert_array_equal(luminance(np.stack([grey] * 3, axis=-1)), grey)
    deep = np.full((2, 2, 3), 65535, np.uint16)
    np.testing.assert_array_equal(luminance(deep), 65535)
    primaries = np.eye(3, dtype=np.uint8)[None] * 255
    np.testing.assert_array_equal(luminance(primaries), [[77, 149, 29]])


def test_the_checkerboard_splits_neighbours() -> None:
    board = checkerboard(5, 4)
    assert board[0, 0]
    assert (board[1:] != board[:-1]).all()
    assert (board[:, 1:] != board[:, :-1]).all()
