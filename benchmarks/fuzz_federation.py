"""The federation's parsers for :mod:`benchmarks.fuzz`: enrolment, models, bundles, a run's folder, updates, TOML files.

What a member or coordinator reads of another's making is attacked here as it is read there: a start kit up to the
configuration that is written from it, a reply up to the gate's verdict, a run's folder up to what a watcher shows.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from eth_account import Account
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from medprov_coordinator import audit_log
from medprov_coordinator.accountant import Accountant
from medprov_coordinator.audit_log import GENESIS, Entry
from medprov_coordinator.checkpoint import CheckpointFolder, check_model
from medprov_coordinator.deployment import bundle
from medprov_coordinator.deployment.config import Deployment
from medprov_coordinator.errors import AuditError, CheckpointError, SettingsError
from medprov_coordinator.grid import task_identity
from medprov_coordinator.screening import Expectation, screen
from medprov_coordinator.watch.records import parse_record
from medprov_coordinator.watch.run_folder import RunFolder
from medprov_ledger import cid, enrolment
from medprov_ledger.config import Config
from medprov_ledger.enrolment import JoinRequest, StartKit
from medprov_ledger.errors import ConfigError
from medprov_ledger.merkle import root as merkle_root
from medprov_ledger.model_package import ModelPackage, PackedFile
from medprov_node.errors import BundleRefusedError
from medprov_node.joining import enrolling
from medprov_node.joining.bundle_gate import Gate
from medprov_node.joining.config import Site
from medprov_watermark.training import encoding, secagg, tasks
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.privacy import PRIVACY, Privacy
from medprov_watermark.training.tasks.base import TaskError

TYPED = (AuditError, BundleRefusedError, CheckpointError, SettingsError, ex.ExchangeError, TaskError)
"""What may come out of these parsers beside the ledger's errors."""

Row = tuple[str, Callable[[bytes], bytes | None], Sequence[bytes], int]
"""Name, parser, seeds and share of a target."""

ID = b"\x11" * 32
SHAPES = {"a.weight": (3, 2), "b.bias": (4,), "scale": ()}
DEEP = b'{"a":' * 1100 + b"1" + b"}" * 1100
"""Deeper than Python's own guard against recursion is, before a library moves it."""
DIGITS = b"9" * 5000
"""More than Python makes a number of."""


def rows(folder: Path, medprov: str) -> list[Row]:
    """All parsers.

    Parameters
    ----------
    folder : Path
        Takes the files that are read.
    medprov : str
        A valid ``medprov.toml``.
    """
    (folder / "ledger.toml").write_text(medprov, encoding="utf-8")
    config = Config.load(folder / "ledger.toml")
    state, record, log = _state(), _record(), _log(_EVENTS)
    run = {"state": state, "record": record, "events": [[kind, body] for kind, body in _EVENTS]}
    texts = [_json(state), DEEP, b'{"version": ' + DIGITS + b"}"]
    return [
        ("model package", lambda data: ModelPackage.decode(data).encode(), [_package().encode()], 5),
        ("join request", lambda data: JoinRequest.from_bytes(data).to_bytes(), [_request().to_bytes()], 5),
        ("start kit", _Kits(folder / "home"), [one.to_bytes() for one in _kits()], 8),
        ("app bundle", _Bundles(config), [bundle.build(), *_documents()], 6),
        ("audit log", _Logs(folder / "log"), [log, log[:-9], DEEP + b"\n"], 8),
        ("state file", _States(folder / "states"), texts, 8),
        ("round record", _Records(folder / "records"), [_json(record), *texts[1:]], 6),
        ("run folder", _Runs(folder / "run"), [_json(run)], 10),
        ("privacy file", _Accounts(folder / "privacy.json"), [_json(_SPENT), *texts[1:]], 4),
        ("assignment", _assignment, [_json(one) for one in _assignments()], 6),
        ("update", _update, _replies(), 10),
        ("array file", _array, _arrays(), 6),
        ("weights", _weights, [ex.to_safetensors(one) for one in (_deltas(), {}, {"w": np.zeros((0, 3), "f4")})], 6),
        (
            "coordinator.toml",
            _Toml(folder / "c.toml", Deployment.load),
            [_COORDINATOR, _LONG, *_large(_COORDINATOR)],
            8,
        ),
        ("node.toml", _Toml(folder / "n.toml", Site.load), [_NODE, *_large(_NODE)], 5),
    ]


def write(file: Path, data: bytes) -> None:
    """Write a file as a new one: ext4 flushes one that was cut to nothing, which takes most of an input's time."""
    file.unlink(missing_ok=True)
    file.write_bytes(data)


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


