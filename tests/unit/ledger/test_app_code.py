import hashlib
import importlib
import sys
from pathlib import Path

import pytest

from medprov_ledger import app_code
from medprov_ledger.cid import of


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "some_package_of_a_test"
    (home / "inner").mkdir(parents=True)
    (home / "__init__.py").write_text("raise SystemExit('imported')\n")
    (home / "inner" / "a.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    app_code.digest.cache_clear()
    return home


def digest(home: Path) -> str:
    app_code.digest.cache_clear()
    return app_code.digest(home.name)


def test_it_changes_with_names_and_contents_alone(package: Path) -> None:
    first = digest(package)
    (package / "inner" / "weights.bin").write_bytes(b"no code")
    (package / "inner" / "a.py").write_bytes(b"x = 1\r\n")
    assert digest(package) == first
    (package / "inner" / "a.py").write_text("x = 2\n")
    second = digest(package)
    (package / "inner" / "a.py").rename(package / "inner" / "b.py")
    assert len({first, second, digest(package)}) == 3


def test_nothing_is_imported(package: Path) -> None:
    digest(package)
    assert package.name not in sys.modules


def test_a_bundle_s_cid_is_that_of_its_bytes() -> None:
    content = b"a small bundle"
    assert app_code.bundle_cid(hashlib.sha256(content).digest()) == of(content)
