"""From a checkpoint to a release that marks and reads."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.numpy import load  # noqa: E402

from medprov_watermark import carriers as cr  # noqa: E402
from medprov_watermark.coupling_network import FIELD_BITS  # noqa: E402
from medprov_watermark.errors import WeightsError  # noqa: E402
from medprov_watermark.extractor import Reader  # noqa: E402
from medprov_watermark.training import export  # noqa: E402
from medprov_watermark.training.loop import Model, Settings, Trainer  # noqa: E402
from medprov_watermark.weights import load_release  # noqa: E402


@pytest.fixture(scope="module")
def model(tiny: Settings) -> Model:
    torch.manual_seed(5)
    made = Model(tiny).eval()
    with torch.no_grad():  # what training changes, so that no parameter may be left out of the files
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.rand_like(parameter) - 0.1)
    return made


@pytest.fixture(scope="module")
def written(model: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("release") / "new folder"
    return folder / "tiny.safetensors", export.write_release(model, folder, "tiny")


def test_the_pair_is_accepted_and_named_by_its_hash(written: tuple[Path, str]) -> None:
    path, name = written
    assert sorted(file.name for file in path.parent.iterdir()) == ["tiny.onnx", "tiny.safetensors"]
    release = load_release(path, "cpu", 1)
    assert release.model.hex() == name == hashlib.sha256(path.read_bytes()).hexdigest()
    assert release.network.channels == 8
    assert release.network.blocks == 1


def test_the_bytes_depend_on_the_parameters_alone(model: Model, written: tuple[Path, str]) -> None:
    assert export.release_bytes(model) == written[0].read_bytes()
    channels_last = Model(Settings(channels=8, blocks=1, extractor_blocks=1)).to(memory_format=torch.channels_last)
    channels_last.load_state_dict(model.state_dict())
    assert export.release_bytes(channels_last) == written[0].read_bytes()
    tensors = load(written[0].read_bytes())
    assert set(tensors) == set(model.state_dict())
    assert all(part.dtype == np.float32 for part in tensors.values())


def test_the_released_extractor_answers_as_the_trained_one(model: Model, written: tuple[Path, str]) -> None:
    pictures = np.random.default_rng(0).uniform(0, 255, (3, cr.SIZE, cr.SIZE)).astype(np.float32)
    release = load_release(written[0], "cpu", 1)
    with torch.no_grad():
        batch = torch.from_numpy(pictures)[:, None]
        answers, parts = model.extractor(batch).numpy(), model.extractor.coefficients(batch).numpy()
        white = model.extractor.white(batch).numpy()
    np.testing.assert_allclose(release.extractor.white(pictures), white, atol=1e-3)
    assert np.ptp(release.extractor.frequency) > 0.1
    spread = np.sqrt(np.mean(parts[:, cr.WRITTEN :] ** 2, axis=(1, 2)))[:, None]
    reader = Reader(release.extractor, cr.derive())
    np.testing.assert_allclose(reader(pictures), answers[:, : cr.WRITTEN] / spread, atol=1e-3)
    assert reader(pictures[:1]).shape == (1, cr.WRITTEN)


def test_the_released_network_marks_as_the_trained_one(model: Model, written: tuple[Path, str]) -> None:
    network = load_release(written[0], "cpu", 1).network
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (cr.SIZE, cr.SIZE))
    pattern = network.synthesise(random.choice([-4, 4], cr.WRITTEN), cr.derive())
    with torch.no_grad():
        field = model.coupling(
            torch.from_numpy(picture).float()[None, None], torch.from_numpy(pattern).float()[None, None] / 2**FIELD_BITS
        )
    np.testing.assert_array_equal(field[0, 0].numpy() * 2**FIELD_BITS, network(picture, pattern))


def test_a_mixed_pair_is_refused(written: tuple[Path, str], tiny: Settings, tmp_path: Path) -> None:
    torch.manual_seed(6)
    export.write_release(Model(tiny).eval(), tmp_path, "tiny")
    (tmp_path / "tiny.onnx").write_bytes(written[0].with_suffix(".onnx").read_bytes())
    with pytest.raises(WeightsError, match="another model"):
        load_release(tmp_path / "tiny.safetensors", "cpu", 1)


def test_a_checkpoint_gives_its_averaged_model(trainer: Trainer, tiny: Settings, tmp_path: Path) -> None:
    trainer.step()
    trainer.save(tmp_path / "checkpoint.pt")
    model, facts = export.model_of_checkpoint(tmp_path / "checkpoint.pt")
    assert not model.training
    for name, part in trainer.average.state_dict().items():
        assert torch.equal(model.state_dict()[name], part), name
    assert facts["progress"]["step"] == 1  # type: ignore[index]
    assert Settings(**facts["settings"]) == tiny  # type: ignore[arg-type]


def test_exporting_does_not_change_the_bytes(model: Model) -> None:
    before = export.release_bytes(model)
    export.extractor_onnx(model, "0" * 64)
    assert export.release_bytes(model) == before