# --- models, enrolment, bundles ---------------------------------------------------------------------------------------


def _package() -> ModelPackage:
    weights, extractor = (PackedFile(bytes([n]) * 32, 1000 * n, cid.of(bytes([n]))) for n in (1, 2))
    return ModelPackage(weights.sha256, weights, extractor, 7)


def _request() -> JoinRequest:
    return enrolment.request("hospital-d", Account.from_key(b"\7" * 32), bytes(32), _NODE_KEY)


def _kits() -> list[StartKit]:
    member = Account.from_key(b"\1" * 32)
    kit = StartKit(
        federation_id=ID,
        federation_name='north "\u00fc\u4e2d\U0001f600\x7f',
        name="hospital-d",
        address=str(Account.from_key(b"\7" * 32).address),
        node_id=2**64 - 1,
        superlink="coordinator.example:9092",
        ca="-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        rpc="http://127.0.0.1:8545",
        chain_id=31337,
        federation="0x" + "00" * 19 + "01",
        registry="0x" + "00" * 19 + "02",
        confirmations=2,
        store={"kind": "ipfs", "apis": ["/ip4/127.0.0.1/tcp/5001/http"], "copies": 1},
        directory_key=None,
        app=bytes(32),
    )
    # an address as a configuration may have it
    other = replace(kit, federation_name="north", federation="0x" + "ab" * 20, directory_key=b"\2" * 32)
    there = replace(other, store={"kind": "blocks", "path": "/no/such"})
    return [enrolment.sign(one, member) for one in (kit, other, there)]


@dataclass(frozen=True)
class _Kits:
    """Reads a start kit as a hospital does: what is taken must make a configuration file that is TOML."""

    home: Path

    def __call__(self, data: bytes) -> bytes:
        self.home.mkdir(exist_ok=True)
        kit = StartKit.from_bytes(data)
        file = self.home / enrolling.MEDPROV
        write(file, ("\n".join(enrolling._medprov(kit, self.home)) + "\n").encode())
        try:
            config = Config.load(file)
        except ConfigError as error:
            assert "not valid TOML" not in str(error), error
            raise
        assert config.federation_name == kit.federation_name
        assert kit.signer
        return kit.to_bytes()


def _documents() -> list[bytes]:
    with zipfile.ZipFile(io.BytesIO(bundle.build())) as made:
        document = made.read("pyproject.toml")
    archives = [_archive(document, method) for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)]
    return [document, b"[project]\nversion = " + DIGITS, b"a = " + b"[" * 3000, *archives]


def _archive(document: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", method) as made:
        made.writestr(zipfile.ZipInfo("pyproject.toml"), document, method)
    return archive.getvalue()


@dataclass(frozen=True)
class _Bundles:
    """A site's gate, behind a federation that has released everything; what is no archive is put into one."""

    config: Config

    def __call__(self, data: bytes) -> None:
        data = data if data.startswith(b"PK") else _archive(data)
        assert Gate(self.config, lambda bundle_hash: True).check(data) == hashlib.sha256(data).digest()


# --- a run's folder ---------------------------------------------------------------------------------------------------

_EVENTS: Sequence[tuple[str, dict[str, Any]]] = (
    ("started", {"number": 0, "attempt": 0, "text": "round 0", "figures": {"probe": {"score": 0.5}}}),
    ("asked", {"number": 0, "attempt": 1, "text": "3 nodes asked", "figures": {}}),
    ("screened", {"number": 0, "attempt": 1, "text": "", "figures": {"accepted": [101], "rejected": [[102, "norm"]]}}),
    ("refused", {"number": 0, "attempt": 1, "text": "quorum", "figures": {"reason": "quorum"}}),
    ("anchored", {"number": 1, "attempt": 2, "text": "", "figures": {"transaction": "0xab"}}),
    ("round", {"number": 1, "attempt": 2, "text": "\u00fc", "figures": {"model": "ab", "probe": {"score": 0.75}}}),
)
_SPENT = {"version": 1, "spent": {"0x" + "ab" * 20: 2.5, "node 7": 0.01}, "owners": {"101": "0x" + "ab" * 20}}


def _state() -> dict[str, Any]:
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("model", "root", "metrics")}
    waiting = [{"number": number, "cid": cid.of(b"x"), **hashes} for number in (6, 7)]
    return {
        "version": 2,
        "number": 7,
        "attempts": 9,
        "model": hashes["model"],
        "progress": {"step": 350.0, "db": 34.5},
        "best": 0.75,
        "federation": ID.hex(),
        "pending": waiting,
        "moments": hashes["root"],
    }


