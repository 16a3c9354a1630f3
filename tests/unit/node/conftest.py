"""A federation of two hospitals on an in-process chain, and pictures that were marked there once."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from eth_account import Account
from PIL import Image
from web3 import EthereumTesterProvider, Web3

from medprov_ledger.chain import Chain, transact
from medprov_ledger.config import Config
from medprov_ledger.deploy import Founder, deploy
from medprov_ledger.development import model_cid
from medprov_ledger.federation import Federation
from medprov_ledger.keys import create_account, load_account
from medprov_ledger.store import open_store
from medprov_node.connect import Ledger
from medprov_node.mark import MarkResult, mark_files
from medprov_watermark.errors import EmbedError
from medprov_watermark.hashing import content_hash
from medprov_watermark.image_mark import ImageMark
from medprov_watermark.payload import commitment
from medprov_watermark.watermarker import DualWatermarker, Marked, salted

HOSPITALS = ("hospital-a", "hospital-b")


@dataclass(frozen=True)
class House:
    """One federation: its configuration file, the configuration, a connection."""

    file: Path
    config: Config
    ledger: Ledger
    since: int = 0

    def anchors(self) -> int:
        """Batches since the test began."""
        return len(self.ledger.registry.anchors(self.since))


class QuickWatermarker:
    """Stands in where only the way of a picture through the hospital is tested: flips low bits, as random as a salt."""

    model = bytes(range(32))
    key_id = b""

    def __init__(self) -> None:
        self.marked = 0
        self.regions = []
        self.quick = []

    def mark(
        self, image, payload, *, signer=None, value_range=None, padding=None, roi=None, roi_mode="off", quick=False
    ) -> Marked:
        if roi is not None and roi_mode == "strict" and roi.all():
            raise EmbedError("the region of interest covers 100 % of it")
        self.marked += 1
        self.regions.append((roi_mode, roi))
        self.quick.append(quick)
        salt = secrets.token_bytes(16)
        out = image.copy()
        out[:1, :16] ^= np.frombuffer(salt, np.uint8).reshape(1, 16) & 1
        mark = ImageMark(1, self.model, commitment(payload), content_hash(image), salted(salt, b""), bytes(32))
        signature = signer(mark)
        return Marked(
            out,
            content_hash(image),
            content_hash(out),
            mark.cover_hash,
            salt,
            mark,
            signature,
            60.0,
            1,
            False,
            True,
            roi_mode,
            0.0 if roi is None else float(roi.mean()),
        )


def draw(size: int = 128, seed: int = 0) -> np.ndarray:
    """Smooth shapes with some grain, uint8."""
    rng = np.random.default_rng(seed)
    low = Image.fromarray((rng.random((12, 12)) * 200 + 20).astype(np.uint8))
    smooth = np.asarray(low.resize((size, size), Image.Resampling.BICUBIC)).astype(np.int64)
    return np.clip(smooth + rng.integers(-6, 7, (size, size)), 0, 255).astype(np.uint8)


def closed_port() -> int:
    """A port of this machine on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def phantom() -> Callable[..., np.ndarray]:
    return draw


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "scan.png"
    Image.fromarray(draw()).save(path)
    return path


@pytest.fixture(scope="session")
def watermarker() -> DualWatermarker:
    return DualWatermarker.load()


@pytest.fixture
def quick() -> QuickWatermarker:
    return QuickWatermarker()


@pytest.fixture(scope="module")
def node_tester() -> Web3:
    """A chain for each file: every search in it gets slower with its length."""
    return Web3(EthereumTesterProvider())


@pytest.fixture(scope="module")
def make_house(
    node_tester: Web3, watermarker: DualWatermarker, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., House]:
    """A factory of federations; hospital-a and hospital-b are members unless `members` says otherwise."""
    deployer = Account.from_key((1).to_bytes(32, "big"))

    def make(members: tuple[str, ...] = HOSPITALS, release: bool = True) -> House:
        folder = tmp_path_factory.mktemp("federation")
        keys = {name: create_account(folder / "hospitals" / name, kdf_iterations=2**10) for name in HOSPITALS}
        for made in keys.values():
            transact(node_tester, {"to": made.account.address, "value": Web3.to_wei(100, "ether")}, deployer)
        federation_id = secrets.token_bytes(32)
        founders = [Founder(keys[name].account.address, name, keys[name].reader) for name in members]
        deployed = deploy(node_tester, deployer, federation_id, founders, 1)
        lines = [
            "[federation]",
            f'id = "0x{federation_id.hex()}"',
            'name = "test"',
            "[chain]",
            f'rpc = "http://127.0.0.1:{closed_port()}"',
            f"chain_id = {node_tester.eth.chain_id}",
            f'federation = "{deployed.federation}"',
            f'registry = "{deployed.registry}"',
            "timeout = 2.0",
            "[store]",
            'kind = "blocks"',
            'path = "blocks"',
            "[directory]",
            "discoverable = true",
            f'key = "0x{secrets.token_bytes(32).hex()}"',
        ]
        for name, made in keys.items():
            home = f"hospitals/{name}"
            lines += [
                f"[hospitals.{name}]",
                f'address = "{made.account.address}"',
                f'keystore = "{home}/keystore.json"',
                f'password_file = "{home}/password"',
                f'reader_key = "{home}/reader.pem"',
                f'state = "{home}/state"',
            ]
        file = folder / "medprov.toml"
        file.write_text("\n".join(lines) + "\n")
        config = Config.load(file)
        chain = Chain(config, node_tester)
        if release:
            account = load_account(config.hospital(members[0]))
            for model in (watermarker.model, QuickWatermarker.model):
                Federation(chain).release_model(model, model_cid(model), account)
        return House(file, config, Ledger(chain, open_store(config)))

    return make


@pytest.fixture(scope="module")
def shared_house(make_house: Callable[..., House]) -> House:
    return make_house()


@pytest.fixture
def house(shared_house: House, tmp_path: Path) -> House:
    """The shared federation, with hospitals that have done nothing yet."""
    config = shared_house.config
    fresh = {name: replace(one, state=tmp_path / "state" / name) for name, one in config.hospitals.items()}
    return replace(shared_house, config=replace(config, hospitals=fresh), since=shared_house.ledger.chain.head() + 1)


@dataclass(frozen=True)
class Done:
    """A batch of a PNG and a DICOM picture, marked with the released weights by hospital-a."""

    house: House
    png: MarkResult
    dicom: MarkResult


@pytest.fixture(scope="module")
def done(
    make_house: Callable[..., House], watermarker: DualWatermarker, tmp_path_factory: pytest.TempPathFactory
) -> Done:
    house = make_house()
    folder = tmp_path_factory.mktemp("marked")
    Image.fromarray(draw(seed=5)).save(folder / "scan.png")
    source = Path(pydicom.data.get_testdata_file("CT_small.dcm"))
    jobs = [(folder / "scan.png", folder / "scan-marked.png"), (source, folder / "ct-marked.dcm")]
    png, dicom = mark_files(jobs, "hospital-a", house.config, watermarker=watermarker, ledger=house.ledger)
    return Done(house, png, dicom)
