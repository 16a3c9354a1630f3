import multiprocessing

import numpy as np
import pytest

from benchmarks import peers
from benchmarks.peers.blessmark_rule import BlessmarkRule
from benchmarks.peers.method import require
from benchmarks.peers.pee import Pee
from benchmarks.phantoms import mammogram, phantom
from benchmarks.summaries import quality

SIDE = 256
PICTURES = {
    "grey": phantom(SIDE, SIDE, 8, False, 1).astype(np.uint8),
    "colour": phantom(SIDE, SIDE, 8, True, 2).astype(np.uint8),
    "empty background": mammogram(SIDE, SIDE, 8, 3).astype(np.uint8),
}
READ_ON_PHANTOMS = ("blind_watermark", "dwtDctSvd", "dwtDctSvd_luma", "pee", "blessmark_rule")


def message(bits: int, seed: int = 0) -> peers.Bits:
    return np.random.default_rng(seed).integers(0, 2, bits).astype(np.uint8)


def method(name: str) -> peers.Method:
    try:
        return peers.find(name)
    except peers.MissingPeerError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("name", READ_ON_PHANTOMS)
def test_what_a_peer_hides_it_reads(name: str, picture: str) -> None:
    peer, image = method(name), PICTURES[picture]
    bits, before = message(peer.bits), image.copy()
    marked = peer.mark(image, bits)
    assert marked.dtype == np.uint8 and marked.shape[:2] == image.shape[:2]
    assert np.array_equal(peer.read(marked), bits)
    assert np.array_equal(image, before)
    assert quality(image, marked)[0] > 25


@pytest.mark.parametrize("name", ["dwtDct", "rivaGan"])
def test_the_other_peers_run(name: str) -> None:
    peer = method(name)
    marked = peer.mark(PICTURES["colour"], message(peer.bits))
    found = peer.read(marked)
    assert found is not None and found.shape == (peer.bits,) and set(np.unique(found)) <= {0, 1}


def test_passwords_matter() -> None:
    method("blind_watermark")
    (owner,), (other,) = peers.load(["blind_watermark"], key=1), peers.load(["blind_watermark"], key=2)
    bits = message(owner.bits)
    found = other.read(owner.mark(PICTURES["grey"], bits))
    assert found is not None and not np.array_equal(found, bits)


def test_a_package_that_chooses_how_processes_start_does_not() -> None:
    before = multiprocessing.get_start_method(allow_none=True)
    method("blind_watermark")
    assert multiprocessing.get_start_method(allow_none=True) == before


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("bits", [1, 256, 1500])
def test_pee_gives_the_cover_back(picture: str, bits: int) -> None:
    pee, image = Pee(bits=bits), PICTURES[picture]
    for seed in range(3):
        marked = pee.mark(image, message(bits, seed))
        assert np.array_equal(pee.restore(marked), image)
        # one level for the bit or the move, and one where a saturated pixel had to make room
        assert int(np.abs(marked.astype(int) - image).max()) <= 2


def test_pee_with_saturated_pixels_in_the_way() -> None:
    rng = np.random.default_rng(0)
    for low, high in ((0, 3), (252, 255), (0, 255)):
        image = rng.integers(low, high + 1, (128, 128)).astype(np.uint8)
        image[rng.random(image.shape) < 0.1] = high if high == 255 else low
        image[40:] = np.clip(100 + rng.normal(0, 1, (88, 128)), 0, 255)
        image[60::7, ::5], image[61::9, 1::5] = 0, 255
        pee = Pee(bits=400)
        marked = pee.mark(image, message(400))
        assert np.array_equal(pee.read(marked), message(400))
        assert np.array_equal(pee.restore(marked), image)


@pytest.mark.parametrize(
    "image", [np.zeros((64, 64), np.uint8), np.full((64, 64), 255, np.uint8), PICTURES["grey"][:8, :8]]
)
def test_pee_refuses_what_has_no_room(image: peers.Picture) -> None:
    with pytest.raises(peers.RefusedError, match="do not fit"):
        Pee().mark(image, message(256))
    assert Pee().read(image) is None
    with pytest.raises(peers.RefusedError, match="no such mark"):
        Pee().restore(image)


def test_pee_reads_nothing_or_rubbish_in_any_picture() -> None:
    for seed in range(20):
        image = np.random.default_rng(seed).integers(100, 103, (48, 40)).astype(np.uint8)
        found = Pee(bits=16).read(image)
        assert found is None or found.shape == (16,)


def test_the_rule_of_blessmark_needs_a_block_for_each_bit() -> None:
    small = PICTURES["grey"][:63, :64]
    with pytest.raises(peers.RefusedError):
        BlessmarkRule().mark(small, message(64))
    assert BlessmarkRule().read(small) is None


def test_a_missing_package_is_one_line_with_the_command() -> None:
    with pytest.raises(
        peers.MissingPeerError, match=r"pip install --no-deps -r benchmarks/requirements\.txt"
    ) as caught:
        require("no_such_package_anywhere", "no-such-package")
    assert "\n" not in str(caught.value)


def test_unknown_names() -> None:
    with pytest.raises(peers.MissingPeerError, match="peer nobody: unknown; there are blind_watermark, "):
        peers.check(["pee", "nobody"])
    with pytest.raises(peers.MissingPeerError, match="nobody: unknown"):
        peers.find("nobody")


def test_only_peers_that_can_are_called_reversible() -> None:
    reversible = [m.name for m in peers.load(peers.NAMES) if isinstance(m, peers.Reversible)]
    assert reversible == ["pee"]
