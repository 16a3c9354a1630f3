"""Regions of interest: the network that ships, and the rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from medprov_watermark import roi
from medprov_watermark.errors import WeightsError
from medprov_watermark.roi import Finder, by_rule, dice
from medprov_watermark.weights import FOLDER, RELEASE


@pytest.fixture(scope="module")
def finder() -> Finder:
    return Finder(threads=1)


def with_spot(
    height: int, width: int, top: int = 255, seed: int = 0
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.bool_]]:
    """A dim body with one bright spot, on a black ground."""
    row, column = np.mgrid[:height, :width]
    y, x = row / height - 0.5, column / width - 0.5
    spot = np.hypot(y + 0.1, x - 0.15) < 0.1
    body = np.hypot(y, x) < 0.4
    noise = np.random.default_rng(seed).normal(0, 0.01, body.shape)
    levels = np.clip(0.3 * body + 0.5 * spot + noise, 0, 1)
    return np.rint(levels * top).astype(np.uint8 if top <= 255 else np.uint16), spot


# the network


@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (67, 129), (200, 64), (700, 900), (64, 3000)])
def test_any_size_gives_a_mask_of_that_size(finder: Finder, shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    region, kind, certainty = finder.answer(picture)
    assert region.shape == shape
    assert 0 <= region.min() <= region.max() <= 1
    assert kind in finder.kinds
    assert 0 < certainty <= 1
    found = finder.find(picture)
    assert found.mask.shape == shape
    assert found.mask.dtype == np.bool_
    assert found.share == found.mask.mean()


@pytest.mark.parametrize("kind", ["colour", "deep"])
def test_colour_and_deep_pictures_are_taken(finder: Finder, kind: str) -> None:
    grey, _ = with_spot(128, 160, 4095 if kind == "deep" else 255)
    picture = np.stack([grey] * 3, axis=-1) if kind == "colour" else grey
    assert finder.find(picture).mask.shape == (128, 160)


def test_the_same_picture_gives_the_same_region(finder: Finder) -> None:
    picture, _ = with_spot(128, 128)
    np.testing.assert_array_equal(finder.find(picture).mask, Finder(threads=1).find(picture).mask)


def test_the_network_that_ships_names_its_kinds(finder: Finder) -> None:
    assert finder.kinds == ["other", "angio", "fundus", "histo", "us"]


def test_the_network_finds_vessels_in_a_drawn_fundus(finder: Finder) -> None:
    """Not a measure, only that file and preparation belong together."""
    row, column = np.mgrid[:584, :565]
    y, x = (row - 292) / 292, (column - 282) / 282
    inside = np.hypot(y, x) < 0.93
    vessels = np.zeros(inside.shape, np.bool_)
    for bend, side in ((0.5, 1), (0.9, 1), (0.5, -1), (0.9, -1)):
        vessels |= np.abs(y - side * bend * np.sqrt(np.maximum(0.8 - x, 0)) * 0.7) < 0.012
    vessels &= inside
    noise = np.random.default_rng(0).normal(0, 2, inside.shape)
    picture = np.clip((120 - 30 * x - 35 * vessels) * inside + noise, 0, 255).astype(np.uint8)
    region, kind, _ = finder.answer(picture)
    assert kind == "fundus"
    assert dice(region > 0.5, vessels) > 0.5


def test_where_the_network_knows_no_kind_the_rule_decides(finder: Finder, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, _ = with_spot(128, 128)
    everywhere = np.ones((128, 128), np.float32)
    for answer in ((everywhere, "other", 0.9), (everywhere, "us", 0.4), (0 * everywhere, "us", 0.9)):
        monkeypatch.setattr(finder, "answer", lambda _, given=answer: given)
        found = finder.find(picture)
        assert found.kind == roi.RULE
        np.testing.assert_array_equal(found.mask, by_rule(picture))
    monkeypatch.setattr(finder, "answer", lambda _: (everywhere, "us", 0.9))
    assert finder.find(picture).kind == "us"
    assert finder.find(picture).mask.all()


@pytest.mark.parametrize("content", [None, b"", b"no network"])
def test_what_is_no_network_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"{path}: not a readable ONNX network"):
        Finder(path)


def test_a_network_for_something_else_is_named() -> None:
    with pytest.raises(WeightsError, match="no network for regions of interest"):
        Finder(FOLDER / f"{RELEASE}.onnx")


# the rule


@pytest.mark.parametrize("top", [255, 4095])
@pytest.mark.parametrize("shape", [(64, 64), (200, 300), (900, 700)])
def test_what_stands_out_is_taken(shape: tuple[int, int], top: int) -> None:
    picture, spot = with_spot(*shape, top)
    found = by_rule(picture)
    assert found.shape == shape
    assert dice(found, spot) > 0.7


def test_at_most_a_quarter_is_taken(phantom) -> None:  # type: ignore[no-untyped-def]
    for seed in range(6):
        assert by_rule(phantom(160, 200, seed=seed)).mean() < 0.3


@pytest.mark.parametrize("value", [0, 90, 255])
def test_nothing_stands_out_of_nothing(value: int) -> None:
    assert not by_rule(np.full((70, 80), value, np.uint8)).any()
    two = np.zeros((70, 80), np.uint8)
    two[:, 40:] = value
    assert by_rule(two).mean() <= 0.3


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (3, 3), (5, 5, 3)])
def test_tiny_pictures_are_no_error(shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert by_rule(picture).shape == shape[:2]


# Dice


def test_dice() -> None:
    a = np.array([[True, True], [False, False]])
    assert dice(a, a) == 1
    assert dice(a, ~a) == 0
    assert dice(a, np.array([[True, False], [True, False]])) == 0.5
    assert dice(a & ~a, a & ~a) == 1
    assert dice(a & ~a, a) == 0
