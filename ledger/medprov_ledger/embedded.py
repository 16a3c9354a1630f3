"""The embedded chain: a child process that outlives the command that started it, with its state in one folder.

Anvil where Node and Anvil's binary are found, otherwise the Python EVM (:mod:`medprov_ledger.evm_server`);
``$MEDPROV_CHAIN`` may name one of them, or Ganache. The first start decides; later starts take the same one, because
none reads another's state. Anvil writes its state once a second, so a hard kill may lose the last second or two. The
Python EVM and Ganache lose nothing that they have confirmed.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import logging
import os
import platform
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from . import _anvil_keeper, _process
from .chain import chain_errors, connect_http
from .errors import ChainError, WrongChainError

CHAIN_ID = 31337
DEVELOPMENT_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
"""First key of the well-known test mnemonic, which every development chain funds. Worthless and known to everybody:
only for a chain on the loopback interface."""
DEVELOPMENT_ADDRESS = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
ANVIL = "MEDPROV_ANVIL"
"""Environment variable that names Anvil's binary."""
CHAIN = "MEDPROV_CHAIN"
"""Environment variable that says what a new chain runs on: ``anvil``, ``ganache`` or ``python``."""
HOST = "127.0.0.1"
START_TIMEOUT = 120.0
STOP_TIMEOUT = 20.0
LOG = "chain.log"
"""What the chain's process says, in the folder."""

_log = logging.getLogger(__name__)
_STATE, _LOCK = "chain.json", "lock"
_DATA = {"anvil": "anvil-state.json", "ganache": "ganache-db", "python": "evm-journal.jsonl"}
_FUNDS = "0x3635c9adc5dea00000"
# children of this very process: kept so that Python does not complain about programs that are meant to stay
_children: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Embedded:
    """What ``chain.json`` holds.

    Parameters
    ----------
    kind : str
        ``"anvil"``, ``"ganache"`` or ``"python"``.
    port : int
    pid : int or None
        None after a regular stop.
    started : str
        The process's identity beside its number, which the system gives again to others.
    place : str
        The folder's device and inode: the process of a copied ``chain.json`` belongs to another folder. Empty in files
        of medprov 0.1.0.
    """

    kind: str
    port: int
    pid: int | None
    started: str
    place: str = ""

    @property
    def rpc(self) -> str:
        """URL of the JSON-RPC interface."""
        return f"http://{HOST}:{self.port}"


def find_anvil() -> Path | None:
    """Anvil's own binary, or None where the Python EVM is to be used.

    Looked for in ``$MEDPROV_ANVIL``, in ``contracts/node_modules`` beside this package's checkout, and on the PATH;
    only where Node is on the PATH. The npm package's launcher is passed by: stopping it would leave Anvil behind.

    Raises
    ------
    ChainError
        ``$MEDPROV_ANVIL`` names no program.
    """
    if shutil.which("node") is None:
        return None
    named = os.environ.get(ANVIL)
    if named:
        if not os.access(named, os.X_OK) or not Path(named).is_file():
            raise ChainError(f"{named}: no program, but ${ANVIL} names it; correct or unset the variable")
        return Path(named)
    machine = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), platform.machine())
    package = f"anvil-{sys.platform}-{machine}"
    checkout = Path(__file__).resolve().parents[2]
    local = checkout / "contracts" / "node_modules" / "@foundry-rs" / package / "bin" / "anvil"
    if os.access(local, os.X_OK):
        return local
    on_path = shutil.which("anvil")
    return Path(on_path) if on_path else None


