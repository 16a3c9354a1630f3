"""A second model version: from a round's weights over approvals to marks, its withdrawal, and what stays readable."""

from __future__ import annotations

import contextlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprov_ledger import cli as ledger_cli
from medprov_ledger.model_package import folder as cache_folder
from medprov_node import cli as node_cli
from medprov_sdk import cli as sdk_cli
from medprov_watermark import cli as watermark_cli
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.phantoms import phantom
from medprov_watermark.training.tasks import watermark
from medprov_watermark.weights import FOLDER, RELEASE, released_model

pytestmark = pytest.mark.slow

COMMANDS = {
    "ledger": ledger_cli.main,
    "node": node_cli.main,
    "sdk": sdk_cli.main,
    "watermark": watermark_cli.main,
}
VERIFIER, HOSPITAL = (".medprov/verifier.toml", ".medprov/medprov.toml")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    """A federation with the shipped model, a picture, and the file of a round with other weights."""
    folder = tmp_path_factory.mktemp("versions")
    Image.fromarray(phantom(5)).save(folder / "scan.png")
    arrays = ex.from_safetensors((FOLDER / f"{RELEASE}.safetensors").read_bytes())
    arrays["extractor.frequency"] = arrays["extractor.frequency"] * np.float32(1.0009765625)
    # a round's file holds the discriminator too; a release must not
    discriminator = {n: a for n, a in watermark.TASK.initial(watermark.DEFAULT).items() if n not in arrays}
    assert discriminator
    (folder / "round.safetensors").write_bytes(ex.to_safetensors({**arrays, **discriminator}))
    assert call(folder, "ledger", "up", "--model", released_model().hex()).returncode == 0
    yield folder
    call(folder, "ledger", "down")


@dataclass(frozen=True)
class Done:
    """What a command ended with."""

    returncode: int
    stdout: str
    stderr: str


def call(folder: Path, command: str, *arguments: object, cache: str = "cache") -> Done:
    """Run a command line in this process: a dozen starts of Python would take longer than the test."""
    out, err = io.StringIO(), io.StringIO()
    before = Path.cwd(), dict(os.environ)
    os.chdir(folder)
    os.environ |= {"MEDPROV_MODELS": str(folder / cache), "XDG_CACHE_HOME": str(folder / cache)}
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = COMMANDS[command](list(map(str, arguments)))
    finally:
        os.chdir(before[0])
        os.environ.clear()
        os.environ.update(before[1])
    return Done(code, out.getvalue(), err.getvalue())


def good(done: Done) -> str:
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def standing(place: Path) -> dict[str, tuple[bool, bool]]:
    listed = json.loads(good(call(place, "ledger", "model", "list", "--json")))["models"]
    return {one["model"]: (one["usable"], one["active"]) for one in listed}


def test_release_mark_withdraw_roll_back(place: Path) -> None:
    first = released_model().hex()
    second = good(call(place, "watermark", "release", "round.safetensors", "--out", "v2", "--name", "v2")).split()[1]
    assert second != first

    refused = call(place, "node", "mark", "scan.png", "no.png", "--weights", "v2/v2.safetensors")
    assert refused.returncode == 1 and "not released" in refused.stderr

    published = good(call(place, "ledger", "model", "publish", "v2/v2.safetensors"))
    assert second in published
    cid = published.split("package")[1].split()[0]
    good(call(place, "ledger", "model", "approve", second, "--cid", cid, "--hospital", "hospital-a"))
    assert standing(place) == {first: (True, True)}
    good(call(place, "ledger", "model", "approve", second, "--cid", cid, "--hospital", "hospital-b"))
    assert standing(place) == {first: (True, False), second: (True, True)}

    fetched = good(call(place, "ledger", "model", "fetch", second)).strip()
    good(call(place, "node", "mark", "scan.png", "second.png", "--quick", "--weights", fetched))

    for hospital in ("hospital-b", "hospital-c"):
        good(call(place, "ledger", "model", "withdraw", second, "--hospital", hospital))
    assert standing(place) == {first: (True, True), second: (False, False)}
    refused = call(place, "node", "mark", "scan.png", "no.png", "--weights", fetched)
    assert refused.returncode == 1 and "withdrawn" in refused.stderr and first in refused.stderr
    assert refused.stderr.count("\n") == 1 and not (place / "no.png").exists()

    # what it has marked stays good, at a verifier that has only the shipped model and nothing fetched yet
    found = call(place, "sdk", "verify", "second.png", "--config", VERIFIER, "--json", cache="other")
    result = json.loads(good(found))
    assert result["verdict"] == "authentic" and result["reason"]["code"] == "signed_and_anchored"
    assert result["model"] == "0x" + second
    assert (place / "other" / f"{second}.onnx").exists()

    alone = call(place, "node", "restore", "second.png", "cover.png", cache="third")
    assert alone.returncode == 1 and "name a configuration" in alone.stderr
    good(
        call(
            place,
            "node",
            "restore",
            "second.png",
            "cover.png",
            "--config",
            ".medprov/medprov.toml",
            cache="third",
        )
    )
    assert np.array_equal(np.asarray(Image.open(place / "cover.png")), np.asarray(Image.open(place / "scan.png")))
    good(call(place, "node", "restore", "second.png", "again.png", cache="third"))

    # marking goes on with the first, and the second may come back
    good(call(place, "node", "mark", "again.png", "first.png", "--quick", "--hospital", "hospital-b"))
    for hospital in ("hospital-a", "hospital-b"):
        good(call(place, "ledger", "model", "reinstate", second, "--hospital", hospital))
    assert standing(place) == {first: (True, False), second: (True, True)}


def test_a_damaged_copy_is_named_and_not_used(place: Path) -> None:
    (file,) = (place / "cache").glob("*.safetensors")
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused = call(place, "node", "restore", "second.png", "x.png")
    assert refused.returncode == 1 and "not the file that the approved package names" in refused.stderr
    assert str(file) in refused.stderr and not (place / "x.png").exists()


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder({"MEDPROV_MODELS": "/m"}) == Path("/m")
    assert cache_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/medprov/models")
