"""Verify medical pictures: where they come from, who owns them, whether a pixel has changed.

>>> from medprov_sdk import Verifier
>>> result = Verifier.from_config().verify("picture.png")
>>> print(result.verdict.value, result.reason.sentence)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medprov_sdk.verdict import Reason, Verdict
from medprov_sdk.verification import Verification

if TYPE_CHECKING:
    from medprov_sdk.verifier import Verifier

__version__ = "0.1.0"
__all__ = ["Reason", "Verdict", "Verification", "Verifier", "__version__"]


def __getattr__(name: str) -> object:
    # loaded on first use: it brings ONNX Runtime, which a reader of verdicts does not need
    if name == "Verifier":
        from medprov_sdk.verifier import Verifier

        return Verifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
