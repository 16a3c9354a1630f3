"""Questions and answers: all of them, the deadline, nodes that leave, enough of them and a grace period."""

import httpx
import pytest
from flwr.app import Error, Message, RecordDict

from medprov_coordinator import asking
from medprov_coordinator.asking import ask


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += max(seconds, 0.001)


class SlowGrid:
    """Nodes that answer at given times, with an error, never, or that have left before they are asked."""

    def __init__(self, kit, clock, answers) -> None:
        self.kit, self.clock, self.answers = kit, clock, answers
        self.start, self.pulled = clock.now, 0

    def push_messages(self, messages):
        self.names = [f"m{i}" if self.answers[i] != "left" else None for i, _ in enumerate(messages)]
        return self.names

    def pull_messages(self, names):
        self.pulled += 1
        found = []
        for name in names:
            index = int(name[1:])
            answer = self.answers[index]
            due, error = answer if isinstance(answer, tuple) else (answer, False)
            if due is not None and self.clock.now - self.start >= due:
                question = self.kit.question(101 + index)
                question.metadata.__dict__["_message_id"] = name
                content = Error(code=3, reason="gone") if error else RecordDict()
                found.append(Message(content, reply_to=question))
        return found


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(asking, "time", made)
    return made


def nodes(kit, clock, answers, *, deadline=60.0, quorum=2, grace=0.0):
    grid = SlowGrid(kit, clock, answers)
    questions = [kit.question(101 + i) for i in range(len(answers))]
    return [reply.metadata.src_node_id for reply in ask(grid, questions, deadline, quorum, grace)]


def test_all_answers_end_the_wait(kit, clock, identity):
    assert nodes(kit, clock, [5.0, 0.0, 2.0]) == [102, 103, 101]
    assert clock.now - 100 == pytest.approx(5, abs=2 * asking.PAUSE)


def test_slow_and_silent_nodes_do_not_hold_a_round_past_its_deadline(kit, clock, identity):
    assert nodes(kit, clock, [1.0, None, 61.0]) == [101]
    assert clock.now - 100 == pytest.approx(60, abs=0.1)


def test_node_that_has_left_before_it_is_asked_is_not_waited_for(kit, clock, identity):
    assert nodes(kit, clock, [1.0, "left", 2.0]) == [101, 103]
    assert clock.now - 100 < 4


def test_error_is_an_answer(kit, clock, identity):
    assert nodes(kit, clock, [1.0, (2.0, True)]) == [101, 102]


def test_grace_begins_when_the_quorum_has_answered_without_an_error(kit, clock, identity):
    assert nodes(kit, clock, [1.0, (2.0, True), 10.0, 14.0, 30.0], grace=5.0) == [101, 102, 103, 104]
    assert clock.now - 100 == pytest.approx(15, abs=2 * asking.PAUSE)


def test_grace_does_not_lengthen_the_deadline(kit, clock, identity):
    assert nodes(kit, clock, [1.0, 58.0, None], grace=30.0) == [101, 102]
    assert clock.now - 100 == pytest.approx(60, abs=0.1)


def test_without_grace_the_rest_is_waited_for(kit, clock, identity):
    assert nodes(kit, clock, [0.0, 0.0, 59.0]) == [101, 102, 103]


def status(code):
    request = httpx.Request("POST", "https://superlink/v1/runtime/pull-messages")
    return httpx.HTTPStatusError(f"{code}", request=request, response=httpx.Response(code, request=request))


def test_overloaded_superlink_is_asked_again(kit, clock, identity, monkeypatch):
    failures = [status(500), status(503)]
    original = SlowGrid.pull_messages

    def locked(self, names):
        if failures:
            raise failures.pop()
        return original(self, names)

    monkeypatch.setattr(SlowGrid, "pull_messages", locked)
    assert nodes(kit, clock, [1.0, 2.0]) == [101, 102] and failures == []


def test_refusal_and_lasting_failure_of_the_superlink_are_raised(kit, clock, identity, monkeypatch):
    for code, seconds in ((403, 0), (500, 60)):
        begin, error = clock.now, status(code)
        monkeypatch.setattr(SlowGrid, "pull_messages", lambda self, names, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(httpx.HTTPStatusError):
            nodes(kit, clock, [None])
        assert clock.now - begin == pytest.approx(seconds, abs=2)


def test_nobody_to_ask(kit, clock, identity):
    assert nodes(kit, clock, []) == [] and nodes(kit, clock, ["left"]) == []


def test_what_the_superlink_answers_for_a_lost_node_counts_for_that_node(kit, clock, identity):
    class Answering(SlowGrid):
        def pull_messages(self, names):
            found = super().pull_messages(names)
            for reply in found:
                reply.metadata.__dict__["_src_node_id"] = 1
            return found

    grid = Answering(kit, clock, [(0.0, True), 1.0])
    replies = ask(grid, [kit.question(101), kit.question(102)], 60.0, 2, 0.0)
    assert [(reply.metadata.src_node_id, reply.has_error()) for reply in replies] == [(101, True), (1, False)]
    assert replies[0].error.reason == "gone"
