"""The carriers: tables that may never change, because released marks depend on them."""

from __future__ import annotations

import numpy as np
import pytest

from medprov_watermark import carriers as cr

DIGEST = "80272df49ecabb9cf58fd3dbef5d61a7502a3148f1a59b7ebc2ad31bd393d276"


def test_the_tables_are_those_of_the_format() -> None:
    assert cr.digest() == DIGEST


def test_the_digest_notices_a_change_of_any_table(monkeypatch: pytest.MonkeyPatch) -> None:
    index, sign = (part.copy() for part in cr.table())
    pilots, basis = cr.pilot_signs().copy(), cr.dct_table().copy()
    for part in (index, sign, pilots, basis):
        former = part.flat[5]
        part.flat[5] = former + 1
        with monkeypatch.context() as patch:
            patch.setattr(cr, "table", lambda: (index, sign))
            patch.setattr(cr, "pilot_signs", lambda: pilots)
            patch.setattr(cr, "dct_table", lambda: basis)
            assert cr.digest() != DIGEST
        part.flat[5] = former
    assert cr.digest() == DIGEST


def test_shapes_and_kinds() -> None:
    index, sign = cr.table()
    assert cr.WRITTEN == cr.CODE + cr.PILOTS == 192
    assert cr.TOTAL == cr.WRITTEN + cr.NULLS == 256
    assert index.shape == (cr.TOTAL, cr.COEFFICIENTS, 2)
    assert sign.shape == (cr.TOTAL, cr.COEFFICIENTS)
    assert set(np.unique(sign)) == {-1, 1}
    assert cr.pilot_signs().shape == (cr.PILOTS,)
    assert set(np.unique(cr.pilot_signs())) == {-1, 1}


def test_no_coefficient_belongs_to_two_carriers_and_all_lie_in_the_band() -> None:
    index = cr.table()[0].astype(np.int64)
    flat = (index[..., 0] * cr.WIDTH + index[..., 1]).ravel()
    assert np.unique(flat).size == flat.size == cr.TOTAL * cr.COEFFICIENTS
    assert index.min() >= 1
    assert index.max() < cr.WIDTH
    radius = (index**2).sum(-1)
    assert radius.min() >= cr.BAND[0] ** 2
    assert radius.max() < cr.BAND[1] ** 2


def test_every_carrier_takes_one_coefficient_from_each_ring() -> None:
    radius = (cr.table()[0].astype(np.int64) ** 2).sum(-1)
    for ring in range(cr.COEFFICIENTS - 1):
        assert radius[:, ring].max() <= radius[:, ring + 1].min()


def test_the_carriers_are_orthogonal_in_space() -> None:
    basis = cr.dct_table() / 2.0**cr.DCT_BITS
    index, sign = cr.table()
    some = np.arange(0, cr.TOTAL, 9)
    spectra = np.zeros((some.size, cr.WIDTH, cr.WIDTH))
    for number, carrier in enumerate(some):
        spectra[number, index[carrier, :, 0], index[carrier, :, 1]] = sign[carrier]
    fields = (basis.T @ spectra @ basis).reshape(some.size, -1)
    product = fields @ fields.T / cr.COEFFICIENTS
    np.testing.assert_allclose(product, np.eye(some.size), atol=2e-3)


def test_the_basis_is_the_dct_and_orthonormal() -> None:
    from scipy.fft import dct

    basis = cr.dct_table()[1:] / 2.0**cr.DCT_BITS
    exact = dct(np.eye(cr.SIZE), type=2, norm="ortho", axis=0)[1 : cr.WIDTH]
    assert np.abs(basis - exact).max() <= 0.5 / 2**cr.DCT_BITS + 1e-12
    np.testing.assert_allclose(basis @ basis.T, np.eye(cr.WIDTH - 1), atol=2e-3)


def test_scatter_puts_each_value_on_its_own_coefficients() -> None:
    index, sign = cr.table()
    values = np.arange(1, cr.WRITTEN + 1, dtype=np.int64) * np.where(np.arange(cr.WRITTEN) % 2, 1, -1)
    spectrum = cr.scatter(values)
    used = index[: cr.WRITTEN].astype(np.intp)
    np.testing.assert_array_equal(
        spectrum[used[..., 0], used[..., 1]] * sign[: cr.WRITTEN], values[:, None] + 0 * sign[: cr.WRITTEN]
    )
    assert np.count_nonzero(spectrum) == cr.WRITTEN * cr.COEFFICIENTS
    free = index[cr.WRITTEN :].astype(np.intp)
    assert not spectrum[free[..., 0], free[..., 1]].any()


def test_scatter_is_linear() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(-8, 9, (2, cr.WRITTEN))
    np.testing.assert_array_equal(cr.scatter(a + 3 * b), cr.scatter(a) + 3 * cr.scatter(b))
