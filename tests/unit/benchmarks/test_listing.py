import numpy as np
import pytest

from benchmarks import listing
from medprov_watermark.geometry import ALL
from medprov_watermark.payload import Payload, encode, find_in

TRUE = (Payload(b"abcdefgh", b"1234"), Payload(b"abcdefgh", b"1235"))
RECORDS = listing.directory(TRUE, 300, seed=4)


def soft_bits(payload: Payload, noise: float, seed: int = 0) -> np.ndarray:
    signs = encode(payload).astype(np.float32)
    return (signs + np.random.default_rng(seed).normal(0, noise, signs.shape)).astype(np.float32)


def test_a_directory_holds_the_true_records_and_as_many_strangers_as_asked() -> None:
    assert RECORDS.payloads[:2] == TRUE
    assert len(set(RECORDS.payloads)) == 302
    assert RECORDS.codewords.shape == (302, 128)


@pytest.mark.parametrize("noise", [0.2, 0.8])
def test_the_true_record_is_found(noise: float) -> None:
    for payload in TRUE:
        assert listing.find(soft_bits(payload, noise), RECORDS) == payload


def test_nothing_is_found_when_the_true_record_is_taken_out() -> None:
    for seed in range(20):
        assert listing.find(soft_bits(TRUE[0], 0.5, seed), RECORDS, without=TRUE[0]) is None


def test_it_decides_as_the_product_does() -> None:
    outcomes = set()
    for seed in range(40):
        soft = soft_bits(TRUE[1], 0.4 + 0.08 * seed, seed)
        found = find_in(soft, RECORDS.payloads, len(ALL))
        assert listing.find(soft, RECORDS) == (None if found is None else found.payload)
        outcomes.add(found is None)
    assert outcomes == {True, False}


def test_an_empty_directory_finds_nothing() -> None:
    alone = listing.directory(TRUE[:1], 0)
    assert listing.find(soft_bits(TRUE[0], 0.1), alone) == TRUE[0]
    assert listing.find(soft_bits(TRUE[0], 0.1), alone, without=TRUE[0]) is None
