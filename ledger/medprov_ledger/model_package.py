"""A released model version: which files it consists of, and how it goes into the store and comes back.

What members approve on the chain is the SHA-256 of the weights and the CID of the package, a small canonical JSON
object. It names every file by SHA-256 and CID, so that the approvals bind the extractor as they bind the weights.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from . import _canonical, _files, cid
from .errors import LedgerError, ModelError, RecordError

if TYPE_CHECKING:
    from .federation import ReleasedModel
    from .store import Store

KIND = "medprov model"
WEIGHTS, EXTRACTOR, PACKAGE = ".safetensors", ".onnx", ".json"
"""Endings of a version's files; all have the model's hash as their name."""
MAX_FILE = 1 << 27
"""Largest file, bytes."""
_MAX_PACKAGE = 1 << 16
_WHAT = "model package"
_REMOVE = "remove what was fetched of it, it will be fetched again"


class Releases(Protocol):
    """What is needed of :class:`medprov_ledger.federation.Federation`."""

    def released_models(self, from_block: int = 0) -> list[ReleasedModel]:
        """All confirmed released models, oldest first, the withdrawn ones too."""


@dataclass(frozen=True)
class PackedFile:
    """One file of a version.

    Parameters
    ----------
    sha256 : bytes
        32 bytes.
    size : int
        Bytes.
    cid : str
    """

    sha256: bytes
    size: int
    cid: str


@dataclass(frozen=True)
class ModelPackage:
    """What members approve.

    Parameters
    ----------
    model : bytes
        32 bytes, SHA-256 of the weights.
    weights, extractor : PackedFile
    round : int
        The anchored round that the weights come from; 0 where they were trained otherwise.
    """

    model: bytes
    weights: PackedFile
    extractor: PackedFile
    round: int = 0

    def encode(self) -> bytes:
        """Canonical JSON."""
        files = {
            role: {"sha256": _canonical.to_hex(one.sha256), "size": one.size, "cid": one.cid}
            for role, one in (("weights", self.weights), ("extractor", self.extractor))
        }
        body = {"kind": KIND, "version": 1, "model": _canonical.to_hex(self.model), "round": self.round, "files": files}
        return _canonical.dumps(body, _WHAT)

    @classmethod
    def decode(cls, data: bytes) -> ModelPackage:
        """Read what :meth:`encode` wrote.

        Raises
        ------
        RecordError
            Anything else, or weights of another hash than the model's.
        """
        if len(data) > _MAX_PACKAGE:
            raise RecordError(f"{_WHAT}: {len(data)} bytes are no package; {_MAX_PACKAGE} is the most")
        body = _canonical.fields(_canonical.loads(data, _WHAT), ("kind", "version", "model", "round", "files"), _WHAT)
        if body["kind"] != KIND:
            raise RecordError(f"{_WHAT}: is another object of this store")
        _canonical.version(body["version"], 1, _WHAT)
        files = _canonical.fields(body["files"], ("weights", "extractor"), f"{_WHAT} files")
        found = cls(
            model=_canonical.from_hex(body["model"], f"{_WHAT} model", 32),
            weights=_file(files["weights"], f"{_WHAT} weights"),
            extractor=_file(files["extractor"], f"{_WHAT} extractor"),
            round=_canonical.integer(body["round"], 0, 2**63, f"{_WHAT} round"),
        )
        if found.weights.sha256 != found.model:
            raise RecordError(f"{_WHAT}: its weights are not those of its model")
        return found


def _file(value: object, what: str) -> PackedFile:
    body = _canonical.fields(value, ("sha256", "size", "cid"), what)
    name = _canonical.text(body["cid"], 100, f"{what} CID")
    cid.parse(name)
    digest = _canonical.from_hex(body["sha256"], f"{what} SHA-256", 32)
    return PackedFile(digest, _canonical.integer(body["size"], 1, MAX_FILE, f"{what} size"), name)


def publish(weights: bytes, extractor: bytes, store: Store, number: int = 0) -> tuple[ModelPackage, str]:
    """Put a version into the store.

    Parameters
    ----------
    weights, extractor : bytes
        The safetensors file and the ONNX file that belongs to it.
    store : Store
    number : int
        Round that the weights come from, or 0.

    Returns
    -------
    package : ModelPackage
    cid : str
        Of the package: what members approve beside the hash.

    Raises
    ------
    StoreError, ModelError
    """
    for what, data in (("weights", weights), ("extractor", extractor)):
        if not 0 < len(data) <= MAX_FILE:
            raise ModelError(f"{what}: {len(data)} bytes cannot be published; 1 to {MAX_FILE} can")
    packed = [PackedFile(hashlib.sha256(data).digest(), len(data), store.put(data)) for data in (weights, extractor)]
    package = ModelPackage(packed[0].sha256, packed[0], packed[1], number)
    return package, store.put(package.encode())


def folder(home: Mapping[str, str] | None = None) -> Path:
    """Where fetched versions are kept: the user's cache folder, or what ``MEDPROV_MODELS`` names."""
    environment = os.environ if home is None else home
    if named := environment.get("MEDPROV_MODELS"):
        return Path(named)
    base = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "medprov" / "models"


