"""Replies and small federations without a network to train."""

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from medprov_coordinator.grid import run_in_process, task_identity
from medprov_coordinator.round import Anchored
from medprov_coordinator.screening import Expectation
from medprov_coordinator.strategy import GatedStrategy, to_record
from medprov_ledger import cid
from medprov_ledger.errors import RevertedError
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.tasks.watermark import PROBABILITY, TARGET_DB

SHAPES = {"a.weight": (3, 2), "b.bias": (4,), "scale": ()}
BASE = {name: np.full(shape, 1.0, np.float32) for name, shape in SHAPES.items()}
NODES = (101, 102, 103, 104, 105)
FEDERATION = bytes(range(32))


def make_deltas(seed: int, size: float = 0.01) -> dict[str, ex.Float32]:
    """Differences around a common direction, as honest hospitals give."""
    rng = np.random.default_rng(seed)
    return {name: np.asarray(size * (1 + 0.2 * rng.normal(size=shape)), np.float32) for name, shape in SHAPES.items()}


def make_reply(
    node: int,
    deltas: Mapping[str, Any],
    *,
    metrics: Mapping[str, Any] | None = None,
    receipt: Mapping[str, Any] | None = None,
    key: bytes | None = None,
    number: int = 1,
    base: bytes | None = None,
    federation: bytes = ex.NO_FEDERATION,
    drop: tuple[str, ...] = (),
    records: Mapping[str, Any] | None = None,
) -> Message:
    """Make an honest reply of a node, with what the arguments change."""
    base = ex.model_hash(BASE) if base is None else base
    figures: dict[str, Any] = {
        ex.NUM_EXAMPLES: 10,
        ex.LOSS: 0.5,
        ex.BIT_ACCURACY: 0.8,
        PROBABILITY: 0.1,
        TARGET_DB: 35.0,
        ex.SKIPPED: 0,
    }
    figures.update(metrics or {})
    arrays = {n: v if isinstance(v, Array) else Array(np.asarray(v)) for n, v in deltas.items()}
    try:
        update = ex.model_hash({n: a for n, a in deltas.items()})
    except (ex.ExchangeError, AttributeError, TypeError):
        update = bytes(32)
    signer, signature = "", b""
    if key is not None:
        account = Account.from_key(key)
        digest = ex.update_digest(federation, number, base, update, int(figures[ex.NUM_EXAMPLES]))
        signer, signature = account.address, bytes(account.sign_message(encode_defunct(primitive=digest)).signature)
    bound: dict[str, Any] = {
        ex.ROUND: number,
        ex.BASE: base,
        ex.UPDATE: update,
        ex.SIGNER: signer,
        ex.SIGNATURE: signature,
    }
    bound.update(receipt or {})
    content = RecordDict(
        {
            ex.ARRAYS: ArrayRecord(arrays),
            ex.METRICS: MetricRecord({k: v for k, v in figures.items() if k not in drop}),
            ex.RECEIPT: ConfigRecord({k: v for k, v in bound.items() if k not in drop}),
            **(records or {}),
        }
    )
    for name in drop:
        content.pop(name, None)
    return Message(content, reply_to=question(node))


def question(node: int) -> Message:
    """Make the message that a node replies to."""
    return Message(RecordDict(), dst_node_id=node, message_type="train")


def make_expectation(**changes: Any) -> Expectation:
    """Make what the coordinator expects in round 1."""
    values: dict[str, Any] = {
        "number": 1,
        "base": ex.model_hash(BASE),
        "federation": ex.NO_FEDERATION,
        "shapes": SHAPES,
        "base_norm": float(np.sqrt(sum(np.prod(s) for s in SHAPES.values()))),
        "nodes": frozenset(NODES[:3]),
    }
    return Expectation(**{**values, **changes})


class FakeProbe:
    """Probe whose verdicts are given: accuracy by number of evaluation, 0.9 otherwise."""

    def __init__(self, accuracies: Mapping[int, float] | None = None) -> None:
        self.accuracies = dict(accuracies or {})
        self.count = -1

    def evaluate(self, arrays: ex.Arrays) -> dict[str, float]:
        """Give the next figures."""
        self.count += 1
        accuracy = self.accuracies.get(self.count, 0.9)
        return {"score": accuracy, "loss": 0.1, "accuracy": accuracy}

    def objection(self, found: Mapping[str, float], best: float | None) -> str:
        """Object to a fall below the best."""
        return "worse" if best is not None and found["score"] < best - 0.02 else ""