def _record() -> dict[str, Any]:
    base, update = bytes(32), hashlib.sha256(b"update").digest()
    digest = ex.update_digest(ID, 7, base, update, 10)
    leaf = ex.update_leaf(digest, b"\3" * 65)
    entry = {
        "node": 101,
        "examples": 10,
        "signer": "0x" + "ab" * 20,
        "update": update.hex(),
        "digest": digest.hex(),
        "signature": "03" * 65,
        "leaf": leaf.hex(),
        "figures": {"loss": 0.5},
    }
    return {
        "version": 1,
        "round": 7,
        "attempt": 9,
        "base": base.hex(),
        "model": "ab" * 32,
        "updates": [entry],
        "rejected": [{"node": 102, "code": "norm", "detail": "too long"}],
        "rule": "mean",
        "note": "",
        "nodes": [101],
        "train": {"loss": 0.5},
        "evaluate": {},
        "probe": {"score": 0.75},
        "root": merkle_root([leaf]).hex(),
        "cid": cid.of(b"x"),
        "audit": "cd" * 32,
        "task": "watermark",
        "encoding": "float32",
        "sites": {"101": {"loss": 0.5}},
        "bytes_down": 100,
        "bytes_up": 100,
        "privacy": {},
    }


def _log(events: Sequence[tuple[str, dict[str, Any]]]) -> bytes:
    """A log whose hashes are right, of events that may be anything."""
    lines, head = [], GENESIS
    for seq, (kind, body) in enumerate(events, 1):
        bare = Entry(seq, f"2030-01-01T00:00:{seq % 60:02}.000000Z", kind, body, head, b"")
        fields = {name: value for name, value in json.loads(bare.line).items() if name != "hash"}
        head = hashlib.sha256(_json(fields)).digest()
        lines.append(replace(bare, hash=head).line)
    return b"".join(lines)


@dataclass(frozen=True)
class _Logs:
    """An audit log as :func:`audit_log.read` and :func:`audit_log.verify` see it, which must agree."""

    file: Path

    def __call__(self, data: bytes) -> bytes:
        write(self.file, data)
        checked = audit_log.verify(self.file)
        try:
            entries = list(audit_log.read(self.file))
        except AuditError as error:
            assert not checked.good and f"line {checked.line} {checked.why}" in str(error)
            raise
        assert checked.good and checked.entries == len(entries)
        return b"".join(entry.line for entry in entries) + (data[-checked.torn :] if checked.torn else b"")


@dataclass(frozen=True)
class _States:
    """A run's state; what is accepted must come back from what is written of it."""

    folder: Path

    def __call__(self, data: bytes) -> None:
        self.folder.mkdir(exist_ok=True)
        write(self.folder / "state.json", data)
        folder = CheckpointFolder(self.folder)
        state = folder.load_state()
        assert state is not None and len(state.pending) <= len(data)
        folder.save_state(state)
        assert folder.load_state() == state


@dataclass(frozen=True)
class _Records:
    """A round's record as the coordinator reads it for its anchor, and as a watcher does."""

    folder: Path

    def __call__(self, data: bytes) -> None:
        file = CheckpointFolder(self.folder).record_path(7)
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, data)
        with contextlib.suppress(ValueError):
            _look(data)
        model, where, root, metrics = CheckpointFolder(self.folder).read_record(7)
        assert isinstance(where, str) and all(len(bytes.fromhex(text)) == 32 for text in (model, root, metrics))


def _look(data: bytes) -> None:
    record = parse_record(data)
    assert isinstance(record.complaint(), str) and isinstance(record.misfit(ID), str)
    assert isinstance(record.site_figures(), dict)


@dataclass(frozen=True)
class _Runs:
    """A run's folder under a watcher, which shows what is wrong and never ends by it; the log's hashes are right."""

    folder: Path

    def __call__(self, data: bytes) -> None:
        (self.folder / "rounds").mkdir(parents=True, exist_ok=True)
        value = _loose(data)
        if not isinstance(value, dict):
            raise CheckpointError("no run")
        events = value.get("events")
        known = [one for one in events if _is_event(one)] if isinstance(events, list) else []
        try:
            log = _log([(kind, body) for kind, body in known])
        except (ValueError, RecursionError):
            log = b""
        write(self.folder / audit_log.FILE, log)
        write(self.folder / "state.json", _json(value.get("state")))
        write(self.folder / "rounds" / "000007.json", _json(value.get("record")))
        run = RunFolder(self.folder).refresh()
        assert run.history.entries == len(known) or run.problems or not log
        assert len(run.members) <= len(data) and sum(run.rejections.values()) <= len(data)
        for record in run.rounds:
            assert isinstance(record.complaint() + record.misfit(ID), str)


