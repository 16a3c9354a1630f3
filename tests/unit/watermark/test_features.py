import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from skimage import data

from medprov_watermark import features
from medprov_watermark.geometry import ALL, Geometry

Picture = NDArray[np.uint8]


def camera() -> Picture:
    return np.asarray(Image.fromarray(data.camera()).resize((256, 256)))


def brain() -> Picture:
    """A phantom of ellipses with texture on a black background."""
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    rng = np.random.default_rng(4)
    head = (x / 0.75) ** 2 + (y / 0.9) ** 2
    noise = np.asarray(Image.fromarray(rng.normal(0, 40, (64, 64)).astype(np.float32)).resize((256, 256)), np.float64)
    tissue = 110 + 50 * np.cos(5 * x) * np.sin(4 * y) + noise
    out = np.where(head < 0.85, tissue, np.where(head < 1, 200, 0))
    return np.clip(out + rng.normal(0, 1, out.shape) * (head < 1), 0, 255).astype(np.uint8)


def skin() -> Picture:
    """Grey values tinted, as skin and stained tissue are."""
    return np.rint(brain()[..., None] * np.array([1.0, 0.7, 0.55])).astype(np.uint8)


PICTURES = {"camera": camera, "brain": brain, "skin": skin}


def jpeg(a: Picture, quality: int) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(a).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(io.BytesIO(buffer.getvalue())))


def gamma(a: Picture, exponent: float) -> Picture:
    return np.rint(255 * (a / 255) ** exponent).astype(np.uint8)


def resize(a: Picture, side: int) -> Picture:
    return np.asarray(Image.fromarray(a).resize((side, side), Image.Resampling.LANCZOS))


