"""Charts as SVG: figures in place, texts escaped, nothing and one point too."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medprov_coordinator.watch.charts import Chart, svg

SERIES = st.dictionaries(
    st.text(max_size=8), st.dictionaries(st.integers(1, 500), st.floats(-1e9, 1e9), max_size=8), max_size=4
)


@settings(max_examples=80, deadline=None)
@given(series=SERIES, bars=st.booleans())
def test_any_figures_give_well_formed_svg(series: dict[str, dict[int, float]], bars: bool) -> None:
    if bars:
        series = {name: {number: abs(value) for number, value in values.items()} for name, values in series.items()}
    text = svg(Chart("title", "unit", series, bars))
    ElementTree.fromstring(text)
    assert "nan" not in text and "inf" not in text


def test_names_are_escaped() -> None:
    text = svg(Chart("<b>", "&", {"<script>": {1: 1.0}}))
    assert "<script>" not in text and "&lt;script&gt;" in text and "<b>" not in text


@pytest.mark.parametrize("bars", [False, True])
def test_higher_figures_stand_higher(bars: bool) -> None:
    root = ElementTree.fromstring(svg(Chart("t", "u", {"a": {1: 1.0, 2: 3.0}}, bars)))
    tags = [one for one in root.iter() if one.get("class") == "f0" and one.tag.endswith("rect" if bars else "circle")]
    places = [float(one.get("y" if bars else "cy", 0)) for one in tags][-2:]
    assert places[1] < places[0]


@pytest.mark.parametrize("bars", [False, True])
@pytest.mark.parametrize(
    "figures",
    [
        (0.0, 1e-323),
        (5e-324, 5e-324),
        (1e-322, 1e-322),
        (1e-310, 1e-308),
        (0.000387003989852599, 0.00038700398985259905),
        (9.287229131239347e16, 9.287229131239349e16),
        (1e299, 5e-324),
        (0.0, 0.0),
    ],
)
def test_figures_at_the_end_of_floating_point_are_drawn(figures: tuple[float, float], bars: bool) -> None:
    text = svg(Chart("t", "u", {"a": dict(enumerate(figures, 1))}, bars))
    ElementTree.fromstring(text)
    assert len(text) < 5000 and "nan" not in text and "inf" not in text


@settings(max_examples=300, deadline=None)
@given(value=st.floats(-1e299, 1e299), steps=st.integers(0, 9))
def test_figures_next_to_each_other_are_drawn(value: float, steps: int) -> None:
    other = value
    for _ in range(steps):
        other = math.nextafter(other, math.inf)
    text = svg(Chart("t", "u", {"a": {1: value, 2: other}}))
    ElementTree.fromstring(text)
    assert len(text) < 5000


def test_hostile_names_and_titles_hold_no_markup_and_no_control() -> None:
    hostile = "</text><script>\x1b]0;t\x07\u202e\ud800&\"'"
    text = svg(Chart(hostile, hostile, {hostile + str(i): {1: 1.0} for i in range(20)}))
    root = ElementTree.fromstring(text)
    assert {one.tag.rpartition("}")[2] for one in root.iter()} <= {"svg", "title", "text", "rect", "line", "circle"}
    assert text.isprintable() and "and 4 more" in text
