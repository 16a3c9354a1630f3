"""The picture type refuses parts that contradict each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medprov_watermark.pixels import Pixels, check_samples


def make(**changes: Any) -> Pixels:
    parts: dict[str, Any] = {
        "array": np.zeros((16, 20), np.uint16),
        "bits": 12,
        "value_range": (0, 4095),
        "padding": None,
        "spacing": None,
        "media_type": "image/png",
    }
    return Pixels(**{**parts, **changes})


def test_accepts_a_consistent_picture() -> None:
    pixels = make(padding=4095, spacing=(0.5, 0.25), source=object())
    assert pixels.padding == 4095
    assert "source" not in repr(pixels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 7, "value_range": (0, 127)}, "bits must be 8 to 16"),
        ({"bits": 17}, "bits must be 8 to 16"),
        ({"array": np.zeros((16, 20), np.uint8)}, "do not go with"),
        ({"bits": 8, "value_range": (0, 255)}, "do not go with"),
        ({"array": np.zeros((16, 20), np.int16)}, "uint8 or uint16"),
        ({"array": np.zeros((16, 20, 4), np.uint16)}, "shape"),
        ({"array": np.zeros((16, 0), np.uint16)}, "shape"),
        ({"array": np.zeros((20, 16), np.uint16).T}, "row-major"),
        ({"value_range": (0, 4096)}, "value range"),
        ({"value_range": (5, 4)}, "value range"),
        ({"padding": 4096}, "padding"),
        ({"padding": -1}, "padding"),
        ({"array": np.full((16, 20), 4096, np.uint16)}, "larger than 12 bits"),
    ],
)
def test_refuses_contradictions(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_two_pictures_are_equal_only_when_they_are_the_same() -> None:
    one = make()
    assert one == one
    assert one != make()


@pytest.mark.parametrize("wrong", [None, [[1, 2]], np.zeros(16, np.uint8), np.zeros((2, 2, 2, 3), np.uint8)])
def test_check_samples_refuses_what_is_no_picture(wrong: Any) -> None:
    with pytest.raises(ValueError, match="must"):
        check_samples(wrong)