def disc(a: Picture, value: int) -> Picture:
    """A disc of a tenth of the side, in the middle."""
    y, x = np.mgrid[: a.shape[0], : a.shape[1]]
    out = a.copy()
    out[(y - a.shape[0] // 2) ** 2 + (x - a.shape[1] // 2) ** 2 <= (0.05 * a.shape[0]) ** 2] = value
    return out


PROCESSING = {
    "jpeg 90": lambda a: jpeg(a, 90),
    "jpeg 30": lambda a: jpeg(a, 30),
    "blur": lambda a: np.asarray(Image.fromarray(a).filter(ImageFilter.GaussianBlur(1))),
    "gamma 0.5": lambda a: gamma(a, 0.5),
    "gamma 2": lambda a: gamma(a, 2),
    "plus 50": lambda a: np.clip(a.astype(int) + 50, 0, 255).astype(np.uint8),
    "minus 50": lambda a: np.clip(a.astype(int) - 50, 0, 255).astype(np.uint8),
    "contrast 1.5": lambda a: np.clip((a.astype(float) - 128) * 1.5 + 128, 0, 255).round().astype(np.uint8),
    "contrast 0.5": lambda a: np.clip((a.astype(float) - 128) * 0.5 + 128, 0, 255).round().astype(np.uint8),
    "brighter": lambda a: np.clip(a.astype(int) // 2 + 60, 0, 255).astype(np.uint8),
    "half": lambda a: resize(a, 128),
    "double": lambda a: resize(a, 512),
    "half, jpeg 50": lambda a: jpeg(resize(a, 128), 50),
    "noise": lambda a: np.clip(a + np.random.default_rng(1).normal(0, 6, a.shape), 0, 255).round().astype(np.uint8),
}


@pytest.mark.parametrize("picture", sorted(PICTURES))
@pytest.mark.parametrize("name", sorted(PROCESSING))
def test_processing_leaves_the_features_alone(picture: str, name: str) -> None:
    image = PICTURES[picture]()
    result = features.compare(features.ordinal_features(image), PROCESSING[name](image))
    assert not result.differs.any()
    assert result.overlap > 0.9 and result.share == 0


@pytest.mark.parametrize("picture", ["camera", "brain"])
def test_equalisation_leaves_the_features_alone(picture: str) -> None:
    image = PICTURES[picture]()
    equalised = np.asarray(ImageOps.equalize(Image.fromarray(image)))
    result = features.compare(features.ordinal_features(image), equalised)
    assert not result.differs.any()
    assert not result.straight


@pytest.mark.parametrize("picture", ["camera", "brain"])
@pytest.mark.parametrize("name", ["jpeg 90", "jpeg 30", "gamma 0.5", "half"])
def test_a_painted_disc_is_found_and_nothing_else(picture: str, name: str) -> None:
    image = PICTURES[picture]()
    middle = int(np.median(image[118:138, 118:138]))
    changed = disc(image, 235 if middle < 128 else 15)
    result = features.compare(features.ordinal_features(image), PROCESSING[name](changed))
    assert 2 <= result.differs.sum() <= 40
    assert 0 < result.share < 0.1
    rows, columns = np.nonzero(result.differs)
    assert rows.min() >= 12 and rows.max() <= 19 and columns.min() >= 12 and columns.max() <= 19


def test_another_picture_differs_in_more_than_half() -> None:
    released = features.ordinal_features(camera())
    assert features.compare(released, brain()).share >= features.COPIED_SHARE
    assert features.compare(released, np.ascontiguousarray(camera()[::-1])).share >= features.COPIED_SHARE
    assert features.compare(released, 255 - camera()).share >= features.COPIED_SHARE


@pytest.mark.parametrize("geometry", ALL, ids=str)
def test_turning_back_restores_the_comparison(geometry: Geometry) -> None:
    released = features.ordinal_features(camera())
    assert not features.compare(released, geometry.undo(jpeg(geometry.apply(camera()), 70))).differs.any()


def test_sixteen_bits_compare_with_an_eight_bit_window_of_them() -> None:
    deep = (brain().astype(np.uint16) * 9 + 1000).astype(np.uint16)
    window = np.clip((deep.astype(np.float64) - 1000) / 12, 0, 255).round().astype(np.uint8)
    released = features.ordinal_features(deep)
    assert not features.compare(released, window).differs.any()
    assert features.compare(released, camera()).share >= features.COPIED_SHARE


def spots(places: NDArray[np.int64]) -> Picture:
    """A grey picture with white cells at these places, and what a subtracted and moved mark leaves."""
    cells = np.full(features.CELLS**2, 20)
    cells[places] = 255
    rng, (y, x) = np.random.default_rng(3), np.mgrid[:256, :256] / 256
    wave = sum(np.cos(2 * np.pi * (fy * y + fx * x)) for fy, fx in rng.uniform(-30, 30, (20, 2)))
    flat = np.kron(cells.reshape(features.CELLS, -1), np.ones((8, 8)))
    return np.clip(flat + wave / wave.std(), 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("picture", ["camera", "brain"])
@pytest.mark.parametrize("count", [9, 11, 12, 18])
def test_a_picture_without_contrast_is_no_gap_in_the_comparison(picture: str, count: int) -> None:
    image = PICTURES[picture]()
    brightest = np.argsort(-image.reshape(32, 8, 32, 8).mean(axis=(1, 3)).ravel())[:count]
    for places in (brightest, np.random.default_rng(1).choice(features.CELLS**2, count, replace=False)):
        result = features.compare(features.ordinal_features(image), spots(places))
        assert result.expected == 1
        assert result.vanished or result.differs.any()


@pytest.mark.parametrize("picture", sorted(PICTURES))
@pytest.mark.parametrize("name", sorted(PROCESSING))
def test_processing_lets_nothing_vanish(picture: str, name: str) -> None:
    image = PICTURES[picture]()
    result = features.compare(features.ordinal_features(image), PROCESSING[name](image))
    assert not result.vanished and result.overlap == result.expected == 1


@pytest.mark.parametrize("picture", sorted(PICTURES))
@pytest.mark.parametrize("corner", [(0, 128), (32, 128), (128, 64)])
@pytest.mark.parametrize("name", ["jpeg 90", "jpeg 30", "gamma 2", "half"])
def test_a_black_window_over_a_quarter_is_a_part(picture: str, corner: tuple[int, int], name: str) -> None:
    image = PICTURES[picture]()
    window = image.copy()
    window[corner[0] : corner[0] + 128, corner[1] : corner[1] + 128] = 0
    result = features.compare(features.ordinal_features(image), PROCESSING[name](window))
    assert not result.vanished and 0 < result.share < 0.35


def seen_through(a: Picture, side: float, corner: tuple[float, float]) -> tuple[Picture, NDArray[np.bool_]]:
    """What a window shows, in the frame of the whole picture, and which pixels these are."""
    shown = np.zeros(a.shape[:2], np.bool_)
    top, left, height, width = (round(part * 256) for part in (*corner, side, side))
    shown[top : top + height, left : left + width] = True
    return np.where(shown[..., None] if a.ndim == 3 else shown, a, np.uint8(0)), shown


WINDOWS = {"half": (0.71, (0.1, 0.24)), "half below": (0.71, (0.29, 0.0)), "most": (0.9, (0.05, 0.07))}


@pytest.mark.parametrize("picture", sorted(PICTURES))
@pytest.mark.parametrize("name", sorted(set(PROCESSING) - {"half", "double", "half, jpeg 50"}))
@pytest.mark.parametrize("window", sorted(WINDOWS))
def test_a_window_agrees_with_what_it_shows(picture: str, name: str, window: str) -> None:
    image = PICTURES[picture]()
    part, shown = seen_through(PROCESSING[name](image), *WINDOWS[window])
    result = features.compare(features.ordinal_features(image), part, shown)
    assert not result.differs.any() and not result.vanished
    assert 0.8 * shown.mean() < result.overlap == result.expected <= shown.mean() + 0.05


@pytest.mark.parametrize("picture", ["camera", "brain"])
@pytest.mark.parametrize("name", ["jpeg 90", "gamma 0.5"])
@pytest.mark.parametrize("window", sorted(WINDOWS))
def test_a_painted_disc_is_found_in_a_window(picture: str, name: str, window: str) -> None:
    image = PICTURES[picture]()
    changed = disc(image, 235 if np.median(image[118:138, 118:138]) < 128 else 15)
    part, shown = seen_through(PROCESSING[name](changed), *WINDOWS[window])
    result = features.compare(features.ordinal_features(image), part, shown)
    rows, columns = np.nonzero(result.differs)
    assert 2 <= rows.size <= 40 and result.share < features.COPIED_SHARE
    assert rows.min() >= 12 and rows.max() <= 19 and columns.min() >= 12 and columns.max() <= 19


@pytest.mark.parametrize("window", sorted(WINDOWS))
def test_a_window_of_another_picture_differs_and_a_flat_one_has_lost_everything(window: str) -> None:
    released = features.ordinal_features(camera())
    for other in (brain(), 255 - camera(), np.ascontiguousarray(camera()[::-1])):
        result = features.compare(released, *seen_through(other, *WINDOWS[window]))
        assert result.share >= features.COPIED_SHARE and not result.vanished
    assert features.compare(released, *seen_through(np.full_like(camera(), 90), *WINDOWS[window])).vanished


def test_a_part_of_the_range_is_as_fine_as_the_whole() -> None:
    image = camera().copy()
    image[:, 128:] = 40 + image[:, 128:] // 8
    part, shown = seen_through(image, 0.5, (0.5, 0.5))
    result = features.compare(features.ordinal_features(image), part, shown)
    assert result.comparable.sum() > 0.5 * result.shown.sum() and not result.differs.any()


@pytest.mark.parametrize("side", [0.4, 0.1, 0.0])
def test_a_small_window_is_too_little_and_nothing_has_vanished(side: float) -> None:
    result = features.compare(features.ordinal_features(camera()), *seen_through(camera(), side, (0.3, 0.3)))
    assert result.overlap <= result.shown.mean() < features.MIN_OVERLAP
    assert not result.vanished and not result.differs.any()


@pytest.mark.parametrize("picture", sorted(PICTURES))
def test_what_is_not_shown_counts_for_nothing(picture: str) -> None:
    image = PICTURES[picture]()
    part, shown = seen_through(image, 0.71, (0.11, 0.2))
    noise = np.random.default_rng(2).integers(0, 256, image.shape, dtype=np.uint8)
    noisy = np.where(shown[..., None] if image.ndim == 3 else shown, image, noise)
    released = features.ordinal_features(image)
    first, second = (features.compare(released, a, shown) for a in (part, noisy))
    assert np.array_equal(first.comparable, second.comparable) and not second.differs.any()
    whole = features.compare(released, image, np.ones_like(shown))
    assert whole.overlap == 1 and whole.shown.all() and not whole.differs.any()


def test_a_cell_counts_when_nearly_all_of_it_is_shown() -> None:
    image, shown = camera(), np.ones((256, 256), np.bool_)
    shown[:, 0], shown[:, -2:] = False, False
    result = features.compare(features.ordinal_features(image), np.where(shown, image, 0).astype(np.uint8), shown)
    # an eighth of a cell is one of its eight columns: with that much left out a cell is not nearly whole
    assert not result.shown[:, 0].any() and not result.shown[:, -1].any() and result.shown[:, 1:-1].all()
    wide = np.repeat(np.repeat(image, 2, 0), 2, 1)
    result = features.compare(
        features.ordinal_features(image), wide, np.pad(np.ones((512, 511), np.bool_), [(0, 0), (1, 0)])
    )
    assert result.shown.all() and not result.differs.any()


def test_shown_places_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="shown"):
        features.compare(features.ordinal_features(camera()), camera(), np.ones((256, 255), np.bool_))


def test_a_flat_picture_has_nothing_to_compare() -> None:
    flat = np.full((64, 64), 9, np.uint8)
    result = features.compare(features.ordinal_features(flat), flat)
    assert result.overlap == 0 < features.MIN_OVERLAP
    assert result.share == 0 and result.expected == 0 and not result.vanished


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([np.uint8, np.uint16]), st.booleans(), st.integers(0, 9))
def test_any_shape_agrees_with_itself(height: int, width: int, kind: type, colour: bool, seed: int) -> None:
    shape = (height, width, 3) if colour else (height, width)
    image = np.random.default_rng(seed).integers(0, np.iinfo(kind).max, shape, dtype=kind, endpoint=True)
    raw = features.ordinal_features(image)
    assert len(raw) == len(features.ordinal_features(np.zeros((5, 5), np.uint8)))
    assert not features.compare(raw, image).differs.any()
    exact = features.compare_exact(features.exact_grid(image), image)
    assert exact.equal and not exact.mixed
    assert features.cell_edges(height)[-1] == height


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=40) | st.integers(0, 3077).map(lambda n: features.ordinal_features(camera())[:n]))
def test_features_of_a_wrong_length_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="ordinal features"):
        features.compare(raw, camera())


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=3072, max_size=3072))
def test_hostile_features_are_compared_or_refused(planes: bytes) -> None:
    raw = features.ordinal_features(camera())[:-3072] + planes
    try:
        result = features.compare(raw, camera())
    except ValueError as error:
        assert "interval" in str(error)
    else:
        assert 0 <= result.share <= 1


