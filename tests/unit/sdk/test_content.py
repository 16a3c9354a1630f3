"""Evidence against pictures that were turned by any angle or cut out, and where the heat lies on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medprov_ledger import evidence
from medprov_sdk import content
from medprov_sdk.verdict import Blocks, Content
from medprov_sdk.verification import Check
from medprov_watermark import features
from medprov_watermark.geometry import ALL, Geometry, Warp

Picture = NDArray[np.uint8]
HEIGHT, WIDTH = 192, 224


def opened(image: Picture) -> content.Opened:
    proof = evidence.Evidence(
        height=image.shape[0],
        width=image.shape[1],
        channels=1,
        bits=8,
        block=features.BLOCK,
        grid=features.exact_grid(image),
        features=features.ordinal_features(image),
        feature_version=features.VERSION,
        attribute_macs={},
    )
    return content.Opened(proof, Content.NOT_COMPARED, Check("evidence opened", True, ""))


def cut(image: Picture, share: float, off: tuple[float, float] = (0.0, 0.0)) -> tuple[Picture, Geometry]:
    """A window of a share of the area, and where the pilots would see it: a little beside where it is."""
    side = share**0.5
    top, left = (round((1 - side) * length * (0.3 + 0.4 * k)) for k, length in enumerate(image.shape))
    window = image[top : top + round(side * image.shape[0]), left : left + round(side * image.shape[1])].copy()
    return window, Geometry(warp=Warp((1.002, 0.001, -left + off[1], 0.0, 0.998, -top + off[0]), *image.shape))


def painted(image: Picture, top: int, left: int, side: int = 30) -> Picture:
    changed = image.copy()
    part = changed[top : top + side, left : left + side]
    part[...] = 230 if np.median(part) < 128 else 20
    return changed


@pytest.mark.parametrize("share", [0.9, 0.6, 0.5, 0.36])
@pytest.mark.parametrize("off", [(0.0, 0.0), (1.2, -0.8)])
def test_a_window_agrees_and_tells_how_much_of_it_was_compared(world: Any, share: float, off: Any) -> None:
    image = world.phantom()
    window, geometry = cut(image, share, off)
    found = content.compare(opened(image), window, geometry)
    assert (found.content, found.blocks) == (Content.AGREES, Blocks.NOT_COMPARED)
    (heat,) = found.heat
    assert heat.boxes == () and share - 0.13 < heat.overlap <= share + 0.01
    _, exact, cells = found.checks
    assert exact.passed is None and "not compared" in exact.detail
    assert cells.passed is True and "could be compared" in cells.detail and "is shown" in cells.detail


@pytest.mark.parametrize("share", [0.6, 0.5])
def test_an_object_in_a_window_is_found_where_it_is(world: Any, share: float) -> None:
    image = world.phantom()
    changed, _ = cut(painted(image, 80, 90), share)
    before, geometry = cut(image, share)
    found = content.compare(opened(image), changed, geometry)
    assert found.content is Content.DIFFERS_IN_PART
    inside = np.zeros(changed.shape, bool)
    for top, left, bottom, right in found.heat[0].boxes:
        assert 0 <= top < bottom <= changed.shape[0] and 0 <= left < right <= changed.shape[1]
        inside[top:bottom, left:right] = True
    altered = changed != before
    assert (inside & altered).sum() > 0.7 * altered.sum()
    rows, columns = np.nonzero(altered)
    apart = np.argwhere(inside)
    assert apart[:, 0].min() > rows.min() - 14 and apart[:, 0].max() < rows.max() + 14
    assert apart[:, 1].min() > columns.min() - 14 and apart[:, 1].max() < columns.max() + 14


@pytest.mark.parametrize("share", [0.6, 0.5])
def test_a_mark_on_a_window_of_something_else(world: Any, share: float) -> None:
    other, geometry = cut(world.phantom(2), share)
    assert content.compare(opened(world.phantom()), other, geometry).content is Content.DIFFERS
    flat = np.full_like(other, 100)
    found = content.compare(opened(world.phantom()), flat, geometry)
    assert found.content is Content.DIFFERS and "this one shows it in 0%" in found.checks[-1].detail


def test_too_small_a_window_is_said_to_be_too_small(world: Any) -> None:
    window, geometry = cut(world.phantom(), 0.16)
    found = content.compare(opened(world.phantom()), window, geometry)
    assert (found.content, found.heat) == (Content.TOO_LITTLE, ())
    assert "not compared: only" in found.checks[-1].detail and "is shown here" in found.checks[-1].detail


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("degrees", [12, -33])
def test_a_turned_picture_agrees_and_an_object_is_found_on_it(world: Any, degrees: float, expand: bool) -> None:
    image = world.phantom()
    turned, altered = (
        np.asarray(Image.fromarray(a).rotate(degrees, Image.Resampling.BICUBIC, expand=expand))
        for a in (image, painted(image, 80, 90))
    )
    c, s = np.cos(np.radians(degrees + 0.2)), np.sin(np.radians(degrees + 0.2))
    y, x = turned.shape[0] / 2, turned.shape[1] / 2
    matrix = (c, s, x - c * WIDTH / 2 - s * HEIGHT / 2, -s, c, y + s * WIDTH / 2 - c * HEIGHT / 2)
    geometry = Geometry(warp=Warp(tuple(float(m) for m in matrix), HEIGHT, WIDTH))  # type: ignore[arg-type]
    found = content.compare(opened(image), turned, geometry)
    assert found.content is Content.AGREES and found.heat[0].overlap > (0.97 if expand else 0.65)
    found = content.compare(opened(image), altered, geometry)
    assert found.content is Content.DIFFERS_IN_PART
    inside = np.zeros(turned.shape, bool)
    for top, left, bottom, right in found.heat[0].boxes:
        inside[top:bottom, left:right] = True
    different = np.abs(altered.astype(int) - turned) > 20
    assert (inside & different).sum() > 0.7 * different.sum() and inside.sum() < 3 * different.sum()


def test_boxes_through_a_warp_are_bounding_boxes_and_end_with_the_picture() -> None:
    marked = np.zeros((2, 2), bool)
    marked[0, 0] = marked[1, 1] = True
    edges = np.array([0, 10, 20])
    turned = Geometry(warp=Warp((0.0, 1.0, 0.0, -1.0, 0.0, 20.0), 20, 20))
    assert content.boxes_of(marked, edges, edges, (20, 20), turned) == ((10, 0, 20, 10), (0, 10, 10, 20))
    half = Geometry(warp=Warp((0.5, 0.0, 0.3, 0.0, 0.5, 0.0), 20, 20))
    assert content.boxes_of(marked, edges, edges, (10, 10), half) == ((0, 0, 5, 6), (5, 5, 10, 10))
    window = Geometry(warp=Warp((1.0, 0.0, -4.0, 0.0, 1.0, -4.0), 20, 20))
    assert content.boxes_of(marked, edges, edges, (12, 12), window) == ((0, 0, 6, 6), (6, 6, 12, 12))
    beside = Geometry(warp=Warp((1.0, 0.0, -10.0, 0.0, 1.0, -10.0), 20, 20))
    assert content.boxes_of(marked, edges, edges, (5, 5), beside) == ((0, 0, 5, 5),)


@pytest.mark.parametrize("geometry", ALL, ids=str)
def test_orientations_are_compared_as_before(world: Any, geometry: Geometry) -> None:
    image = world.phantom()
    found = content.compare(opened(image), geometry.apply(image), geometry)
    assert (found.blocks, found.content) == (Blocks.EQUAL, Content.AGREES)


def test_hostile_features_are_unreadable_under_a_warp_too(world: Any) -> None:
    window, geometry = cut(world.phantom(), 0.6)
    good = opened(world.phantom())
    assert good.evidence is not None
    broken = replace(good, evidence=replace(good.evidence, features=b"MOF"))
    assert content.compare(broken, window, geometry).content is Content.UNREADABLE
