"""Model packages: what was published comes back whole, and nothing else does."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medprov_ledger import cid
from medprov_ledger import model_package as packages
from medprov_ledger.block_store import BlockStore
from medprov_ledger.cid import RAW, Cid
from medprov_ledger.errors import ModelError, RecordError, StoreError
from medprov_ledger.federation import ReleasedModel

WEIGHTS, EXTRACTOR = b"weights" * 100, b"onnx" * 100_000


class Releases:
    """Models that were released."""

    def __init__(self, *models: tuple[bytes, str]) -> None:
        self.models = [ReleasedModel(model, name, 5, 6) for model, name in models]

    def released_models(self, from_block: int = 0) -> list[ReleasedModel]:
        """All of them."""
        return self.models


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return BlockStore(tmp_path / "blocks")


@pytest.fixture
def published(store: BlockStore) -> tuple[packages.ModelPackage, str]:
    return packages.publish(WEIGHTS, EXTRACTOR, store, 7)


def test_a_package_comes_back(store, published, tmp_path) -> None:
    package, name = published
    assert package.model == hashlib.sha256(WEIGHTS).digest() and package.round == 7
    assert packages.ModelPackage.decode(package.encode()) == package and cid.of(package.encode()) == name
    found = packages.fetch(package.model[:8], Releases((b"x" * 32, name), (package.model, name)), store, tmp_path / "m")
    assert found.name == f"{package.model.hex()}.safetensors" and found.read_bytes() == WEIGHTS
    assert found.with_suffix(".onnx").read_bytes() == EXTRACTOR
    assert packages.kept(package.model[:8], tmp_path / "m") == found == packages.kept(package.model, tmp_path / "m")
    # a second fetch asks no store
    assert packages.fetch(package.model, Releases((package.model, name)), None, tmp_path / "m") == found


def test_what_was_never_released_is_not_fetched(store, published, tmp_path) -> None:
    with pytest.raises(ModelError, match="no model that the federation released"):
        packages.fetch(b"abcdefgh", Releases((published[0].model, published[1])), store, tmp_path / "m")
    twins = Releases((b"a" * 32, published[1]), (b"a" * 31 + b"b", published[1]))
    with pytest.raises(ModelError, match="more than one"):
        packages.fetch(b"a" * 8, twins, store, tmp_path / "m")


def test_a_model_that_was_released_by_its_hash_alone(store, tmp_path) -> None:
    model = hashlib.sha256(WEIGHTS).digest()
    with pytest.raises(ModelError, match="by its hash alone"):
        packages.fetch(model, Releases((model, str(Cid(RAW, model)))), store, tmp_path / "m")


def test_a_package_of_another_model(store, published, tmp_path) -> None:
    with pytest.raises(ModelError, match="approved package is of model"):
        packages.fetch(b"o" * 32, Releases((b"o" * 32, published[1])), store, tmp_path / "m")


@pytest.mark.parametrize("object_", [b"", b"{}", b"not json", b"[" * 5000, b"x" * 70_000, b'{"kind":"other"}'])
def test_hostile_packages(store, tmp_path, object_) -> None:
    name = store.put(object_)
    with pytest.raises((ModelError, StoreError)):
        packages.fetch(b"o" * 32, Releases((b"o" * 32, name)), store, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_package_whose_files_are_others(store, published, tmp_path) -> None:
    package, _ = published
    for role in ("weights", "extractor"):
        forged = replace(package, **{role: replace(getattr(package, role), cid=store.put(b"evil"), size=4)})
        name = store.put(forged.encode())
        with pytest.raises(ModelError, match="not the file that the approved package names"):
            packages.fetch(package.model, Releases((package.model, name)), store, tmp_path / role)
        assert packages.kept(package.model, tmp_path / role) is None


def test_a_package_whose_weights_are_another_model_s(store, published, tmp_path) -> None:
    package, _ = published
    evil = packages.PackedFile(hashlib.sha256(b"evil").digest(), 4, store.put(b"evil"))
    name = store.put(replace(package, weights=evil).encode())
    with pytest.raises(ModelError, match="its weights are not those of its model"):
        packages.fetch(package.model, Releases((package.model, name)), store, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_store_that_lacks_a_file(store, published, tmp_path) -> None:
    package, name = published
    alone = BlockStore(tmp_path / "other")
    alone.put(package.encode())
    with pytest.raises(StoreError):
        packages.fetch(package.model, Releases((package.model, name)), alone, tmp_path / "m")
    assert packages.kept(package.model, tmp_path / "m") is None


def test_a_kept_file_that_was_changed_is_named(store, published, tmp_path) -> None:
    package, name = published
    found = packages.fetch(package.model, Releases((package.model, name)), store, tmp_path / "m")
    for file, content in ((found, WEIGHTS), (found.with_suffix(".onnx"), EXTRACTOR)):
        file.write_bytes(content[:-1] + b"!")
        with pytest.raises(ModelError, match=str(file)):
            packages.kept(package.model, tmp_path / "m")
        file.write_bytes(content)
    assert packages.kept(package.model, tmp_path / "m") == found
    found.with_suffix(".json").write_bytes(
        replace(package, round=8, model=b"m" * 32, weights=replace(package.weights, sha256=b"m" * 32)).encode()
    )
    with pytest.raises(ModelError, match="another model"):
        packages.kept(package.model, tmp_path / "m")
    found.with_suffix(".json").write_bytes(b"{}")
    with pytest.raises(ModelError, match="fields missing"):
        packages.kept(package.model, tmp_path / "m")


def test_an_extractor_of_the_cache_that_was_changed(store, published, tmp_path) -> None:
    package, name = published
    found = packages.fetch(package.model, Releases((package.model, name)), store, tmp_path / "m")
    found.with_suffix(".onnx").unlink()
    assert packages.kept(package.model, tmp_path / "m") is None
    assert packages.fetch(package.model, Releases((package.model, name)), store, tmp_path / "m") == found
    assert found.with_suffix(".onnx").read_bytes() == EXTRACTOR


def test_without_a_federation_only_kept_models_are_found(tmp_path) -> None:
    with pytest.raises(ModelError, match="name a configuration"):
        packages.find(b"abcdefgh", None, None, tmp_path)


def test_empty_and_huge_files_are_not_published(store, monkeypatch) -> None:
    with pytest.raises(ModelError, match="0 bytes"):
        packages.publish(b"", EXTRACTOR, store)
    monkeypatch.setattr(packages, "MAX_FILE", 10)
    with pytest.raises(ModelError, match="cannot be published"):
        packages.publish(WEIGHTS, EXTRACTOR, store)


@given(st.binary(max_size=300))
def test_random_bytes_are_no_package(data: bytes) -> None:
    with pytest.raises(RecordError):
        packages.ModelPackage.decode(data)


@given(at=st.integers(0, 400), bit=st.integers(0, 7))
def test_changed_bytes_are_refused_or_say_something_else(at: int, bit: int) -> None:
    name = str(Cid(RAW, b"c" * 32))
    package = packages.ModelPackage(
        b"m" * 32, packages.PackedFile(b"m" * 32, 5, name), packages.PackedFile(b"e" * 32, 6, name), 3
    )
    data = bytearray(package.encode())
    data[at % len(data)] ^= 1 << bit
    try:
        found = packages.ModelPackage.decode(bytes(data))
    except RecordError:
        return
    assert found.encode() == bytes(data) and found != package
