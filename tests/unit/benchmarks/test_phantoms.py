import numpy as np
import pytest

from benchmarks import phantoms, unmarked


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("colour", [False, True])
def test_a_phantom_uses_the_whole_depth(bits: int, colour: bool) -> None:
    made = phantoms.phantom(67, 129, bits, colour, seed=2)
    assert made.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert made.shape == ((67, 129, 3) if colour else (67, 129))
    assert made.max() <= 2**bits - 1 and np.ptp(made) > 0.9 * (2**bits - 1)
    assert np.array_equal(made, phantoms.phantom(67, 129, bits, colour, seed=2))
    assert not np.array_equal(made, phantoms.phantom(67, 129, bits, colour, seed=3))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_mammogram_has_air_and_a_textured_breast(bits: int) -> None:
    made = phantoms.mammogram(128, 96, bits, seed=1)
    assert made.dtype == (np.uint8 if bits == 8 else np.uint16) and made.shape == (128, 96)
    assert (made[:, -8:] == 0).all()
    assert 0.3 < (made == 0).mean() < 0.9
    inside = made[56:72, 8:24].astype(float)
    assert inside.min() > 0.1 * 2**bits and inside.std() > 0.002 * 2**bits
    assert np.array_equal(made, phantoms.mammogram(128, 96, bits, seed=1))


def test_unmarked_pictures_are_all_different() -> None:
    made = [unmarked.picture([], index) for index in range(12)]
    assert all(p.dtype == np.uint8 and p.ndim == 2 and min(p.shape) >= 64 for p in made)
    assert len({p.tobytes() for p in made}) == len(made)


def test_tone_curves_are_monotonic_tables() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        curve = unmarked.curve(rng)
        steps = np.diff(curve.astype(int))
        assert curve.shape == (256,) and curve.dtype == np.uint8
        assert (steps >= 0).all() or (steps <= 0).all()
        assert np.ptp(curve) > 100
