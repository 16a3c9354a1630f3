import hashlib
import io
import os
import subprocess
import sys
import tomllib
import zipfile

from flwr.common.config import get_fab_config

from medprov_coordinator.deployment import bundle
from medprov_coordinator.run_config import every_default
from medprov_ledger.app_code import digest


def test_it_holds_no_code() -> None:
    with zipfile.ZipFile(io.BytesIO(bundle.build())) as archive:
        assert archive.namelist() == ["pyproject.toml", ".info/CONTENT"]
        # packed bytes would depend on the machine's compression library
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


def test_it_names_the_apps_the_settings_and_the_code() -> None:
    found = get_fab_config(bundle.build())
    app = found["tool"]["flwr"]["app"]
    assert app["components"] == {
        "serverapp": "medprov_coordinator.server_app:app",
        "clientapp": "medprov_node.client_app:app",
    }
    assert set(every_default()) < set(app["config"])
    assert found["tool"]["medprov"]["code"] == digest()


def test_its_hash_is_the_same_in_another_process_and_folder(tmp_path: object) -> None:
    code = "from medprov_coordinator.deployment.bundle import bundle_hash; print(bundle_hash().hex())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=str(tmp_path),
        env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Pacific/Auckland", "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=120,
    )
    assert done.stdout.strip() == bundle.bundle_hash().hex(), done.stderr
    assert bundle.bundle_hash() == hashlib.sha256(bundle.build()).digest()


def test_other_code_gives_another_hash(monkeypatch: object) -> None:
    before = tomllib.loads(zipfile.ZipFile(io.BytesIO(bundle.build())).read("pyproject.toml").decode())
    monkeypatch.setattr(bundle, "digest", lambda: "0" * 64)
    after = bundle.document()
    assert after["tool"]["medprov"] != before["tool"]["medprov"]
    after["tool"]["medprov"] = before["tool"]["medprov"]
    assert after == before
