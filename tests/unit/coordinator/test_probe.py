"""The rule that refuses a round: it objects to worse models and to nothing else."""

import pytest

from medprov_coordinator.probe import Probe


class Pictures:
    """A probe set whose figures are given."""

    def __init__(self, **found: float) -> None:
        self.found = found

    def evaluate(self, arrays):
        """Give the figures."""
        return self.found


@pytest.mark.parametrize(
    ("score", "best", "refused"),
    [(0.9, None, False), (0.9, 0.91, False), (0.9, 0.93, True), (0.95, 0.9, False), (float("nan"), None, True)],
)
def test_objection(score, best, refused):
    probe = Probe(Pictures(score=score, loss=0.1), tolerance=0.02)
    assert bool(probe.objection(probe.evaluate({}), best)) is refused


def test_infinite_loss_is_objected_to():
    probe = Probe(Pictures(score=0.9, loss=float("inf")))
    assert "finite" in probe.objection(probe.evaluate({}), 0.5)


def test_figures_are_rounded_for_the_record():
    assert Probe(Pictures(score=0.5, loss=0.1234567891)).evaluate({}) == {"score": 0.5, "loss": 0.123457}
