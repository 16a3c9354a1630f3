"""Charts as SVG: figures in place, texts escaped, nothing and one point too."""

from __future__ import annotations

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
