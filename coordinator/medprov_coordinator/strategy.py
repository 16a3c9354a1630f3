"""Flower strategy of the consortium: quorum, deadline, gate, robust aggregation, probe, checkpoint, anchor, resume.

None of Flower's own strategies checks for NaN, and one malformed reply ends their run. Here a round has a fixed order:
ask every node, screen, aggregate in float64, measure on the public probe, write to the disk, publish, anchor. A round
that is refused leaves the model as it was and is tried again with other seeds; one that cannot be anchored now waits on
the disk while the training goes on.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from numpy.typing import NDArray

from medprov_coordinator.aggregation import Aggregate, aggregate, apply
from medprov_coordinator.anchoring import rounds_text, settle, waiting_text
from medprov_coordinator.asking import ask, patiently
from medprov_coordinator.audit_log import FILE, AuditLog
from medprov_coordinator.checkpoint import CheckpointFolder, PendingAnchor, State
from medprov_coordinator.errors import CheckpointError, PendingError, QuorumError, RoundRefusedError, SettingsError
from medprov_coordinator.probe import Probe
from medprov_coordinator.resume import find_start
from medprov_coordinator.round import Event, Refusal, RoundReport, Services, UpdateEntry
from medprov_coordinator.run_config import RunConfig
from medprov_coordinator.screening import Expectation, Screened, Update, flatten, read_metrics, screen
from medprov_ledger import cid
from medprov_ledger.errors import ChainError
from medprov_ledger.merkle import root as merkle_root
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.moments import CLIP, Step, begin, check, moved, sizes
from medprov_watermark.training.privacy import LOCAL
from medprov_watermark.training.tasks.base import SCORE

log = logging.getLogger("medprov.coordinator")

LONGEST_PAUSE = 30.0
"""Between two attempts to anchor at the end of a run, seconds."""
REMIND = 60.0
"""Between two events while hospitals are waited for, seconds."""


def to_record(arrays: ex.Arrays) -> ArrayRecord:
    """Weights or differences as Flower sends them."""
    return ArrayRecord({name: Array(np.asarray(arrays[name], order="C")) for name in sorted(arrays)})


def array_bytes(content: RecordDict) -> int:
    """Bytes of all arrays in a message."""
    return sum(len(array.data) for record in content.array_records.values() for array in record.values())


@dataclass(frozen=True)
class _Candidate:
    """What a round would make of the model."""

    arrays: dict[str, ex.Float32]
    screened: Screened
    merged: Aggregate
    moments: dict[str, ex.Float32]


SHORTER = (0.5, 0.25)
"""Parts of a round's step that are tried, longest first, before the probe's objection refuses the round."""


class GatedStrategy(Strategy):
    """The consortium's strategy.

    Parameters
    ----------
    config : RunConfig
    services : Services
    folder : CheckpointFolder or None
        None keeps the run in memory; it cannot be resumed then.
    probe : Probe or None
        None makes the public one.

    Attributes
    ----------
    state : State
        Where the run stands; after `start` the final state.
    weights : dict of str to float32 array
        The last accepted weights.
    moments : dict of str to float32 array
        Of the optimiser that the hospitals share; empty where each has its own.
    reports : list of RoundReport
        Rounds accepted by this call of `start`.
    resumed_from : int
        Round that `start` went on from.
    """

    def __init__(
        self,
        config: RunConfig,
        services: Services | None = None,
        folder: CheckpointFolder | None = None,
        probe: Probe | None = None,
    ) -> None:
        self.config = config
        self.services = services or Services()
        if self.services.anchor is not None and self.services.store is None:
            raise SettingsError("anchoring a round needs a store to publish its weights in: configure [store]")
        self.folder = folder
        self.task = config.learning
        self.probe = probe or Probe(
            self.task.probe(config.training, config.probe_pictures, config.probe_db), config.tolerance
        )
        self.weights: dict[str, ex.Float32] = {}
        self.moments: dict[str, ex.Float32] = {}
        self.state = State(0, 0, "00" * 32, {})
        self.reports: list[RoundReport] = []
        self.resumed_from = 0
        self._expected: Expectation | None = None
        self._candidate: _Candidate | None = None
        self._screened: Screened | None = None
        self._probed: dict[str, float] = {}
        self._refusal = ""
        self._refused = 0
        self._sites: dict[int, dict[str, float]] = {}
        self._bytes_down = self._bytes_up = 0
        self._members: frozenset[str] | None = None
        self._audit: AuditLog | None = None
        self._transactions: dict[int, str | None] = {}
        # Weights that wait for their anchor, where no folder keeps them.
        self._unpublished: dict[str, bytes] = {}

    # The run

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 0,
        timeout: float = 0.0,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run until the federation has its rounds.

        Parameters
        ----------
        grid : Grid
            Flower's, or the in-process one.
        initial_arrays : ArrayRecord
            Used only where neither the folder nor the chain knows a round.
        num_rounds, timeout
            0 takes ``config.rounds`` and ``config.deadline``.
        train_config, evaluate_config
            Must be None: the assignment is made here.
        evaluate_fn
            Called on every accepted model beside the probe.

        Raises
        ------
        QuorumError
            Fewer nodes than the quorum until the deadline.
        RoundRefusedError
            ``config.max_refused`` refused rounds in a row.
        CheckpointError
            Folder and chain disagree, a file is damaged or cannot be written, or another coordinator holds the folder.
        PendingError
            All rounds are made, and some of them could not be anchored within ``config.anchor_wait`` seconds.
        LedgerError
            Chain or store are not usable at the start.
        """
        if train_config is not None or evaluate_config is not None:
            raise SettingsError("the strategy makes the assignment itself: set RunConfig instead of Flower's configs")
        rounds = num_rounds or self.config.rounds
        self._deadline = timeout or self.config.deadline
        with self.folder.held() if self.folder else contextlib.nullcontext():
            if self.folder:
                self._audit = AuditLog(self.folder.path / FILE)
            return self._run(grid, initial_arrays, rounds, evaluate_fn)

    def _run(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        rounds: int,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None,
    ) -> Result:
        result = Result()
        self.summary()
        self._begin(initial_arrays)
        self._refused = 0
        while self.state.number < rounds:
            self._settle()
            report = self._attempt(grid, result)
            if report is None:
                self._refused += 1
                if self._refused >= self.config.max_refused:
                    raise RoundRefusedError(
                        f"round {self.state.number + 1}: refused {self._refused} times, last because {self._refusal};"
                        " look at the rejected replies before starting again"
                    )
                continue
            self._refused = 0
            self.reports.append(report)
            if evaluate_fn is not None and (found := evaluate_fn(report.number, to_record(self.weights))) is not None:
                result.evaluate_metrics_serverapp[report.number] = found
        result.arrays = to_record(self.weights)
        self._wait_for_anchors()
        self._event("finished", f"{self.state.number} rounds, model {self.state.model[:16]}")
        return result

    def _attempt(self, grid: Grid, result: Result) -> RoundReport | None:
        self.state = replace(self.state, attempts=self.state.attempts + 1)
        self._sites, self._bytes_down, self._bytes_up = {}, 0, 0
        number = self.state.number + 1
        messages = self.configure_train(number, to_record(self.weights), ConfigRecord(), grid)
        _, metrics = self.aggregate_train(number, self._ask(grid, messages))
        if self._candidate is None:
            self._refuse(self._refusal)
            return None
        candidate = self._candidate = self._probe(self._candidate)
        if candidate is None:
            self._refuse(self._refusal)
            return None
        evaluated: MetricRecord | None = None
        if self.config.evaluate:
            messages = self.configure_evaluate(number, to_record(candidate.arrays), ConfigRecord(), grid)
            evaluated = self.aggregate_evaluate(number, self._ask(grid, messages))
        report = self._accept(candidate, _figures(metrics), _figures(evaluated))
        result.train_metrics_clientapp[number] = metrics or MetricRecord()
        result.evaluate_metrics_serverapp[number] = MetricRecord(dict(report.probe))
        if evaluated is not None:
            result.evaluate_metrics_clientapp[number] = evaluated
        return report

    def _probe(self, candidate: _Candidate) -> _Candidate | None:
        """The candidate, or part of the way to it, that the public probe does not object to."""
        self._probed = whole = self.probe.evaluate(candidate.arrays)
        why = self.probe.objection(whole, self.state.best)
        if not why:
            return candidate
        for length in SHORTER:
            shorter = self._shortened(candidate, length, why)
            self._probed = self.probe.evaluate(shorter.arrays)
            if not self.probe.objection(self._probed, self.state.best):
                log.warning("round %d: %s", self.state.number + 1, shorter.merged.note)
                return shorter
        self._probed = whole
        self._refusal = f"{why}, and too bad at {' and '.join(f'{x:g}' for x in SHORTER)} of the step as well"
        return None

    def _shortened(self, candidate: _Candidate, length: float, why: str) -> _Candidate:
        merged = candidate.merged
        deltas = {name: length * delta for name, delta in merged.deltas.items()}
        note = f"{merged.note}{'; ' if merged.note else ''}only {length:g} of the step was made: {why}"
        return replace(candidate, arrays=apply(self.weights, deltas), merged=replace(merged, deltas=deltas, note=note))

    def _ask(self, grid: Grid, messages: Iterable[Message]) -> list[Message]:
        messages = list(messages)
        # all messages of a step carry the same arrays
        self._bytes_down += len(messages) * array_bytes(messages[0].content) if messages else 0
        replies = ask(grid, messages, self._deadline, self.config.quorum, self.config.grace)
        self._bytes_up += sum(array_bytes(reply.content) for reply in replies if reply.has_content())
        return replies

    def _refuse(self, why: str) -> None:
        self._refusal = why
        screened = self._screened or Screened((), ())
        refusal = Refusal(
            number=self.state.number + 1,
            attempt=self.state.attempts,
            base=self.state.model,
            reason=why,
            updates=tuple(_entry(u) for u in screened.accepted),
            rejected=screened.rejected,
            probe=self._probed,
        )
        if self.folder:
            self.folder.save_refusal(refusal.number, refusal.attempt, refusal.record())
            # The attempt is counted on the disk too: a resumed run must draw the seeds that this run would draw next.
            self.folder.save_state(self.state)
        self._event(
            "refused",
            f"round {refusal.number} refused: {why}",
            {
                "reason": why,
                "updates": [vars(u) for u in refusal.updates],
                "rejected": [(r.node, r.code) for r in refusal.rejected],
                "probe": refusal.probe,
            },
        )

    def _accept(
        self,
        candidate: _Candidate,
        train: dict[str, float],
        evaluated: dict[str, float],
    ) -> RoundReport:
        data = ex.to_safetensors(candidate.arrays)
        model = ex.model_hash(candidate.arrays).hex()
        moments = ex.model_hash(candidate.moments).hex() if self._shared else ""
        updates = candidate.screened.accepted
        probe = self._probed
        report = RoundReport(
            number=self.state.number + 1,
            attempt=self.state.attempts,
            base=self.state.model,
            model=model,
            updates=tuple(_entry(u) for u in updates),
            rejected=candidate.screened.rejected,
            rule=candidate.merged.rule,
            note=candidate.merged.note,
            nodes=candidate.merged.nodes,
            train=train,
            evaluate=evaluated,
            probe=probe,
            root=merkle_root([u.leaf for u in updates]).hex(),
            task=self.task.name,
            encoding=self.config.encoding,
            moments=moments,
            sites=self._sites,
            bytes_down=self._bytes_down,
            bytes_up=self._bytes_up,
            privacy=self._privacy(),
            # The store's name for it, known before the store is asked: it may be away.
            cid=cid.of(data) if self.services.store else "",
            audit=self._audit.head.hex() if self._audit else "",
        )
        waiting = PendingAnchor(report.number, model, report.cid, report.root, report.metrics_hash().hex())
        state = replace(
            self.state,
            number=report.number,
            model=model,
            progress=self._advance(updates),
            best=probe[SCORE] if self.state.best is None else max(self.state.best, probe[SCORE]),
            pending=() if self.services.anchor is None else (*self.state.pending, waiting),
            moments=moments,
        )
        if self.folder:
            self.folder.save_model(data, model)
            if moments:
                self.folder.save_moments(ex.to_safetensors(candidate.moments), moments)
            self.folder.save_record(report.number, report.record())
            self.folder.save_state(state)
        self.state, self.weights, self.moments = state, candidate.arrays, candidate.moments
        if self.folder:
            self.folder.drop_moments(moments)
            self._event("saved", f"round {report.number} written to {self.folder.path}")
        elif state.pending:
            self._unpublished[model] = data
        if self.services.anchor is None and self.services.store is not None:
            self.services.store.put(data)
        self._settle()
        self._event(
            "round",
            f"round {report.number}: {len(updates)} updates, {len(report.rejected)} rejected, {report.rule},"
            f" probe {probe[SCORE]:.4f}, model {model[:16]}",
            {"model": model, "probe": probe, "train": train, "evaluate": evaluated},
        )
        if self.folder and self.services.anchor is not None:
            self.folder.prune({self.state.model, *(entry.model for entry in self.state.pending)}, report.number)
        return replace(report, transaction=self._transactions.get(report.number))

    def _settle(self) -> str:
        """Anchor what waits; gives why the first of the rounds that still wait could not be."""
        if not self.state.pending:
            return ""
        load = self.folder.model_bytes if self.folder else self._unpublished.__getitem__
        settled = settle(self.state, self.services, load, self._anchored, self.folder)
        if settled.state.pending:
            self.state = settled.state
            numbers = [entry.number for entry in self.state.pending]
            self._event(
                "pending",
                f"{rounds_text(numbers)} waiting for the anchor: {settled.trouble}",
                {"rounds": numbers, "reason": settled.trouble},
                numbers[0],
            )
        return settled.trouble

    def _anchored(self, state: State, entry: PendingAnchor, transaction: str | None) -> None:
        self.state = state
        self._transactions[entry.number] = transaction
        self._unpublished.pop(entry.model, None)
        if self.folder:
            self.folder.save_state(state)
        text = transaction or "it was on the chain already"
        self._event("anchored", f"round {entry.number} anchored: {text}", {"transaction": transaction}, entry.number)

    def _wait_for_anchors(self) -> None:
        end = time.monotonic() + self.config.anchor_wait
        pause = 1.0
        while trouble := self._settle():
            left = end - time.monotonic()
            if left <= 0:
                numbers = [entry.number for entry in self.state.pending]
                raise PendingError(waiting_text(numbers, trouble, self.folder.path if self.folder else None))
            time.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _advance(self, updates: tuple[Update, ...]) -> dict[str, float]:
        """The next round's progress: by the median of what the members reached, which one liar cannot move far."""
        reached = {name: float(median(u.metrics[name] for u in updates)) for name in self.task.metrics}
        return self.task.advance(self.state.progress, self.config.local_steps, reached)

    def _begin(self, initial: ArrayRecord) -> None:
        own = {name: np.asarray(initial[name].numpy(), np.float32) for name in sorted(initial)}
        self.state, self.weights = find_start(own, self.task.begin(self.config.training), self.services, self.folder)
        found = self.probe.evaluate(self.weights)
        if objection := self.probe.objection(found, None):
            raise CheckpointError(f"model {self.state.model[:16]} cannot be trained on: {objection}")
        if self.state.best is None:
            self.state = replace(self.state, best=found[SCORE])
        self._begin_moments()
        if self.folder:
            self.folder.save_model(ex.to_safetensors(self.weights), self.state.model)
            self.folder.save_state(self.state)
        self.resumed_from = self.state.number
        if self.services.members:
            self._members = self.services.members()
        kind = "resumed" if self.state.number else "started"
        self._event(kind, f"round {self.state.number}, model {self.state.model[:16]}", {"probe": found})

    def _begin_moments(self) -> None:
        """Those that the folder holds for this state, or none yet: then the next round's are the first."""
        if not self._shared:
            return
        if self.folder and self.folder.has_moments(self.state.moments):
            self.moments = self.folder.load_moments(self.state.moments)
            check(self.moments, self.weights)
        else:
            self.moments = begin(self.weights)
            if self.state.number:
                self._event("moments", f"those of round {self.state.number} are not here: the optimiser begins anew")

    # Flower's four steps

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One training message for every node that is there; waits for the quorum until the deadline."""
        nodes = self._wait_for_quorum(grid)
        members = self._known_members()
        assignment = self._assignment(server_round, bytes.fromhex(self.state.model))
        self._expected = Expectation(
            number=server_round,
            base=assignment.base,
            federation=assignment.federation,
            shapes=ex.shapes_of(self.weights),
            base_norm=self._longest_gradient() if self._shared else float(np.linalg.norm(flatten(self.weights))),
            # who has much to learn still sends long gradients when the others' have become short
            common_norm=CLIP if self._shared else 0.0,
            nodes=frozenset(nodes),
            members=members,
            metrics=self.task.metrics,
            encoding=self.config.encoding,
        )
        order = ConfigRecord(dict(assignment.to_config()))
        shared = {ex.MOMENTS: to_record(self.moments)} if self._shared else {}
        self._event("asked", f"round {server_round}: {len(nodes)} nodes asked")
        messages = []
        for node in nodes:
            content = RecordDict({ex.ARRAYS: arrays, **shared, ex.ASSIGNMENT: order, **self._orders(node)})
            messages.append(grid.create_message(content, MessageType.TRAIN, node, str(server_round)))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Screen and aggregate; (None, None) when the quorum is missed or the sum is not finite."""
        self._candidate, self._screened, self._probed = None, None, {}
        if self._expected is None or self._expected.number != server_round:
            raise SettingsError(f"round {server_round} was not configured: call configure_train first")
        screened = self._screened = self._screen(replies, self._expected)
        for gone in screened.rejected:
            log.warning("round %d: reply of node %d rejected: %s: %s", server_round, gone.node, gone.code, gone.detail)
        self._event(
            "screened",
            f"round {server_round}: {len(screened.accepted)} accepted, {len(screened.rejected)} rejected",
            {
                "accepted": [u.node for u in screened.accepted],
                "rejected": [(r.node, r.code) for r in screened.rejected],
            },
        )
        if len(screened.accepted) < self.config.quorum:
            self._refusal = f"{len(screened.accepted)} updates accepted, the quorum is {self.config.quorum}"
            return None, None
        merged = self._merge(screened.accepted)
        if isinstance(merged, str):
            self._refusal = merged
            return None, None
        if merged.note:
            log.warning("round %d: %s", server_round, merged.note)
        moments = self.moments
        if self._shared:
            merged, moments = self._stepped(merged)
        arrays = apply(self.weights, merged.deltas)
        if not all(np.isfinite(array).all() for array in (*arrays.values(), *moments.values())):
            self._refusal = "the sum of weights and updates is not finite"
            return None, None
        self._candidate = _Candidate(arrays, screened, merged, moments)
        self._event("aggregated", f"round {server_round}: {merged.rule} of {len(merged.nodes)} updates")
        metrics = {name: _mean(screened.accepted, name) for name in self.task.figures if name in self.task.metrics}
        metrics[ex.NUM_EXAMPLES] = float(sum(u.metrics[ex.NUM_EXAMPLES] for u in screened.accepted))
        return to_record(arrays), MetricRecord(dict(metrics))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One evaluation message for every node whose update was accepted."""
        if self._candidate is None:
            return []
        assignment = self._assignment(server_round, ex.model_hash(self._candidate.arrays))
        content = RecordDict({ex.ARRAYS: arrays, ex.ASSIGNMENT: ConfigRecord(dict(assignment.to_config()))})
        nodes = [u.node for u in self._candidate.screened.accepted]
        return [grid.create_message(content, MessageType.EVALUATE, node, str(server_round)) for node in nodes]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Mean of the hospitals' figures, each hospital counting once; unusable replies are left out."""
        found: dict[int, dict[str, float]] = {}
        for reply in replies:
            try:
                found[int(reply.metadata.src_node_id)] = read_metrics(reply, self.task.figures, self.config.limits)
            except Exception as error:  # foreign input, and nothing is decided by it
                log.warning("round %d: evaluation not usable: %s", server_round, type(error).__name__)
        self._sites = {node: found[node] for node in sorted(found)}
        if not found:
            return None
        ordered = [found[node] for node in sorted(found)]
        means = {name: sum(f[name] for f in ordered) / len(ordered) for name in self.task.figures}
        if not np.isfinite(list(means.values())).all():
            return None
        return MetricRecord({**means, "hospitals": len(ordered)})

    def summary(self) -> None:
        """Log the configuration."""
        c = self.config
        signed = "signed by members" if self.services.members else "unsigned: no members are configured"
        log.info(
            "%d rounds of %d steps, quorum %d, rule %s, updates %s", c.rounds, c.local_steps, c.quorum, c.rule, signed
        )

    # What a private run does in another way

    def _orders(self, node: int) -> dict[str, ConfigRecord]:
        """Records for a node beside weights and assignment."""
        return {}

    def _screen(self, replies: Iterable[Message], expected: Expectation) -> Screened:
        return screen(replies, expected, self.config.limits)

    def _merge(self, updates: tuple[Update, ...]) -> Aggregate | str:
        """One difference out of the accepted updates, or why there is none."""
        c = self.config
        if not self._shared:
            return aggregate(updates, c.rule, trim=c.trim, attackers=c.attackers, step=c.server_step)
        units = sizes(self.moments, self.weights, self._steps[0])
        merged = aggregate([_in_units(u, units) for u in updates], c.rule, trim=c.trim, attackers=c.attackers)
        return replace(merged, deltas={name: units[name] * delta for name, delta in merged.deltas.items()})

    def _stepped(self, merged: Aggregate) -> tuple[Aggregate, dict[str, ex.Float32]]:
        """The steps that the round's mean gradient makes, and the moments after them."""
        deltas, moments = moved(self.weights, self.moments, merged.deltas, self._steps)
        return replace(merged, deltas=deltas), moments

    @property
    def _steps(self) -> list[Step]:
        """How the optimiser makes the steps of this round."""
        begun, settings = int(self.state.progress["step"]), self.config.training
        return [partial(self.task.adam, settings, begun + i) for i in range(self.config.local_steps)]

    def _longest_gradient(self) -> float:
        """Beyond it a gradient is no hospital's: one is no longer than the clip, and an encoding may add to it."""
        return math.inf if self.config.privacy.mode == LOCAL else 2 * CLIP

    def _privacy(self) -> dict[str, Any]:
        """What the record says about privacy."""
        return {}

    # Small parts

    def _assignment(self, number: int, base: bytes) -> ex.Assignment:
        return ex.Assignment(
            number=number,
            attempt=self.state.attempts,
            base=base,
            federation=self.services.federation,
            task=self.task.name,
            steps=self.config.local_steps,
            settings=self.task.flat(self.config.training),
            progress=self.state.progress,
            encoding=self.config.encoding,
            feedback=self.config.feedback,
            optimiser=self.config.optimiser,
        )

    @property
    def _shared(self) -> bool:
        return self.config.optimiser == "shared"

    def _known_members(self) -> frozenset[str] | None:
        """Who may sign now; while the chain does not answer, who might when it last did."""
        if self.services.members is None:
            return None
        try:
            self._members = self.services.members()
        except ChainError as error:
            if self._members is None:
                raise
            self._event("members", f"the last known list of {len(self._members)} members is used: {error}")
        return self._members

    def _wait_for_quorum(self, grid: Grid) -> list[int]:
        end = time.monotonic() + self._deadline
        said, count = 0.0, -1
        while len(nodes := sorted(set(patiently(grid.get_node_ids, end)))) < self.config.quorum:
            now = time.monotonic()
            if now >= end:
                raise QuorumError(
                    f"{len(nodes)} hospitals are connected, the quorum is {self.config.quorum}: start more or lower it"
                )
            if len(nodes) != count or now > said + REMIND:
                said, count = now, len(nodes)
                text = f"{count} hospitals are connected, the quorum is {self.config.quorum}"
                self._event("absent", f"{text}: waiting {end - now:.0f} s more", {"nodes": nodes})
            time.sleep(min(1.0, max(0.01, end - now)))
        return nodes

    _deadline = 0.0

    def _event(self, kind: str, text: str, figures: dict[str, Any] | None = None, number: int | None = None) -> None:
        log.info("%s: %s", kind, text)
        event = Event(kind, self.state.number if number is None else number, self.state.attempts, text, figures or {})
        if self._audit:
            self._audit.append(kind, {name: value for name, value in vars(event).items() if name != "kind"})
        if self.services.on_event:
            self.services.on_event(event)


def _entry(update: Update) -> UpdateEntry:
    return UpdateEntry(
        node=update.node,
        examples=int(update.metrics[ex.NUM_EXAMPLES]),
        signer=update.signer,
        update=update.update.hex(),
        digest=update.digest.hex(),
        signature=update.signature.hex(),
        leaf=update.leaf.hex(),
        figures=dict(update.metrics),
    )


def _in_units(update: Update, units: dict[str, NDArray[np.float64]]) -> Update:
    deltas = {name: np.asarray(delta / units[name], np.float32) for name, delta in update.deltas.items()}
    return replace(update, deltas=deltas, norm=float(np.linalg.norm(flatten(deltas))))


def _mean(updates: tuple[Update, ...], name: str) -> float:
    return sum(u.metrics[name] for u in updates) / len(updates)


def _figures(record: MetricRecord | None) -> dict[str, float]:
    return {name: float(value) for name, value in (record or {}).items() if isinstance(value, int | float)}
