"""What a record costs and how look-ups grow: batches against single registrations, and an index of 10 million records.

    python -m benchmarks.ledger_scale [--parts register,near,index] [--records 100000] [--json FILE] [--quick]

``register`` brings a development federation up in a temporary folder and signs, builds, anchors, stores and indexes
records in batches; then it registers some records in a transaction each, one after another and many in one request.
``index`` fills an index with made-up records through the file's own insertion, with batches of real records among them,
and measures at each power of ten: a record by its key with leaf, signature and proof checked, and the records within
8 bits of a perceptual hash. One hash in ten lies near one and the same point, the others in 800 clusters. ``near``
measures that search without the records, for hashes that lie evenly, in clusters, and crowded.

A part that is already in the JSON file and is not asked for stays in it, so a long run can be cut in two.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from eth_account import Account
from eth_account.signers.local import LocalAccount
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medprov_ledger import _index_chain, _index_rows, _index_sync, cid, development, eip712, manifest, merkle
from medprov_ledger._index_file import IndexFile
from medprov_ledger._index_near import HashTable
from medprov_ledger.chain import Chain, Receipt
from medprov_ledger.config import Config
from medprov_ledger.federation import Federation
from medprov_ledger.index import MOST_NEAR_PER_OWNER, RecordIndex
from medprov_ledger.keys import load_account
from medprov_ledger.manifest import SignedRecord
from medprov_ledger.record import Record
from medprov_ledger.registry import Anchor, Registry, record_fields
from medprov_ledger.store import open_store

PARTS = ("register", "index", "near")
BATCH = 1000
OWNERS = 5
PLANTED = 5
"""Batches of real records at each size of the index."""
NEAR_BITS = 8
CLUSTERS, SPREAD = 800, 10
"""Points that the hashes lie around, and the most bits that are changed at random."""
COMMIT = 250
"""Made-up batches in one transaction."""


def record_of(owner: str) -> Record:
    """A record of nothing."""
    hashes = [os.urandom(32) for _ in range(4)]
    return Record(*hashes, cid.of(os.urandom(32)), cid.of(os.urandom(32)), owner, os.urandom(32), int(time.time()))  # type: ignore[call-arg,arg-type]


# --- batches and single registrations ---------------------------------------------------------------------------------


def register(records: int, batch: int, singles: int) -> dict[str, Any]:
    """Register `records` in batches and `singles` by themselves, and take the time and the gas of both."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        up = development.up(folder / "chain")
        try:
            config, chain = up.config, Chain.connect(up.config)
            account = load_account(config.hospital("hospital-a"))
            batched, entry = _in_batches(config, chain, account, records, batch, folder / "index.sqlite")
            alone = _alone(chain, account, singles)
        finally:
            development.down(folder / "chain")
    registry_gas = batched["gas_per_image"]
    return {
        "chain": up.chain.kind,
        "batched": batched,
        "single": alone,
        "gas_ratio": alone["gas_per_image"] / registry_gas,
        "speed_ratio_one_by_one": batched["images_per_second"] / alone["one_by_one_per_second"],
        "speed_ratio_together": batched["images_per_second"] / alone["together_per_second"],
        "proof_holds_on_chain": entry,
    }


def _in_batches(
    config: Config, chain: Chain, account: LocalAccount, records: int, batch: int, file: Path
) -> tuple[dict[str, Any], bool]:
    registry, federation, store = Registry(chain), Federation(chain), open_store(config)
    domain = eip712.domain(config.chain_id, registry.address)
    index = RecordIndex(file, domain)
    seconds = dict.fromkeys(("sign", "build", "anchor", "store", "index"), 0.0)
    gas, stored, made = 0, 0, [record_of(account.address)]
    for start in range(0, records, batch):
        made = [record_of(account.address) for _ in range(min(batch, records - start))]
        clock = _Laps(seconds)
        signed = [SignedRecord(record, eip712.sign_record(record, domain, account)) for record in made]
        clock.lap("sign")
        payloads = [os.urandom(12) for _ in made]
        built = manifest.build(signed, domain, payloads, config.directory_key)
        data = built.to_bytes()
        clock.lap("build")
        gas += registry.anchor_batch(built.root, len(made), cid.of(data), account).gas
        clock.lap("anchor")
        store.put(data)
        stored += len(data)
        clock.lap("store")
        report = index.sync(registry, federation, store, *config.directory_keys)
        clock.lap("index")
        if report.problems or report.added != 1:
            raise SystemExit(f"a batch was not taken in: {report}")
        print(f"{start + len(made)} of {records} records", file=sys.stderr)
    (entry,) = index.by_key(made[-1].key)
    holds = registry.verify(account.address, entry.root, entry.leaf, list(entry.proof))
    if len(index) != records:
        raise SystemExit(f"the index holds {len(index)} of {records} records")
    index.close()
    started = time.perf_counter()
    anew = RecordIndex(file.with_name("anew.sqlite"), domain)
    anew.sync(registry, federation, store, *config.directory_keys)
    rebuilt = time.perf_counter() - started
    anew.close()
    total = sum(seconds.values())
    figures = {
        "records": records,
        "batch": batch,
        "gas_per_image": gas / records,
        "seconds": seconds,
        "images_per_second": records / total,
        "manifest_bytes_per_record": stored / records,
        "index_bytes_per_record": _size(file) / records,
        "rebuilt_records_per_second": records / rebuilt,
    }
    return figures, holds


