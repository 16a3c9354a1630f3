"""The comparison of codes, with few words."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import decoding, tables
from medprov_watermark.payload import Payload, encode

SENT = Payload(b"abcdefgh", b"1234")


@pytest.fixture
def without_reedsolo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "reedsolo", None)
    decoding.reed_solomon.cache_clear()
    yield
    decoding.reed_solomon.cache_clear()


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("amplitude", [0.7, 2.0])
def test_both_codes_have_the_same_energy(amplitude: float) -> None:
    long = np.square(decoding.spread(amplitude) * encode(SENT)).sum()
    assert long == pytest.approx(decoding.RS_BITS * amplitude**2)
    assert decoding.spread(amplitude) < amplitude


@pytest.mark.parametrize(("wrong", "found"), [((), True), ((0, 5), True), ((0, 5, 9, 13), False)])
def test_bounded_distance_corrects_two_bytes(wrong: tuple[int, ...], found: bool) -> None:
    pytest.importorskip("reedsolo")
    soft = decoding.signs_of(bytes(decoding.reed_solomon().encode(SENT.data)))
    assert soft.shape == (decoding.RS_BITS,)
    for byte in wrong:
        soft[8 * byte : 8 * byte + 3] *= -1
    assert (decoding.bounded_distance(soft) == SENT.data) == found


def test_bytes_that_are_known_to_be_weak_are_erased() -> None:
    # Three wrong bytes are beyond the code, but not where two of them say so.
    pytest.importorskip("reedsolo")
    word = decoding.signs_of(bytes(decoding.reed_solomon().encode(SENT.data)))
    for faint, found in ((1.0, False), (0.1, True)):
        soft = word.copy()
        for byte in (2, 7, 11):
            soft[8 * byte : 8 * byte + 8] *= -1
        soft[16:24] *= faint
        soft[56:64] *= faint
        assert (decoding.bounded_distance(soft) == SENT.data) == found


def test_the_decoders_stand_in_their_order_and_fail_without_a_signal() -> None:
    pytest.importorskip("reedsolo")
    faint, middle, strong = (decoding.read(amplitude, 12, rng()) for amplitude in (0.3, 1.7, 5.0))
    assert (strong["bounded distance"], strong["signs"], strong["soft"], strong["wrong"]) == (1, 1, 1, 0)
    assert middle["soft"] > middle["signs"] > middle["bounded distance"]
    assert faint["bounded distance"] == faint["signs"] == faint["soft"] == 0
    assert middle["amplitude"] == 1.7


def test_all_figures_go_into_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("reedsolo")
    monkeypatch.setattr(decoding, "AMPLITUDES", (0.3, 5.0))
    data = decoding.measure(20, 500)
    assert [row["amplitude"] for row in data["read"]] == [0.3, 5.0]
    # The 80 words of noise look as good as a chance at most as often as it says, give or take a few.
    shares = list(data["noise accepted"].values())
    assert list(data["noise accepted"]) == ["0.25", "0.0625", "0.01562", "0.007812"]
    assert sorted(shares, reverse=True) == shares
    assert 0.02 < shares[0] < 0.35
    assert shares[-1] < 0.05
    assert data["noise decoded to a payload"] <= 0.05
    assert (data["records"], data["noise looked up"], data["noise found in the directory"]) == (500, 2, 0)
    (tmp_path / "decoding.json").write_text(json.dumps(data))
    page = tables.page(tmp_path, tmp_path)
    assert "| amplitude | RS(16, 12), bounded distance, % | W1, signs alone, % | W1, % | W1, wrong, % |" in page
    assert "| 5.0 | 100.0 | 100.0 | 100.0 | 0.0 |" in page
    assert f"chance of (share of words): 0.25: {shares[0]:.4f}, 0.0625: " in page


def test_without_reedsolo_its_column_is_left_out(
    without_reedsolo: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "decoding.json"
    monkeypatch.setattr(decoding, "AMPLITUDES", (5.0,))
    monkeypatch.setattr(decoding, "RECORDS", 100)
    monkeypatch.setattr(sys, "argv", ["decoding", "--words", "3", "--json", str(file)])
    assert decoding.main() == 0
    shown = capsys.readouterr().out
    assert "reedsolo is not installed: no figures for RS(16, 12)" in shown
    assert "bounded distance" not in shown
    data = json.loads(file.read_text())
    assert data["read"] == [{"amplitude": 5.0, "soft": 1.0, "signs": 1.0, "wrong": 0.0}]
    assert (data["words"], data["records"]) == (3, 100)
    page = tables.page(tmp_path, tmp_path)
    assert "| amplitude | W1, signs alone, % | W1, % | W1, wrong, % |\n|---|---|---|---|\n| 5.0 | 100.0 |" in page
    assert "RS(16, 12)" not in page


def test_the_quick_form_is_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def measure(words: int, records: int) -> dict[str, list[object]]:
        asked.append((words, records))
        return {"read": []}

    monkeypatch.setattr(decoding, "measure", measure)
    for options in ([], ["--quick"]):
        monkeypatch.setattr(sys, "argv", ["decoding", *options])
        assert decoding.main() == 0
    assert asked == [(1000, decoding.RECORDS), (50, decoding.RECORDS // 10)]
