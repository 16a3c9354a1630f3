"""The records of rounds, ``rounds/<number>.json``, as a reader finds them who did not write them.

A record of an older release lacks fields and has a default there; a field of another type than the format's makes the
whole file a damaged one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from medprov_ledger import nesting
from medprov_ledger.errors import RecordError
from medprov_ledger.merkle import root as merkle_root
from medprov_watermark.training import exchange as ex

VERSION = 1
NAME = re.compile(r"[0-9]{6,}\.json")
LIMIT = 64 * 2**20
"""Largest record that is read, bytes; ten thousand members make about ten million."""
WHOLE = 2**64
"""Where whole numbers end: nodes are of 64 bits, and so are round and number of examples in what a hospital signs."""
DEPTH = 32
"""Deepest nesting of lists and objects that is read; a record has four levels."""

Figures = Mapping[str, float]


@dataclass(frozen=True)
class UpdateRow:
    """One accepted update; hashes in hexadecimal."""

    node: int
    examples: int
    signer: str
    update: str
    digest: str
    signature: str
    leaf: str
    figures: Figures = field(default_factory=dict)


@dataclass(frozen=True)
class RejectedRow:
    """One reply that was not used. `detail` may hold what a hostile member wrote."""

    node: int
    code: str
    detail: str


@dataclass(frozen=True)
class RoundRecord:
    """One accepted round.

    Parameters
    ----------
    number, attempt : int
    base, model, root, cid, audit : str
        As in `medprov_coordinator.round.RoundReport`; empty where the record does not say.
    sites : mapping of int to mapping of str to float
        What each node measured on the new model.
    bytes_down, bytes_up : int or None
    task, encoding : str
    hash : str
        SHA-256 of the file, hexadecimal: what the chain holds as the round's metrics hash.
    """

    number: int
    attempt: int
    base: str
    model: str
    updates: tuple[UpdateRow, ...]
    rejected: tuple[RejectedRow, ...]
    rule: str
    note: str
    train: Figures
    evaluate: Figures
    probe: Figures
    root: str
    cid: str
    sites: Mapping[int, Figures]
    bytes_down: int | None
    bytes_up: int | None
    task: str
    encoding: str
    audit: str
    hash: str

    @property
    def score(self) -> float | None:
        """Probe score, higher is better."""
        return self.probe.get("score", self.probe.get("accuracy"))

    @property
    def loss(self) -> float | None:
        """Loss on the probe; where it has none, the members' mean while training."""
        return self.probe.get("loss", self.train.get("loss"))

    def site_figures(self) -> dict[int, dict[str, float]]:
        """Figures of each node: those of its training, and over them what it measured on the new model."""
        found: dict[int, dict[str, float]] = {row.node: dict(row.figures) for row in self.updates}
        for node, figures in self.sites.items():
            found.setdefault(node, {}).update(figures)
        return found

    def complaint(self) -> str:
        """What does not fit within the record itself; empty where all does.

        Each leaf is computed again from digest and signature, and the root from the leaves.
        """
        try:
            for row in self.updates:
                if ex.update_leaf(bytes.fromhex(row.digest), bytes.fromhex(row.signature)).hex() != row.leaf:
                    return f"the leaf of node {row.node} is not that of its digest and signature"
            if merkle_root([bytes.fromhex(row.leaf) for row in self.updates]).hex() != self.root:
                return "the root is not that of the updates' leaves"
        except (ValueError, RecordError) as error:
            return f"the root cannot be computed again: {error}"
        return ""

    def misfit(self, federation: bytes) -> str:
        """Whether each digest is that of round, base, update and examples; empty where all are.

        Parameters
        ----------
        federation : bytes
            Federation id, 32 bytes.
        """
        for row in self.updates:
            try:
                base, update = bytes.fromhex(self.base), bytes.fromhex(row.update)
                digest = ex.update_digest(federation, self.number, base, update, row.examples)
            except (ValueError, ex.ExchangeError) as error:
                return f"the digest of node {row.node} cannot be computed again: {error}"
            if digest.hex() != row.digest:
                return f"node {row.node} signed another round, base, update or number of examples"
        return ""


