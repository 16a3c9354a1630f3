"""From a marked picture to a verification without the chain: export, checkpoint, and a chain that is down."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprov_ledger import proof_file
from medprov_ledger.config import Config
from medprov_watermark.weights import released_model

pytestmark = pytest.mark.slow


def run(folder: Path, module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *(str(argument) for argument in arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)


def medprov(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = run(folder, "medprov_sdk", *arguments)
    assert "Traceback" not in done.stderr and done.stderr.count("\n") <= 1, done.stderr
    return done


@pytest.mark.timeout(600)
def test_a_picture_is_verified_with_its_proof_file_while_the_chain_is_down(tmp_path: Path) -> None:
    low = (np.random.default_rng(3).random((9, 9)) * 200 + 20).astype(np.uint8)
    Image.fromarray(low).resize((160, 128), Image.Resampling.BICUBIC).save(tmp_path / "scan.png")
    up = run(tmp_path, "medprov_ledger", "up", "--model", released_model().hex())
    assert up.returncode == 0, up.stderr
    try:
        marked = run(tmp_path, "medprov_node.cli", "mark", "scan.png", "marked.png", "--quick")
        assert marked.returncode == 0, marked.stderr
        exported = medprov(tmp_path, "export", "marked.png", "--out", "proof.json")
        assert exported.returncode == 0, exported.stderr
        for kind in ("prov", "fhir"):
            assert medprov(tmp_path, "export", "marked.png", "--format", kind, "--out", f"{kind}.json").returncode == 0
        made = medprov(tmp_path, "checkpoint", "checkpoint.json", "--hospital", "hospital-a")
        assert made.returncode == 0, made.stderr
        assert "signed by 0x" in medprov(tmp_path, "checkpoint", "checkpoint.json", "--hospital", "hospital-b").stdout
    finally:
        run(tmp_path, "medprov_ledger", "down")

    config = Config.load(tmp_path / ".medprov" / "medprov.toml")
    proof = proof_file.read(tmp_path / "proof.json")
    federation = f"{config.chain_id}:{proof.domain.registry}:0x{config.federation_id.hex()}"
    offline = ["verify", "marked.png", "--offline", "proof.json"]
    assert medprov(tmp_path, "verify", "marked.png").returncode == 24
    stated = medprov(tmp_path, *offline, "--federation", federation)
    assert stated.returncode == 24, stated.stderr
    assert "if the chain holds this anchor, the verdict is: authentic\n" in stated.stdout
    named = f"{proof.record.owner}:0x{proof.anchored.hex()}"
    assert medprov(tmp_path, *offline, "--federation", federation, "--anchor", named).returncode == 0

    file = tmp_path / ".medprov" / "verifier.toml"
    members = ", ".join(f'"{config.hospitals[name].address}"' for name in ("hospital-a", "hospital-b"))
    trust = f'\n[trust]\nmembers = [{members}]\nthreshold = 2\ncheckpoints = ["../checkpoint.json"]\n'
    file.write_text(file.read_text() + trust)
    pinned = medprov(tmp_path, *offline, "--config", file, "--json")
    assert pinned.returncode == 0, pinned.stderr
    assert json.loads(pinned.stdout)["basis"] == "checkpoint"

    Image.open(tmp_path / "marked.png").convert("L").save(tmp_path / "copy.jpg", quality=85)
    copy = medprov(tmp_path, "verify", "copy.jpg", "--offline", "proof.json", "--config", file)
    assert copy.returncode == 10, copy.stdout + copy.stderr
    other = medprov(tmp_path, "verify", "scan.png", "--offline", "proof.json", "--config", file)
    assert other.returncode == 25, "the cover carries no mark"
    (tmp_path / "proof.json").write_bytes(proof.to_bytes().replace(b'"block":', b'"block":1', 1))
    refused = medprov(tmp_path, *offline, "--config", file)
    assert (refused.returncode, refused.stdout) == (2, "")
