"""The picture as the extractor sees it, the ONNX session, and the reader behind it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medprov_watermark import carriers as cr
from medprov_watermark.coupling_network import CouplingNetwork
from medprov_watermark.detection import pilot_score
from medprov_watermark.errors import WeightsError
from medprov_watermark.extractor import IMPULSE, Extractor, Reader, grey_picture, shrunk, working_picture
from medprov_watermark.weights import FOLDER, RELEASE, released_model

ONNX = FOLDER / f"{RELEASE}.onnx"
ONES = np.ones((cr.WIDTH, cr.WIDTH), np.float32)
KEY = b"a consortium's secret"
Grey = NDArray[np.uint8]


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return Extractor(ONNX, ONES, "cpu", 1)


# Grey values.


@pytest.mark.parametrize("shape", [(1, 1), (2, 90), (64, 64), (67, 129), (300, 41), (90, 70, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_working_picture_has_one_size_and_range(shape: tuple[int, ...], dtype: type) -> None:
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)
    before = image.copy()
    small = working_picture(image)
    assert small.shape == (cr.SIZE, cr.SIZE)
    assert small.dtype == np.float32
    assert small.min() >= 0
    assert small.max() <= 255.001
    grey = grey_picture(image)
    assert grey.shape == shape[:2]
    np.testing.assert_array_equal(shrunk(grey), small)
    np.testing.assert_array_equal(image, before)


def test_eight_bit_pictures_keep_their_grey_values() -> None:
    image = np.arange(256, dtype=np.uint8)[None].repeat(256, 0)
    np.testing.assert_array_equal(working_picture(image), image)
    np.testing.assert_array_equal(working_picture(np.full((70, 91), 17, np.uint8)), 17)
    np.testing.assert_array_equal(working_picture(np.stack([image] * 3, axis=-1)), image)


def test_deep_pictures_are_stretched() -> None:
    ramp = np.linspace(1000, 3000, 256 * 256).astype(np.uint16).reshape(256, 256)
    small = working_picture(ramp)
    assert small.min() == pytest.approx(0, abs=0.1)
    assert small.max() == pytest.approx(255, abs=0.1)
    np.testing.assert_allclose(working_picture(ramp * 4 + 7), small, atol=0.2)


def test_one_burnt_pixel_does_not_flatten_a_deep_picture() -> None:
    ramp = np.linspace(1000, 3000, 256 * 256).astype(np.uint16).reshape(256, 256)
    burnt = ramp.copy()
    burnt[9, 9] = 65535
    assert np.median(np.abs(working_picture(burnt) - working_picture(ramp))) < 1


@pytest.mark.parametrize("value", [0, 500, 65535])
def test_a_constant_deep_picture_is_finite(value: int) -> None:
    assert np.isfinite(working_picture(np.full((64, 64), value, np.uint16))).all()


def test_the_layout_in_memory_does_not_matter() -> None:
    image = np.random.default_rng(0).integers(0, 256, (70, 90), dtype=np.uint8)
    np.testing.assert_array_equal(working_picture(np.asfortranarray(image)), working_picture(image))
    np.testing.assert_array_equal(working_picture(image[::-1, ::-1].copy()[::-1, ::-1]), working_picture(image))


@pytest.mark.parametrize("side", [148, 200, 256])
def test_a_smaller_working_size_shows_the_same_picture(side: int, phantom: Callable[..., Grey]) -> None:
    grey = grey_picture(phantom(300, 340))
    small = shrunk(grey, side)
    assert small.shape == (side, side)
    again = np.asarray(Image.fromarray(small).resize((cr.SIZE, cr.SIZE), Image.Resampling.BILINEAR))
    assert np.abs(again - shrunk(grey)).mean() < 6


# Impulses.


def smooth(height: int = 60, width: int = 70) -> Grey:
    row, column = np.mgrid[:height, :width]
    return (110 + 30 * np.sin(row / 9) + 30 * np.cos(column / 11)).astype(np.uint8)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 13), st.integers(1, 16), st.sampled_from([0, 255])),
        min_size=1,
        unique_by=lambda hit: hit[:2],
    )
)
def test_lone_impulses_become_the_median_of_their_neighbours(hits: list[tuple[int, int, int]]) -> None:
    clean = smooth()
    spoilt = clean.copy()
    for row, column, value in hits:
        spoilt[4 * row, 4 * column] = value
    mended, hit = grey_picture(spoilt), spoilt != clean
    np.testing.assert_array_equal(mended[~hit], clean[~hit])
    for row, column in np.argwhere(hit):
        around = np.delete(spoilt[row - 1 : row + 2, column - 1 : column + 2].ravel(), 4)
        assert mended[row, column] == np.median(around)


def test_two_impulses_that_touch_are_both_mended() -> None:
    for other in ((20, 31), (21, 30), (21, 31)):
        for values in ((255, 255), (0, 0), (255, 0)):
            spoilt = smooth()
            spoilt[20, 30], spoilt[other] = values
            assert np.abs(grey_picture(spoilt) - smooth()).max() < 12


@pytest.mark.parametrize("stands_out", [-IMPULSE - 2, -IMPULSE + 2, IMPULSE - 2, IMPULSE + 2])
def test_what_hardly_stands_out_stays(stands_out: float) -> None:
    spoilt = np.full((9, 9), 128, np.uint8)
    spoilt[4, 4] += np.int64(stands_out)
    assert (grey_picture(spoilt)[4, 4] == 128) == (abs(stands_out) > IMPULSE)
    np.testing.assert_array_equal(np.delete(grey_picture(spoilt).ravel(), 40), 128)


def test_salt_and_pepper_on_a_picture_is_nearly_undone(phantom: Callable[..., Grey]) -> None:
    clean = phantom(300, 300)
    u = np.random.default_rng(0).random(clean.shape)
    spoilt = np.where(u < 0.005, 0, np.where(u > 0.995, 255, clean)).astype(np.uint8)
    before = np.square(spoilt.astype(np.float64) - clean).mean()
    after = np.square(grey_picture(spoilt)[1:-1, 1:-1] - clean[1:-1, 1:-1].astype(np.float64)).mean()
    assert after < before / 20


def lines() -> dict[str, Grey]:
    made = {name: np.full((40, 40), 30, np.uint8) for name in ("row", "diagonal", "cross", "box", "grid", "checks")}
    made["row"][20] = 230
    made["diagonal"][np.arange(40), np.arange(40)] = 230
    made["cross"][20] = made["cross"][:, 11] = 230
    made["box"][10:21, 10:30], made["box"][11:20, 11:29] = 230, 30
    made["grid"][::4], made["grid"][:, ::5] = 230, 230
    made["checks"][np.indices((40, 40)).sum(0) % 2 == 0] = 230
    edges = {name: np.full((40, 40), 10, np.uint8) for name in ("edge", "corner", "slope", "squares")}
    edges["edge"][:, 17:] = 240
    edges["corner"][17:, 17:] = 240
    edges["slope"][np.arange(40)[:, None] > np.arange(40) * 0.4 + 7] = 240
    edges["squares"][5:7, 5:7] = edges["squares"][20:23, 30:32] = 240
    return made | edges


@pytest.mark.parametrize("name", lines())
@pytest.mark.parametrize("negative", [False, True])
def test_lines_edges_and_corners_stay(name: str, negative: bool) -> None:
    picture = 255 - lines()[name] if negative else lines()[name]
    np.testing.assert_array_equal(grey_picture(picture), picture)


def test_writing_of_strokes_of_two_pixels_stays() -> None:
    canvas = Image.new("L", (220, 40), 20)
    ImageDraw.Draw(canvas).text((5, 10), "Ward 7: R. MIDDLE 03:14 / 12 kV", fill=235)
    picture = np.asarray(canvas).repeat(2, 0).repeat(2, 1)
    assert (picture > 128).sum() > 500
    np.testing.assert_array_equal(grey_picture(picture), picture)


def test_a_picture_without_damage_stays(phantom: Callable[..., Grey]) -> None:
    picture = phantom(256, 256)
    assert np.count_nonzero(grey_picture(picture) != picture) <= 3


@pytest.mark.parametrize("value", [0, 1, 128, 255])
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (2, 2), (3, 3), (50, 1), (64, 64)])
def test_a_constant_picture_stays_constant(shape: tuple[int, int], value: int) -> None:
    np.testing.assert_array_equal(grey_picture(np.full(shape, value, np.uint8)), value)
    np.testing.assert_allclose(working_picture(np.full(shape, value, np.uint8)), value, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 9), (9, 2)])
def test_pictures_too_small_for_neighbours_stay(shape: tuple[int, int]) -> None:
    picture = np.zeros(shape, np.uint8)
    picture[-1, -1] = 255
    np.testing.assert_array_equal(grey_picture(picture), picture)


def test_the_border_stays() -> None:
    picture = np.full((9, 9), 100, np.uint8)
    for place in ((0, 0), (0, 4), (4, 8), (8, 2)):
        picture[place] = 255
    np.testing.assert_array_equal(grey_picture(picture), picture)


@pytest.mark.parametrize(("side", "mended"), [(1023, True), (1024, False)])
def test_large_pictures_are_left_to_shrinking(side: int, mended: bool) -> None:
    picture = np.full((70, side), 100, np.uint8)
    picture[30, 500] = 255
    assert (grey_picture(picture)[30, 500] == 100) == mended


def test_impulses_of_deep_pictures_are_mended_after_stretching() -> None:
    deep = np.linspace(1000, 2000, 80 * 80).astype(np.uint16).reshape(80, 80)
    clean = grey_picture(deep)
    deep[40, 40] = 65535
    assert np.abs(grey_picture(deep) - clean).max() < 5


# The session.


def test_white(extractor: Extractor) -> None:
    pictures = np.random.default_rng(0).uniform(0, 255, (19, cr.SIZE, cr.SIZE)).astype(np.float32)
    white = extractor.white(pictures)  # more than one batch of the session
    assert white.shape == pictures.shape
    assert white.dtype == np.float32
    assert np.isfinite(white).all()
    np.testing.assert_allclose(np.square(white).mean((1, 2)), 1, atol=0.01)
    for number in (0, 15, 16, 18):
        np.testing.assert_allclose(extractor.white(pictures[number : number + 1])[0], white[number], atol=1e-3)
    np.testing.assert_array_equal(extractor.white(pictures[:2]), extractor.white(pictures[:2]))
    np.testing.assert_allclose(Extractor(ONNX, ONES, "cpu", 2).white(pictures[:1])[0], white[0], atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 127.0, 255.0])
def test_flat_pictures_give_finite_answers(extractor: Extractor, value: float) -> None:
    answers = Reader(extractor, cr.derive())(np.full((1, cr.SIZE, cr.SIZE), value, np.float32))
    assert answers.shape == (1, cr.WRITTEN)
    assert np.isfinite(answers).all()


def test_brightness_and_contrast_hardly_matter(extractor: Extractor) -> None:
    picture = np.random.default_rng(0).uniform(50, 150, (1, cr.SIZE, cr.SIZE)).astype(np.float32)
    reader = Reader(extractor, cr.derive())
    assert np.corrcoef(reader(picture * 1.5 + 10)[0], reader(picture)[0])[0, 1] > 0.99


def test_it_names_its_model(extractor: Extractor) -> None:
    assert extractor.model == released_model().hex()


def test_auto_falls_back_to_the_processor() -> None:
    assert Extractor(ONNX, ONES, "auto", 1).model == released_model().hex()


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07" * 4000])
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.onnx"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"weights\.onnx"):
        Extractor(path, ONES, "cpu", 1)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.onnx"
    path.write_bytes(ONNX.read_bytes()[:-5000])
    with pytest.raises(WeightsError, match=r"weights\.onnx"):
        Extractor(path, ONES, "cpu", 1)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.onnx"):
        Extractor(tmp_path / "nowhere.onnx", ONES, "cpu", 1)


@pytest.mark.parametrize("digest", [None, "0" * 64])
def test_other_carriers_are_refused(digest: str | None, tmp_path: Path) -> None:
    graph = onnx.load(str(ONNX))
    kept = [entry for entry in graph.metadata_props if entry.key != "carriers"]
    del graph.metadata_props[:]
    graph.metadata_props.extend(kept)
    if digest is not None:
        entry = graph.metadata_props.add()
        entry.key, entry.value = "carriers", digest
    path = tmp_path / "weights.onnx"
    onnx.save(graph, str(path))
    with pytest.raises(WeightsError, match="carriers"):
        Extractor(path, ONES, "cpu", 1)


def test_a_graph_that_gives_something_else_is_refused(tmp_path: Path) -> None:
    graph = onnx.load(str(ONNX))
    (output,) = graph.graph.output
    for node in graph.graph.node:
        node.output[:] = ["answers" if name == output.name else name for name in node.output]
    output.name = "answers"
    path = tmp_path / "weights.onnx"
    onnx.save(graph, str(path))
    with pytest.raises(WeightsError, match="another version"):
        Extractor(path, ONES, "cpu", 1)


@pytest.mark.parametrize("shape", [(cr.WIDTH,), (cr.WIDTH, cr.WIDTH + 1), (1, cr.WIDTH, cr.WIDTH), ()])
def test_weights_of_frequency_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(WeightsError, match="frequency"):
        Extractor(ONNX, np.ones(shape), "cpu", 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_of_frequency_that_are_not_finite_are_refused(value: float) -> None:
    frequency = ONES.copy()
    frequency[30, 3] = value
    with pytest.raises(WeightsError, match="frequency"):
        Extractor(ONNX, frequency, "cpu", 1)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    path = tmp_path / "weights.onnx"
    shutil.copy(ONNX, path)
    with pytest.raises(WeightsError, match="cuda"):
        Extractor(path, ONES, "cuda", 1)


# Coefficients.


def test_spectra_are_weighed_cosine_transforms() -> None:
    from scipy.fft import dctn

    frequency = np.random.default_rng(0).uniform(0, 2, (cr.WIDTH, cr.WIDTH))
    extractor = Extractor(ONNX, frequency, "cpu", 1)
    fields = np.random.default_rng(1).normal(size=(2, cr.SIZE, cr.SIZE)).astype(np.float32)
    exact = dctn(fields.astype(np.float64), norm="ortho", axes=(1, 2))[:, 1 : cr.WIDTH, 1 : cr.WIDTH]
    spectra = extractor.spectra(fields)
    assert spectra.shape == (2, cr.WIDTH, cr.WIDTH)
    np.testing.assert_allclose(spectra[:, 1:, 1:], exact * frequency[1:, 1:], atol=0.01)


def test_a_template_is_what_a_field_is_correlated_with() -> None:
    random = np.random.default_rng(2)
    extractor = Extractor(ONNX, random.uniform(0, 2, (cr.WIDTH, cr.WIDTH)), "cpu", 1)
    field = random.normal(size=(cr.SIZE, cr.SIZE)).astype(np.float32)
    spectrum = random.normal(size=(cr.WIDTH, cr.WIDTH))
    one = float((field * extractor.template(spectrum)).sum())
    assert one == pytest.approx(float((extractor.spectra(field[None])[0] * spectrum).sum()), rel=1e-3, abs=0.05)


# The reader.


def pattern(network: CouplingNetwork, carriers: cr.Carriers, code: NDArray[np.int8]) -> NDArray[np.float32]:
    values = np.concatenate([code, carriers.pilot_signs]).astype(np.int64) * 4
    return network.synthesise(values, carriers).astype(np.float32) / 2**8


@pytest.mark.parametrize("key", [None, KEY])
def test_it_reads_its_own_mark(key: bytes | None, plain_network: CouplingNetwork, plain_extractor: Extractor) -> None:
    random, carriers = np.random.default_rng(3), cr.derive(key)
    code = random.choice(np.array([-1, 1], np.int8), cr.CODE)
    noise = random.normal(0, 5, (cr.SIZE, cr.SIZE)).astype(np.float32)
    answers = Reader(plain_extractor, carriers)((100 + noise + 5 * pattern(plain_network, carriers, code))[None])
    np.testing.assert_array_equal(answers[0, : cr.CODE] > 0, code > 0)
    # a pattern of unit power gives every written coefficient SIZE / sqrt(WRITTEN * COEFFICIENTS)
    expected = cr.SIZE / np.sqrt(cr.WRITTEN)
    assert pilot_score(answers, carriers)[0] / np.sqrt(cr.PILOTS) == pytest.approx(expected, rel=0.05)


def test_another_key_reads_noise(plain_network: CouplingNetwork, plain_extractor: Extractor) -> None:
    random, scores, wrong = np.random.default_rng(4), [], 0
    for number in range(40):
        carriers = cr.derive(b"consortium number %05d" % number)
        code = random.choice(np.array([-1, 1], np.int8), cr.CODE)
        picture = random.normal(0, 5, (1, cr.SIZE, cr.SIZE)).astype(np.float32)
        picture += 5 * pattern(plain_network, carriers, code)
        for other in (None, KEY):
            answers = Reader(plain_extractor, cr.derive(other))(picture)
            scores.append(float(pilot_score(answers, cr.derive(other))[0]))
            wrong += np.count_nonzero((answers[0, : cr.CODE] > 0) != (code > 0))
    assert abs(np.mean(scores)) < 0.5
    assert np.std(scores) == pytest.approx(1, abs=0.3)
    assert wrong / (80 * cr.CODE) == pytest.approx(0.5, abs=0.02)


def test_unmarked_carriers_have_unit_variance_in_noise_of_any_strength(plain_extractor: Extractor) -> None:
    reader = Reader(plain_extractor, cr.derive())
    noise = np.random.default_rng(5).normal(size=(30, cr.SIZE, cr.SIZE)).astype(np.float32)
    answers = reader(noise * np.geomspace(0.01, 100, 30, dtype=np.float32)[:, None, None])
    assert answers.shape == (30, cr.WRITTEN)
    assert answers.dtype == np.float32
    assert answers.std() == pytest.approx(1, abs=0.03)
    np.testing.assert_allclose(answers.std(axis=1), 1, atol=0.2)
    np.testing.assert_allclose(reader(noise[:2]), reader(noise[:2] * 37), rtol=1e-3, atol=1e-4)


def test_the_unit_is_that_of_the_null_carriers_alone(plain_extractor: Extractor) -> None:
    carriers = cr.derive()
    reader = Reader(plain_extractor, carriers)
    spectra = np.zeros((1, cr.WIDTH, cr.WIDTH), np.float32)
    index = carriers.index.astype(np.intp)
    for carrier in range(cr.TOTAL):
        size = 3.0 if carrier < cr.WRITTEN else 0.5
        spectra[0, index[carrier, :, 0], index[carrier, :, 1]] = size * carriers.sign[carrier]
    np.testing.assert_allclose(reader.answers(spectra), 6 * np.sqrt(cr.COEFFICIENTS), rtol=1e-5)
    np.testing.assert_allclose(reader.answers(-spectra), -6 * np.sqrt(cr.COEFFICIENTS), rtol=1e-5)
    assert np.isfinite(reader.answers(np.zeros_like(spectra))).all()


def test_places_that_show_nothing_do_not_count(plain_extractor: Extractor) -> None:
    reader, random = Reader(plain_extractor, cr.derive()), np.random.default_rng(6)
    picture = random.normal(size=(1, cr.SIZE, cr.SIZE)).astype(np.float32)
    shown = np.zeros(picture.shape, np.bool_)
    shown[:, :180, 20:] = True
    other = np.where(shown, picture, picture[:, ::-1]).astype(np.float32)
    white, moved = plain_extractor.white(picture), plain_extractor.white(other)
    assert not np.allclose(reader(picture), reader(other), atol=0.1)
    assert np.abs((white - moved)[shown]).max() < 0.05
    np.testing.assert_allclose(reader(picture, shown), reader(other, shown), atol=0.3)
    np.testing.assert_array_equal(reader(picture, np.ones_like(shown)), reader(picture))