def parse_record(data: bytes) -> RoundRecord:
    """Read one record.

    Raises
    ------
    ValueError
        What is wrong with the bytes.
    """
    nesting.check(data, DEPTH)
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    if (version := value.get("version")) != VERSION:
        raise ValueError(f"version {str(version)[:20]} is unknown, this release reads version {VERSION}")
    fields = _Fields(value, "")
    return RoundRecord(
        number=fields.integer("round", 1),
        attempt=fields.integer("attempt", 0, default=0),
        base=fields.text("base"),
        model=fields.text("model"),
        updates=tuple(_update(item) for item in fields.items("updates")),
        rejected=tuple(_rejected(item) for item in fields.items("rejected")),
        rule=fields.text("rule"),
        note=fields.text("note"),
        train=fields.figures("train"),
        evaluate=fields.figures("evaluate"),
        probe=fields.figures("probe"),
        root=fields.text("root"),
        cid=fields.text("cid"),
        sites=_sites(value.get("sites")),
        bytes_down=fields.integer("bytes_down", 0) if value.get("bytes_down") is not None else None,
        bytes_up=fields.integer("bytes_up", 0) if value.get("bytes_up") is not None else None,
        task=fields.text("task"),
        encoding=fields.text("encoding"),
        audit=fields.text("audit"),
        hash=hashlib.sha256(data).hexdigest(),
    )


class _Fields:
    """Typed fields of one JSON object."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise ValueError(f"{where or 'the record'} is not an object")
        self._value, self._where = value, f"{where}." if where else ""

    def integer(self, name: str, low: int, default: int | None = None) -> int:
        found = self._value.get(name, default)
        if type(found) is not int or not low <= found < WHOLE:
            raise ValueError(f"{self._where}{name} is not a whole number from {low} on, of 64 bits")
        return found

    def text(self, name: str) -> str:
        found = self._value.get(name)
        if found is None:
            return ""
        if not isinstance(found, str):
            raise ValueError(f"{self._where}{name} is not text")
        return found

    def items(self, name: str) -> list[Any]:
        found = self._value.get(name, [])
        if not isinstance(found, list):
            raise ValueError(f"{self._where}{name} is not a list")
        return found

    def figures(self, name: str) -> dict[str, float]:
        found = self._value.get(name)
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise ValueError(f"{self._where}{name} is not an object")
        return _numbers(found)


def _update(value: Any) -> UpdateRow:
    fields = _Fields(value, "updates")
    return UpdateRow(
        node=fields.integer("node", 0),
        examples=fields.integer("examples", 0),
        signer=fields.text("signer"),
        update=fields.text("update"),
        digest=fields.text("digest"),
        signature=fields.text("signature"),
        leaf=fields.text("leaf"),
        figures=fields.figures("figures"),
    )


def _rejected(value: Any) -> RejectedRow:
    fields = _Fields(value, "rejected")
    return RejectedRow(fields.integer("node", 0), fields.text("code"), fields.text("detail"))


def _sites(value: Any) -> dict[int, Figures]:
    """Figures by node, from an object whose names are node ids or a list of objects with a field ``node``."""
    if value is None:
        return {}
    found: dict[int, Figures] = {}
    if isinstance(value, dict):
        for name in value:
            if not name.isdecimal():
                raise ValueError("sites: a name is not a node's number")
            found[int(name)] = _Fields(value, "sites").figures(name)
        return found
    if not isinstance(value, list):
        raise ValueError("sites is neither an object nor a list")
    for item in value:
        fields = _Fields(item, "sites")
        node = fields.integer("node", 0)
        nested = fields.figures("figures")
        found[node] = nested or _numbers({key: number for key, number in item.items() if key != "node"})
    return found


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    # a field that is no number is one of a later release
    return {key: float(item) for key, item in found.items() if type(item) in (int, float) and abs(item) < 1e300}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
