"""A run's figures for Prometheus, in a registry of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from medprov_coordinator.watch import words
from medprov_coordinator.watch.chain_view import ChainState
from medprov_coordinator.watch.run_folder import Run

QUALITY = ("bit-accuracy", "accuracy", "dice", "score")
"""Figures of a site that say how good the model is there; the first one that a site gives is taken."""


def quality(figures: dict[str, float]) -> tuple[str, float] | None:
    """Name and value of the figure that says how good the model is at a site; None where it gave none."""
    return next(((name, figures[name]) for name in QUALITY if name in figures), None)


def exposition(run: Run, chain: ChainState) -> bytes:
    """The figures in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(run, chain))
    return generate_latest(registry)


class _Figures(Collector):
    def __init__(self, run: Run, chain: ChainState) -> None:
        self._run, self._chain = run, chain

    def collect(self) -> Iterator[Metric]:
        run, chain, history = self._run, self._chain, self._run.history
        number = max(run.rounds[-1].number if run.rounds else 0, run.stands_at or 0)
        yield GaugeMetricFamily("medprov_rounds", "Accepted rounds.", number)
        yield CounterMetricFamily("medprov_attempts", "Attempts at rounds.", run.attempts or 0)
        yield CounterMetricFamily("medprov_refused_attempts", "Attempts that were refused.", history.refused)
        accepted = sum(len(record.updates) for record in run.rounds)
        yield CounterMetricFamily("medprov_updates_accepted", "Updates that went into a round.", accepted)
        rejected = CounterMetricFamily("medprov_updates_rejected", "Replies that were not used.", labels=["reason"])
        reasons: Counter[str] = Counter()
        for code, count in run.rejections.items():
            # two codes that are shown alike are one: Prometheus refuses an answer that has a label twice
            reasons[words.clean(code, 60)] += count
        for reason, count in sorted(reasons.items()):
            rejected.add_metric([reason], count)
        yield rejected
        members = run.members
        yield GaugeMetricFamily("medprov_members", "Members that ever replied.", len(members))
        waiting = [record for record in run.rounds if words.anchor_of(record, run, chain)[0] == "waiting"]
        yield GaugeMetricFamily("medprov_pending_anchors", "Rounds that wait for their anchor.", len(waiting))
        yield GaugeMetricFamily("medprov_audit_log_entries", "Good lines of the audit log.", history.entries)
        good = GaugeMetricFamily("medprov_audit_log_good", "1 where every line is as it was written, else 0.")
        good.add_metric([], 0 if history.broken_line or history.absent else 1)
        yield good
        yield GaugeMetricFamily("medprov_problems", "Damaged or foreign files in the folder.", len(run.problems))
        if (last := _last_anchor(run, chain)) is not None:
            yield GaugeMetricFamily("medprov_last_anchor_timestamp_seconds", "When a round was anchored last.", last)
        sent = CounterMetricFamily("medprov_sent_bytes", "Bytes of weights and updates.", labels=["direction"])
        sent.add_metric(["down"], sum(record.bytes_down or 0 for record in run.rounds))
        sent.add_metric(["up"], sum(record.bytes_up or 0 for record in run.rounds))
        yield sent
        if not run.rounds:
            return
        newest = run.rounds[-1]
        for name, text, value in (
            ("medprov_score", "Probe score of the newest round, higher is better.", newest.score),
            ("medprov_loss", "Loss of the newest round.", newest.loss),
            ("medprov_round_seconds", "Time of the newest round.", history.seconds.get(newest.number)),
            ("medprov_round_bytes_down", "Bytes to the members in the newest round.", newest.bytes_down),
            ("medprov_round_bytes_up", "Bytes from the members in the newest round.", newest.bytes_up),
        ):
            if value is not None:
                yield GaugeMetricFamily(name, text, value)
        names = words.Names(run, chain)
        loss = GaugeMetricFamily("medprov_site_loss", "Loss at a site, last known.", labels=["site", "node"])
        good = GaugeMetricFamily(
            "medprov_site_quality", "Quality at a site, last known.", labels=["site", "node", "figure"]
        )
        for member in members:
            labels = [names.of(member.node, member.signer), str(member.node)]
            if "loss" in member.figures:
                loss.add_metric(labels, member.figures["loss"])
            if (found := quality(dict(member.figures))) is not None:
                good.add_metric([*labels, found[0]], found[1])
        yield loss
        yield good


def _last_anchor(run: Run, chain: ChainState) -> float | None:
    if chain.rounds:
        return float(max(found.time for found in chain.rounds.values()))
    if not run.history.anchored_at:
        return None
    try:
        return max(datetime.fromisoformat(text).timestamp() for text in run.history.anchored_at.values())
    except ValueError:
        return None
