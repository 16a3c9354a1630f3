import numpy as np
import pytest

from benchmarks import attacks
from benchmarks.phantoms import phantom

GREY = phantom(96, 80, 8, False, 1).astype(np.uint8)
COLOUR = phantom(96, 80, 8, True, 1).astype(np.uint8)
RESIZED = {"rot90", "rot270", "rescale0.75", "screenshot", "crop10", "crop25", "crop50", "crop60"}


@pytest.mark.parametrize("image", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_an_attack_keeps_the_kind_of_picture(name: str, image: attacks.Picture) -> None:
    before = image.copy()
    ((_, out),) = attacks.attacked(image, [name], "seed")
    assert out.dtype == np.uint8 and out.ndim == image.ndim
    assert np.array_equal(image, before)
    assert (out.shape != image.shape) == (name in RESIZED)
    assert out.shape[2:] == image.shape[2:]


@pytest.mark.parametrize("removed", [10, 25, 50, 60])
def test_crops_leave_what_their_name_says(removed: int) -> None:
    ((_, out),) = attacks.attacked(GREY, [f"crop{removed}"], "seed")
    assert out.size / GREY.size == pytest.approx(1 - removed / 100, abs=0.02)


def test_the_same_seed_gives_the_same_noise_and_another_seed_another() -> None:
    (_, first), (_, other) = attacks.attacked(GREY, ["gauss_sd5", "gauss_sd12.75"], "a")
    ((_, again),) = attacks.attacked(GREY, ["gauss_sd5"], "a")
    ((_, elsewhere),) = attacks.attacked(GREY, ["gauss_sd5"], "b")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other) and not np.array_equal(first, elsewhere)


def test_every_point_of_a_curve_is_an_attack_and_named_once() -> None:
    names = attacks.points()
    assert len(names) == len(set(names)) == sum(len(curve.strengths) for curve in attacks.CURVES.values())
    assert {"jpeg50", "jpeg=10", "gauss_sd12.75", "crop=0", "rot90"} <= set(names)
    for name, out in attacks.attacked(GREY, names, "seed"):
        assert out.dtype == np.uint8 and out.ndim == 2, name


@pytest.mark.parametrize("curve", ["gauss_sd", "crop", "rot"])
def test_a_curve_starts_with_the_picture_as_it_is(curve: str) -> None:
    ((_, out),) = attacks.attacked(GREY, [attacks.point(curve, 0)], "seed")
    assert np.array_equal(out, GREY)


@pytest.mark.parametrize("name", ["", "jpeg", "jpeg=", "jpeg=x", "nothing=1"])
def test_an_unknown_attack_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="unknown; there are none, rot90"):
        attacks.find(name)
