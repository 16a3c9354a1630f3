"""The search for marks that were turned or cut out, on noise with a known pattern in it.

The extractor is one that has learned nothing, so the pictures need no host that it would have to know: what is tried
here is the search alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from medprov_watermark import carriers as cr
from medprov_watermark import synchronisation as sync
from medprov_watermark.coupling_network import FIELD_BITS, CouplingNetwork
from medprov_watermark.detection import Detection, pilot_score, upright
from medprov_watermark.extractor import F32, Extractor, Reader, grey_picture, shrunk
from medprov_watermark.geometry import ALL, Geometry, Matrix, compose, inverse, unit_matrix
from medprov_watermark.payload import Payload, decode, encode
from medprov_watermark.watermarker import DualWatermarker
from medprov_watermark.weights import Release

KEY = b"a consortium's secret"
MIDDLE = 128.0
Picture = Callable[..., F32]


@pytest.fixture(scope="module")
def reader(plain_extractor: Extractor) -> Reader:
    return Reader(plain_extractor, cr.derive())


@pytest.fixture(scope="module")
def marked(plain_network: CouplingNetwork, payload: Payload) -> Picture:
    """Noise with a mark whose carriers answer with `strength` standard deviations each."""

    def make(
        height: int = 256, width: int = 256, strength: float = 2.5, key: bytes | None = None, seed: int = 0
    ) -> F32:
        carriers = cr.derive(key)
        signs = np.concatenate([encode(payload), carriers.pilot_signs]).astype(np.int64)
        pattern = plain_network.synthesise(4 * signs, carriers) / 2**FIELD_BITS
        noise = np.random.default_rng(seed).normal(size=pattern.shape)
        made = MIDDLE + 20 * (noise + strength * math.sqrt(cr.WRITTEN) / cr.SIZE * pattern)
        return resized(made.astype(np.float32), height, width)

    return make


def resized(grey: F32, height: int, width: int) -> F32:
    return np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC))


def turned(grey: F32, degrees: float, enlarged: bool = False) -> F32:
    image = Image.fromarray(grey)
    return np.asarray(image.rotate(degrees, Image.Resampling.BICUBIC, expand=enlarged, fillcolor=MIDDLE))


def noise(height: int, width: int, seed: int) -> F32:
    return np.random.default_rng(seed).normal(MIDDLE, 20, (height, width)).astype(np.float32)


def coarse(grey: F32) -> F32:
    height, width = (n // 4 for n in grey.shape)
    return np.asarray(grey[: 4 * height, : 4 * width].reshape(height, 4, width, 4).mean((1, 3)))


def brings_back(found: Detection, grey: F32, cover: F32) -> bool:
    """Whether undoing the geometry gives the cover, where the picture shows it."""
    back = found.geometry.undo(grey)
    shown = coarse(found.geometry.shown(*grey.shape).astype(np.float32)) == 1
    once = coarse(resized(cover, *back.shape))
    return bool(shown.mean() > 0.4 and np.corrcoef(coarse(back)[shown], once[shown])[0, 1] > 0.8)


def check(found: Detection, grey: F32, cover: F32, payload: Payload) -> None:
    assert found.present
    decoded = decode(found.soft_bits)
    assert decoded is not None
    assert decoded.payload == payload
    assert found.soft_bits.shape == (cr.CODE,)
    warp = found.geometry.warp
    assert warp is not None
    assert warp.height == pytest.approx(cover.shape[0], rel=0.02)
    assert warp.width == pytest.approx(cover.shape[1], rel=0.02)
    assert brings_back(found, grey, cover)


def apart(first: float, second: float) -> float:
    return abs((first - second + 180) % 360 - 180)


# Turned by any angle.


@pytest.mark.parametrize("enlarged", [False, True])
@pytest.mark.parametrize("degrees", [1.1, 33.3, 45.0, 89.2, -100.0, 200.4])
def test_a_turned_square_is_found(
    degrees: float, enlarged: bool, reader: Reader, marked: Picture, payload: Payload
) -> None:
    cover = marked()
    grey = turned(cover, degrees, enlarged)
    first = next(sync.rotated(grey, reader))
    check(first, grey, cover, payload)
    assert first.geometry.warp is not None
    assert apart(first.geometry.warp.degrees, degrees) < 0.4
    assert str(first.geometry).startswith("turned ")
    if not enlarged:
        second = next(sync.turned(grey, reader))
        check(second, grey, cover, payload)
        assert second.geometry.warp is not None
        assert apart(second.geometry.warp.degrees, degrees) < 0.4


@pytest.mark.parametrize("enlarged", [False, True])
@pytest.mark.parametrize(
    ("height", "width", "degrees"), [(300, 220, 10.0), (220, 300, -33.0), (300, 220, 110.0), (180, 400, 160.0)]
)
def test_a_turned_rectangle_is_found(
    height: int, width: int, degrees: float, enlarged: bool, reader: Reader, marked: Picture, payload: Payload
) -> None:
    cover = marked(height, width, 4.0)
    grey = turned(cover, degrees, enlarged)
    first = next(sync.rotated(grey, reader))
    check(first, grey, cover, payload)
    assert first.geometry.warp is not None
    assert apart(first.geometry.warp.degrees, degrees) < 0.4


@pytest.mark.parametrize(("height", "width"), [(256, 256), (300, 220)])
@pytest.mark.parametrize("degrees", [25.0, 120.0])
def test_a_mirrored_and_turned_picture_is_found(
    height: int, width: int, degrees: float, reader: Reader, marked: Picture, payload: Payload
) -> None:
    cover = marked(height, width, 3.0)
    grey = turned(cover[:, ::-1].copy(), degrees)
    first = next(sync.rotated(grey, reader))
    check(first, grey, cover, payload)
    assert first.geometry.warp is not None
    assert apart(first.geometry.warp.degrees, degrees) < 0.4
    assert str(first.geometry).startswith("mirrored, turned ")


def test_a_large_turned_picture_is_found(reader: Reader, marked: Picture, payload: Payload) -> None:
    cover = marked(1100, 1100)
    grey = turned(cover, 17.0)
    check(next(sync.rotated(grey, reader)), grey, cover, payload)


# Windows.


@dataclass(frozen=True)
class Cut:
    """Which part of a cover is left: its share of the area, and where its corner lies, in shares of the room."""

    share: float
    down: float
    right: float

    def of(self, cover: F32) -> F32:
        height, width = (round(n * math.sqrt(self.share)) for n in cover.shape)
        top, left = round(self.down * (cover.shape[0] - height)), round(self.right * (cover.shape[1] - width))
        return cover[top : top + height, left : left + width].copy()


CUTS = [
    Cut(0.9, 0.0, 1.0),
    Cut(0.9, 0.5, 0.5),
    Cut(0.75, 0.4, 0.8),
    Cut(0.75, 1.0, 0.0),
    Cut(0.5, 0.1, 0.9),
    Cut(0.5, 0.6, 0.3),
]


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_window_is_found(cut: Cut, reader: Reader, marked: Picture, payload: Payload) -> None:
    cover = marked(strength=3.0)
    grey = cut.of(cover)
    first = next(sync.windows(grey, reader))
    check(first, grey, cover, payload)
    assert first.geometry.warp is not None
    assert apart(first.geometry.warp.degrees, 0) < 0.4
    assert first.geometry.shown(*grey.shape).mean() == pytest.approx(cut.share, abs=0.03)


@pytest.mark.parametrize(("height", "width"), [(400, 260), (150, 320), (700, 900)])
def test_a_window_of_a_rectangle_is_found(
    height: int, width: int, reader: Reader, marked: Picture, payload: Payload
) -> None:
    cover = marked(height, width, 3.5)
    grey = Cut(0.6, 0.3, 0.6).of(cover)
    check(next(sync.windows(grey, reader)), grey, cover, payload)


@pytest.mark.parametrize("geometry", [ALL[1], ALL[2], ALL[4], ALL[7]], ids=str)
@pytest.mark.parametrize(("height", "width"), [(256, 256), (300, 220)])
def test_a_window_that_was_turned_or_mirrored_is_found(
    geometry: Geometry, height: int, width: int, reader: Reader, marked: Picture, payload: Payload
) -> None:
    cover = marked(height, width, 3.0)
    grey = geometry.apply(Cut(0.75, 0.3, 0.7).of(cover))
    first = next(sync.windows(grey, reader))
    check(first, grey, cover, payload)
    assert first.geometry.warp is not None
    assert apart(first.geometry.warp.degrees, 90 * geometry.turns) < 0.4


def test_a_window_that_was_enlarged_is_found(reader: Reader, marked: Picture, payload: Payload) -> None:
    cover = marked(strength=3.0)
    grey = resized(Cut(0.75, 0.3, 0.7).of(cover), 500, 500)
    first = next(sync.windows(grey, reader))
    assert first.present
    decoded = decode(first.soft_bits)
    assert decoded is not None
    assert decoded.payload == payload
    assert first.geometry.warp is not None
    assert first.geometry.warp.height == pytest.approx(500 / math.sqrt(0.75), rel=0.02)


# Keys, noise, order.


def test_with_the_key_it_is_found_and_without_it_it_is_not(
    plain_extractor: Extractor, reader: Reader, marked: Picture, payload: Payload
) -> None:
    cover = marked(strength=3.0, key=KEY)
    keyed = Reader(plain_extractor, cr.derive(KEY))
    for stage, grey in ((sync.rotated, turned(cover, 31.0)), (sync.windows, Cut(0.7, 0.2, 0.6).of(cover))):
        check(next(stage(grey, keyed)), grey, cover, payload)
        assert not any(found.present for found in stage(grey, reader))


@pytest.mark.parametrize(("height", "width", "seed"), [(256, 256, 0), (256, 256, 1), (300, 220, 2), (200, 208, 3)])
def test_noise_holds_no_mark(height: int, width: int, seed: int, reader: Reader) -> None:
    grey = noise(height, width, seed)
    for stage in (sync.rotated, sync.windows, sync.turned):
        found = list(stage(grey, reader))
        assert 1 <= len(found) <= sync.CANDIDATES + (len(sync.PASTED) if stage is sync.windows else 0)
        # Few pictures: an alarm that is to be expected in one of a thousand is far outside chance.
        assert min(f.false_alarm for f in found) > 1e-3
        assert not any(f.present for f in found)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_faint_mark_is_found_and_never_read_wrongly(
    seed: int, reader: Reader, marked: Picture, payload: Payload
) -> None:
    found = list(sync.rotated(turned(marked(strength=1.6, seed=seed), 20.0), reader))
    assert found[0].present
    for one in found:
        decoded = decode(one.soft_bits)
        if decoded is not None and decoded.chance < 1e-4:
            assert decoded.payload == payload


@pytest.mark.parametrize("value", [0.0, 128.0])
def test_a_flat_picture_is_not_searched(value: float, reader: Reader) -> None:
    for stage in (sync.rotated, sync.windows, sync.turned):
        assert list(stage(np.full((90, 120), value, np.float32), reader)) == []


@pytest.mark.parametrize("shape", [(3, 3), (1, 40), (64, 3000)])
def test_odd_pictures_are_searched_without_an_error(shape: tuple[int, int], reader: Reader) -> None:
    for stage in (sync.rotated, sync.windows, sync.turned):
        assert all(np.isfinite(found.score) for found in stage(noise(*shape, 0), reader))


def test_candidates_are_few_and_lie_apart_and_say_how_many_were_tried(reader: Reader, marked: Picture) -> None:
    grey = turned(marked(), 20.0)
    found = list(sync.rotated(grey, reader))
    assert len(found) == sync.CANDIDATES
    assert found[0].score == max(f.score for f in found)
    assert {f.tries for f in found} == {119 * 2 * 8}  # angles, canvases, orientations
    looked = list(sync.turned(grey, reader))
    assert len(looked) == sync.CANDIDATES
    assert {f.tries for f in looked} == {119 * 8}
    cut = list(sync.windows(Cut(0.75, 0.4, 0.8).of(marked()), reader))
    assert len(sync.PASTED) < len(cut) <= len(sync.PASTED) + sync.CANDIDATES
    assert {f.tries for f in cut} == {cut[0].tries}
    assert cut[0].tries > len(sync.PASTED) * 10**6
    for one in (found, looked, cut[len(sync.PASTED) :]):
        corners = [f.geometry.warp.matrix for f in one if f.geometry.warp is not None]
        assert len(set(corners)) == len(corners) == len(one)


def test_the_score_is_that_of_the_picture_in_the_frame(reader: Reader, marked: Picture) -> None:
    grey = turned(marked(), 20.0)
    first = next(sync.rotated(grey, reader))
    back = first.geometry.undo(grey)
    shown = shrunk(first.geometry.shown(*grey.shape).astype(np.float32))[None] > 0.99
    filled = np.where(first.geometry.shown(*grey.shape), back, np.float32(MIDDLE))
    assert float(pilot_score(reader(shrunk(filled)[None], shown), reader.carriers)[0]) == pytest.approx(
        first.score, rel=0.15
    )


def test_the_whole_verifier_finds_what_was_turned_and_cut(
    plain_network: CouplingNetwork, plain_extractor: Extractor, marked: Picture, payload: Payload
) -> None:
    wm = DualWatermarker(Release(bytes(32), plain_network, plain_extractor))

    def byte(grey: F32) -> NDArray[np.uint8]:
        return np.clip(np.rint(grey), 0, 255).astype(np.uint8)

    cover = marked(strength=3.0)
    for grey in (turned(cover, 31.0), Cut(0.7, 0.2, 0.6).of(cover)):
        found = wm.extract(byte(grey))
        assert found.payload == payload
        assert found.present
        assert found.geometry.warp is not None
        assert found.false_alarm < 1e-9
        assert found.integrity.state == "absent"
        quick = wm.extract(byte(grey), search=False)
        assert quick.payload is None
        assert not quick.present
        assert quick.geometry.warp is None
    standing = wm.extract(byte(ALL[3].apply(cover)))
    assert (standing.payload, standing.geometry) == (payload, ALL[3])


# The parts.


@pytest.mark.parametrize("shape", [(256, 256), (300, 200), (1500, 1100), (70, 500)])
def test_the_frame_of_the_whole_is_the_working_picture(shape: tuple[int, int], phantom) -> None:  # type: ignore[no-untyped-def]
    grey = grey_picture(phantom(*shape))
    picture, shown = sync.framed(grey, (shape[1], 0, 0, 0, shape[0], 0))
    assert (picture.dtype, shown.dtype) == (np.float32, np.bool_)
    assert shown.all()
    assert np.corrcoef(picture.ravel(), shrunk(grey).ravel())[0, 1] > 0.99


def test_a_frame_beyond_the_picture_shows_a_part_and_its_mean_elsewhere() -> None:
    grey = np.random.default_rng(0).uniform(50, 60, (200, 160)).astype(np.float32)
    picture, shown = sync.framed(grey, (320.0, 0, -160.0, 0, 400.0, 0))
    assert shown[:128, 128:].all()
    assert shown.mean() == pytest.approx(0.25, abs=0.01)
    assert not shown[130:].any()
    assert not shown[:, :126].any()
    np.testing.assert_allclose(picture[140:, :110], grey.mean(), atol=0.2)


def test_halving_is_what_the_working_picture_does() -> None:
    fine = np.random.default_rng(0).uniform(0, 255, (512, 512)).astype(np.float32)
    np.testing.assert_allclose(sync._halved(fine), shrunk(fine), atol=1e-3)


def test_a_frame_far_from_the_picture_shows_nothing() -> None:
    picture, shown = sync.framed(np.full((50, 50), 9, np.float32), (50.0, 0, 1000.0, 0, 50.0, 0))
    assert not shown.any()
    assert np.isfinite(picture).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(150, 400), st.integers(150, 400), st.floats(1, 179))
def test_an_enlarged_canvas_is_known_by_its_shape(height: int, width: int, degrees: float) -> None:
    canvas = Image.new("L", (width, height)).rotate(degrees, expand=True)
    if height == width:
        canvas = canvas.resize((max(canvas.size), max(canvas.size)))
    c, s = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    shapes = list(sync._canvases(degrees, canvas.height, canvas.width))
    assert shapes[0] == (canvas.height, canvas.width)
    if canvas.height != canvas.width and abs(c * c - s * s) > 0.3 and min(height, width) > 0.6 * max(height, width):
        assert any(h == pytest.approx(height, abs=9) and w == pytest.approx(width, abs=9) for h, w in shapes[1:])


@pytest.mark.parametrize("degrees", [0.0, 12.0, 90.0, 135.0, -60.0])
@pytest.mark.parametrize("shape", [(200, 200), (200, 120)])
def test_a_turn_is_that_of_a_picture(degrees: float, shape: tuple[int, int]) -> None:
    """A point of the cover lies on the canvas where a counter-clockwise turn about the centre puts it."""
    matrix = sync._turn(degrees, shape, shape)
    height, width = shape
    a = math.radians(degrees)
    for x, y in ((0.5, 0.5), (0.9, 0.4), (0.2, 0.7)):
        dx, dy = (x - 0.5) * width, (y - 0.5) * height
        right, down = math.cos(a) * dx + math.sin(a) * dy, -math.sin(a) * dx + math.cos(a) * dy
        at = matrix[0] * x + matrix[1] * y + matrix[2], matrix[3] * x + matrix[4] * y + matrix[5]
        assert at == pytest.approx((0.5 + right / width, 0.5 + down / height))


def test_turning_coefficients_is_turning_the_picture(reader: Reader, marked: Picture) -> None:
    extractor = reader.extractor
    fields = extractor.white(np.stack([marked(seed=seed) for seed in range(2)]))
    scores = sync._oriented_scores(extractor.spectra(fields), reader, ALL)
    assert scores.shape == (2, 8)
    for i, field in enumerate(fields):
        for o, geometry in enumerate(ALL):
            answers = reader.answers(extractor.spectra(geometry.undo(field)[None]))
            assert scores[i, o] == pytest.approx(float(pilot_score(answers, reader.carriers)[0]), abs=0.02)
    assert (scores.argmax(1) == 0).all()


@settings(deadline=None)
@given(
    st.sampled_from(["x", "y", "angle", "scale"]),
    st.floats(-0.05, 0.05),
    st.floats(0.4, 2.5),
    st.tuples(st.floats(0.2, 0.8), st.floats(0.2, 0.8)),
)
def test_a_nudge_keeps_its_centre_or_shifts_it_by_so_much(
    name: str, amount: float, aspect: float, centre: tuple[float, float]
) -> None:
    a, b, c, d, e, f = sync._nudge(name, amount, aspect, centre)
    x, y = centre[0] * a + centre[1] * b + c, centre[0] * d + centre[1] * e + f
    assert x == pytest.approx(centre[0] + (amount if name == "x" else 0))
    assert y == pytest.approx(centre[1] + (amount if name == "y" else 0))
    # In pixels, with rows `aspect` times as many as columns, a turn keeps lengths and a scale keeps angles.
    m = np.array([[a, b / aspect], [d * aspect, e]])
    factor = 1 + amount if name == "scale" else 1
    np.testing.assert_allclose(m @ m.T, factor**2 * np.eye(2), atol=1e-9)


def test_the_distance_is_that_of_the_farthest_corner() -> None:
    still: Matrix = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    assert sync._distance(still, still) == 0
    assert sync._distance(still, (1.0, 0.0, 0.03, 0.0, 1.0, 0.04)) == pytest.approx(0.05)
    assert sync._distance(still, (1.1, 0.0, 0.0, 0.0, 1.0, 0.0)) == pytest.approx(0.1)
    assert sync._distance(still, unit_matrix(ALL[2])) == pytest.approx(math.sqrt(2))


def test_refining_finds_the_place(reader: Reader, marked: Picture) -> None:
    white = reader.extractor.white(marked(strength=4.0)[None])[0]
    still: Matrix = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    off = compose(sync._nudge("angle", math.radians(0.35), 1.0, (0.5, 0.5)), (1.004, 0.0, 0.001, 0.0, 1.004, -0.002))
    rough = sync._Hypothesis(0.0, off, white, still, 256, 256)
    (rough,) = sync._on_map(reader)([rough])
    fine = sync._refined(rough, sync._on_map(reader), sync._ON_MAP)
    assert fine.score > rough.score
    assert fine.score > 0.9 * sync._score(sync._Hypothesis(0.0, still, white, still, 256, 256), reader)
    assert sync._distance(fine.matrix, still) < 0.004 < sync._distance(off, still)
    assert compose(off, inverse(off)) == pytest.approx(still)


@pytest.mark.parametrize(
    ("low", "middle", "high", "top"),
    [(0, 1, 0, 0.0), (0, 1, 0.5, 1 / 6), (0.5, 1, 0, -1 / 6), (0, 1, 2, 1.0), (3, 1, 2, -1.0), (0, 1, 1.9, 1.0)],
)
def test_a_parabola_has_its_top_within_its_sides(low: float, middle: float, high: float, top: float) -> None:
    assert sync._top(low, middle, high) == pytest.approx(top, abs=1e-9)


def test_an_upright_mark_needs_no_search(reader: Reader, marked: Picture) -> None:
    (standing,) = upright(shrunk(marked())[None], reader)
    assert standing.present
    assert standing.geometry.identity
    (lost,) = upright(shrunk(turned(marked(), 20.0))[None], reader)
    assert not lost.present


class Stiff(Extractor):
    """An extractor whose map is of use only where the picture stands upright: turned by hand it is noise."""

    def __init__(self, inner: Extractor) -> None:
        self.__dict__.update(inner.__dict__)
        self.inner = inner
        self.flips = np.where(np.random.default_rng(0).random((cr.SIZE, cr.SIZE)) < 0.5, -1, 1).astype(np.float32)

    def white(self, pictures: F32) -> F32:
        return self.inner.white(pictures) * self.flips

    def spectra(self, white: F32) -> F32:
        return self.inner.spectra(white * self.flips)


def test_a_mark_that_is_lost_on_the_turned_map_is_found_on_turned_pictures(
    reader: Reader, marked: Picture, payload: Payload
) -> None:
    stiff = Reader(Stiff(reader.extractor), reader.carriers)
    cover = marked()
    grey = turned(cover, 33.3)
    assert not any(found.present for found in sync.rotated(grey, stiff))
    check(next(sync.turned(grey, stiff)), grey, cover, payload)


class Blocky(Extractor):
    """An extractor that turns every second band of four rows over, and so sees nothing that lies two rows beside."""

    BANDS = np.where(np.arange(cr.SIZE) % 8 < 4, 1, -1).astype(np.float32)[:, None]

    def __init__(self, inner: Extractor) -> None:
        self.__dict__.update(inner.__dict__)
        self.inner = inner

    def white(self, pictures: F32) -> F32:
        return self.inner.white(pictures) * self.BANDS


def test_a_window_is_found_wherever_it_lay_among_the_extractors_blocks(
    reader: Reader, marked: Picture, payload: Payload
) -> None:
    blocky = Reader(Blocky(reader.extractor), reader.carriers)
    cover = MIDDLE + (marked(strength=3.5) - MIDDLE) * Blocky.BANDS
    grey = cover[28:220, 12:204]
    templates = np.fft.rfft2(np.stack([g.apply(sync._pilot_template(blocky)) for g in ALL]))
    best = {}
    for place in sync.PASTED:
        (white,) = sync._pasted([grey], place, blocky)
        best[place] = max(h.score for h in sync._fitted(white, len(grey), grey, templates))
    assert min(best[4, 4], best[4, 0]) > 1.5 * max(best[0, 0], best[0, 4])
    found = max(sync.windows(grey, blocky), key=lambda d: d.score)
    decoded = decode(found.soft_bits)
    assert found.present
    assert decoded is not None
    assert decoded.payload == payload
