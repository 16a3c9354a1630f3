"""Reorganisations at every step of a batch's way: is each batch anchored exactly once, each record found exactly once?

    python -m benchmarks.reorg [--depths 12] [--confirmations 4] [--json FILE] [--quick]

Brings a development federation up on a real Anvil in a temporary folder, with small made-up records. A batch goes the
hospital's way (``medprov_node.batch``), and at one step of it the chain is reorganised (``anvil_reorg``): its last
blocks give way to empty ones, or to others that hold the same transaction in another place. Where the way is cut short
by that, the hospital starts again as it would after a crash, with the journal and the outbox that are on its disk. Then
the chain's events are counted, and a verifier's index that has followed the chain all along is compared with one that
is built from nothing.

Each poll of the chain's height mines one block, so that every step is met at the same depth in every run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from web3 import HTTPProvider, Web3

from medprov_ledger import cid, development, eip712
from medprov_ledger.chain import Chain, connect_http
from medprov_ledger.config import Config
from medprov_ledger.errors import LedgerError
from medprov_ledger.index import RecordIndex
from medprov_ledger.keys import load_signer
from medprov_ledger.manifest import SignedRecord
from medprov_ledger.outbox import Batch, Outbox
from medprov_ledger.record import Record
from medprov_ledger.registry import Anchor
from medprov_ledger.signer import Signer
from medprov_ledger.store import Store, open_store
from medprov_node import batch
from medprov_node.connect import Ledger

STEPS = ("before sending", "sent", "mined", "between confirmations", "confirmed", "manifest stored")
"""When the reorganisation comes; the last is after the anchor was confirmed and read back."""
WAYS = ("thrown out", "moved")
RECORDS = 3
"""In a batch."""
SEND = "eth_sendRawTransaction"
RESTARTS = 4
TIMEOUT = 2.0


@dataclass(frozen=True)
class Case:
    """One reorganisation."""

    step: str
    depth: int
    way: str


class Saboteur:
    """Stands between the hospital and its node: mines, watches how far the transaction is, and reorganises once.

    Parameters
    ----------
    rpc : str
    case : Case
    confirmations : int
    """

    def __init__(self, rpc: str, case: Case, confirmations: int) -> None:
        self.admin, self.case, self.confirmations = connect_http(rpc, 30.0), case, confirmations
        self.raw: bytes | None = None
        self.struck = False
        self.sent = 0

    def connect(self, rpc: str) -> Web3:
        """A connection that is watched."""
        w3 = connect_http(rpc, 30.0)
        provider: Any = w3.provider
        single, many = provider.make_request, provider.make_batch_request

        def watched(method: str, params: Any) -> Any:
            return self._around([(method, params)], lambda: single(method, params))

        def watched_many(calls: list[tuple[str, Any]]) -> Any:
            return self._around(calls, lambda: many(calls))

        provider.make_request, provider.make_batch_request = watched, watched_many
        return w3

    def strike(self) -> None:
        """Reorganise, once."""
        if self.struck:
            return
        self.struck = True
        instead: list[Any] = []
        if self.case.way == "moved" and self.raw is not None and 0 < self.height < self.case.depth:
            # into the newest of the new blocks, unlike before
            instead = [["0x" + self.raw.hex(), self.case.depth - 1]]
        self.ask("anvil_reorg", [self.case.depth, instead])

    def ask(self, method: str, params: list[Any]) -> Any:
        provider = self.admin.provider
        assert isinstance(provider, HTTPProvider)
        answer = provider.make_request(method, params)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    @property
    def height(self) -> int:
        """How many blocks deep the transaction is; 0 where it is not mined."""
        if self.raw is None:
            return 0
        receipt = self.ask("eth_getTransactionReceipt", [Web3.to_hex(Web3.keccak(self.raw))])
        return int(self.admin.eth.block_number) - int(receipt["blockNumber"], 16) + 1 if receipt else 0

    def _around(self, calls: list[tuple[str, Any]], do: Callable[[], Any]) -> Any:
        methods, step = [method for method, _ in calls], self.case.step
        if SEND in methods:
            self.sent += methods.count(SEND)
            self.raw = bytes.fromhex(calls[methods.index(SEND)][1][0][2:])
            if step == "before sending":
                self.strike()
        if "eth_blockNumber" in methods:
            self.ask("evm_mine", [])
            deep = {"mined": 1, "between confirmations": self.confirmations - 1}.get(step)
            if deep is not None and self.height == deep:
                self.strike()
        if "eth_call" in methods and step == "confirmed" and self.height >= self.confirmations:
            self.strike()
        answer = do()
        if SEND in methods and step == "sent":
            self.strike()
        return answer


class WatchedStore:
    """A store that lets the saboteur know when a manifest was put."""

    def __init__(self, inner: Store, saboteur: Saboteur, manifests: set[str]) -> None:
        self.inner, self.saboteur, self.manifests = inner, saboteur, manifests

    def put(self, data: bytes) -> str:
        name = self.inner.put(data)
        if name in self.manifests and self.saboteur.case.step == "manifest stored":
            self.saboteur.strike()
        return name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@dataclass
class House:
    """A hospital, and a verifier's index that follows the chain."""

    config: Config
    signer: Signer
    index: RecordIndex

    @property
    def state(self) -> Path:
        return self.config.hospital("hospital-a").state

    def ledger(self, w3: Web3 | None = None) -> Ledger:
        return Ledger(Chain(self.config, w3 or connect_http(self.config.rpc, 30.0)), open_store(self.config))

    def follow(self, ledger: Ledger) -> None:
        """Bring the verifier's index up to the chain as it is."""
        self.index.sync(ledger.registry, ledger.federation, ledger.store)


