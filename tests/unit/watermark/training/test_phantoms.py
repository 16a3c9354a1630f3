"""Generated pictures: always the same, no two alike."""

import numpy as np
import torch

from medprov_watermark.training.phantoms import phantom, phantoms, vessels


def test_phantoms_are_pictures_and_repeatable():
    first = phantoms(4)
    assert first.shape == (4, 1, 256, 256) and first.dtype == torch.uint8
    assert torch.equal(first, phantoms(4))
    assert not torch.equal(first, phantoms(4, seed=1))
    assert all(phantom(i).std() > 5 for i in range(8))
    assert len({phantom(i).tobytes() for i in range(8)}) == 8


def test_vessels_are_dark_thin_and_where_the_mask_says():
    for seed in range(4):
        picture, mask = vessels(seed)
        plain = phantom(seed)
        assert picture.shape == mask.shape == (256, 256) and mask.dtype == np.bool_
        assert 0.002 < mask.mean() < 0.25
        assert (plain[mask].astype(int) - picture[mask]).mean() > 15
        far = np.abs(plain.astype(int) - picture)[~mask]
        assert far.mean() < 5
