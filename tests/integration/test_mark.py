"""A hospital from nothing: the development federation comes up, pictures are marked, restored, and refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from PIL import Image

from medprov_ledger import eip712, manifest
from medprov_ledger.chain import Chain
from medprov_ledger.config import Config
from medprov_ledger.registry import Registry
from medprov_ledger.store import open_store
from medprov_watermark import media
from medprov_watermark.weights import released_model

pytestmark = pytest.mark.slow


def run(folder: Path, module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *(str(argument) for argument in arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """A folder with two pictures and a federation that has released the weights that ship."""
    place = tmp_path_factory.mktemp("hospital")
    (place / "in").mkdir()
    shutil.copy(pydicom.data.get_testdata_file("CT_small.dcm"), place / "in" / "ct.dcm")
    low = (np.random.default_rng(3).random((9, 9)) * 200 + 20).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(low).resize((160, 128), Image.Resampling.BICUBIC))
    Image.fromarray(smooth).save(place / "in" / "scan.png")
    up = run(place, "medprov_ledger", "up", "--model", released_model().hex())
    assert up.returncode == 0, up.stderr
    yield place
    run(place, "medprov_ledger", "down")


def test_mark_restore_and_refuse(folder) -> None:
    marked = run(folder, "medprov_node.cli", "mark", "in", "out", "--json")
    assert marked.returncode == 0, marked.stderr
    assert marked.stderr == ""
    found = json.loads(marked.stdout)
    assert [picture["output"] for picture in found["pictures"]] == ["out/ct.dcm", "out/scan.png"]

    config = Config.load(folder / ".medprov" / "medprov.toml")
    registry = Registry(Chain.connect(config))
    (anchor,) = registry.anchors()
    assert {picture["transaction"] for picture in found["pictures"]} == {anchor.tx_hash}
    batch = manifest.parse(open_store(config).get(anchor.cid))
    manifest.verify(batch, anchor, eip712.domain(config.chain_id, registry.address))
    assert ["0x" + leaf.hex() for leaf in batch.leaves] == [picture["record_id"] for picture in found["pictures"]]

    for name in ("ct.dcm", "scan.png"):
        restored = run(folder, "medprov_node.cli", "restore", f"out/{name}", f"cover-{name}")
        assert restored.returncode == 0, restored.stderr
        assert np.array_equal(media.read(folder / f"cover-{name}").array, media.read(folder / "in" / name).array)

    again = run(folder, "medprov_node.cli", "mark", "out/scan.png", "twice.png", "--hospital", "hospital-b")
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1 and "marked already by hospital-a" in again.stderr
    assert not (folder / "twice.png").exists()

    # a verifier's configuration has no keys
    verifier = run(folder, "medprov_node.cli", "mark", "in/scan.png", "v.png", "--config", ".medprov/verifier.toml")
    assert (verifier.returncode, (folder / "v.png").exists()) == (1, False)

    assert run(folder, "medprov_ledger", "down").returncode == 0
    dark = run(folder, "medprov_node.cli", "mark", "in/scan.png", "dark.png")
    assert dark.returncode == 1
    assert dark.stderr.count("\n") == 1 and "no chain answers there" in dark.stderr
    assert not (folder / "dark.png").exists()
