"""The second field of a verdict: whether what the file says beside its samples is as it was released."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medprov_ledger.evidence import Evidence
    from medprov_ledger.sealing import PayloadKeys


class State(Enum):
    """What the comparison of the attributes gave."""

    MATCHES = "matches"
    DIFFERS = "differs"
    NOT_AVAILABLE = "not_available"


@dataclass(frozen=True)
class Metadata:
    """The attributes of the file against those of the released one.

    Parameters
    ----------
    state : State
    differing : tuple of str
        Names of the attributes that are not as released.
    compared : int
        Attributes that were compared.
    why : str
        Why nothing was compared; empty where something was.
    """

    state: State = State.NOT_AVAILABLE
    differing: tuple[str, ...] = ()
    compared: int = 0
    why: str = "no record of this picture was confirmed"

    @property
    def sentence(self) -> str:
        """The state in plain words."""
        if self.state is State.MATCHES:
            return f"all {self.compared} recorded attributes of the file are as released"
        if self.state is State.DIFFERS:
            some = f"{len(self.differing)} of {self.compared} recorded attributes of the file"
            return f"{some} are not as released: {', '.join(self.differing)}"
        return f"what the file says beside its pixels was not compared: {self.why}"


def unavailable(why: str) -> Metadata:
    """Nothing could be compared."""
    return Metadata(why=why)


def compare(evidence: Evidence, keys: PayloadKeys, attributes: Mapping[str, str]) -> Metadata:
    """Compare the attributes of a file with the codes in its record's evidence.

    Only names that both have are compared. A format's names are always all there, so a file cannot hide one; another
    format than the released one has none of them, and the same picture in it is no contradiction.

    Parameters
    ----------
    evidence : Evidence
    keys : PayloadKeys
        Those that the evidence was opened with.
    attributes : mapping of str to str
        From :func:`medprov_watermark.media.attributes`.
    """
    from medprov_ledger.evidence import differing_attributes

    codes = {name: code for name, code in evidence.attribute_macs.items() if name in attributes}
    if not codes:
        return unavailable("a file of this kind has none of the attributes that were recorded")
    differing = tuple(differing_attributes(keys.evidence_key, codes, attributes))
    return Metadata(State.DIFFERS if differing else State.MATCHES, differing, len(codes), "")