class FakeHospitals:
    """ClientApp whose update is a fixed function of attempt and partition; counts what it was asked."""

    def __init__(self) -> None:
        self.app = ClientApp()
        self.trained: list[tuple[int, int, int]] = []
        self.keys: dict[int, bytes] = {}

        @self.app.train()
        def train(message: Message, context: Context) -> Message:
            partition = int(context.node_config["partition-id"])
            task = ex.Assignment.from_config(message.content.config_records[ex.ASSIGNMENT])
            record = message.content.array_records[ex.ARRAYS]
            weights = {name: record[name].numpy() for name in record}
            assert ex.model_hash(weights) == task.base
            self.trained.append((task.number, task.attempt, partition))
            reply = make_reply(
                context.node_id,
                make_deltas(1000 * task.attempt + partition),
                number=task.number,
                base=task.base,
                key=self.keys.get(partition),
                federation=task.federation,
                metrics={TARGET_DB: task.progress["db"] + 0.5},
            )
            return Message(reply.content, reply_to=message)

        @self.app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            order = ex.Assignment.from_config(message.content.config_records[ex.ASSIGNMENT])
            record = message.content.array_records[ex.ARRAYS]
            sent = {name: np.asarray(record[name].numpy()) for name in sorted(record)}
            assert order.base == ex.model_hash(sent), "as a hospital's own check"
            figures = {ex.NUM_EXAMPLES: 3, ex.LOSS: 0.2, ex.BIT_ACCURACY: 0.75}
            return Message(RecordDict({ex.METRICS: MetricRecord(figures)}), reply_to=message)

    def run(self, strategy: GatedStrategy, nodes: int = 3, faults: Any = None, **start: Any) -> Any:
        """Run a strategy to its end over `nodes` of these hospitals."""
        results: list[Any] = []
        server = ServerApp()

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            results.append(strategy.start(grid, to_record(BASE), **start))

        run_in_process(server, self.app, [{}] * nodes, {}, faults)
        return results[0]


class FakeAnchor:
    """Chain in memory; fails before or after writing the round that it is told, or is away while `away` is set."""

    def __init__(self) -> None:
        self.away: Exception | None = None
        self.rounds: list[Any] = []
        self.arguments: list[tuple[Any, ...]] = []
        self.fail_before: int | None = None
        self.fail_after: int | None = None

    def anchor(self, number: int, model_hash: bytes, cid: str, updates_root: bytes, metrics_hash: bytes) -> str:
        """Write a round."""
        self._answer()
        if number == self.fail_before:
            raise ConnectionError("chain away")
        if number != len(self.rounds) + 1:
            raise RevertedError("RoundNotNext", "RoundNotNext")
        self.rounds.append(Anchored(number, model_hash, cid, updates_root, metrics_hash))
        self.arguments.append((number, model_hash, cid, updates_root, metrics_hash))
        if number == self.fail_after:
            raise ConnectionError("chain away after writing")
        return f"0x{number:02x}"

    def last(self) -> Any:
        """Give the last round."""
        self._answer()
        return self.rounds[-1] if self.rounds else None

    def round(self, number: int) -> Any:
        """Give a round."""
        self._answer()
        return self.rounds[number - 1] if number <= len(self.rounds) else None

    def _answer(self) -> None:
        if self.away is not None:
            raise self.away


class FakeStore:
    """Store in memory."""

    def __init__(self) -> None:
        self.blocks: dict[str, bytes] = {}
        self.away: Exception | None = None

    def put(self, data: bytes) -> str:
        """Store."""
        if self.away is not None:
            raise self.away
        name = cid.of(data)
        self.blocks[name] = data
        return name

    def get(self, name: str) -> bytes:
        """Fetch."""
        return self.blocks[name]


@pytest.fixture
def identity() -> Iterator[None]:
    """Let messages be built outside a grid."""
    with task_identity():
        yield


@pytest.fixture
def kit() -> Any:
    """Everything above, by name."""
    return SimpleNamespace(
        shapes=SHAPES,
        base=BASE,
        nodes=NODES,
        deltas=make_deltas,
        reply=make_reply,
        question=question,
        expectation=make_expectation,
        probe=FakeProbe,
        hospitals=FakeHospitals,
        anchor=FakeAnchor,
        store=FakeStore,
        federation=FEDERATION,
    )
