"""Flower strategy of the consortium: quorum, deadline, gate, robust aggregation, probe, checkpoint, anchor, resume.

None of Flower's own strategies checks for NaN, and one malformed reply ends their run. Here a round has a fixed order:
ask every node, screen, aggregate in float64, measure on the public probe, write to the disk, anchor. A round that fails
before the anchor leaves the model as it was and is tried again with other seeds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from medprov_coordinator.aggregation import Aggregate, aggregate, apply
from medprov_coordinator.checkpoint import CheckpointFolder, State
from medprov_coordinator.errors import CheckpointError, QuorumError, RoundRefusedError, SettingsError
from medprov_coordinator.probe import Probe, as_figures, phantoms
from medprov_coordinator.resume import find_start
from medprov_coordinator.round import Event, RoundReport, Services, UpdateEntry
from medprov_coordinator.run_config import RunConfig
from medprov_coordinator.screening import Expectation, Screened, Update, flatten, read_metrics, screen
from medprov_ledger.merkle import root as merkle_root
from medprov_watermark.training import exchange as ex

log = logging.getLogger("medprov.coordinator")


def to_record(arrays: ex.Arrays) -> ArrayRecord:
    """Weights or differences as Flower sends them."""
    return ArrayRecord({name: Array(np.asarray(arrays[name], order="C")) for name in sorted(arrays)})


@dataclass(frozen=True)
class _Candidate:
    """What a round would make of the model."""

    arrays: dict[str, ex.Float32]
    screened: Screened
    merged: Aggregate


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
        self.probe = probe or Probe(phantoms(config.probe_pictures), config.probe_tolerance, config.probe_db)
        self.weights: dict[str, ex.Float32] = {}
        self.state = State(0, 0, "", ex.Curriculum())
        self.reports: list[RoundReport] = []
        self.resumed_from = 0
        self._expected: Expectation | None = None
        self._candidate: _Candidate | None = None
        self._refusal = ""
        self._refused = 0

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
            Folder and chain disagree, or a file is damaged.
        """
        if train_config is not None or evaluate_config is not None:
            raise SettingsError("the strategy makes the assignment itself: set RunConfig instead of Flower's configs")
        rounds = num_rounds or self.config.rounds
        self._deadline = timeout or self.config.deadline
        result = Result()
        self.summary()
        self._begin(initial_arrays)
        self._refused = 0
        while self.state.number < rounds:
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
        self._event("finished", f"{self.state.number} rounds, model {self.state.model[:16]}")
        return result

    def _attempt(self, grid: Grid, result: Result) -> RoundReport | None:
        self.state = replace(self.state, attempts=self.state.attempts + 1)
        number = self.state.number + 1
        messages = self.configure_train(number, to_record(self.weights), ConfigRecord(), grid)
        arrays, metrics = self.aggregate_train(number, grid.send_and_receive(messages, timeout=self._deadline))
        candidate = self._candidate
        if arrays is None or candidate is None:
            self._refuse(self._refusal)
            return None
        found = self.probe.evaluate(candidate.arrays, self.config.training)
        if objection := self.probe.objection(found, self.state.best):
            self._refuse(objection)
            return None
        evaluated: MetricRecord | None = None
        if self.config.evaluate:
            messages = self.configure_evaluate(number, arrays, ConfigRecord(), grid)
            evaluated = self.aggregate_evaluate(number, grid.send_and_receive(messages, timeout=self._deadline))
        report = self._accept(candidate, as_figures(found), _figures(metrics), _figures(evaluated), found.accuracy)
        result.train_metrics_clientapp[number] = metrics or MetricRecord()
        result.evaluate_metrics_serverapp[number] = MetricRecord(dict(report.probe))
        if evaluated is not None:
            result.evaluate_metrics_clientapp[number] = evaluated
        return report

    def _refuse(self, why: str) -> None:
        self._refusal = why
        if self.folder:
            # The attempt is counted on the disk too: a resumed run must draw the seeds that this run would draw next.
            self.folder.save_state(self.state)
        self._event("refused", f"round {self.state.number + 1} refused: {why}")

    def _accept(
        self,
        candidate: _Candidate,
        probe: dict[str, float],
        train: dict[str, float],
        evaluated: dict[str, float],
        accuracy: float,
    ) -> RoundReport:
        data = ex.to_safetensors(candidate.arrays)
        model = ex.model_hash(candidate.arrays).hex()
        updates = candidate.screened.accepted
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
            cid=self.services.store.put(data) if self.services.store else "",
        )
        state = replace(
            self.state,
            number=report.number,
            model=model,
            curriculum=self._advance(updates),
            best=accuracy if self.state.best is None else max(self.state.best, accuracy),
            anchored=self.services.anchor is None,
            cid=report.cid,
            root=report.root,
            metrics=report.metrics_hash().hex(),
            transaction=None,
        )
        if self.folder:
            self.folder.save_model(data, model)
            self.folder.save_record(report.number, report.record())
            self.folder.save_state(state)
            self._event("saved", f"round {report.number} written to {self.folder.path}")
        self.state, self.weights = state, candidate.arrays
        self._anchor()
        self._event(
            "round",
            f"round {report.number}: {len(updates)} updates, {len(report.rejected)} rejected, {report.rule},"
            f" probe {probe['accuracy']:.4f}, model {model[:16]}",
            {"model": model, "probe": probe, "train": train, "evaluate": evaluated},
        )
        return replace(report, transaction=self.state.transaction)

    def _anchor(self) -> None:
        """Anchor the state's round if it is not yet; a failure leaves it pending on the disk."""
        anchor = self.services.anchor
        if self.state.anchored or anchor is None:
            return
        transaction = anchor.anchor(
            self.state.number,
            bytes.fromhex(self.state.model),
            self.state.cid,
            bytes.fromhex(self.state.root),
            bytes.fromhex(self.state.metrics),
        )
        self.state = replace(self.state, anchored=True, transaction=transaction)
        if self.folder:
            self.folder.save_state(self.state)
        self._event("anchored", f"round {self.state.number} anchored: {transaction}", {"transaction": transaction})

    def _advance(self, updates: tuple[Update, ...]) -> ex.Curriculum:
        """The next round's curriculum: the median of what the members reached, which one liar cannot move far."""

        def middle(name: str) -> float:
            return float(median(u.metrics[name] for u in updates))

        return ex.Curriculum(
            step=self.state.curriculum.step + self.config.local_steps,
            probability=middle(ex.PROBABILITY),
            db=middle(ex.TARGET_DB),
            accuracy=middle(ex.BIT_ACCURACY),
        )

    def _begin(self, initial: ArrayRecord) -> None:
        training = self.config.training
        own = {name: np.asarray(initial[name].numpy(), np.float32) for name in sorted(initial)}
        self.state, self.weights = find_start(own, training, self.services, self.folder)
        found = self.probe.evaluate(self.weights, training)
        if objection := self.probe.objection(found, None):
            raise CheckpointError(f"model {self.state.model[:16]} cannot be trained on: {objection}")
        if self.state.best is None:
            self.state = replace(self.state, best=found.accuracy)
        if self.folder:
            self.folder.save_model(ex.to_safetensors(self.weights), self.state.model)
            self.folder.save_state(self.state)
        self.resumed_from = self.state.number
        self._anchor()
        kind = "resumed" if self.state.number else "started"
        self._event(kind, f"round {self.state.number}, model {self.state.model[:16]}", {"probe": as_figures(found)})

    # Flower's four steps

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One training message for every node that is there; waits for the quorum until the deadline."""
        nodes = self._wait_for_quorum(grid)
        members = self.services.members() if self.services.members else None
        assignment = self._assignment(server_round, bytes.fromhex(self.state.model))
        self._expected = Expectation(
            number=server_round,
            base=assignment.base,
            federation=assignment.federation,
            shapes=ex.shapes_of(self.weights),
            base_norm=float(np.linalg.norm(flatten(self.weights))),
            nodes=frozenset(nodes),
            members=members,
        )
        content = RecordDict({ex.ARRAYS: arrays, ex.ASSIGNMENT: ConfigRecord(dict(assignment.to_config()))})
        self._event("asked", f"round {server_round}: {len(nodes)} nodes asked")
        return [grid.create_message(content, MessageType.TRAIN, node, str(server_round)) for node in nodes]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Screen and aggregate; (None, None) when the quorum is missed or the sum is not finite."""
        self._candidate = None
        if self._expected is None or self._expected.number != server_round:
            raise SettingsError(f"round {server_round} was not configured: call configure_train first")
        screened = screen(replies, self._expected, self.config.limits)
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
        merged = aggregate(screened.accepted, self.config.rule, trim=self.config.trim, attackers=self.config.attackers)
        if merged.note:
            log.warning("round %d: %s", server_round, merged.note)
        arrays = apply(self.weights, merged.deltas)
        if not all(np.isfinite(array).all() for array in arrays.values()):
            self._refusal = "the sum of weights and updates is not finite"
            return None, None
        self._candidate = _Candidate(arrays, screened, merged)
        self._event("aggregated", f"round {server_round}: {merged.rule} of {len(merged.nodes)} updates")
        metrics = {name: _mean(screened.accepted, name) for name in (ex.LOSS, ex.BIT_ACCURACY)}
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
                figures = read_metrics(reply, ex.EVALUATE_METRICS, self.config.limits)
                found[int(reply.metadata.src_node_id)] = figures
            except Exception as error:  # foreign input, and nothing is decided by it
                log.warning("round %d: evaluation not usable: %s", server_round, type(error).__name__)
        if not found:
            return None
        ordered = [found[node] for node in sorted(found)]
        means = {name: sum(f[name] for f in ordered) / len(ordered) for name in (ex.LOSS, ex.BIT_ACCURACY)}
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

    # Small parts

    def _assignment(self, number: int, base: bytes) -> ex.Assignment:
        return ex.Assignment(
            number=number,
            attempt=self.state.attempts,
            base=base,
            federation=self.services.federation,
            steps=self.config.local_steps,
            settings=self.config.training,
            curriculum=self.state.curriculum,
        )

    def _wait_for_quorum(self, grid: Grid) -> list[int]:
        end = time.monotonic() + self._deadline
        while len(nodes := sorted(set(grid.get_node_ids()))) < self.config.quorum:
            if time.monotonic() >= end:
                raise QuorumError(
                    f"{len(nodes)} hospitals are connected, the quorum is {self.config.quorum}: start more or lower it"
                )
            time.sleep(min(1.0, max(0.01, end - time.monotonic())))
        return nodes

    _deadline = 0.0

    def _event(self, kind: str, text: str, figures: dict[str, Any] | None = None) -> None:
        log.info("%s: %s", kind, text)
        if self.services.on_event:
            self.services.on_event(Event(kind, self.state.number, self.state.attempts, text, figures or {}))


def _entry(update: Update) -> UpdateEntry:
    return UpdateEntry(
        node=update.node,
        examples=int(update.metrics[ex.NUM_EXAMPLES]),
        signer=update.signer,
        update=update.update.hex(),
        digest=update.digest.hex(),
        signature=update.signature.hex(),
        leaf=update.leaf.hex(),
    )


def _mean(updates: tuple[Update, ...], name: str) -> float:
    return sum(u.metrics[name] for u in updates) / len(updates)


def _figures(record: MetricRecord | None) -> dict[str, float]:
    return {name: float(value) for name, value in (record or {}).items() if isinstance(value, int | float)}
