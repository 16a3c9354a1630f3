"""What a user could take instead, behind one interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

from benchmarks.peers import blind_watermark, invisible_watermark
from benchmarks.peers.blessmark_rule import BlessmarkRule
from benchmarks.peers.blind_watermark import BlindWatermark
from benchmarks.peers.method import Bits, Method, MissingPeerError, Picture, RefusedError, Reversible
from benchmarks.peers.pee import Pee

__all__ = [
    "NAMES",
    "Bits",
    "Method",
    "MissingPeerError",
    "Picture",
    "RefusedError",
    "Reversible",
    "check",
    "find",
    "load",
]

_PEERS: dict[str, Callable[[int], tuple[Method, ...]]] = {
    "blind_watermark": lambda key: (BlindWatermark(key),),
    "invisible_watermark": lambda key: invisible_watermark.methods(),
    "pee": lambda key: (Pee(),),
    "blessmark_rule": lambda key: (BlessmarkRule(),),
}
_PACKAGES: dict[str, Callable[[], ModuleType]] = {
    "blind_watermark": blind_watermark.package,
    "invisible_watermark": invisible_watermark.package,
}
NAMES = tuple(_PEERS)


def check(names: Sequence[str]) -> None:
    """Make sure that peers can run here.

    Raises
    ------
    MissingPeerError
        A name is unknown or its package is missing; one line that says which and what to do.
    """
    for name in names:
        if name not in _PEERS:
            raise MissingPeerError(f"peer {name}: unknown; there are {', '.join(NAMES)}")
        if name in _PACKAGES:
            try:
                _PACKAGES[name]()
            except MissingPeerError as error:
                raise MissingPeerError(f"peer {name}: {error}") from error


def load(names: Sequence[str], key: int = 1) -> tuple[Method, ...]:
    """The methods of some peers.

    Parameters
    ----------
    names : sequence of str
        Of :data:`NAMES`.
    key : int
        For those that have one.
    """
    return tuple(method for name in names for method in _PEERS[name](key))


def find(method: str) -> Method:
    """One method by its own name, its package imported.

    Raises
    ------
    MissingPeerError
    """
    for name in NAMES:
        for candidate in load([name]):
            if candidate.name == method:
                check([name])
                return candidate
    raise MissingPeerError(f"method {method}: unknown")