def kept(prefix: bytes, place: Path) -> Path | None:
    """Weights file of a version that was fetched before, with all its files hashed again.

    Parameters
    ----------
    prefix : bytes
        The whole hash, or its first bytes.
    place : Path
        Folder of fetched versions.

    Raises
    ------
    ModelError
        A file is there and is not what the approved package says.
    """
    for file in sorted(place.glob(f"{prefix.hex()}*{PACKAGE}")):
        package = _decoded(file)
        if file.stem != package.model.hex():
            raise ModelError(f"{file}: is the package of another model than its name says; {_REMOVE}")
        files = [(file.with_suffix(ending), packed) for packed, ending in _parts(package)]
        if not all(part.is_file() for part, _ in files):
            continue
        for part, packed in files:
            try:
                _check(part.read_bytes(), packed, str(part))
            except OSError as error:
                raise ModelError(f"{part}: cannot be read ({error.strerror}); {_REMOVE}") from error
        return file.with_suffix(WEIGHTS)
    return None


def fetch(prefix: bytes, federation: Releases, store: Store, place: Path) -> Path:
    """Weights file of a version that the federation has ever released, from the store where it is not kept yet.

    Withdrawn versions count: pictures that they marked must be read for ever.

    Parameters
    ----------
    prefix : bytes
        The whole hash, or its first bytes as a mark has them.
    federation : Releases
    store : Store
    place : Path
        Folder of fetched versions.

    Returns
    -------
    Path
        ``HASH.safetensors`` with ``HASH.onnx`` and the package, ``HASH.json``, beside it.

    Raises
    ------
    ModelError
        Never released, released without its files, or damaged.
    StoreError, ChainError
    """
    released = [one for one in federation.released_models() if one.model_hash.startswith(prefix)]
    if len(released) != 1:
        count = "no model that the federation released" if not released else "more than one released model"
        raise ModelError(f"model {prefix.hex()}: {count} begins like that; ask the members for its files")
    one = released[0]
    if (before := kept(one.model_hash, place)) is not None:
        return before
    package = read(one.model_hash, one.cid, store)
    contents = files(package, store)
    name = one.model_hash.hex()
    try:
        place.mkdir(parents=True, exist_ok=True)
        for (_, ending), data in zip(_parts(package), contents, strict=True):
            _files.write(place / f"{name}{ending}", data)
        # last: it is what says that a version is whole
        _files.write(place / f"{name}{PACKAGE}", package.encode())
    except OSError as error:
        raise ModelError(f"{place}: cannot be written ({error.strerror}); set MEDPROV_MODELS to a folder") from error
    return place / f"{name}{WEIGHTS}"


def files(package: ModelPackage, store: Store) -> list[bytes]:
    """Weights and extractor from the store, each with size and hash compared.

    Raises
    ------
    ModelError
        The store's object is not the file that the package names.
    StoreError
    """
    found = []
    for packed, ending in _parts(package):
        data = store.get(packed.cid, packed.size)
        _check(data, packed, f"model {package.model.hex()}, {ending} file of the store")
        found.append(data)
    return found


def _parts(package: ModelPackage) -> tuple[tuple[PackedFile, str], ...]:
    return (package.weights, WEIGHTS), (package.extractor, EXTRACTOR)


def _check(data: bytes, packed: PackedFile, what: str) -> None:
    if len(data) != packed.size or hashlib.sha256(data).digest() != packed.sha256:
        raise ModelError(f"{what}: is not the file that the approved package names; {_REMOVE}")


def _decoded(file: Path) -> ModelPackage:
    try:
        return _files.parsed(file, _MAX_PACKAGE, ModelPackage.decode, _REMOVE)
    except RecordError as error:
        raise ModelError(str(error)) from error


def read(model: bytes, name: str, store: Store) -> ModelPackage:
    """The package of a released model.

    Raises
    ------
    ModelError
        The CID names something else: the model was released without its files.
    StoreError
    """
    try:
        if cid.parse(name).digest == model:
            raise ModelError(
                f"model {model.hex()}: was released by its hash alone, its files are not in the store; "
                "install the release that brings them"
            )
        package = ModelPackage.decode(store.get(name, _MAX_PACKAGE))
    except ModelError:
        raise
    except RecordError as error:
        raise ModelError(f"model {model.hex()}: {error}") from error
    if package.model != model:
        raise ModelError(f"model {model.hex()}: the approved package is of model {package.model.hex()}")
    return package


def find(prefix: bytes, federation: Releases | None, store: Store | None, place: Path) -> Path:
    """A kept version, else a fetched one; errors as for :func:`fetch`."""
    if (before := kept(prefix, place)) is not None:
        return before
    if federation is None or store is None:
        raise ModelError(
            f"model {prefix.hex()}: is not in {place}; name a configuration to fetch it from the federation"
        )
    try:
        return fetch(prefix, federation, store, place)
    except LedgerError as error:
        raise ModelError(str(error)) from error
