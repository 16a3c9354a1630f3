"""medprov_ledger.models"""

from __future__ import annotations

from pathlib import Path

import pytest

from medprov_ledger import models

CODE = """
def good():
    return bytes(range(32))

def other():
    return b"o" * 32

def lost():
    raise OSError("w.safetensors: weights cannot\\nbe read")

def silent():
    raise RuntimeError

def short():
    return b"o" * 31

def text():
    return "o" * 32

def nothing():
    return bytes(32)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a package on the path that offers the given functions; no other package is seen."""

    def install(*names: str, distribution: str = "some-package") -> None:
        (tmp_path / "offers_models.py").write_text(CODE)
        info = tmp_path / f"{distribution.replace('-', '_')}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n")
        entries = "".join(f"{name} = offers_models:{name}\n" for name in names)
        (info / "entry_points.txt").write_text(f"[{models.GROUP}]\n{entries}")
        import sys

        # the standard library stays, installed packages go: their entry points must not be found
        kept = [entry for entry in sys.path if "site-packages" not in entry and "__editable__" not in entry]
        monkeypatch.setattr(sys, "path", [str(tmp_path), *kept])

    return install


def test_models_of_installed_packages(install) -> None:
    install("other", "good")
    assert models.offered() == ([bytes(range(32)), b"o" * 32], [])


def test_a_model_that_two_packages_offer_counts_once(install) -> None:
    install("good", distribution="one")
    install("good", "other", distribution="two")
    assert models.offered() == ([bytes(range(32)), b"o" * 32], [])


def test_nothing_is_offered(install) -> None:
    install()
    assert models.offered() == ([], [])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lost", "(w.safetensors: weights cannot be read)"),
        ("silent", "(RuntimeError)"),
        ("absent", "has no attribute 'absent'"),
        ("short", "is not a hash of 32 bytes"),
        ("text", "is not a hash of 32 bytes"),
        ("nothing", "is not a hash of 32 bytes"),
    ],
)
def test_a_failing_entry_is_one_line_and_stops_no_other(install, name: str, reason: str) -> None:
    install(name, "good")
    found, (problem,) = models.offered()
    assert found == [bytes(range(32))]
    assert problem.startswith(f"some-package: its model '{name}' ")
    assert reason in problem
    assert problem.endswith("name a model with --model")
    assert "\n" not in problem
