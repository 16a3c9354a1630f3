"""The coordinator's file ``coordinator.toml``: where it listens, whose account acts, and the settings of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medprov_coordinator.errors import SettingsError
from medprov_coordinator.run_config import RunConfig, Scalar, every_default
from medprov_ledger import rpc_address
from medprov_ledger.config import Config, HospitalConfig, Table, read_toml
from medprov_ledger.enrolment import endpoint
from medprov_ledger.errors import RecordError

TABLES = ("coordinator", "superlink", "run")
COORDINATOR = ("medprov", "hospital", "state", "restarts")
SUPERLINK = ("listen", "address", "names", "ca", "certificate", "key", "rpc")
INITIAL = "initial-weights"
PLACES: dict[str, Scalar] = {"folder": "", "medprov-config": "", "anchor-as": "", INITIAL: ""}
"""Settings of the ServerApp that say where things lie on the coordinator's machine."""
RESTARTS = 20


@dataclass(frozen=True)
class Deployment:
    """One coordinator; see :meth:`load`.

    Parameters
    ----------
    path : Path
        The file this came from.
    ledger : Config
        Chain, store, and the account that acts.
    hospital : HospitalConfig
        Whose account anchors rounds, votes and signs start kits.
    state : Path
        Folder of database, certificates, checkpoints and logs.
    restarts : int
        How often in a row SuperLink or run may fail without a new round before the command gives up.
    listen : str
        ``host:port`` where the SuperLink listens.
    address : str
        ``host:port`` that members are told.
    names : tuple of str
        Further host names and addresses in the server's certificate.
    ca, certificate, key : Path
        PEM files. Where the file does not name them they are made in the state folder.
    own_certificates : bool
        Whether they are made by this command.
    rpc : str
        The chain's JSON-RPC interface that members are told; empty where the coordinator's own would tell a secret.
    run : RunConfig
    initial : Path or None
        Weights to start from.
    """

    path: Path
    ledger: Config = field(repr=False)
    hospital: HospitalConfig
    state: Path
    restarts: int
    listen: str
    address: str
    names: tuple[str, ...]
    ca: Path
    certificate: Path
    key: Path
    own_certificates: bool
    rpc: str
    run: RunConfig
    initial: Path | None

    @property
    def host(self) -> str:
        """Host part of `listen`, without brackets."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """Port part of `listen`."""
        return int(self.listen.rpartition(":")[2])

    @property
    def local(self) -> str:
        """``host:port`` under which this machine reaches the SuperLink."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.listen.rpartition(":")[0])
        return f"{host}:{self.port}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """All names and addresses that the server's certificate must have."""
        local, public = (text.rpartition(":")[0].strip("[]") for text in (self.local, self.address))
        return tuple(dict.fromkeys((public, local, *self.names)))

    @classmethod
    def load(cls, path: Path) -> Deployment:
        """Read a file.

        Raises
        ------
        ConfigError
            No file, not TOML, or a key missing, malformed or unknown; the message names file and key.
        SettingsError
            A setting of the run is out of range.
        """
        document = read_toml(path, "no such file; 'medprov-coordinator init' writes one")
        own = Table(path, "coordinator", document.get("coordinator"), COORDINATOR)
        link = Table(path, "superlink", document.get("superlink", {}), SUPERLINK)
        run = Table(path, "run", document.get("run", {}), (*every_default(), INITIAL))
        # the document itself is a table of tables
        Table(path, "file", document, TABLES)
        ledger = Config.load(own.file_path("medprov"))
        state = own.file_path("state")
        listen = _endpoint(link, "listen", "127.0.0.1:9092")
        files = {name: link.file_path(name) for name in ("ca", "certificate", "key") if name in link.values}
        if 0 < len(files) < 3:
            raise link.bad("certificate", "goes with superlink.ca and superlink.key: name all three or none")
        made = state / "certificates"
        return cls(
            path=path,
            ledger=ledger,
            hospital=ledger.hospital(own.text("hospital") if "hospital" in own.values else None),
            state=state,
            restarts=own.integer("restarts", RESTARTS, 0, 10**6),
            listen=listen,
            address=_endpoint(link, "address", listen),
            names=link.texts("names"),
            ca=files.get("ca", made / "ca.pem"),
            certificate=files.get("certificate", made / "server.pem"),
            key=files.get("key", made / "server-key.pem"),
            own_certificates=not files,
            rpc=_rpc(link, ledger),
            run=_run(path, run.values),
            initial=run.file_path(INITIAL) if INITIAL in run.values else None,
        )


def _endpoint(table: Table, key: str, default: str) -> str:
    try:
        return endpoint(table.text(key) if key in table.values else default, key)
    except RecordError as error:
        raise table.bad(key, str(error).partition(": ")[2]) from None


def _rpc(table: Table, ledger: Config) -> str:
    if "rpc" not in table.values:
        # a password or key in the address is the coordinator's own
        return ledger.rpc if ledger.rpc_shown == ledger.rpc.rstrip("/") else ""
    rpc = table.text("rpc")
    if problem := rpc_address.problem(rpc):
        raise table.bad("rpc", problem)
    return rpc


def _run(path: Path, values: Mapping[str, object]) -> RunConfig:
    try:
        return RunConfig.from_flat({key: value for key, value in values.items() if key != INITIAL})
    except SettingsError as error:
        raise SettingsError(f"{path}: run: {error}") from None
