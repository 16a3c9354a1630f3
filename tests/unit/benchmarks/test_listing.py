import numpy as np
import pytest

from benchmarks import listing
from medprov_watermark.geometry import Geometry
from medprov_watermark.payload import CODE_BITS, Payload, encode
from medprov_watermark.watermarker import Extraction, Integrity

TRUE = (Payload(b"abcdefgh", b"1234"), Payload(b"abcdefgh", b"1235"))
RECORDS = listing.directory(TRUE, 300, seed=4)


def read(payload: Payload | None, noise: float, seed: int = 0, tries: float = 8) -> Extraction:
    """What the extractor might see of a picture that is marked with a payload, or with none."""
    signs = np.zeros(CODE_BITS) if payload is None else encode(payload).astype(float)
    soft = (signs + np.random.default_rng(seed).normal(0, noise, signs.shape)).astype(np.float32)
    return Extraction(None, soft, 5.0, False, tries, Geometry(), 0, Integrity("absent"))


def test_a_directory_holds_the_true_records_and_as_many_strangers_as_asked() -> None:
    assert RECORDS.payloads[:2] == TRUE
    assert len(set(RECORDS.payloads)) == 302


@pytest.mark.parametrize("noise", [0.2, 0.8])
def test_the_true_record_is_found(noise: float) -> None:
    for payload in TRUE:
        assert listing.find(read(payload, noise), RECORDS) == payload


def test_nothing_is_found_when_the_true_record_is_taken_out() -> None:
    others = listing.without(RECORDS, TRUE[0])
    assert len(others.payloads) == 301 and TRUE[0] not in others.payloads
    assert [tuple(word) for word in others.codewords] == [tuple(encode(p)) for p in others.payloads]
    for seed in range(20):
        assert listing.find(read(TRUE[0], 0.5, seed), others) is None


def test_sure_pilots_do_not_make_up_for_a_record_that_is_not_there() -> None:
    others = listing.without(RECORDS, TRUE[0])
    assert all(listing.find(read(TRUE[0], 0.5, seed, tries=1e-40), others) is None for seed in range(20))


def test_nothing_is_found_in_noise() -> None:
    assert all(listing.find(read(None, 1.0, seed), RECORDS) is None for seed in range(20))


def test_a_picture_that_was_searched_longer_must_fit_better() -> None:
    faint = read(TRUE[0], 1.9, tries=1)
    assert listing.find(faint, RECORDS) == TRUE[0]
    assert listing.find(read(TRUE[0], 1.9, tries=1e12), RECORDS) is None


def test_an_empty_directory_finds_nothing() -> None:
    alone = listing.directory(TRUE[:1], 0)
    assert listing.find(read(TRUE[0], 0.1), alone) == TRUE[0]
    assert listing.find(read(TRUE[0], 0.1), listing.without(alone, TRUE[0])) is None