def _is_event(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], dict)


@dataclass(frozen=True)
class _Accounts:
    """What members have spent: every epsilon must be a figure, or infinite."""

    file: Path

    def __call__(self, data: bytes) -> None:
        write(self.file, data)
        assert all(epsilon >= 0 for epsilon in Accountant(1e-5, self.file).figures().values())


# --- what travels -----------------------------------------------------------------------------------------------------


def _loose(data: bytes) -> Any:
    """JSON that carries an input; what is none is refused here."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ex.ExchangeError("no JSON") from None


def _flat(value: Any) -> dict[str, Any]:
    """An object as Flower's records are: ``0x...`` stands for bytes."""
    if not isinstance(value, dict):
        raise ex.ExchangeError("no record")
    return {key: _bytes(item) for key, item in value.items()}


def _bytes(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("0x"):
        with contextlib.suppress(ValueError):
            return bytes.fromhex(value[2:])
    return value


def _assignments() -> list[dict[str, Any]]:
    found = []
    for name in ("watermark", "region"):
        task = tasks.find(name)
        settings = task.settings({})
        one = ex.Assignment(
            7, 9, ID, ID, name, 50, task.flat(settings), task.begin(settings), "int8" if name == "region" else "float32"
        )
        flat = {key: "0x" + item.hex() if isinstance(item, bytes) else item for key, item in one.to_config().items()}
        found.append({ex.ASSIGNMENT: flat, PRIVACY: Privacy("local-dp", 1.0, 2.0).to_config()})
    return found


def _assignment(data: bytes) -> None:
    """A hospital's look at what the coordinator asks, up to the pictures."""
    value = _flat(_loose(data))
    assignment = ex.Assignment.from_config(_flat(value.get(ex.ASSIGNMENT)))
    assert ex.Assignment.from_config(assignment.to_config()) == assignment
    encoding.check(assignment.encoding)
    task = tasks.find(assignment.task)
    settings = task.settings(assignment.settings)
    assert task.settings(task.flat(settings)) == settings
    privacy = Privacy.from_config(_flat(value.get(PRIVACY)))
    assert 0 < privacy.clip < math.inf and 0 <= privacy.noise_multiplier < math.inf


def _deltas() -> dict[str, ex.Float32]:
    rng = np.random.default_rng(1)
    return {name: np.asarray(0.01 * rng.normal(size=shape), np.float32) for name, shape in SHAPES.items()}


def _replies() -> list[bytes]:
    """Honest replies: figures and receipt as JSON, the arrays' files behind it."""
    found = []
    for name in (*encoding.TYPES, secagg.MASKED):
        if name == secagg.MASKED:
            masked = np.arange(secagg.size_of(SHAPES), dtype=np.uint32)
            files, update = [[ex.ARRAYS, name, masked]], secagg.masked_hash(masked)
        else:
            arrays, scales = encoding.encode(_deltas(), name)
            files = [[ex.ARRAYS, key, array] for key, array in arrays.items()]
            files += [] if scales is None else [[ex.SCALES, ex.SCALES, scales]]
            update = ex.model_hash(encoding.decode(arrays, scales))
        contents = [(record, key, Array(np.asarray(array)).data) for record, key, array in files]
        metrics = {key: min(max(0.5, low), high) for key, (low, high) in tasks.find("watermark").metrics.items()}
        receipt = {ex.ROUND: 7, ex.BASE: "0x" + ID.hex(), ex.UPDATE: "0x" + update.hex(), ex.SIGNER: ""}
        head = {
            "encoding": name,
            "files": [[record, key, len(content)] for record, key, content in contents],
            ex.METRICS: {**metrics, ex.NUM_EXAMPLES: 10, ex.SKIPPED: 0},
            ex.RECEIPT: {**receipt, ex.SIGNATURE: "0x"},
        }
        found.append(_json(head) + b"".join(content for *_, content in contents))
    return found


def _update(data: bytes) -> None:
    """A reply before the gate, which rejects it and never raises; what it accepts is an update of this round."""
    try:
        head, end = json.JSONDecoder().raw_decode(data.decode("latin-1"))
        content = RecordDict(_contents(_flat(head), data[end:]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise ex.ExchangeError("nothing that Flower would carry") from None
    chosen = head.get("encoding")
    known = chosen if chosen in (*encoding.TYPES, secagg.MASKED) else "float32"
    expected = Expectation(7, ID, ID, SHAPES, 10.0, frozenset({101}), encoding=str(known))
    with task_identity():
        reply = Message(content, reply_to=Message(RecordDict(), dst_node_id=101, message_type="train"))
    found = screen([reply], expected)
    assert len(found.accepted) + len(found.rejected) == 1
    for rejection in found.rejected:
        assert rejection.detail.isprintable() and len(rejection.detail) <= 203
        raise ex.ExchangeError(rejection.code)
    (update,) = found.accepted
    assert 0 < update.weight < math.inf and 0 <= update.norm <= 10.0
    if known != secagg.MASKED:
        assert ex.shapes_of(update.deltas) == SHAPES
        assert all(np.isfinite(array).all() for array in update.deltas.values())


def _contents(head: Mapping[str, Any], rest: bytes) -> dict[str, Any]:
    records: dict[str, dict[str, Array]] = {}
    for record, name, length in head["files"]:
        if not isinstance(record, str) or not isinstance(name, str):
            raise TypeError("a name")
        records.setdefault(record, {})[name] = Array("", (), "numpy.ndarray", rest[:length])
        rest = rest[length:]
    arrays = {name: ArrayRecord(found) for name, found in records.items()}
    receipt = ConfigRecord(_flat(head[ex.RECEIPT]))
    return {**arrays, ex.METRICS: MetricRecord(_flat(head[ex.METRICS])), ex.RECEIPT: receipt}


def _arrays() -> list[bytes]:
    small = np.arange(6, dtype=np.float32).reshape(3, 2)
    several = [small, np.asfortranarray(small), small.astype(">f4"), small.astype(np.int8), np.zeros((3, 2), "O")]
    found = []
    for array in (*several, np.zeros((3, 2), [("a", "<f4")])):
        stream = io.BytesIO()
        np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=True)
        found.append(stream.getvalue())
    stream = io.BytesIO()
    np.lib.format.write_array(stream, small, version=(2, 0))
    return [*found, stream.getvalue()]


def _array(data: bytes) -> None:
    assert ex.decode_array(data, (3, 2)).shape == (3, 2)


def _weights(data: bytes) -> None:
    """Weights from a store; those that are read have one hash, whatever the file was like."""
    arrays = ex.from_safetensors(data)
    digest = ex.model_hash(arrays)
    assert ex.model_hash(check_model(ex.to_safetensors(arrays), digest, "written again")) == digest


# --- files of one installation ----------------------------------------------------------------------------------------

_NODE_KEY = "ecdsa-sha2-nistp384 " + base64.b64encode(bytes(136)).decode()
_COORDINATOR = b"""[coordinator]
medprov = "ledger.toml"
hospital = "hospital-a"
state = "state"
restarts = 3
[superlink]
listen = "0.0.0.0:1234"
address = "c.example:443"
names = ["10.0.0.1", "c"]
ca = "ca"
certificate = "cert"
key = "key"
rpc = "http://127.0.0.1:8545"
[run]
rounds = 7
local-steps = 2
rate = 1
trim = 0.25
rule = "median"
privacy = "none"
max-examples = 1000
initial-weights = "w.safetensors"
"""
_LONG = _COORDINATOR.replace(b"0.25", b"9" * 400)
_NODE = b"""[site]
medprov = "ledger.toml"
hospital = "hospital-a"
images = "i"
state = "s"
device = "cuda:1"
max_images = 5
threads = 2
privacy = "local-dp"
min_noise_multiplier = 2.5
[superlink]
address = "[::1]:9092"
ca = "ca.pem"
key = "k"
node = "12"
"""


def _large(text: bytes) -> list[bytes]:
    """The file with numbers that a float cannot hold, and with some that Python does not even read."""
    return [re.sub(rb'(?m)(?<== )("?)[0-9.]+("?)$', rb"\g<1>" + DIGITS[:n] + rb"\g<2>", text) for n in (400, 5000)]


@dataclass(frozen=True)
class _Toml:
    """Reads a configuration file and uses what is computed from it."""

    file: Path
    load: Callable[[Path], Deployment | Site]

    def __call__(self, data: bytes) -> None:
        write(self.file, data)
        found = self.load(self.file)
        assert 0 < found.port < 65536 and found.host
        if isinstance(found, Site):
            assert found.node_config()["hospital"] == found.hospital.name
        else:
            assert found.local and found.hosts and found.run.to_flat()
