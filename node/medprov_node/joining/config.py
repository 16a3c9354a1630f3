"""The site's file ``node.toml``: whose images train, and where the coordinator is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medprov_ledger.config import Config, HospitalConfig, Table, read_toml, toml_text
from medprov_ledger.enrolment import endpoint
from medprov_ledger.errors import RecordError

TABLES = ("site", "superlink")
SITE = ("medprov", "hospital", "images", "state", "device", "max_images", "threads", "privacy", "min_noise_multiplier")
SUPERLINK = ("address", "ca", "key", "node")
FILE = "node.toml"
PRIVACIES = ("none", "central-dp", "local-dp", "secagg")
"""The modes of `medprov_watermark.training.privacy`, which loads torch."""


@dataclass(frozen=True)
class Site:
    """One site; see :meth:`load`.

    Parameters
    ----------
    path : Path
        The file this came from.
    ledger : Config
        Chain, and the account that signs updates.
    hospital : HospitalConfig
    images : Path
        Folder of the images that train here.
    state : Path
        Folder of logs and secrets between this site's processes.
    device : str
        As torch names it: ``cpu``, ``cuda``, ``cuda:1``.
    max_images : int or None
        How many images are read at most; None is the app's own limit.
    threads : int
        Of the processor, that a training uses. Another number gives other last bits in an update.
    address : str
        The SuperLink's ``host:port``.
    ca, key : Path
        Certificate of the coordinator's authority (PEM), and the node's private key (OpenSSH).
    node : int
        Number under which the SuperLink knows the node's key.
    privacy : str
        Mode of privacy that this site insists on; empty leaves it to the coordinator.
    min_noise_multiplier : float
        Least noise that this site trains with, in units of an update's bound.
    """

    path: Path
    ledger: Config = field(repr=False)
    hospital: HospitalConfig
    images: Path
    state: Path
    device: str
    max_images: int | None
    threads: int
    address: str
    ca: Path
    key: Path
    node: int
    privacy: str = ""
    min_noise_multiplier: float = 0.0

    @property
    def host(self) -> str:
        """Host part of `address`, without brackets."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """Port part of `address`."""
        return int(self.address.rpartition(":")[2])

    def node_config(self) -> dict[str, bool | float | int | str]:
        """What the ClientApp is told about this site; it stays on this machine."""
        values: dict[str, bool | float | int | str] = {
            "images": str(self.images.resolve()),
            "medprov-config": str(self.ledger.path.resolve()),
            "hospital": self.hospital.name,
            "device": self.device,
            "threads": self.threads,
        }
        if self.privacy:
            values["privacy"] = self.privacy
        if self.min_noise_multiplier:
            values["min-noise-multiplier"] = self.min_noise_multiplier
        return values if self.max_images is None else values | {"max-images": self.max_images}

    @classmethod
    def load(cls, path: Path) -> Site:
        """Read a file.

        Raises
        ------
        ConfigError
            No file, not TOML, or a key missing, malformed or unknown; the message names file and key.
        """
        document = read_toml(path, "no such file; 'medprov-node join --kit KIT' writes one")
        site = Table(path, "site", document.get("site"), SITE)
        link = Table(path, "superlink", document.get("superlink"), SUPERLINK)
        # the document itself is a table of tables
        Table(path, "file", document, TABLES)
        ledger = Config.load(site.file_path("medprov"))
        try:
            address = endpoint(link.text("address"), "address")
        except RecordError as error:
            raise link.bad("address", str(error).partition(": ")[2]) from None
        node = link.text("node")
        if not re.fullmatch("[0-9]{1,20}", node) or not 0 < int(node) < 1 << 64:
            raise link.bad("node", "must be a text of digits, the number that the start kit has")
        privacy = site.text("privacy") if "privacy" in site.values else ""
        if privacy and privacy not in PRIVACIES:
            raise site.bad("privacy", f"must be one of {', '.join(PRIVACIES)}")
        return cls(
            path=path,
            ledger=ledger,
            hospital=ledger.hospital(site.text("hospital") if "hospital" in site.values else None),
            images=site.file_path("images"),
            state=site.file_path("state"),
            device=site.text("device") if "device" in site.values else "cpu",
            max_images=site.integer("max_images", None, 1, 10**9) if "max_images" in site.values else None,
            threads=site.integer("threads", None, 1, 1024) if "threads" in site.values else 1,
            address=address,
            ca=link.file_path("ca"),
            key=link.file_path("key"),
            node=int(node),
            privacy=privacy,
            min_noise_multiplier=site.number("min_noise_multiplier", 0.0, 0.0, 1e6),
        )


def lines(medprov: str, hospital: str, images: Path, address: str, node: int) -> Iterator[str]:
    """A ``node.toml`` for a folder that has key and authority under their usual names."""
    yield "# How this site takes part in the training; docs/deployment.md describes every key."
    yield "[site]"
    yield f"medprov = {toml_text(medprov)}"
    yield f"hospital = {toml_text(hospital)}"
    yield f"images = {toml_text(str(images.resolve()))}"
    yield 'state = "state"'
    yield 'device = "cpu"'
    yield ""
    yield "[superlink]"
    yield f"address = {toml_text(address)}"
    yield 'ca = "ca.pem"'
    yield 'key = "node-key"'
    yield f'node = "{node}"'