@contextmanager
def house(confirmations: int) -> Iterator[House]:
    """A development federation whose blocks are mined on demand."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        up = development.up(folder / "chain")
        try:
            if up.chain.kind != "anvil":
                raise SystemExit("reorganisations need Anvil: 'npm ci' in contracts/, and node on the PATH")
            terms = {"confirmations": confirmations, "confirmation_timeout": TIMEOUT}
            config = replace(up.config, **terms)  # type: ignore[arg-type]
            connect_http(config.rpc).provider.make_request("evm_setAutomine", [False])  # type: ignore[arg-type]
            registry = config.registry_address
            index = RecordIndex(folder / "index.sqlite", eip712.domain(config.chain_id, registry))
            yield House(config, load_signer(config.hospital("hospital-a")), index)
        finally:
            development.down(folder / "chain")


def stored_items(outbox: Outbox, ledger: Ledger, owner: Signer) -> list[Any]:
    """Small records on their way, as far as the store."""
    items = []
    for _ in range(RECORDS):
        job = os.urandom(32).hex()
        item = outbox.draw(job)
        marked, released = os.urandom(32), os.urandom(32)
        outbox.set_marked(job, os.urandom(8) + item.serial, marked, released)
        evidence, bundle = os.urandom(200), os.urandom(100)
        names = (cid.of(evidence), cid.of(bundle))
        record = Record(
            os.urandom(32), os.urandom(32), marked, released, *names, owner.address, os.urandom(32), item.time
        )
        signed = SignedRecord(record, eip712.sign_record(record, ledger.domain, owner))
        outbox.set_bundled(job, signed, evidence, bundle)
        for data in (evidence, bundle):
            ledger.store.put(data)
        items.append(outbox.set_stored(job))
    return items


def run(home: House, case: Case) -> dict[str, Any]:
    """One batch, one reorganisation, and what is there afterwards."""
    saboteur = Saboteur(home.config.rpc, case, home.config.confirmations)
    # what was there before must not be thrown out
    saboteur.ask("anvil_mine", [hex(case.depth + home.config.confirmations + 2)])
    started, restarts, settled, told = time.perf_counter(), 0, 0, ""
    root: bytes | None = None
    anchor: Anchor | None = None
    while anchor is None:
        w3 = saboteur.connect(home.config.rpc)
        plain = home.ledger(w3)
        outbox = Outbox(home.state / "outbox.sqlite")
        try:
            if root is None:
                built = batch.build(outbox, plain, stored_items(outbox, plain, home.signer))
                root, manifests = built.root, {built.cid}
            watched: Any = WatchedStore(plain.store, saboteur, manifests)
            ledger = Ledger(plain.chain, watched)
            # a command begins with this: what a deep reorganisation has thrown out is sent again
            settled += plain.chain.settle(home.signer)
            batch.resume(outbox, ledger, home.signer)
            home.follow(home.ledger())
            # before a picture leaves, its batch is looked at once more
            anchor = batch.finish(outbox, ledger, root, home.signer)
        except LedgerError as error:
            restarts, told = restarts + 1, f"{type(error).__name__}: {error}"
            if restarts > RESTARTS:
                break
        finally:
            outbox.close()
    final = home.ledger(saboteur.connect(home.config.rpc))
    if not saboteur.struck:
        saboteur.strike()
    # as a hospital does from time to time: nothing may be missing that was confirmed once
    settled += final.chain.settle(home.signer)
    saboteur.ask("anvil_mine", [hex(home.config.confirmations + 1)])
    return {
        **case.__dict__,
        "struck": saboteur.struck,
        "sent": saboteur.sent,
        "restarts": restarts,
        "resent_by_settle": settled,
        "told": told,
        "seconds": time.perf_counter() - started,
        **audit(home, root or b"", saboteur.ask("txpool_status", [])),
    }


def audit(home: House, root: bytes, pool: dict[str, str]) -> dict[str, Any]:
    """Chain against outbox against the verifier's index against one that is built from nothing."""
    ledger = home.ledger()
    home.follow(ledger)
    anchors = Counter((anchor.owner, anchor.root) for anchor in ledger.registry.anchors())
    outbox = Outbox(home.state / "outbox.sqlite")
    try:
        batches = {one.root: one for one in outbox.batches()}
        leaves = [item.signed.record.leaf(ledger.domain) for item in outbox.items() if item.signed]
    finally:
        outbox.close()
    fresh = RecordIndex(":memory:", ledger.domain)
    fresh.sync(ledger.registry, ledger.federation, ledger.store)
    found = {leaf: (home.index.by_leaf(leaf), fresh.by_leaf(leaf)) for leaf in leaves}
    anchored = anchors[home.signer.address, root]
    fresh.close()
    return {
        "anchored": anchored,
        "all_anchored_once": set(anchors.values()) == {1} and {one for _, one in anchors} == set(batches),
        "records_once": all(len(followed) == len(anew) == 1 for followed, anew in found.values()),
        "indexes_equal": all(followed == anew for followed, anew in found.values()),
        "outbox_agrees": _told(batches.get(root)) == _told(ledger.registry.anchor(home.signer.address, root)),
        "nothing_waits": pool == {"pending": "0x0", "queued": "0x0"},
    }


