import json
from typing import Any

import numpy as np
import pytest

from benchmarks import images, listing, ours, plots, robustness, tables
from benchmarks.phantoms import phantom
from medprov_watermark.payload import Payload


def row(modality: str, size: int, psnr: float, good: bool) -> dict[str, Any]:
    return {
        "modality": modality,
        "image": "a.png",
        "size": size,
        "channels": 1,
        "psnr": psnr,
        "ssim": 0.99,
        "seconds_mark": 1.0,
        "seconds_read": 0.1,
        "restored": True,
        "short": False,
        "robust": good,
        "exact": {"none": True, "jpeg50": good, "jpeg=10": False},
        "bits": {"none": 1.0, "jpeg50": 1.0 if good else 0.5, "jpeg=10": 0.5},
        "listed": {"none": True, "jpeg50": True, "jpeg=10": good},
        "stranger": {"none": False, "jpeg50": False, "jpeg=10": False},
        "unmarked": False,
        "wrong": 0 if good else 1,
        "overwrite": {"refused": True, "first": good},
    }


ROWS = [
    row("ct", 256, 44, True),
    row("ct", 512, 48, False),
    row("us", 256, 40, True),
    {**row("us", 512, 0, True), "refused": "why"},
]


def test_summary_groups_by_size_and_modality() -> None:
    total = robustness.summary(ROWS)
    assert (total["pictures"], total["refused"]) == (4, 1)
    assert list(total["quality"]) == ["all", "size 256", "size 512", "ct", "us"]
    assert total["quality"]["ct"]["psnr"]["median"] == 46
    assert total["exact"]["all"]["jpeg50"]["hits"] == 2 and total["exact"]["size 512"]["jpeg50"]["percent"] == 0
    assert total["listed"]["all"]["jpeg50"]["percent"] == 100
    assert (total["matches_without_true_record"], total["readings_without_true_record"]) == (0, 9)
    assert total["overwrite"]["refused"]["hits"] == 3 and total["overwrite"]["first"]["hits"] == 2
    assert total["robust"] == 2 and total["wrong"] == 1 and "tinted" not in total


def test_summary_of_refusals_only() -> None:
    assert robustness.summary(ROWS[3:]) == {"pictures": 1, "refused": 1}


def test_pages_and_plots_are_made_of_it(tmp_path: Any) -> None:
    peer = [
        {k: v for k, v in r.items() if k not in ("listed", "stranger", "short", "robust", "restored", "wrong")}
        for r in ROWS
    ]
    report = robustness.report(
        {ours.NAME: ROWS, "other": peer, "none": ROWS[3:]}, {ours.NAME: 96, "other": 64, "none": 1}, 500
    )
    for name in ("robustness", "peers"):
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    (tmp_path / "plots").mkdir()
    plots.psnr_boxes(report, tmp_path / "plots" / "psnr.png")
    assert plots.curves(report, tmp_path / "plots" / "curves.png")
    page = tables.page(tmp_path, tmp_path / "plots")
    assert "| jpeg50 | 67 (21..94) | 100 | 0 | 100 (44..100) |" in page
    assert "| jpeg50, exact % | 67 | 67 |" in page
    assert "jpeg=10" not in page
    assert "0 of 9 readings name one" in page
    assert "![PSNR of marked pictures by modality](plots/psnr.png)" in page and "sheet.png" not in page


def test_without_points_no_curves_are_drawn(tmp_path: Any) -> None:
    rows = [{**row("ct", 256, 44, True), "exact": {"none": True}, "listed": {"none": True}, "bits": {"none": 1.0}}]
    assert not plots.curves(robustness.report({ours.NAME: rows}, {ours.NAME: 96}, 5), tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_payloads_differ_by_size_but_not_by_run() -> None:
    image = phantom(64, 64, 8, False, 1).astype(np.uint8)
    first = robustness.payload_for(images.Sample("ct", "a.png", 256, image))
    assert first == robustness.payload_for(images.Sample("ct", "a.png", 256, image))
    assert first != robustness.payload_for(images.Sample("ct", "a.png", 512, image))


def test_bits_and_payloads() -> None:
    payload = Payload(bytes(range(8)), b"\xff\x00\x80\x01")
    assert ours.payload_of(ours.bits_of(payload)) == payload
    assert ours.bits_of(payload).shape == (96,)


@pytest.mark.slow
def test_one_picture_with_all_that_is_measured() -> None:
    sample = images.Sample("phantom", "p.png", 256, phantom(256, 256, 8, False, 1).astype(np.uint8))
    payload = robustness.payload_for(sample)
    plan = robustness.Plan(
        ("none", "jpeg50", "rot90"), True, ("pee", "blessmark_rule"), listing.directory([payload], 50)
    )
    robustness.prepare(plan)
    rows = robustness.measure(sample)
    assert list(rows) == ["medprov", "pee", "blessmark_rule"]
    mine = rows["medprov"]
    assert mine["restored"] and all(mine["exact"].values()) and all(mine["listed"].values())
    assert not any(mine["stranger"].values()) and not mine["unmarked"] and mine["wrong"] == 0
    assert mine["overwrite"]["refused"] and mine["overwrite"]["first_after_undoing"]
    assert not mine["overwrite"]["first_after_restoring_and_marking"]
    assert rows["pee"]["restored"] and rows["pee"]["exact"] == {"none": True, "jpeg50": False, "rot90": False}
    assert rows["pee"]["overwrite"] == {"refused": False, "first": False, "first_after_undoing": True}
    assert json.loads(json.dumps(robustness.report({k: [v] for k, v in rows.items()}, dict.fromkeys(rows, 1), 50)))