def find_ganache() -> Path | None:
    """Ganache's command-line script, beside this package's checkout or behind ``ganache`` on the PATH; None without."""
    if shutil.which("node") is None:
        return None
    checkout = Path(__file__).resolve().parents[2]
    local = checkout / "contracts" / "node_modules" / "ganache" / "dist" / "node" / "cli.js"
    on_path = shutil.which("ganache")
    return local if local.is_file() else Path(on_path).resolve() if on_path else None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that two commands cannot start two chains.

    Raises
    ------
    ChainError
        The folder cannot be made, or another command holds it for too long.
    """
    deadline = time.monotonic() + START_TIMEOUT
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (folder / _LOCK).open("w")
    except OSError as error:
        raise ChainError(f"{folder}: cannot be used ({error.strerror}); choose another folder with --dir") from None
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ChainError(f"{folder}: another medprov-ledger command is still at work here") from None
                time.sleep(0.1)
            else:
                break
        yield


def load(folder: Path) -> Embedded | None:
    """What is known about the folder's chain; None where there never was one.

    In a copy of a folder the chain is down: the process that ``chain.json`` names serves the original.

    Raises
    ------
    ChainError
        ``chain.json`` is damaged.
    """
    file = folder / _STATE
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        found = Embedded(**fields)
        sound = found.kind in _DATA and isinstance(found.port, int) and isinstance(found.pid, int | None)
        sound = sound and isinstance(found.place, str)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        sound = False
    if not sound:
        raise ChainError(f"{file}: damaged; restore it from a backup, or stop the chain by hand and remove {folder}")
    if found.place not in ("", _place(folder)):
        return replace(found, pid=None, started="", place=_place(folder))
    return found


def is_running(chain: Embedded) -> bool:
    """Whether the process that this folder started is still there (and not another one with its number)."""
    return chain.pid is not None and chain.started != "" and _identity(chain.pid) == chain.started


def start(folder: Path) -> Embedded:
    """Start the folder's chain, or a new one in it, and wait until it answers. Hold :func:`locked` meanwhile.

    Raises
    ------
    ChainError
        It does not start: its state is damaged, a program or package is missing, or it does not answer in time.
    WrongChainError
        Something else answers on its port.
    """
    before = load(folder)
    kind = before.kind if before else wanted()
    program = {"anvil": find_anvil, "ganache": find_ganache}.get(kind, lambda: None)()
    if kind != "python" and program is None:
        name = kind.capitalize()
        raise ChainError(
            f"{folder}: was made with {name}, which is not found now; put node and {kind} on the PATH again, "
            "or use another --dir"
            if before
            else f"${CHAIN} names {kind}, which is not found; put node and {kind} on the PATH, or unset the variable"
        )
    if kind == "python" and importlib.util.find_spec("eth") is None:
        raise ChainError(
            "no embedded chain: neither Node with Anvil nor the package py-evm is installed; "
            "install medprov-ledger[chain]"
        )
    data = folder / _DATA[kind]
    if before and kind == "anvil":
        _repair(data)
    if before and not data.exists():
        raise ChainError(
            f"{data}: the chain's state is missing; restore it from a backup, or remove {folder} to begin anew"
        )
    port = before.port if before and _is_free(before.port) else _free_port()
    command = _command(kind, program, data, port)
    log = folder / LOG
    try:
        log.write_bytes(b"")
        with log.open("ab") as output:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
    except OSError as error:
        raise ChainError(f"{command[0]}: cannot be started ({error.strerror}); install it anew") from None
    try:
        _children.append(child)
        chain = Embedded(kind, port, child.pid, _identity(child.pid) or "", _place(folder))
        _save(folder, chain)
        if kind == "anvil":
            _start_keeper(chain, data, log)
        _wait_until_ready(chain, child, log, data)
    except BaseException:
        # at Ctrl-C too; the first line is for a child that chain.json does not know yet
        child.terminate()
        stop(folder)
        raise
    return chain


def stop(folder: Path) -> bool:
    """Stop the folder's chain; False where none was running. Kills nothing but the process that was started here.

    Raises
    ------
    ChainError
        ``chain.json`` is damaged, or the process does not end.
    """
    chain = load(folder)
    if chain is None or not is_running(chain) or chain.pid is None:
        if chain is not None and chain.pid is not None:
            _save(folder, replace(chain, pid=None, started=""))
        return False
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(chain.pid, number)
        deadline = time.monotonic() + STOP_TIMEOUT
        while is_running(chain) and time.monotonic() < deadline:
            time.sleep(0.02)
        if not is_running(chain):
            _save(folder, replace(chain, pid=None, started=""))
            return True
    raise ChainError(f"{folder}: the chain (process {chain.pid}) does not end; stop it by hand")


def has_state(folder: Path) -> bool:
    """Whether anything of a chain lies in the folder."""
    return any(file.exists() for file in _state_files(folder))


def discard(folder: Path) -> None:
    """Remove the state of a chain that is not running."""
    for file in _state_files(folder):
        if file.is_dir():
            shutil.rmtree(file)
        else:
            file.unlink(missing_ok=True)


def _state_files(folder: Path) -> Iterator[Path]:
    for name in (_STATE, *_DATA.values()):
        yield folder / name
        yield _anvil_keeper.copy_of(folder / name)


def wait_until_saved(folder: Path) -> None:
    """Wait until the disk holds what the chain has confirmed: Anvil saves once a second, the Python EVM at once.

    Raises
    ------
    ChainError
        Anvil does not save.
    """
    chain = load(folder)
    if chain is None or chain.kind != "anvil":
        return
    data = _anvil_keeper.copy_of(folder / _DATA["anvil"])
    deadline, seen = time.monotonic() + STOP_TIMEOUT, [_written(data)]
    # the first new copy may be of a state taken before this call, the second cannot be
    while len(seen) < 3:
        if time.monotonic() > deadline:
            raise ChainError(f"{data}: the chain does not save its state; is the disk full?")
        time.sleep(0.05)
        if _written(data) != seen[-1]:
            seen.append(_written(data))


def _written(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


def wanted() -> str:
    """What a new chain runs on.

    Raises
    ------
    ChainError
        ``$MEDPROV_CHAIN`` names none that is known.
    """
    wanted = os.environ.get(CHAIN) or ("anvil" if find_anvil() else "python")
    if wanted not in _DATA:
        raise ChainError(f"${CHAIN}: {wanted!r} is unknown; name {', '.join(_DATA)}, or unset the variable")
    return wanted


def _command(kind: str, program: Path | None, data: Path, port: int) -> list[str]:
    if program is None:
        return _python_command(data, port)
    return _anvil_command(program, data, port) if kind == "anvil" else _ganache_command(program, data, port)


def _ganache_command(script: Path, data: Path, port: int) -> list[str]:
    options = {
        "--server.host": HOST,
        "--server.port": port,
        "--chain.chainId": CHAIN_ID,
        "--chain.hardfork": "shanghai",
        "--database.dbPath": data.resolve(),
        "--wallet.accounts": f"{DEVELOPMENT_KEY},{_FUNDS}",
    }
    return ["node", str(script), *(str(part) for option in options.items() for part in option), "--logging.quiet"]


def _anvil_command(anvil: Path, data: Path, port: int) -> list[str]:
    options = {
        "--host": HOST,
        "--port": port,
        "--chain-id": CHAIN_ID,
        "--accounts": 1,
        "--state": data.resolve(),
        "--state-interval": 1,
    }
    flags = ["--no-cors", "--disable-console-log", "--quiet"]
    return [str(anvil.resolve()), *(str(part) for option in options.items() for part in option), *flags]


def _start_keeper(chain: Embedded, data: Path, log: Path) -> None:
    command = [sys.executable, "-P", "-m", _anvil_keeper.__name__, "--state", str(data.resolve())]
    command += ["--pid", str(chain.pid), "--started", chain.started]
    with log.open("ab") as output:
        keeper = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    _children.append(keeper)


def _repair(data: Path) -> None:
    """Put the whole copy in the place of a state that a hard kill left half written."""
    if _anvil_keeper.read(data) is None:
        content = _anvil_keeper.read(_anvil_keeper.copy_of(data))
        if content is not None:
            _log.warning("%s: was not written to its end; taking the copy that is whole", data)
            _anvil_keeper.replace(data, content)


def _python_command(data: Path, port: int) -> list[str]:
    options = {"--journal": data.resolve(), "--port": port, "--chain-id": CHAIN_ID, "--fund": DEVELOPMENT_ADDRESS}
    # -P: the current folder must not supply modules
    program = [sys.executable, "-P", "-m", f"{__package__}.evm_server"]
    return [*program, *(str(part) for option in options.items() for part in option)]


def _wait_until_ready(chain: Embedded, child: subprocess.Popen[bytes], log: Path, data: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    w3 = connect_http(chain.rpc, timeout=5.0)
    while True:
        if child.poll() is not None:
            reason = _reason(log, data)
            # the Python EVM says itself what to do
            advice = "" if ";" in reason else "; restore the file from a backup, or use another --dir"
            raise ChainError(f"{data}: the chain did not start: {reason}{advice}")
        try:
            with chain_errors(chain.rpc):
                found = w3.eth.chain_id
        except ChainError as error:
            if time.monotonic() > deadline:
                raise ChainError(
                    f"{chain.rpc}: the chain does not answer after {START_TIMEOUT:g} s; see {log} ({error})"
                ) from None
            time.sleep(0.05)
            continue
        if found != CHAIN_ID:
            raise WrongChainError(f"{chain.rpc}: another chain ({found}) answers there; stop it, or use another --dir")
        return


def _reason(log: Path, data: Path) -> str:
    """The line of the child's output that says most, without time and what the reader knows already."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower()] or lines or ["it said nothing"]
    return re.sub(r"^[\d-]+ [\d:,]+ [A-Z]+ ", "", telling[-1]).removeprefix(f"{data.resolve()}: ")[:300]


def _place(folder: Path) -> str:
    found = folder.stat()
    return f"{found.st_dev}:{found.st_ino}"


def _save(folder: Path, chain: Embedded) -> None:
    temporary = folder / f"{_STATE}.new"
    temporary.write_text(json.dumps(asdict(chain)) + "\n", encoding="utf-8")
    temporary.replace(folder / _STATE)


def _free_port() -> int:
    # below the range from which systems take the ports of outgoing connections: the port must be free again later
    for _ in range(50):
        port = 20_000 + secrets.randbelow(12_000)
        if _is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # a port whose last connections are still closing is free for a server
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _identity(pid: int) -> str | None:
    for child in _children:
        if child.pid == pid:
            # ours must be fetched, or it stays in the process table
            child.poll()
    return _process.identity(pid)