def _alone(chain: Chain, account: LocalAccount, count: int) -> dict[str, Any]:
    registry = Registry(chain)
    made = [record_of(account.address) for _ in range(2 * count)]
    started = time.perf_counter()
    receipts = [registry.register(record, account) for record in made[:count]]
    one_by_one = time.perf_counter() - started
    calls = [registry.contract.functions.register(record_fields(record)) for record in made[count:]]
    started = time.perf_counter()
    together: list[Any] = []
    for start in range(0, count, 100):
        together += chain.send_many(calls[start : start + 100], account)
    took = time.perf_counter() - started
    if not all(isinstance(receipt, Receipt) for receipt in together):
        raise SystemExit("a registration was refused")
    return {
        "records": 2 * count,
        "gas_per_image": statistics.mean(receipt.gas for receipt in receipts),
        "one_by_one_per_second": count / one_by_one,
        "together_per_second": count / took,
    }


class _Laps:
    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds, self._since = seconds, time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[name] += now - self._since
        self._since = now


# --- an index of many records -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    """A real record among the made-up ones."""

    record: Record
    root: bytes


class Filler:
    """Fills an index file with batches.

    Parameters
    ----------
    file : IndexFile
    batch : int
        Records in each.
    """

    def __init__(self, file: IndexFile, batch: int) -> None:
        self.file, self.batch = file, batch
        self.accounts = [Account.from_key(bytes([number + 1]) * 32) for number in range(OWNERS)]
        self.planted: list[Planted] = []
        self.held = 0
        self._rng = np.random.default_rng(1)
        self._centres = self._rng.integers(0, 1 << 64, CLUSTERS, dtype=np.uint64)
        self._cids = [cid.of(os.urandom(32)) for _ in range(4096)]

    @property
    def crowded(self) -> bytes:
        """The point that one hash in ten lies near."""
        return int(self._centres[0]).to_bytes(8, "big")

    def fill(self, size: int) -> None:
        """Fill the file up to `size` records, the last batches with real ones."""
        batches = (size - self.held) // self.batch
        numbers = iter(range(batches))
        while chunk := list(itertools.islice(numbers, COMMIT)):
            with self.file.write() as db:
                for number in chunk:
                    self._add(db, real=number >= batches - PLANTED)
            if size >= 1_000_000:
                print(f"{self.held} of {size} records", file=sys.stderr)

    def _add(self, db: Any, real: bool) -> None:
        block = 1 + self.held // self.batch
        account = self.accounts[block % OWNERS]
        root, nodes, records = self._real(account) if real else self._made_up()
        anchor = Anchor(root, account.address, block, block, self.batch, self._cid(), "0x" + os.urandom(32).hex())
        number = _index_chain.place(block, 0)
        _index_chain.insert(db, number, anchor)
        _index_sync.insert(db, number, anchor, (None, None), nodes, records)
        db.execute("INSERT INTO directories VALUES (?, ?)", (number, self._payloads()))
        self.held += self.batch

    def _real(self, account: LocalAccount) -> tuple[bytes, tuple[bytes, ...], list[tuple[Any, ...]]]:
        domain = self.file.domain
        made = [record_of(account.address) for _ in range(self.batch)]
        tree = merkle.tree([record.leaf(domain) for record in made])
        self.planted += [Planted(record, tree.root) for record in made]
        rows = [
            (
                *_index_rows.of_record(record, record.leaf(domain)),
                eip712.sign_record(record, domain, account),
                tree.places[position],
            )
            for position, record in enumerate(made)
        ]
        return tree.root, tree.nodes, rows

    def _made_up(self) -> tuple[bytes, list[bytes], Iterator[tuple[Any, ...]]]:
        data = self._rng.bytes(32 * 6 * self.batch + 65 * self.batch)
        nodes = [self._rng.bytes(32 * (2 * self.batch - 1))]

        def rows() -> Iterator[tuple[Any, ...]]:
            for position in range(self.batch):
                at = (32 * 6 + 65) * position
                h = [data[at + 32 * part : at + 32 * part + 32] for part in range(6)]
                texts = (self._cid(), self._cid())
                yield (*h[:5], *texts, h[5], 1_800_000_000, 1, data[at + 192 : at + 257], self.batch - 1 + position)

        return nodes[0][:32], nodes, rows()

    def _cid(self) -> str:
        return random.choice(self._cids)

    def _payloads(self) -> bytes:
        which = self._rng.integers(0, CLUSTERS, self.batch)
        which[self._rng.random(self.batch) < 0.1] = 0
        return packed(flipped(self._centres[which], self._rng))


