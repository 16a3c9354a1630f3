"""Records as a reader finds them: older ones, damaged ones, and ones whose parts do not fit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from medprov_coordinator.watch.records import DEPTH, parse_record
from medprov_ledger.merkle import root
from medprov_watermark.training import exchange as ex

FEDERATION = bytes(range(32))


@pytest.fixture
def body(folder: Path) -> dict[str, Any]:
    """The record of round 2, as the strategy writes it."""
    found: dict[str, Any] = json.loads((folder / "rounds" / "000002.json").read_text())
    return found


def packed(body: dict[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def signed(body: dict[str, Any]) -> dict[str, Any]:
    """The record with the digests of `FEDERATION`, and leaves and a root that fit them."""
    for row in body["updates"]:
        update = hashlib.sha256(str(row["node"]).encode()).digest()
        digest = ex.update_digest(FEDERATION, body["round"], bytes.fromhex(body["base"]), update, row["examples"])
        row["update"] = update.hex()
        row["digest"], row["leaf"] = digest.hex(), ex.update_leaf(digest, b"").hex()
    body["root"] = root([bytes.fromhex(row["leaf"]) for row in body["updates"]]).hex()
    return body


def test_a_record_is_read_as_it_was_written(body: dict[str, Any]) -> None:
    data = packed(body)
    found = parse_record(data)
    assert (found.number, found.attempt, found.base, found.model) == (2, 2, body["base"], body["model"])
    assert [row.node for row in found.updates] == [101, 102] and found.updates[0].figures["loss"] == 0.5
    assert [(row.node, row.code, row.detail) for row in found.rejected] == [
        (103, "not_finite", body["rejected"][0]["detail"])
    ]
    assert found.sites == {101: {"loss": 0.4, "bit-accuracy": 0.9}, 102: {"loss": 0.6, "bit-accuracy": 0.7}}
    assert (found.bytes_down, found.bytes_up, found.task, found.encoding) == (2000, 1000, "watermark", "float32")
    assert found.hash == hashlib.sha256(data).hexdigest()


def test_a_record_of_an_older_release_has_defaults_where_it_lacks_fields() -> None:
    found = parse_record(b'{"round":1,"version":1}')
    assert (found.number, found.attempt, found.updates, found.rejected, found.sites) == (1, 0, (), (), {})
    assert (found.bytes_down, found.bytes_up, found.task, found.audit, found.score, found.loss) == (
        None, None, "", "", None, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"version": 2}, "version 2 is unknown"),
        ({"version": "1" * 100}, "version 1{20} is"),
        ({"round": 0}, "round is not a whole number from 1"),
        ({"round": True}, "round is not"),
        ({"round": 2**64}, "round is not"),
        ({"round": None}, "round is not"),
        ({"attempt": -1}, "attempt is not"),
        ({"base": 5}, "base is not text"),
        ({"updates": {}}, "updates is not a list"),
        ({"updates": None}, "updates is not a list"),
        ({"updates": [7]}, "updates is not an object"),
        ({"updates": [{"node": "101"}]}, "updates.node is not"),
        ({"updates": [{"node": 1, "examples": 2**64}]}, "updates.examples is not"),
        ({"rejected": [{"node": 1, "code": ["norm"]}]}, "rejected.code is not text"),
        ({"probe": [1.0]}, "probe is not an object"),
        ({"bytes_up": -1}, "bytes_up is not"),
        ({"bytes_up": 10**400}, "bytes_up is not"),
        ({"bytes_down": 1.5}, "bytes_down is not"),
        ({"sites": "all"}, "sites is neither"),
        ({"sites": {"x": {}}}, "sites: a name is not"),
        ({"sites": {"101": 0.5}}, "sites.101 is not an object"),
        ({"sites": [0.5]}, "sites is not an object"),
    ],
)
def test_what_is_wrong_with_a_record_is_named(body: dict[str, Any], fields: dict[str, Any], why: str) -> None:
    parse_record(packed(body))
    with pytest.raises(ValueError, match=why):
        parse_record(packed({**body, **fields}))


@pytest.mark.parametrize("data", [b"", b"{", b"\xff{}", b'{"round":1,"version":1,"train":{"loss":NaN}}', b"1" * 5000])
def test_bytes_that_are_no_json(data: bytes) -> None:
    with pytest.raises(ValueError, match="is not JSON"):
        parse_record(data)


def test_no_object_is_no_record() -> None:
    with pytest.raises(ValueError, match="is not a JSON object"):
        parse_record(b"[]")


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"version":1,"round":1,"note":"]]]\\"","x":[', b'["\\"",'])
def test_deep_nesting_is_refused_and_does_not_end_the_process(opening: bytes) -> None:
    with pytest.raises(ValueError, match=f"nested deeper than {DEPTH}"):
        parse_record(opening * 200_000)


def test_brackets_within_a_text_are_no_nesting(body: dict[str, Any]) -> None:
    text = '[{\\"' * 1000
    body["rejected"][0]["detail"] = text
    assert parse_record(packed(body)).rejected[0].detail == text


@pytest.mark.parametrize("value", ["1e999", "-1e999", "1" + "0" * 400, "1e301", '"0.5"', "true", "null", "[1]"])
def test_a_figure_that_is_no_usable_number_is_left_out(body: dict[str, Any], value: str) -> None:
    """Everywhere that figures are, in both forms of the sites."""
    body["train"] = body["updates"][0]["figures"] = {"loss": "?", "good": 0.25}
    for sites in ({"101": {"loss": "?", "good": 0.25}}, [{"node": 101, "loss": "?", "good": 0.25}]):
        found = parse_record(packed({**body, "sites": sites}).replace(b'"?"', value.encode()))
        assert found.train == found.updates[0].figures == found.sites[101] == {"good": 0.25}


def test_what_a_site_measured_stands_over_what_it_trained_with(body: dict[str, Any]) -> None:
    body["updates"][0]["figures"] = {"loss": 0.5, "skipped-images": 1.0}
    del body["sites"]["102"]
    body["sites"]["103"] = {"loss": 0.9}
    found = parse_record(packed(body)).site_figures()
    assert found[101] == {"loss": 0.4, "bit-accuracy": 0.9, "skipped-images": 1.0}
    assert found[102] == {"loss": 0.5, "bit-accuracy": 0.8} and found[103] == {"loss": 0.9}


@pytest.mark.parametrize(
    ("probe", "score", "loss"),
    [
        ({"score": 0.5, "accuracy": 0.6, "loss": 0.1}, 0.5, 0.1),
        ({"accuracy": 0.6}, 0.6, 0.25),
        ({"score": 0.0, "accuracy": 0.6, "loss": 0.0}, 0.0, 0.0),
        ({}, None, 0.25),
    ],
)
def test_score_and_loss_have_second_choices(
    body: dict[str, Any], probe: dict[str, float], score: float | None, loss: float
) -> None:
    found = parse_record(packed({**body, "probe": probe, "train": {"loss": 0.25}}))
    assert (found.score, found.loss) == (score, loss)


def test_leaves_and_root_are_computed_again(body: dict[str, Any]) -> None:
    assert parse_record(packed(body)).complaint() == ""
    for field, value, why in (
        ("digest", "11" * 32, "the leaf of node 101"),
        ("signature", "11" * 65, "the leaf of node 101"),
        ("leaf", "11" * 32, "the leaf of node 101"),
        ("digest", "<b>", "the root cannot be computed again"),
        ("signature", "zz", "the root cannot be computed again"),
    ):
        changed = json.loads(packed(body))
        changed["updates"][0][field] = value
        assert why in parse_record(packed(changed)).complaint(), field
    changed = {**body, "updates": body["updates"][:1]}
    assert parse_record(packed(changed)).complaint() == "the root is not that of the updates' leaves"
    updates: list[Any]
    for updates in ([], body["updates"][:1] * 2):
        assert "cannot be computed again" in parse_record(packed({**body, "updates": updates})).complaint()


def test_digests_are_those_of_round_base_update_and_examples(body: dict[str, Any]) -> None:
    good = signed(body)
    assert parse_record(packed(good)).misfit(FEDERATION) == ""
    assert "node 101 signed another" in parse_record(packed(good)).misfit(bytes(32))
    assert "node 101 signed another" in parse_record(packed({**good, "round": 3})).misfit(FEDERATION)
    for field, value, why in (
        ("examples", 11, "node 102 signed another"),
        ("update", "bb" * 32, "node 102 signed another"),
        ("update", "bb", "node 102 cannot be computed again"),
        ("update", "?", "node 102 cannot be computed again"),
        ("examples", 2**64 - 1, "node 102 signed another"),
    ):
        changed = json.loads(packed(good))
        changed["updates"][1][field] = value
        assert why in parse_record(packed(changed)).misfit(FEDERATION), field
