"""The battery of attacks that a mark is tried with."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medprov_watermark import battery
from medprov_watermark.carriers import SIZE
from medprov_watermark.extractor import working_picture

Grey = NDArray[np.uint8]


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


PLAIN: dict[str, Callable[[Grey], Grey]] = {
    "jpeg": lambda x: battery.jpeg(x, 50),
    "webp": lambda x: battery.codec(x, "WEBP", quality=50),
    "jpeg 2000": lambda x: battery.codec(x, "JPEG2000", quality_mode="rates", quality_layers=[20], irreversible=True),
    "blur": battery.blur,
    "median": battery.median,
    "equalise": battery.equalise,
    "tone": lambda x: battery.tone(x, 1.3, -20),
    "gamma": lambda x: battery.gamma(x, 0.5),
}
RANDOM: dict[str, Callable[[Grey, np.random.Generator], Grey]] = {
    "gaussian": lambda x, r: battery.gaussian(x, 12.75, r),
    "speckle": battery.speckle,
    "impulses": battery.impulses,
    "blackout": lambda x, r: battery.blackout(x, 0.25, r),
}
ALL = PLAIN | {name: (lambda x, attack=attack: attack(x, rng())) for name, attack in RANDOM.items()}
NAMES = [attack.name for attack in battery.ATTACKS]


@pytest.fixture(scope="module")
def picture(phantom) -> Grey:  # type: ignore[no-untyped-def]
    return phantom(90, 131)


@pytest.mark.parametrize("name", ALL)
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
    out = ALL[name](given)
    assert out.shape == given.shape
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize("name", ALL)
def test_every_attack_changes_a_picture_the_same_way_each_time(name: str, picture: Grey) -> None:
    out = ALL[name](picture)
    assert np.mean(out != picture) > (0.005 if name == "impulses" else 0.05)
    np.testing.assert_array_equal(ALL[name](picture), out)


@pytest.mark.parametrize("name", RANDOM)
def test_what_is_random_is_drawn_from_the_generator(name: str, picture: Grey) -> None:
    assert not np.array_equal(RANDOM[name](picture, rng(3)), RANDOM[name](picture, rng(4)))


# The whole battery.


def test_names_are_unique_and_the_first_is_the_picture_itself(picture: Grey) -> None:
    assert len(set(NAMES)) == len(NAMES) >= 15
    first, shown = battery.ATTACKS[0].seen(picture, rng())
    np.testing.assert_array_equal(first, working_picture(picture))
    assert shown.all()


@pytest.mark.parametrize("attack", battery.ATTACKS, ids=NAMES)
def test_what_the_extractor_gets_to_see(attack: battery.Attack, picture: Grey) -> None:
    before = picture.copy()
    seen, shown = attack.seen(picture, rng())
    np.testing.assert_array_equal(picture, before)
    assert (seen.shape, seen.dtype) == ((SIZE, SIZE), np.float32)
    assert (shown.shape, shown.dtype) == ((SIZE, SIZE), np.bool_)
    assert np.isfinite(seen).all()
    assert seen.min() >= -0.01
    assert seen.max() <= 255.01
    again, shown_again = attack.seen(picture, rng())
    np.testing.assert_array_equal(seen, again)
    np.testing.assert_array_equal(shown, shown_again)
    plain = working_picture(picture)
    assert attack.name == "none" or np.abs(seen - plain)[shown].max() > 1
    # No attack takes the picture away: what is shown is still that picture.
    assert np.corrcoef(seen[shown], plain[shown])[0, 1] > (0.4 if attack.name == "blackout" else 0.8)
    assert attack.reserve > 0
    assert attack.score > 4.5
    assert attack.tries >= 8
    assert 40 < attack.floor < 50
    assert 0.9 < attack.similar < 1
    assert 0 <= attack.repeats <= 1


def test_the_same_draw_is_the_same_battery_and_another_draw_another(picture: Grey) -> None:
    first, shown = battery.seen(picture, 5)
    assert first.shape == shown.shape == (len(battery.ATTACKS), SIZE, SIZE)
    assert (first.dtype, shown.dtype) == (np.float32, np.bool_)
    again, shown_again = battery.seen(picture, 5)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(shown, shown_again)
    other, shown_other = battery.seen(picture, 6)
    changed = [not np.array_equal(a, b) for a, b in zip(first, other, strict=True)]
    chancy = {"gaussian", "speckle", "impulses", "blackout", "turned", "window", "large window"} | {
        "strong gaussian",
        "small window",
    }
    assert {name for name, one in zip(NAMES, changed, strict=True) if one} == chancy
    window = NAMES.index("window")
    assert (shown[window] != shown_other[window]).any()
    np.testing.assert_array_equal(battery.seen(picture)[0], battery.seen(picture, 0)[0])


def test_some_attacks_are_the_same_as_among_all(picture: Grey) -> None:
    every, shown = battery.seen(picture, 7)
    tried = [len(NAMES) - 1, 0, NAMES.index("gaussian")]
    some, some_shown = battery.seen(picture, 7, np.array(tried))
    np.testing.assert_array_equal(some, every[tried])
    np.testing.assert_array_equal(some_shown, shown[tried])


def test_what_chance_has_a_part_in_needs_more_reserve_and_repeats_less() -> None:
    by_name = {attack.name: attack for attack in battery.ATTACKS}
    steady = [by_name[name] for name in ("none", "blur", "median", "darker", "equalise")]
    for name in ("gaussian", "speckle", "impulses", "blackout", "window"):
        assert by_name[name].reserve > max(a.reserve for a in steady)
        assert by_name[name].repeats < min(a.repeats for a in steady)
    # A window is found among a hundred thousand places and an angle among thousands.
    assert by_name["window"].score > by_name["turned"].score > by_name["none"].score
    assert by_name["window"].tries > by_name["turned"].tries > by_name["none"].tries


def test_quality_is_given_for_what_every_picture_meets_and_not_for_what_spoils_it() -> None:
    by_name = {attack.name: attack for attack in battery.ATTACKS}
    must, usual, luxury = by_name["jpeg 50"], by_name["window"], by_name["small window"]
    assert must.floor < usual.floor == battery.FLOOR < luxury.floor
    assert must.similar < usual.similar == battery.LEAST_SIMILAR < luxury.similar
    assert by_name["none"].floor == must.floor


def test_usual_attacks_are_all_but_those_that_spoil_the_picture() -> None:
    left_out = [NAMES[k] for k in range(len(NAMES)) if k not in battery.USUAL]
    assert left_out == ["strong gaussian", "small window"]


def test_the_quick_battery_is_a_part_of_it_that_begins_with_the_picture_itself() -> None:
    assert [battery.ATTACKS[k].name for k in battery.QUICK] == ["none", "jpeg 28", "gaussian", "window"]


@pytest.mark.parametrize("shape", [(64, 64), (512, 10), (3, 512), (1, 512)])
def test_pictures_of_any_size_and_shape_go_through(shape: tuple[int, int], phantom) -> None:  # type: ignore[no-untyped-def]
    seen, shown = battery.seen(phantom(*shape))
    assert np.isfinite(seen).all()
    assert shown.reshape(len(shown), -1).any(1).all()


@pytest.mark.parametrize("value", [0, 255])
def test_flat_pictures_go_through(value: int) -> None:
    seen, _ = battery.seen(np.full((64, 80), value, np.uint8))
    assert np.isfinite(seen).all()


# Each attack.


def test_jpeg_gets_better_with_quality(picture: Grey) -> None:
    errors = [np.mean((battery.jpeg(picture, quality).astype(float) - picture) ** 2) for quality in (10, 50, 95)]
    assert errors[0] > errors[1] > errors[2]


def test_codecs_are_those_of_a_file(picture: Grey) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=28)
    np.testing.assert_array_equal(battery.jpeg(picture, 28), np.asarray(Image.open(buffer)))
    assert battery.codec(picture, "PNG").tobytes() == picture.tobytes()


def test_blur_is_that_of_opencv(picture: Grey) -> None:
    cv2 = pytest.importorskip("cv2")
    other = cv2.GaussianBlur(picture, (7, 7), 1.6).astype(int)
    assert np.abs(battery.blur(picture) - other).max() <= 1


def test_blur_of_a_point_is_a_bell() -> None:
    point = np.zeros((31, 31), np.uint8)
    point[15, 15] = 255
    out = battery.blur(point).astype(float)
    np.testing.assert_array_equal(out, out.T)
    np.testing.assert_array_equal(out, out[::-1, ::-1])
    t = np.arange(-3, 4)
    kernel = np.exp(-(t**2) / (2 * 1.6**2))
    bell = 255 * np.outer(kernel, kernel) / kernel.sum() ** 2
    assert np.abs(out[12:19, 12:19] - bell).max() <= 0.5 + 1e-3
    assert out[:12].max() == 0


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


def test_tone() -> None:
    every = np.arange(256, dtype=np.uint8)[None]
    np.testing.assert_array_equal(battery.tone(every, 1, 0), every)
    np.testing.assert_array_equal(battery.tone(every, 1, 50)[0], np.minimum(np.arange(256) + 50, 255))
    np.testing.assert_array_equal(battery.tone(every, 1, -50)[0], np.maximum(np.arange(256) - 50, 0))
    strong = battery.tone(every, 1.5, 0)[0]
    assert (strong[128], strong[130], strong[100], strong[0], strong[255]) == (128, 131, 86, 0, 255)


def test_gamma() -> None:
    every = np.arange(256, dtype=np.uint8)[None]
    np.testing.assert_array_equal(battery.gamma(every, 1.0), every)
    brighter = battery.gamma(every, 0.5)
    assert (brighter >= every).all()
    assert (brighter[0, 0], brighter[0, 64], brighter[0, 255]) == (0, 128, 255)


def test_gaussian_noise_has_its_deviation() -> None:
    grey = np.full((200, 200), 128, np.uint8)
    step = battery.gaussian(grey, 12.75, rng()).astype(float) - grey
    assert step.std() == pytest.approx(0.05 * 255, rel=0.05)
    assert abs(step.mean()) < 0.3


@pytest.mark.parametrize("value", [0, 50, 150])
def test_speckle_grows_with_the_grey_value(value: int) -> None:
    step = battery.speckle(np.full((200, 200), value, np.uint8), rng()).astype(float) - value
    assert step.std() == pytest.approx(0.1 * value, rel=0.05)


def test_impulses_hit_one_pixel_of_a_hundred_half_of_them_black() -> None:
    out = battery.impulses(np.full((400, 400), 77, np.uint8), rng())
    assert set(np.unique(out)) == {0, 77, 255}
    assert np.mean(out == 0) == pytest.approx(0.005, rel=0.2)
    assert np.mean(out == 255) == pytest.approx(0.005, rel=0.2)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 1.0])
def test_blackout_takes_its_share_in_one_piece(share: float) -> None:
    out = battery.blackout(np.full((120, 200), 200, np.uint8), share, rng())
    rows, columns = np.nonzero(out == 0)
    assert rows.size / out.size == pytest.approx(share, abs=0.02)
    assert rows.size == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert (np.ptp(rows) + 1) / (np.ptp(columns) + 1) == pytest.approx(120 / 200, rel=0.05)


def test_regions_come_from_everywhere() -> None:
    tops = {battery.blackout(np.full((20, 20), 9, np.uint8), 0.25, rng(seed)).argmin() for seed in range(200)}
    places = {divmod(int(place), 20) for place in tops}
    assert {row for row, _ in places} == {column for _, column in places} == set(range(11))


@pytest.mark.parametrize("shape", [(256, 256), (300, 200), (700, 900)])
@pytest.mark.parametrize("share", [0.5, 0.75])
def test_a_window_shows_its_share_in_its_place(share: float, shape: tuple[int, int], phantom) -> None:  # type: ignore[no-untyped-def]
    picture = battery.blur(phantom(*shape))  # framing resamples, which takes the finest noise away
    whole = working_picture(picture)
    for seed in range(3):
        seen, shown = battery.window(picture, share, rng(seed))
        assert shown.mean() == pytest.approx(share, abs=0.03)
        inner = shown & np.roll(shown, 3, 0) & np.roll(shown, -3, 0) & np.roll(shown, 3, 1) & np.roll(shown, -3, 1)
        inner[:3] = inner[-3:] = inner[:, :3] = inner[:, -3:] = False
        assert np.abs(seen - whole)[inner].mean() < 1.0
        assert np.corrcoef(seen[inner], whole[inner])[0, 1] > 0.99
        outside = seen[~shown]
        assert np.ptp(outside[10:-10]) < np.ptp(seen[shown])


@pytest.mark.parametrize("degrees", [5.0, 20.0, 45.0])
@pytest.mark.parametrize("shape", [(256, 256), (300, 200)])
def test_turned_pictures_come_back_all_but_a_tenth_of_a_degree(degrees: float, shape: tuple[int, int], phantom) -> None:  # type: ignore[no-untyped-def]
    picture = phantom(*shape)
    seen, shown = battery.turned(picture, degrees)
    whole = working_picture(picture)
    row, column = np.mgrid[:SIZE, :SIZE] - 127.5
    middle = np.hypot(row, column) < 70
    assert shown[middle].all()
    assert np.corrcoef(seen[middle], whole[middle])[0, 1] > 0.97
    assert not shown.all()


def test_half_size() -> None:
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    out = battery.halved(picture)
    assert out.shape == (4, 4)
    np.testing.assert_allclose(out, picture.reshape(4, 2, 4, 2).mean((1, 3)), atol=0.51)
    assert battery.halved(np.zeros((9, 5), np.uint8)).shape == (5, 3)
