"""The battery of attacks that a mark is tried with."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from medprov_watermark import battery

Grey = NDArray[np.uint8]
ATTACKS = {
    "jpeg": lambda x: battery.jpeg(x, 50),
    "blur": battery.blur,
    "median": battery.median,
    "equalise": battery.equalise,
    "gamma": lambda x: battery.gamma(x, 0.5),
    "noise": lambda x: battery.noise(x, 8.0, 3),
}


@pytest.fixture(scope="module")
def picture(phantom) -> Grey:  # type: ignore[no-untyped-def]
    return phantom(90, 131)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("kind", ["phantom", "black", "white", "thin", "one pixel"])
def test_shape_type_and_input_are_kept(name: str, kind: str, picture: Grey) -> None:
    given = {
        "phantom": picture,
        "black": np.zeros((64, 64), np.uint8),
        "white": np.full((64, 70), 255, np.uint8),
        "thin": picture[:5].copy(),
        "one pixel": np.full((1, 1), 9, np.uint8),
    }[kind]
    before = given.copy()
    out = ATTACKS[name](given)
    assert out.shape == given.shape
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_changes_a_picture_the_same_way_each_time(name: str, picture: Grey) -> None:
    out = ATTACKS[name](picture)
    assert np.mean(out != picture) > 0.05
    np.testing.assert_array_equal(ATTACKS[name](picture), out)


def test_the_battery_starts_with_the_picture_itself(picture: Grey) -> None:
    out = battery.attacked(picture)
    np.testing.assert_array_equal(out[0], picture)
    assert len({attacked.tobytes() for attacked in out}) == len(out) == 1 + len(battery.QUALITIES) + 4 + battery.DRAWS


def test_only_the_noise_is_drawn_anew(picture: Grey) -> None:
    first, second = battery.attacked(picture, 0), battery.attacked(picture, 1)
    same = [np.array_equal(a, b) for a, b in zip(first, second, strict=True)]
    assert same == [True] * (len(first) - battery.DRAWS) + [False] * battery.DRAWS


def test_jpeg_gets_better_with_quality(picture: Grey) -> None:
    errors = [np.mean((battery.jpeg(picture, quality).astype(float) - picture) ** 2) for quality in (10, 50, 95)]
    assert errors[0] > errors[1] > errors[2]


def test_blur_is_that_of_opencv(picture: Grey) -> None:
    cv2 = pytest.importorskip("cv2")
    other = cv2.GaussianBlur(picture, (7, 7), 1.6).astype(int)
    assert np.abs(battery.blur(picture) - other).max() <= 1


def test_median_is_that_of_opencv_inside(picture: Grey) -> None:
    cv2 = pytest.importorskip("cv2")
    np.testing.assert_array_equal(battery.median(picture)[1:-1, 1:-1], cv2.medianBlur(picture, 3)[1:-1, 1:-1])


def test_equalise_is_that_of_opencv(picture: Grey) -> None:
    cv2 = pytest.importorskip("cv2")
    other = cv2.equalizeHist(picture).astype(int)
    assert np.abs(battery.equalise(picture) - other).max() <= 1


def test_equalise_spreads_over_the_whole_range(picture: Grey) -> None:
    dull = (picture // 4 + 90).astype(np.uint8)
    out = battery.equalise(dull)
    assert (out.min(), out.max()) == (0, 255)
    order = np.argsort(dull, axis=None, kind="stable")
    assert (np.diff(out.ravel()[order].astype(int)) >= 0).all()


def test_gamma() -> None:
    every = np.arange(256, dtype=np.uint8)[None]
    np.testing.assert_array_equal(battery.gamma(every, 1.0), every)
    brighter = battery.gamma(every, 0.5)
    assert (brighter >= every).all()
    assert (brighter[0, 0], brighter[0, 255]) == (0, 255)


def test_noise_has_its_deviation() -> None:
    grey = np.full((200, 200), 128, np.uint8)
    step = battery.noise(grey, 8.0, 0).astype(float) - grey
    assert step.std() == pytest.approx(8.0, rel=0.05)
    assert abs(step.mean()) < 0.2
