"""Which app bundles run here: those that the federation's contract has released, for the code that is installed here.

Code in a bundle never runs and never comes onto Python's path: what runs is this installation's own ClientApp. The gate
decides whether a round of this bundle is taken part in at all.
"""

from __future__ import annotations

import hashlib
import io
import time
import tomllib
import zipfile
from collections.abc import Callable

from medprov_ledger.app_code import digest
from medprov_ledger.chain import Chain
from medprov_ledger.config import Config
from medprov_ledger.errors import ChainAwayError, ChainError
from medprov_ledger.federation import Federation
from medprov_node.errors import BundleRefusedError

REMEMBERED = 600.0
"""Seconds for which a release that the chain has confirmed counts while the chain is away."""
MAX_SETTINGS = 1 << 20


class Gate:
    """Decides on bundles.

    Parameters
    ----------
    config : Config
    released : callable or None
        Says whether the contract has released a hash (32 bytes); None asks the chain.
    clock : callable
        Seconds, steady.
    """

    def __init__(
        self,
        config: Config,
        released: Callable[[bytes], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._released, self._clock = config, released or self._ask, clock
        self._confirmed: dict[bytes, float] = {}
        self._federation: Federation | None = None

    def check(self, bundle: bytes) -> bytes:
        """The bundle's SHA-256 where it may run here.

        Raises
        ------
        BundleRefusedError
        """
        found = hashlib.sha256(bundle).digest()
        name = f"app bundle 0x{found.hex()}"
        try:
            allowed = self._released(found)
        except ChainAwayError as error:
            age = self._clock() - self._confirmed.get(found, float("-inf"))
            if age > REMEMBERED:
                raise BundleRefusedError(f"{name}: refused, because the chain cannot be asked ({error})") from None
            allowed = True
        except ChainError as error:
            raise BundleRefusedError(f"{name}: refused, because the chain cannot be asked ({error})") from None
        else:
            self._confirmed.pop(found, None)
            if allowed:
                self._confirmed[found] = self._clock()
        if not allowed:
            raise BundleRefusedError(
                f"{name}: refused, the federation has not released it; members approve one with 'medprov-node "
                "approve-app'"
            )
        self._check_code(bundle, name)
        return found

    def _check_code(self, bundle: bytes, name: str) -> None:
        try:
            with zipfile.ZipFile(io.BytesIO(bundle)) as archive, archive.open("pyproject.toml") as file:
                document = tomllib.loads(file.read(MAX_SETTINGS).decode())
            version, code = document["project"]["version"], document["tool"]["medprov"]["code"]
        except Exception:  # foreign bytes: archive, its four ways to pack and TOML raise a dozen types
            raise BundleRefusedError(f"{name}: refused, it is no bundle of medprov") from None
        if code != digest():
            raise BundleRefusedError(
                f"{name}: refused, it is for the training code {str(code)[:12]}... of medprov {str(version)[:20]}, and "
                f"here is {digest()[:12]}...; install what the coordinator has"
            )

    def _ask(self, bundle_hash: bytes) -> bool:
        if self._federation is None:
            self._federation = Federation(Chain.connect(self._config))
        return self._federation.is_app_released(bundle_hash)
