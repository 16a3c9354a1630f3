"""The carriers: tables that may never change, because released marks depend on them."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medprov_watermark import carriers as cr

DIGEST = "77c4b97d96fb658fa2536cae2090e963d1411cd7ee735eb0d220a16c723fc545"
KEY = b"sixteen bytes or"
KEYED_DIGEST = "5abb41e5bd34a831afbcdf52530a86ce1bdfbd7f58f516acec0dc8610e8da7b1"
KEYS = st.none() | st.binary(min_size=cr.MIN_KEY, max_size=40)


def flat(carriers: cr.Carriers) -> NDArray[np.int64]:
    """(TOTAL, COEFFICIENTS): the number of each coefficient."""
    index = carriers.index.astype(np.int64)
    return np.asarray(index[..., 0] * cr.WIDTH + index[..., 1])


def test_the_tables_are_those_of_the_format() -> None:
    assert cr.digest() == DIGEST


def test_the_tables_of_a_key_are_those_of_the_format() -> None:
    keyed = cr.derive(KEY)
    h = hashlib.sha256()
    for part in (keyed.index.astype("<i2"), keyed.sign, keyed.pilot_signs):
        h.update(part.tobytes())
    assert h.hexdigest() == KEYED_DIGEST


@settings(deadline=None, max_examples=20)
@given(KEYS)
def test_they_follow_from_the_key_as_is_written_down(key: bytes | None) -> None:
    """docs/formats.md, step by step."""
    seed = b"medprov carriers 2" + (b"" if key is None else b"|key|" + struct.pack(">I", len(key)) + key)

    def numbers(label: str, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}Q", hashlib.shake_256(seed + b"|" + label.encode()).digest(8 * count))

    band = [(u, v) for u in range(1, 68) for v in range(1, 68) if 144 <= u * u + v * v < 4624]
    band = sorted(band, key=lambda pair: (pair[0] ** 2 + pair[1] ** 2, *pair))[: 5 * 665]
    dealt = []
    for ring in range(5):
        own = band[665 * ring : 665 * (ring + 1)]
        dealt.append([pair for _, pair in sorted(zip(numbers(f"order{ring}", 665), own, strict=True))])
    carriers = cr.derive(key)
    assert carriers.index.tolist() == [[list(dealt[ring][i]) for ring in range(5)] for i in range(665)]
    assert carriers.sign.ravel().tolist() == [1 if n & 1 else -1 for n in numbers("sign", 5 * 665)]
    assert carriers.pilot_signs.tolist() == [1 if n & 1 else -1 for n in numbers("pilots", 104)]


@pytest.mark.parametrize("name", ["index", "sign", "pilot_signs", "basis"])
def test_the_digest_notices_a_change_of_any_table(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    public, basis = cr.derive(), cr.dct_table().copy()
    part = basis if name == "basis" else getattr(public, name).copy()
    part.flat[5] += 1
    changed = public if name == "basis" else replace(public, **{name: part})
    monkeypatch.setattr(cr, "derive", lambda: changed)
    monkeypatch.setattr(cr, "dct_table", lambda: basis)
    assert cr.digest.__wrapped__() != DIGEST
    part.flat[5] -= 1
    assert cr.digest.__wrapped__() == DIGEST


@pytest.mark.parametrize("key", [None, KEY])
def test_shapes_and_kinds(key: bytes | None) -> None:
    carriers = cr.derive(key)
    assert cr.WRITTEN == cr.CODE + cr.PILOTS == 520
    assert cr.TOTAL == cr.WRITTEN + cr.NULLS == 665
    assert carriers.index.shape == (cr.TOTAL, cr.COEFFICIENTS, 2)
    assert carriers.sign.shape == (cr.TOTAL, cr.COEFFICIENTS)
    assert carriers.pilot_signs.shape == (cr.PILOTS,)
    assert (carriers.index.dtype, carriers.sign.dtype, carriers.pilot_signs.dtype) == (np.int16, np.int8, np.int8)
    assert set(np.unique(carriers.sign)) == set(np.unique(carriers.pilot_signs)) == {-1, 1}


@settings(deadline=None, max_examples=40)
@given(KEYS)
def test_every_key_deals_out_the_same_coefficients_each_once(key: bytes | None) -> None:
    carriers = cr.derive(key)
    public = flat(cr.derive())
    assert np.unique(flat(carriers)).size == cr.TOTAL * cr.COEFFICIENTS
    for ring in range(cr.COEFFICIENTS):
        np.testing.assert_array_equal(np.sort(flat(carriers)[:, ring]), np.sort(public[:, ring]))


def test_all_coefficients_lie_in_the_band_and_in_their_ring() -> None:
    index = cr.derive().index.astype(np.int64)
    radius = (index**2).sum(-1)
    assert index.min() >= 1
    assert index.max() < cr.WIDTH
    assert radius.min() >= cr.BAND[0] ** 2
    assert radius.max() < cr.BAND[1] ** 2
    for ring in range(cr.COEFFICIENTS - 1):
        assert radius[:, ring].max() <= radius[:, ring + 1].min()


@settings(deadline=None, max_examples=40)
@given(KEYS, KEYS)
def test_another_key_has_other_carriers(key: bytes | None, other: bytes | None) -> None:
    one, two = cr.derive(key), cr.derive(other)
    if key == other:
        np.testing.assert_array_equal(one.index, two.index)
        np.testing.assert_array_equal(one.sign, two.sign)
        np.testing.assert_array_equal(one.pilot_signs, two.pilot_signs)
        return
    # A coefficient stays with its carrier by chance alone: one of each ring on average; signs agree half the time.
    assert np.count_nonzero(flat(one) == flat(two)) < 26
    assert abs(np.mean(one.sign * two.sign.astype(np.int64))) < 0.12
    assert abs(int(one.pilot_signs.astype(np.int64) @ two.pilot_signs)) < 54


def test_neither_a_longer_key_nor_the_label_gives_the_same_carriers() -> None:
    tables = {cr.derive(key).index.tobytes() for key in (None, KEY, KEY + b"\0", b"\0" + KEY, KEY + b"|order0")}
    assert len(tables) == 5


@pytest.mark.parametrize("length", [0, 1, cr.MIN_KEY - 1])
def test_a_short_key_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"at least {cr.MIN_KEY} bytes, not {length}"):
        cr.derive(bytes(length))


@pytest.mark.parametrize("key", [None, KEY, bytes(cr.MIN_KEY)])
def test_tables_are_read_only(key: bytes | None) -> None:
    carriers = cr.derive(key)
    for part in (carriers.index, carriers.sign, carriers.pilot_signs):
        with pytest.raises(ValueError, match="read-only"):
            part.flat[0] = 0


@pytest.mark.parametrize("key", [None, KEY])
def test_the_carriers_are_orthogonal_in_space(key: bytes | None) -> None:
    basis = cr.dct_table() / 2.0**cr.DCT_BITS
    carriers = cr.derive(key)
    some = np.arange(0, cr.TOTAL, 9)
    spectra = np.zeros((some.size, cr.WIDTH, cr.WIDTH))
    for number, carrier in enumerate(some):
        index = carriers.index[carrier].astype(np.intp)
        spectra[number, index[:, 0], index[:, 1]] = carriers.sign[carrier]
    fields = (basis.T @ spectra @ basis).reshape(some.size, -1)
    product = fields @ fields.T / cr.COEFFICIENTS
    np.testing.assert_allclose(product, np.eye(some.size), atol=2e-3)


def test_the_basis_is_the_dct_and_orthonormal() -> None:
    from scipy.fft import dct

    basis = cr.dct_table()[1:] / 2.0**cr.DCT_BITS
    exact = dct(np.eye(cr.SIZE), type=2, norm="ortho", axis=0)[1 : cr.WIDTH]
    assert np.abs(basis - exact).max() <= 0.5 / 2**cr.DCT_BITS + 1e-12
    np.testing.assert_allclose(basis @ basis.T, np.eye(cr.WIDTH - 1), atol=2e-3)


@pytest.mark.parametrize("key", [None, KEY])
def test_scatter_puts_each_value_on_its_own_coefficients(key: bytes | None) -> None:
    carriers = cr.derive(key)
    values = np.arange(1, cr.WRITTEN + 1, dtype=np.int64) * np.where(np.arange(cr.WRITTEN) % 2, 1, -1)
    spectrum = carriers.scatter(values)
    assert spectrum.dtype == np.int64
    found = spectrum.ravel()[flat(carriers)] * carriers.sign
    np.testing.assert_array_equal(found[: cr.WRITTEN], np.broadcast_to(values[:, None], (cr.WRITTEN, cr.COEFFICIENTS)))
    assert not found[cr.WRITTEN :].any()
    assert np.count_nonzero(spectrum) == cr.WRITTEN * cr.COEFFICIENTS


def test_scatter_is_linear() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(-8, 9, (2, cr.WRITTEN))
    scatter = cr.derive().scatter
    np.testing.assert_array_equal(scatter(a + 3 * b), scatter(a) + 3 * scatter(b))