def _told(one: Batch | Anchor | None) -> tuple[Any, ...] | None:
    return None if one is None else (one.cid, one.count, one.tx_hash, one.block)


def clean(row: dict[str, Any]) -> bool:
    """Whether nothing was lost, doubled or left behind."""
    checks = ("all_anchored_once", "records_once", "indexes_equal", "nothing_waits")
    return row["anchored"] == 1 and all(row[name] for name in checks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, default=12)
    parser.add_argument("--confirmations", type=int, default=4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two depths: 1, and one more than the confirmations")
    args = parser.parse_args()
    depths = [1, args.confirmations + 1] if args.quick else list(range(1, args.depths + 1))
    rows = []
    for step in STEPS:
        # a fresh chain for each: from about 900 blocks on, a reorganisation makes Anvil lose the contracts
        with house(args.confirmations) as home:
            for way in WAYS[: 1 if step in STEPS[:2] else 2]:
                for depth in depths if way == WAYS[0] else depths[-1:] if args.quick else depths:
                    rows.append(run(home, Case(step, depth, way)))
                    if not clean(rows[-1]):
                        print("NOT CLEAN", rows[-1], file=sys.stderr)
    figures = {
        "confirmations": args.confirmations,
        "reorganisations": len(rows),
        "clean": sum(clean(row) for row in rows),
        "outbox_agrees": sum(row["outbox_agrees"] for row in rows),
        "records": RECORDS * len(rows),
        "restarts": sum(row["restarts"] for row in rows),
        "seconds": sum(row["seconds"] for row in rows),
        "by_step": {
            step: {
                "clean": sum(clean(row) for row in rows if row["step"] == step),
                "of": sum(row["step"] == step for row in rows),
                "sent_most": max(row["sent"] for row in rows if row["step"] == step),
            }
            for step in STEPS
        },
        "rows": rows,
    }
    print(json.dumps({name: value for name, value in figures.items() if name != "rows"}, indent=1))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0 if figures["clean"] == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
