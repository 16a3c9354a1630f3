"""The NumPy coupling network against its torch twin, and against damaged weights."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from medprov_watermark import carriers as cr
from medprov_watermark.coupling_network import FIELD_BITS, CouplingNetwork, scale_bits
from medprov_watermark.errors import WeightsError
from medprov_watermark.tuning import LEVELS

Tensors = dict[str, NDArray[np.float64]]
MakeTensors = Callable[..., Tensors]


def values(seed: int) -> NDArray[np.int64]:
    random = np.random.default_rng(seed)
    return np.asarray(random.choice(LEVELS, cr.WRITTEN) * random.choice([-1, 1], cr.WRITTEN))


def grey(seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, 256, (cr.SIZE, cr.SIZE))


@pytest.mark.parametrize(("channels", "blocks", "seed"), [(64, 3, 0), (64, 1, 1), (16, 2, 2), (8, 1, 3)])
def test_torch_gives_the_same_integers(tensors: MakeTensors, channels: int, blocks: int, seed: int) -> None:
    torch = pytest.importorskip("torch")
    from medprov_watermark.training.networks import CouplingNetwork as Twin

    made = {name: part.astype(np.float32) for name, part in tensors(channels, blocks, seed).items()}
    twin = Twin(channels, blocks).eval()
    twin.load_state_dict({name: torch.from_numpy(part) for name, part in made.items()})
    network = CouplingNetwork(made)
    assert (network.channels, network.blocks) == (channels, blocks)
    picture = grey(seed)
    pattern = network.synthesise(values(seed), cr.derive())
    field = network(picture, pattern)
    assert np.unique(field).size > 50
    found = {}
    for dtype in (torch.float32, torch.float64):
        twin.to(dtype)
        with torch.no_grad():
            picture_t = torch.from_numpy(picture).to(dtype)[None, None]
            pattern_t = torch.from_numpy(pattern).to(dtype)[None, None] / 2**FIELD_BITS
            found[dtype] = twin(picture_t, pattern_t)[0, 0].numpy() * 2**FIELD_BITS
            drawn = twin.synthesise(torch.from_numpy(values(seed) / 4).to(dtype)[None])[0, 0].numpy() * 2**FIELD_BITS
        # The twin's unit of the pattern is not rounded, so the last of 2**-FIELD_BITS may fall to either side.
        assert np.abs(drawn - pattern).max() <= 1
        assert np.mean(drawn != pattern) < 0.02
    np.testing.assert_array_equal(found[torch.float64], field)
    # In float32 the product of pattern and gain can need more than 24 bits.
    assert np.abs(found[torch.float32] - field).max() <= 1
    assert np.mean(found[torch.float32] != field) < 1e-3


@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_number_of_threads_does_not_matter(threads: str, tensors: MakeTensors, tmp_path) -> None:  # type: ignore[no-untyped-def]
    np.savez(tmp_path / "made.npz", picture=grey(7), values=values(7), **tensors(64, 2, 7))
    code = (
        "import sys, hashlib, numpy as np\n"
        "from medprov_watermark import carriers as cr\n"
        "from medprov_watermark.coupling_network import CouplingNetwork\n"
        "made = dict(np.load(sys.argv[1]))\n"
        "picture, values = made.pop('picture'), made.pop('values')\n"
        "network = CouplingNetwork(made)\n"
        "field = network(picture, network.synthesise(values, cr.derive()))\n"
        "print(hashlib.sha256(field.tobytes()).hexdigest())\n"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
    command = [sys.executable, "-c", code, str(tmp_path / "made.npz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    here = CouplingNetwork(tensors(64, 2, 7))
    field = here(grey(7), here.synthesise(values(7), cr.derive()))
    assert done.stdout.strip() == hashlib.sha256(field.tobytes()).hexdigest()


def test_sums_stay_inside_the_mantissa_of_float32(tensors: MakeTensors) -> None:
    # All weights and activations at their limits, the worst that 64 channels can meet.
    made = {name: np.full_like(part, 100.0) for name, part in tensors(64, 1).items()}
    network = CouplingNetwork(made)
    layers = [network._picture, network._pattern, network._join, network._correction, network._gain, *network._body[0]]
    for layer in layers:
        most = 127 * np.abs(layer.weight.astype(np.int64)).sum(axis=0) + np.abs(layer.bias.astype(np.int64))
        assert most.max() < 2**24


def test_the_pattern_is_of_unit_power(tensors: MakeTensors) -> None:
    made = tensors()
    made["frequency"] = np.ones((cr.WIDTH, cr.WIDTH))
    signs = np.where(np.arange(cr.WRITTEN) % 3, 4, -4)
    pattern = CouplingNetwork(made).synthesise(signs, cr.derive()) / 2**FIELD_BITS
    assert np.sqrt(np.mean(pattern**2)) == pytest.approx(1.0, abs=0.01)


def test_the_pattern_carries_the_signs(tensors: MakeTensors) -> None:
    made = tensors()
    made["frequency"] = np.ones((cr.WIDTH, cr.WIDTH))
    amplitudes = values(1)
    pattern = CouplingNetwork(made).synthesise(amplitudes, cr.derive()) / 2.0**FIELD_BITS
    basis = cr.dct_table() / 2.0**cr.DCT_BITS
    spectrum = basis @ pattern @ basis.T
    index, sign = cr.derive().index, cr.derive().sign
    answers = (spectrum[index[..., 0], index[..., 1]] * sign).mean(axis=1)
    given = np.concatenate([amplitudes, np.zeros(cr.NULLS)])
    assert (given[: cr.WRITTEN] == 0).any()
    one = answers @ given / (given @ given)
    np.testing.assert_allclose(answers, one * given, rtol=0.05, atol=0.05 * one)


def test_fields_are_bounded_and_whole(tensors: MakeTensors) -> None:
    made = {name: part * 50 for name, part in tensors(8, 1, 4).items()}
    network = CouplingNetwork(made)
    pattern = network.synthesise(values(4), cr.derive())
    assert pattern.dtype == np.int64
    assert np.abs(pattern).max() <= 2 ** (FIELD_BITS + 3) - 1
    field = network(grey(4), pattern)
    assert field.dtype == np.int64
    assert field.shape == (cr.SIZE, cr.SIZE)
    assert np.abs(field).max() <= 8191


def test_scale_bits_of_the_released_shape() -> None:
    assert [scale_bits(64, 3, 1.0), scale_bits(64, 3, 0.5), scale_bits(32, 3, 0.4), scale_bits(64, 1, 1.0)] == [
        int(np.floor(np.log2(127 / (4.2 * max(gain * np.sqrt(2 / (inputs * kernel**2)), 0.02)))))
        for inputs, kernel, gain in [(64, 3, 1.0), (64, 3, 0.5), (32, 3, 0.4), (64, 1, 1.0)]
    ]


NAMES = [
    "frequency",
    *(
        f"{layer}.{part}"
        for layer in ("picture", "pattern", "body.0.first", "body.0.second")
        for part in ("weight", "bias")
    ),
    *(f"{layer}.{part}" for layer in ("join", "correction", "gain") for part in ("weight", "bias")),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_tensor_is_refused(tensors: MakeTensors, name: str) -> None:
    made = tensors()
    del made[name]
    with pytest.raises(WeightsError):
        CouplingNetwork(made)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", ["flat", "scalar", "one more", "empty"])
def test_another_shape_is_refused(tensors: MakeTensors, name: str, change: str) -> None:
    made = tensors()
    part = made[name]
    made[name] = {
        "flat": part.reshape(-1, 1, 1) if part.ndim == 1 else part.reshape(-1),
        "scalar": np.array(1.0),
        "one more": np.concatenate([part, part[:1]]),
        "empty": part[:0],
    }[change]
    with pytest.raises(WeightsError):
        CouplingNetwork(made)


@pytest.mark.parametrize("layer", ["pattern", "body.0.first", "body.0.second", "join", "correction", "gain"])
def test_another_number_of_outputs_is_refused(tensors: MakeTensors, layer: str) -> None:
    made = tensors()
    for part in ("weight", "bias"):
        made[f"{layer}.{part}"] = np.concatenate([made[f"{layer}.{part}"]] * 2)
    with pytest.raises(WeightsError):
        CouplingNetwork(made)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_numbers_that_are_not_finite_are_refused(tensors: MakeTensors, name: str, value: float) -> None:
    made = tensors()
    made[name].flat[0] = value
    with pytest.raises(WeightsError):
        CouplingNetwork(made)


@pytest.mark.parametrize("made", [{}, {"picture.weight": np.zeros(())}, {"picture.weight": np.zeros((8, 64, 3, 3))}])
def test_hardly_any_tensors_are_refused(made: Tensors) -> None:
    with pytest.raises(WeightsError):
        CouplingNetwork(made)


def test_a_gap_in_the_blocks_is_refused(tensors: MakeTensors) -> None:
    made = {name.replace("body.1", "body.7"): part for name, part in tensors(8, 2).items()}
    with pytest.raises(WeightsError):
        CouplingNetwork(made)
