"""Attacks of the training: shape, range, gradients, and agreement with the real thing."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402

from medprov_watermark import battery  # noqa: E402
from medprov_watermark.training import attacks  # noqa: E402

SIDE = 64
ATTACKS = {
    "jpeg 20": lambda x: attacks.jpeg(x, 20),
    "jpeg 95": lambda x: attacks.jpeg(x, 95),
    "webp": lambda x: attacks.codec(x, "WEBP", quality=50, method=0),
    "jpeg2000": lambda x: attacks.codec(x, "JPEG2000", quality_mode="rates", quality_layers=[20], irreversible=True),
    "gaussian": lambda x: attacks.gaussian_blur(x, 7, 1.4),
    "mean": lambda x: attacks.mean_filter(x, 3),
    "median": attacks.median_filter,
    "equalise": attacks.equalise,
    "gamma": lambda x: attacks.gamma(x, 0.6),
    "contrast": lambda x: attacks.contrast(x, 1.4, -20.0),
    "salt": lambda x: attacks.salt_and_pepper(x, 0.02),
    "warp": lambda x: attacks.warp(x, torch.tensor([1.0, -2.0]), torch.tensor([1.0, 1.02]), torch.zeros(2, 2)),
    "outside": lambda x: attacks.occlude(x, 0.6, inside=False),
    "inside": lambda x: attacks.occlude(x, 0.6, inside=True),
    "rescale": lambda x: attacks.rescale(x, 0.6),
    "random": lambda x: attacks.random_attack(x, 1.0, 1.0)[1],
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def picture(phantom) -> torch.Tensor:  # type: ignore[no-untyped-def, name-defined]
    return torch.from_numpy(np.stack([phantom(SIDE, SIDE, seed=seed) for seed in range(2)]))[:, None].float()


@pytest.mark.parametrize("name", ATTACKS)
def test_shape_is_kept_values_are_finite_and_gradients_flow(name: str, picture: torch.Tensor) -> None:  # type: ignore[name-defined]
    x = picture.clone().requires_grad_()
    out = ATTACKS[name](x)
    assert out.shape == picture.shape
    assert torch.isfinite(out).all()
    assert not torch.equal(out.detach(), picture)
    out.square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad != 0).float().mean() > 0.2
    assert torch.equal(x.detach(), picture)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("value", [0.0, 255.0])
def test_flat_pictures_stay_finite(name: str, value: float) -> None:
    x = torch.full((2, 1, SIDE, SIDE), value, requires_grad=True)
    out = ATTACKS[name](x)
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("quality", [30, 50, 80])
def test_jpeg_is_close_to_a_real_file(picture: torch.Tensor, quality: int) -> None:  # type: ignore[name-defined]
    buffer = io.BytesIO()
    Image.fromarray(picture[0, 0].byte().numpy()).save(buffer, "JPEG", quality=quality)
    real = torch.from_numpy(np.asarray(Image.open(buffer)).astype(np.float32))
    ours = attacks.jpeg(picture, quality)[0, 0].clamp(0, 255)
    assert (ours - real).abs().mean() < 0.5
    assert (picture[0, 0] - real).abs().mean() > 1.0


def test_median_and_equalise_are_those_of_the_battery(picture: torch.Tensor) -> None:  # type: ignore[name-defined]
    grey = picture[0, 0].byte().numpy()
    np.testing.assert_array_equal(attacks.median_filter(picture)[0, 0, 1:-1, 1:-1], battery.median(grey)[1:-1, 1:-1])
    assert np.abs(attacks.equalise(picture)[0, 0].numpy() - battery.equalise(grey)).max() <= 1
    assert np.abs(attacks.gaussian_blur(picture, 7, 1.6)[0, 0].numpy() - battery.blur(grey)).max() <= 1


def test_no_rotation_is_no_change(picture: torch.Tensor) -> None:  # type: ignore[name-defined]
    still = attacks.warp(picture, torch.zeros(2), torch.ones(2), torch.zeros(2, 2))
    torch.testing.assert_close(still, picture, atol=1e-2, rtol=0)


def test_a_quarter_turn_is_exact(picture: torch.Tensor) -> None:  # type: ignore[name-defined]
    turned = attacks.warp(picture, torch.full((2,), 90.0), torch.ones(2), torch.zeros(2, 2))
    quarter = [torch.rot90(picture, turns, (2, 3)) for turns in (1, 3)]
    assert min((turned - other).abs().mean().item() for other in quarter) < 0.1


@pytest.mark.parametrize("kept", [0.5, 0.8, 1.0])
def test_occlusion_keeps_its_share(kept: float) -> None:
    white = torch.full((1, 1, SIDE, SIDE), 255.0)
    black = (attacks.occlude(white, kept, inside=True) > 0).float().mean().item()
    assert black == pytest.approx(kept, abs=0.03)


def test_around_a_window_lies_its_mean(picture: torch.Tensor) -> None:  # type: ignore[name-defined]
    seen = attacks.occlude(picture, 0.5, inside=False)
    same = seen == picture
    assert 0.45 < same.float().mean().item() < 0.6
    for one, kept in zip(seen, same, strict=True):
        around = one[~kept]
        assert around.max() - around.min() < 1e-3
        assert around.mean().item() == pytest.approx(one[kept].mean().item(), abs=0.5)


def misplaced_kinds(picture: torch.Tensor, draws: int) -> list[str]:  # type: ignore[name-defined]
    """Misplace a smooth picture and bring it back; returns what was seen of windows, angles and mirrors."""
    smooth = attacks.gaussian_blur(attacks.gaussian_blur(picture, 7, 3.0), 7, 3.0)
    side, kinds = picture.shape[2], []
    offset = torch.arange(side) - side / 2 + 0.5
    disc = offset[:, None] ** 2 + offset**2 < (side / 2 - 2) ** 2
    for _ in range(draws):
        name, moved, back = attacks.misplaced(smooth)
        returned = back(moved[:, 0])
        assert moved.shape == smooth.shape
        assert returned.shape == smooth[:, 0].shape
        assert not torch.equal(moved, smooth)
        if name == "search: window":
            shown = returned != 0
            assert shown.float().mean() > 0.3
            assert torch.equal(returned[shown], smooth[:, 0][shown])
            kinds.append(name)
        else:
            assert name == "search: angle"
            assert (returned - smooth[:, 0])[:, disc].abs().mean() < 2.0
            # A mirror is the only thing that a turn alone cannot undo.
            turns = torch.arange(0.0, 360.0, 3.0)
            errors = []
            for angle in turns.tolist():
                one = torch.full((len(smooth),), -angle)
                upright = attacks.warp(moved, one, torch.ones_like(one), torch.zeros(len(smooth), 2))
                errors.append((upright - smooth)[:, 0, disc].abs().mean().item())
            kinds.append("mirrored" if min(errors) > 4.0 else "turned")
    return kinds


def test_what_is_misplaced_comes_back(picture: torch.Tensor) -> None:  # type: ignore[name-defined]
    kinds = misplaced_kinds(picture, 24)
    assert set(kinds) == {"search: window", "mirrored", "turned"}
    assert kinds.count("search: window") == pytest.approx(0.6 * 24, abs=8)


def test_gradients_flow_back_from_where_a_picture_was_misplaced_to(picture: torch.Tensor) -> None:  # type: ignore[name-defined]
    for _ in range(6):
        x = picture.clone().requires_grad_()
        _, moved, back = attacks.misplaced(x)
        back(moved[:, 0]).square().sum().backward()
        assert torch.isfinite(x.grad).all()
        assert (x.grad != 0).float().mean() > 0.3


def test_turning_and_turning_back_loses_the_corners_alone(picture: torch.Tensor) -> None:  # type: ignore[name-defined]
    smooth = attacks.gaussian_blur(picture, 7, 3.0)
    back = attacks.rotate_and_back(smooth, 30.0)
    offset = torch.arange(SIDE) - SIDE / 2 + 0.5
    disc = offset[:, None] ** 2 + offset**2 < (SIDE / 2 - 2) ** 2
    assert (back - smooth)[..., disc].abs().mean() < 2.0
    assert (back[..., 0, 0] == 0).all()


def test_salt_and_pepper_hits_its_share() -> None:
    grey = torch.full((4, 1, SIDE, SIDE), 100.0)
    out = attacks.salt_and_pepper(grey, 0.1)
    assert (out != 100).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert set(out.unique().tolist()) == {0.0, 100.0, 255.0}


def test_probability_zero_leaves_everything(picture: torch.Tensor) -> None:  # type: ignore[name-defined]
    for _ in range(20):
        assert torch.equal(attacks.random_attack(picture, 0.0, 1.0)[1], picture)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_random_attacks_stay_finite_in_range_and_differ(picture: torch.Tensor, strength: float) -> None:  # type: ignore[name-defined]
    seen = set()
    for _ in range(40):
        x = picture.clone().requires_grad_()
        out = attacks.random_attack(x, 0.9, strength)[1]
        assert out.shape == picture.shape
        assert torch.isfinite(out).all()
        assert out.min() >= -0.01
        assert out.max() <= 255.01
        out.sum().backward()
        assert torch.isfinite(x.grad).all()
        seen.add(out.detach().numpy().tobytes())
    assert len(seen) > 25


def test_every_attack_is_drawn_and_named_and_gives_whole_grey_values(picture: torch.Tensor) -> None:  # type: ignore[name-defined]
    names = set()
    for _ in range(250):
        name, out = attacks.random_attack(picture[:1], 1.0, 0.5)
        names.add(name)
        torch.testing.assert_close(out, out.round(), atol=1e-4, rtol=0)
    assert names == {
        *("jpeg", "webp", "jpeg 2000", "gaussian", "speckle", "poisson", "salt and pepper", "blur", "mean", "median"),
        *("equalise", "gamma", "brightness", "contrast", "crop", "blackout", "rotation", "rescale"),
    }
    assert {attacks.random_attack(picture, 0.0, 1.0)[0] for _ in range(5)} == {"none"}


def test_a_stronger_attack_costs_more(picture: torch.Tensor) -> None:  # type: ignore[name-defined]
    losses = []
    for strength in (0.0, 1.0):
        random.seed(1)
        torch.manual_seed(1)
        errors = [(attacks._compress(picture, strength)[1] - picture).abs().mean().item() for _ in range(25)]
        errors += [(attacks._noise(picture, strength)[1] - picture).abs().mean().item() for _ in range(25)]
        losses.append(sum(errors))
    assert losses[1] > 1.3 * losses[0]


def test_the_seed_decides(picture: torch.Tensor) -> None:  # type: ignore[name-defined]
    runs = []
    for _ in range(2):
        random.seed(3)
        torch.manual_seed(3)
        runs.append(torch.stack([attacks.random_attack(picture, 0.9, 0.7)[1] for _ in range(10)]))
    assert torch.equal(*runs)
