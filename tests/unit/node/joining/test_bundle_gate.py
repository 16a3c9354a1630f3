import hashlib
import io
import sys
import zipfile
from pathlib import Path

import pytest
import tomli_w
from flwr.cli.build import build_fab_from_files

from medprov_coordinator.deployment import bundle
from medprov_ledger.errors import ChainAwayError, WrongChainError
from medprov_node.errors import BundleRefusedError
from medprov_node.joining.bundle_gate import REMEMBERED, Gate
from tests.unit.node.conftest import House


class Contract:
    """What the chain says, and whether it answers."""

    def __init__(self, *released: bytes) -> None:
        self.released, self.failure = set(released), None

    def __call__(self, bundle_hash: bytes) -> bool:
        if self.failure is not None:
            raise self.failure
        return bundle_hash in self.released


CONTENT = bundle.build()
HASH = hashlib.sha256(CONTENT).digest()


def test_a_released_bundle_may_run(house: House) -> None:
    assert Gate(house.config, Contract(HASH)).check(CONTENT) == HASH


@pytest.mark.parametrize("content", [CONTENT + b" ", CONTENT[:-1], b""])
def test_any_other_is_refused(house: House, content: bytes) -> None:
    found = hashlib.sha256(content).hexdigest()
    with pytest.raises(BundleRefusedError, match=f"app bundle 0x{found}: refused, the federation has not released it"):
        Gate(house.config, Contract(HASH)).check(content)


def test_a_withdrawal_counts_at_once(house: House) -> None:
    contract = Contract(HASH)
    gate = Gate(house.config, contract)
    gate.check(CONTENT)
    contract.released.clear()
    with pytest.raises(BundleRefusedError, match="has not released it"):
        gate.check(CONTENT)
    # nor is it remembered from before
    contract.failure = ChainAwayError("gone")
    with pytest.raises(BundleRefusedError, match=r"the chain cannot be asked \(gone\)"):
        gate.check(CONTENT)


def test_while_the_chain_is_away_a_release_is_remembered_for_a_while(house: House) -> None:
    contract, now = Contract(HASH), [100.0]
    gate = Gate(house.config, contract, lambda: now[0])
    contract.failure = ChainAwayError("gone")
    with pytest.raises(BundleRefusedError, match="the chain cannot be asked"):
        gate.check(CONTENT)
    contract.failure = None
    gate.check(CONTENT)
    contract.failure = ChainAwayError("gone")
    now[0] += REMEMBERED
    assert gate.check(CONTENT) == HASH
    now[0] += 0.1
    with pytest.raises(BundleRefusedError, match="the chain cannot be asked"):
        gate.check(CONTENT)


def test_another_chain_is_no_answer(house: House) -> None:
    contract = Contract(HASH)
    gate = Gate(house.config, contract)
    gate.check(CONTENT)
    contract.failure = WrongChainError("another chain")
    with pytest.raises(BundleRefusedError, match="another chain"):
        gate.check(CONTENT)


def test_a_released_bundle_for_other_code_is_refused(house: House) -> None:
    document = bundle.document()
    document["tool"]["medprov"]["code"] = "0" * 64
    content = build_fab_from_files({"pyproject.toml": tomli_w.dumps(document).encode()})[0]
    gate = Gate(house.config, Contract(hashlib.sha256(content).digest()))
    with pytest.raises(BundleRefusedError, match=r"it is for the training code 000000000000\.\.\. of medprov 0\.1\.0"):
        gate.check(content)


def packed(text: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", method) as made:
        made.writestr("pyproject.toml", text)
    return archive.getvalue()


def damaged(method: int, size: int) -> bytes:
    """An archive whose first packed bytes are others."""
    content = bytearray(packed(bytes(range(256)), method))
    start = 30 + len("pyproject.toml")
    content[start : start + size] = b"\xff" * size
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x05\x06" + bytes(18),
        b"no zip at all",
        damaged(zipfile.ZIP_DEFLATED, 20),
        damaged(zipfile.ZIP_LZMA, 20),
        damaged(zipfile.ZIP_BZIP2, 20),
        packed(b"a = " + b"[" * 200_000),
        packed(b"a = " + b"9" * 5000),
    ],
)
def test_a_released_thing_that_is_no_bundle(house: House, content: bytes) -> None:
    gate = Gate(house.config, Contract(hashlib.sha256(content).digest()))
    with pytest.raises(BundleRefusedError, match="it is no bundle of medprov"):
        gate.check(content)


def test_no_code_of_a_bundle_is_loaded(house: House, tmp_path: Path) -> None:
    files = {"pyproject.toml": tomli_w.dumps(bundle.document()).encode(), "evil_module.py": b"raise SystemExit\n"}
    content = build_fab_from_files(files)[0]
    path = list(sys.path)
    Gate(house.config, Contract(hashlib.sha256(content).digest())).check(content)
    assert sys.path == path
    assert "evil_module" not in sys.modules


def test_the_contract_is_asked(house: House) -> None:
    with pytest.raises(BundleRefusedError, match="has not released it"):
        Gate(house.config).check(CONTENT)
    federation = house.ledger.federation
    from medprov_ledger.keys import load_account

    federation.release_app(HASH, load_account(house.config.hospital("hospital-a")))
    assert Gate(house.config).check(CONTENT) == HASH
