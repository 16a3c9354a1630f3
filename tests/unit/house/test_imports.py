"""Who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HOMES = {
    "medprov_watermark": "watermark",
    "medprov_ledger": "ledger",
    "medprov_node": "node",
    "medprov_coordinator": "coordinator",
    "medprov_sdk": "client_sdk",
}
ALLOWED = {
    "medprov_watermark": set(),
    "medprov_ledger": set(),
    "medprov_node": {"medprov_watermark", "medprov_ledger"},
    "medprov_coordinator": {"medprov_watermark", "medprov_ledger"},
    "medprov_sdk": {"medprov_watermark", "medprov_ledger"},
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("package", sorted(HOMES))
def test_packages_import_only_who_they_may(package: str) -> None:
    files = sorted((ROOT / HOMES[package] / package).rglob("*.py"))
    assert files
    for path in files:
        others = {name.split(".")[0] for name in imported(path)} & set(HOMES) - {package}
        assert others <= ALLOWED[package], f"{path} imports {others - ALLOWED[package]}"


@pytest.mark.parametrize("package", sorted(HOMES))
def test_packages_say_what_they_are(package: str) -> None:
    # without the file Python would join any folder of this name on the path to the package
    assert ast.get_docstring(ast.parse((ROOT / HOMES[package] / package / "__init__.py").read_text()))


def test_only_training_imports_torch_in_the_watermark() -> None:
    for path in (ROOT / "watermark" / "medprov_watermark").rglob("*.py"):
        if "training" in path.parts:
            continue
        assert "torch" not in {name.split(".")[0] for name in imported(path)}, path


@pytest.mark.parametrize("module", ["medprov_sdk.verifier", "medprov_sdk.cli", "medprov_watermark.watermarker"])
def test_a_verifier_loads_neither_torch_nor_flower(module: str) -> None:
    code = f"import sys, {module}; print({{'torch', 'flwr'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "set()"


def test_training_imports_with_torch_alone() -> None:
    # Machines lent for training have torch, numpy and pillow, but none of the product's other dependencies.
    code = (
        "import sys\n"
        "for name in ('flwr', 'web3', 'pydicom', 'onnxruntime', 'tifffile'):\n"
        "    sys.modules[name] = None\n"
        "import medprov_watermark.training.loop, medprov_watermark.training.data, medprov_watermark.training.networks\n"
        "import medprov_watermark.training.segmentation, medprov_watermark.training.segmentation_commands\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