def packed(hashes: NDArray[np.uint64]) -> bytes:
    """A directory of payloads with these perceptual hashes."""
    rows = np.zeros(len(hashes), [("hash", ">u8"), ("serial", ">u4")])
    rows["hash"], rows["serial"] = hashes, np.arange(len(hashes))
    return rows.tobytes()


def flipped(hashes: NDArray[np.uint64], rng: np.random.Generator) -> NDArray[np.uint64]:
    """Each hash with none to SPREAD bits changed."""
    times = rng.integers(0, SPREAD + 1, len(hashes))
    found = hashes.copy()
    for turn in range(SPREAD):
        bit = np.uint64(1) << rng.integers(0, 64, len(hashes)).astype(np.uint64)
        found ^= np.where(turn < times, bit, np.uint64(0))
    return found


def grow(sizes: list[int], batch: int, asked: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Fill an index to each of `sizes` and measure its look-ups there."""
    domain = eip712.domain(31337, "0x5FbDB2315678afecb367f032d93F642f64180aa3")
    path = folder / "index.sqlite"
    filler = Filler(IndexFile(str(path), domain), batch)
    for size in sizes:
        with filler.file._errors():
            # what is made up may be lost, and a journal of it would take as much space again
            filler.file._db.execute("PRAGMA journal_mode = OFF")
            filler.file._db.execute("PRAGMA synchronous = OFF")
            filler.file._db.execute("PRAGMA cache_size = -3000000")
        started = time.perf_counter()
        filler.fill(size)
        filled = time.perf_counter() - started
        filler.file.close()
        print(f"{size} records filled in {filled:.0f} s", file=sys.stderr)
        yield {"records": size, "bytes_per_record": _size(path) / size, **_look_up(path, filler, asked)}
        filler.file = IndexFile(str(path), domain)
    filler.file.close()


def _look_up(path: Path, filler: Filler, asked: int) -> dict[str, Any]:
    index = RecordIndex(path, filler.file.domain)
    index._file.checked = True
    chosen = random.sample(filler.planted, min(asked, len(filler.planted)))

    def found(planted: Planted) -> None:
        (entry,) = index.by_key(planted.record.key)
        if entry.record != planted.record or entry.root != planted.root:
            raise SystemExit(f"{path}: another record was found than was put in")

    def verified(planted: Planted) -> None:
        (entry,) = index.by_key(planted.record.key)
        record = entry.record
        signer = eip712.recover_record(record, entry.signature, index.domain)
        if record.leaf(index.domain) != entry.leaf or signer != record.owner:
            raise SystemExit(f"{path}: a record is not what was signed")
        if not merkle.verify(entry.root, entry.leaf, entry.proof):
            raise SystemExit(f"{path}: a proof does not hold")

    def absent(_: Planted) -> None:
        if index.by_key(os.urandom(32)):
            raise SystemExit(f"{path}: a record was found that was never put in")

    figures: dict[str, Any] = {
        "by_key": _timed(found, chosen),
        "by_key_verified": _timed(verified, chosen),
        "by_key_absent": _timed(absent, chosen),
    }
    started = time.perf_counter()
    index.near(filler.crowded, NEAR_BITS)
    figures["near_first_seconds"] = time.perf_counter() - started
    rng = np.random.default_rng(2)
    near_ones = flipped(filler._centres[rng.integers(0, CLUSTERS, 40)], rng)
    asked_for = [int(value).to_bytes(8, "big") for value in near_ones]
    figures["near"] = _timed(lambda value: index.near(value, NEAR_BITS), asked_for)
    figures["near_crowded"] = _timed(lambda value: index.near(value, NEAR_BITS), [filler.crowded] * 10)
    figures["near_entries"] = statistics.median(len(index.near(value, NEAR_BITS)) for value in asked_for[:9])
    index.close()
    gc.collect()
    return figures


# --- perceptual hashes alone ------------------------------------------------------------------------------------------


def search(sizes: list[int], batch: int) -> list[dict[str, Any]]:
    """The search for near hashes without the records, at each of `sizes`, for hashes of three kinds.

    ``even``: all hashes are equally likely; ``clustered``: they lie around 800 points; ``crowded``: three of ten lie
    around one point, and that point is asked for. The peer is a loop over the payloads in plain Python.
    """
    points = []
    for size in sizes:
        point: dict[str, Any] = {"records": size}
        for kind in ("even", "clustered", "crowded"):
            rng = np.random.default_rng(3)
            centres = rng.integers(0, 1 << 64, CLUSTERS, dtype=np.uint64)
            hashes = rng.integers(0, 1 << 64, size, dtype=np.uint64)
            if kind != "even":
                which = rng.integers(0, CLUSTERS, size)
                if kind == "crowded":
                    which[rng.random(size) < 0.3] = 0
                hashes = flipped(centres[which], rng)
            wanted = flipped(np.full(20, centres[0]) if kind == "crowded" else rng.choice(hashes, 20), rng)
            values = [int(value).to_bytes(8, "big") for value in wanted]
            point[kind] = _searched(hashes, values, batch)
        points.append(point)
        print(f"{size} hashes searched", file=sys.stderr)
    return points


def _searched(hashes: NDArray[np.uint64], values: list[bytes], batch: int) -> dict[str, Any]:
    file, table = IndexFile(":memory:", eip712.domain(1, "0x" + "11" * 20)), HashTable()
    owners = ["0x" + bytes([number]).hex() * 20 for number in range(OWNERS)]
    with file.write() as db:
        for block, start in enumerate(range(0, len(hashes), batch), 1):
            part = packed(hashes[start : start + batch])
            anchor = Anchor(os.urandom(32), owners[block % OWNERS], block, block, len(part) // 12, "", None)
            _index_chain.insert(db, _index_chain.place(block, 0), anchor)
            db.execute("INSERT INTO directories VALUES (?, ?)", (_index_chain.place(block, 0), part))
    started = time.perf_counter()
    table.near(file, values[0], NEAR_BITS, MOST_NEAR_PER_OWNER)
    read = time.perf_counter() - started
    figures: dict[str, Any] = {
        "read_seconds": read,
        "search": _timed(lambda value: table.near(file, value, NEAR_BITS, MOST_NEAR_PER_OWNER), values),
        "within": int(
            np.mean(
                [
                    np.count_nonzero(np.bitwise_count(hashes ^ value) <= NEAR_BITS)
                    for value in np.frombuffer(b"".join(values), ">u8").astype(np.uint64)
                ]
            )
        ),
    }
    for value in values[:3]:
        _check(file, table, hashes, value)
    if len(hashes) <= 100_000:
        figures["ratio_to_python"] = _python_loop(file, values[0]) / figures["search"]["median"]
    file.close()
    return figures


def _check(file: IndexFile, table: HashTable, hashes: NDArray[np.uint64], value: bytes) -> None:
    """Nothing is left out: as many are found as a comparison of all finds, nearest first."""
    bits = np.bitwise_count(hashes ^ np.uint64(int.from_bytes(value, "big")))
    found = table.near(file, value, NEAR_BITS, len(hashes)) if np.count_nonzero(bits <= NEAR_BITS) < 10_000 else []
    if found and [one.bits for one in found] != sorted(bits[bits <= NEAR_BITS].tolist()):
        raise SystemExit("the search left something out")


def _python_loop(file: IndexFile, wanted: bytes) -> float:
    """Seconds of the same search as a plain loop over all payloads."""
    number = int.from_bytes(wanted, "big")
    started = time.perf_counter()
    for (payloads,) in file.read("SELECT payloads FROM directories"):
        for start in range(0, len(payloads), 12):
            (int.from_bytes(payloads[start : start + 8], "big") ^ number).bit_count()
    return time.perf_counter() - started


def _timed(question: Callable[[Any], Any], values: list[Any]) -> dict[str, float]:
    question(values[0])
    seconds = []
    for value in values:
        started = time.perf_counter()
        question(value)
        seconds.append(time.perf_counter() - started)
    return {"median": statistics.median(seconds), "worst": max(seconds)}


def _size(file: Path) -> int:
    return sum(part.stat().st_size for part in file.parent.glob(file.name + "*"))


# --- plot -------------------------------------------------------------------------------------------------------------

LINES = {
    "by_key_verified": ("by key, record and proof checked", "#1f6f8b", "o"),
    "by_key": ("by key", "#3a7d44", "s"),
    "near": (f"near hash ({NEAR_BITS} bits), with up to {OWNERS * MOST_NEAR_PER_OWNER} records", "#c1272d", "^"),
}
SEARCHES = {"even": ("#c98a1b", "D"), "crowded": ("#8a5a9e", "v")}


def plot(report: dict[str, Any], target: Path) -> None:
    """Time of a look-up against the number of records."""
    figure = Figure(figsize=(8, 5))
    axis = figure.subplots()
    lines = [
        (label, colour, marker, [(point["records"], point[name]["median"]) for point in report["index"]["sizes"]])
        for name, (label, colour, marker) in LINES.items()
    ]
    for kind, (colour, marker) in SEARCHES.items():
        points = [(point["records"], point[kind]["search"]["median"]) for point in report.get("near", [])]
        lines.append((f"near hash, the search alone, {kind}", colour, marker, points))
    for label, colour, marker, points in lines:
        x, y = [records for records, _ in points], [1000 * seconds for _, seconds in points]
        axis.plot(x, y, label=label, color=colour, marker=marker, markersize=5)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("records in the index")
    axis.set_ylabel("median of a look-up, ms")
    axis.grid(alpha=0.25, which="both")
    axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(target, dpi=110)
    print(target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure, separated by commas")
    parser.add_argument("--records", type=int, default=100_000, help="registered in batches")
    parser.add_argument("--batch", type=int, default=BATCH, help="records in a batch")
    parser.add_argument("--singles", type=int, default=300, help="registered by themselves, twice")
    parser.add_argument("--largest", type=int, default=10_000_000, help="records in the largest index")
    parser.add_argument("--scratch", type=Path, help="folder for the index; 10 million records take 7 GB")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="PNG; beside the JSON file unless said otherwise")
    parser.add_argument("--quick", action="store_true", help="2 000 records, an index of 50 000")
    args = parser.parse_args()
    wanted = args.parts.split(",")
    if not wanted or set(wanted) - set(PARTS):
        parser.error(f"--parts: name some of {', '.join(PARTS)}")
    if args.quick:
        args.records, args.batch, args.singles, args.largest = 2000, 500, 20, 50_000
    report = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    if "register" in wanted:
        report["register"] = register(args.records, args.batch, args.singles)
        _save(report, args.json)
    tens = [10**power for power in range(3, 9) if 10**power < args.largest]
    sizes = sorted({max(size, args.batch) for size in (*tens, args.largest)})
    if "near" in wanted:
        report["near"] = search(sizes, args.batch)
        _save(report, args.json)
    if "index" in wanted:
        report["index"] = {"batch": args.batch, "sizes": []}
        with tempfile.TemporaryDirectory(dir=args.scratch) as temporary:
            for point in grow(sizes, args.batch, 50 if args.quick else 400, Path(temporary)):
                report["index"]["sizes"].append(point)
                _save(report, args.json)
        first, last = report["index"]["sizes"][0], report["index"]["sizes"][-1]
        report["index"]["growth_of_verified_look_up"] = (
            last["by_key_verified"]["median"] / first["by_key_verified"]["median"]
        )
        report["index"]["growth_of_records"] = last["records"] / first["records"]
        _save(report, args.json)
    print(json.dumps(report, indent=1))
    target = args.plot or (args.json and args.json.with_suffix(".png"))
    if target and "index" in report:
        plot(report, target)
    return 0


def _save(report: dict[str, Any], file: Path | None) -> None:
    if file:
        file.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    sys.exit(main())