def test_features_of_another_version_are_refused() -> None:
    raw = features.ordinal_features(camera())
    for broken in (b"XXX" + raw[3:], raw[:3] + b"\x02" + raw[4:]):
        with pytest.raises(ValueError, match="version"):
            features.compare(broken, camera())
    swapped = raw[:-2048] + raw[-1024:] + raw[-2048:-1024]
    with pytest.raises(ValueError, match="interval"):
        features.compare(swapped, camera())


@pytest.mark.parametrize(
    "image",
    [np.zeros((0, 4), np.uint8), np.zeros((4, 4), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8)],
)
def test_what_is_not_a_picture_is_refused(image: NDArray[np.uint8]) -> None:
    for call in (features.exact_grid, features.ordinal_features):
        with pytest.raises(ValueError, match="picture"):
            call(image)


def test_one_sample_changes_one_block() -> None:
    image = camera()
    grid = features.exact_grid(image)
    assert len(grid) == 8 * 8 * features.DIGEST_BYTES
    changed = image.copy()
    changed[100, 200] ^= 1
    result = features.compare_exact(grid, changed)
    assert np.argwhere(~result.agree).tolist() == [[3, 6]]
    assert result.mixed and not result.equal


def test_border_blocks_are_smaller_and_count() -> None:
    image = camera()[:100, :70].copy()
    grid = features.exact_grid(image)
    assert len(grid) == 4 * 3 * features.DIGEST_BYTES
    image[99, 69] ^= 1
    assert np.argwhere(~features.compare_exact(grid, image).agree).tolist() == [[3, 2]]


