"""How figures, names and foreign texts are shown; the same in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping

from medprov_coordinator.watch.chain_view import ChainState
from medprov_coordinator.watch.records import RoundRecord
from medprov_coordinator.watch.run_folder import Run

SHOWN = 300
"""Longest foreign text that is shown, characters."""
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_LABELS = {"bit-accuracy": "bit accuracy", "num-examples": "pictures", "skipped-images": "skipped"}
_ORDER = ("loss", "bit-accuracy", "accuracy", "dice", "score")


def clean(text: object, limit: int = SHOWN) -> str:
    """A foreign text as one line without anything that steers a terminal or turns the direction of writing."""
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text)[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def size(count: float | None) -> str:
    """Bytes for people; a dash where nobody counted."""
    if count is None:
        return "–"
    value = float(count)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def number(value: float | None, digits: int = 4) -> str:
    """A figure for people."""
    return "–" if value is None else f"{value:.{digits}g}" if abs(value) >= 1e4 else f"{value:.{digits}f}"


def seconds(value: float | None) -> str:
    """A time span for people."""
    if value is None:
        return "–"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def moment(text: str) -> str:
    """An entry's time without its microseconds."""
    return clean(text[:19].replace("T", " "), 40) if text else "–"


def short(text: str, digits: int = 12) -> str:
    """The start of a hash or an address."""
    return clean(text, digits + 2) if len(text) <= digits + 2 else clean(text[:digits], digits) + "…"


def label(name: str) -> str:
    """A figure's name for people."""
    return clean(_LABELS.get(name, name.replace("-", " ").replace("_", " ")), 40)


def ordered(names: set[str]) -> list[str]:
    """Names of figures, the well known ones first."""
    return sorted(names, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))


def figures(values: Mapping[str, float], leave_out: tuple[str, ...] = ()) -> str:
    """Figures on one line."""
    return ", ".join(f"{label(name)} {number(values[name])}" for name in ordered(set(values) - set(leave_out))) or "–"


class Names:
    """Names of members by node and account.

    Parameters
    ----------
    run : Run
    chain : ChainState
    """

    def __init__(self, run: Run, chain: ChainState) -> None:
        self._names = chain.names
        self._signers = {row.node: row.signer for record in run.rounds for row in record.updates if row.signer}

    def of(self, node: int, signer: str = "") -> str:
        """Name of the member, its address, or its node."""
        signer = signer or self._signers.get(node, "")
        if name := self._names.get(signer.lower()):
            return clean(name, 64)
        return short(signer, 10) if signer else f"node {node}"


def anchor_of(record: RoundRecord, run: Run, chain: ChainState) -> tuple[str, str, int | None]:
    """State of a round's anchor, transaction, block.

    Returns
    -------
    str, str, int or None
        ``anchored``, ``differs`` (the chain holds another record), ``waiting`` or ``no chain``.
    """
    transaction = run.history.transactions.get(record.number, "")
    if (found := chain.rounds.get(record.number)) is not None:
        same = found.metrics_hash.hex() == record.hash
        return ("anchored" if same else "differs"), transaction, found.block
    if record.number in run.pending:
        return "waiting", transaction, None
    if transaction or record.number in run.history.anchored_at:
        return "anchored", transaction, None
    if run.local and not chain.configured:
        return "no chain", "", None
    if chain.configured and not chain.trouble:
        return "waiting", "", None
    # a run without a log: only the last round can wait, and state.json names it
    return "anchored", "", None