def test_a_black_background_is_no_agreement() -> None:
    image = brain()
    grid = features.exact_grid(image)
    result = features.compare_exact(grid, jpeg(image, 90))
    assert result.agree.any()
    assert result.agreeing == 0 and not result.mixed


def test_blocks_of_few_values_are_no_agreement() -> None:
    y, x = np.mgrid[:256, :256]
    stripes = np.where((x // 3 + y // 5) % 2, 200, 50).astype(np.uint8)
    grid = features.exact_grid(stripes)
    changed = stripes.copy()
    changed[:32] += 1
    result = features.compare_exact(grid, changed)
    assert result.agree.any() and not result.mixed


def test_the_grid_tells_shape_and_depth_apart_only_where_samples_differ() -> None:
    image = camera()[:32, :32]
    assert features.exact_grid(image) == features.exact_grid(image.astype(np.uint16))
    assert features.exact_grid(np.zeros((16, 32), np.uint8)) != features.exact_grid(np.zeros((32, 16), np.uint8))


def test_a_grid_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="blocks"):
        features.compare_exact(features.exact_grid(camera()), camera()[:64])
    with pytest.raises(ValueError, match="blocks"):
        features.compare_exact(b"", camera())
    with pytest.raises(ValueError, match="block"):
        features.exact_grid(camera(), 0)
