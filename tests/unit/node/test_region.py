"""Regions of interest of pictures that are marked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import medprov_ledger.chain
from medprov_node import cli, mark
from medprov_node.errors import RegionError
from medprov_node.held import HeldFolder
from medprov_node.mark import Order, mark_files
from medprov_node.region import Chooser, Chosen
from medprov_watermark import media, roi


class Crash(BaseException):
    """Nothing catches this, as nothing catches a power cut."""


@pytest.fixture
def mask(picture: Path) -> Path:
    """A mask of the picture: a quarter of it."""
    path = picture.with_name("mask.png")
    drawn = np.zeros((128, 128), np.uint8)
    drawn[:64, 64:] = 255
    Image.fromarray(drawn).save(path)
    return path


@pytest.fixture
def two(phantom, picture: Path, tmp_path: Path):
    """Two jobs; the mask does not suit the second picture."""
    Image.fromarray(phantom(96, seed=7)).save(tmp_path / "small.png")
    return [(picture, tmp_path / "out.png"), (tmp_path / "small.png", tmp_path / "small-out.png")]


def quickly(house, quick, jobs, **more):
    return mark_files(jobs, "hospital-a", house.config, watermarker=quick, ledger=house.ledger, **more)


# the choice


def test_off_is_no_region_and_loads_nothing(picture, monkeypatch) -> None:
    monkeypatch.setattr(roi, "Finder", lambda: pytest.fail("the network was loaded"))
    chosen = Chooser(Order()).choose(picture, media.read(picture))
    assert chosen == Chosen("off", None, "")
    assert chosen.digest == b""


def test_a_mask_goes_before_the_network(picture, mask, monkeypatch) -> None:
    monkeypatch.setattr(roi, "Finder", lambda: pytest.fail("the network was loaded"))
    chosen = Chooser(Order("strict", mask)).choose(picture, media.read(picture))
    assert (chosen.mode, chosen.source) == ("strict", str(mask))
    assert chosen.mask.mean() == 0.25


def test_without_a_mask_the_region_is_found(picture) -> None:
    chooser = Chooser(Order("attenuate"))
    pixels = media.read(picture)
    chosen = chooser.choose(picture, pixels)
    assert chosen.mode == "attenuate"
    assert chosen.mask.shape == pixels.array.shape
    assert chosen.mask.any()
    assert chosen.source in (*chooser._finder.kinds, roi.RULE)
    assert chooser.choose(picture, pixels).digest == chosen.digest


def test_where_nothing_is_found_the_picture_is_refused(tmp_path) -> None:
    path = tmp_path / "flat.png"
    Image.fromarray(np.full((128, 128), 90, np.uint8)).save(path)
    with pytest.raises(RegionError, match=rf"{path}: region of interest refused: none was found"):
        Chooser(Order("strict")).choose(path, media.read(path))


def test_a_mask_that_does_not_suit_names_both_files(two, mask) -> None:
    (_, (small, _)) = two
    with pytest.raises(RegionError, match=rf"{small}: region of interest refused: {mask}: .*128 x 128.*96 x 96"):
        Chooser(Order("strict", mask)).choose(small, media.read(small))


def test_every_mode_and_mask_has_its_own_digest() -> None:
    area = np.zeros((8, 8), np.bool_)
    area[2, 2] = True
    made = [Chosen("strict", area), Chosen("attenuate", area), Chosen("strict", ~area), Chosen()]
    assert len({chosen.digest for chosen in made}) == 4


# marking


def test_mode_and_region_reach_the_watermarker_and_the_result(house, quick, picture, mask) -> None:
    (result,) = quickly(house, quick, [(picture, picture.with_name("out.png"))], roi=Order("strict", mask))
    ((mode, given),) = quick.regions
    assert mode == "strict"
    assert given.mean() == 0.25
    assert (result.roi_mode, result.roi_source, result.roi_share) == ("strict", str(mask), 0.25)
    assert "region" in result.milliseconds
    assert result.to_json()["roi_share"] == 0.25


def test_without_an_order_there_is_no_region(house, quick, picture) -> None:
    (result,) = quickly(house, quick, [(picture, picture.with_name("out.png"))])
    assert quick.regions == [("off", None)]
    assert (result.roi_mode, result.roi_source, result.roi_share) == ("off", "", 0.0)


def test_a_refused_region_does_not_stop_the_others(house, quick, two, mask) -> None:
    refused: list[RegionError] = []
    results = quickly(house, quick, two, roi=Order("attenuate", mask), refused=refused.append)
    assert [result.output for result in results] == [two[0][1]]
    assert two[0][1].exists() and not two[1][1].exists()
    (error,) = refused
    assert str(two[1][0]) in str(error)
    assert house.anchors() == 1


def test_a_refused_region_stops_a_caller_who_does_not_take_it(house, quick, two, mask) -> None:
    with pytest.raises(RegionError):
        quickly(house, quick, two, roi=Order("attenuate", mask))
    assert not two[0][1].exists() and not two[1][1].exists()
    assert house.anchors() == 0


def test_where_all_are_refused_there_is_no_batch(house, quick, two, mask) -> None:
    refused: list[RegionError] = []
    assert quickly(house, quick, two[1:], roi=Order("strict", mask), refused=refused.append) == []
    assert len(refused) == 1
    assert house.anchors() == 0


def test_a_strict_region_without_room_is_refused_and_no_other_mode_taken(house, quick, picture, tmp_path) -> None:
    everything = tmp_path / "all.png"
    Image.fromarray(np.full((128, 128), 255, np.uint8)).save(everything)
    refused: list[RegionError] = []
    jobs = [(picture, picture.with_name("out.png"))]
    assert quickly(house, quick, jobs, roi=Order("strict", everything), refused=refused.append) == []
    assert "covers 100 %" in str(refused[0])
    assert quick.marked == 0
    (result,) = quickly(house, quick, jobs, roi=Order("attenuate", everything))
    assert result.roi_mode == "attenuate"


def test_a_picture_held_with_another_region_does_not_leave(house, quick, picture, mask, monkeypatch) -> None:
    job = (picture, picture.with_name("out.png"))
    real = HeldFolder.save

    def cut(self, *arguments) -> None:
        real(self, *arguments)
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(HeldFolder, "save", cut)
        with pytest.raises(Crash):
            quickly(house, quick, [job])
    (result,) = quickly(house, quick, [job], roi=Order("strict", mask))
    assert quick.marked == 2
    assert result.roi_mode == "strict"


def test_a_held_picture_keeps_its_mode(house, quick, picture, mask, monkeypatch) -> None:
    job, order = (picture, picture.with_name("out.png")), Order("strict", mask)
    with monkeypatch.context() as patched:
        patched.setattr(mark.batch, "build", lambda *_: (_ for _ in ()).throw(Crash()))
        with pytest.raises(Crash):
            quickly(house, quick, [job], roi=order)
    (result,) = quickly(house, quick, [job], roi=order)
    assert quick.marked == 1
    assert (result.roi_mode, result.roi_share) == ("strict", 0.25)


# the command


@pytest.fixture
def run(house, quick, node_tester, monkeypatch, capsys):
    monkeypatch.setattr(medprov_ledger.chain, "connect_http", lambda *_: node_tester)
    monkeypatch.setattr(mark.DualWatermarker, "load", lambda: quick)

    def call(*arguments):
        code = cli.main(["mark", *(str(argument) for argument in arguments), "--config", str(house.file)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_the_command_says_what_was_done(run, picture, mask) -> None:
    code, out, err = run(picture, picture.with_name("out.png"), "--roi", "strict", "--roi-mask", mask)
    assert (code, err) == (0, "")
    assert f"  region       strict, 25% of the picture, from {mask}" in out.splitlines()


def test_the_command_names_refused_pictures_and_marks_the_others(run, two, mask, tmp_path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for path, _ in two:
        path.rename(source / path.name)
    code, out, err = run(source, tmp_path / "out", "--roi", "attenuate", "--roi-mask", mask, "--json")
    assert code == 1
    assert err.startswith(f"medprov-node: {source / 'small.png'}: region of interest refused") and err.count("\n") == 1
    found = json.loads(out)
    assert [picture["roi_mode"] for picture in found["pictures"]] == ["attenuate"]
    assert len(found["refused"]) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scan.png"]


def test_the_command_fails_where_all_are_refused(run, two, mask) -> None:
    code, _, err = run(*two[1], "--roi", "strict", "--roi-mask", mask)
    assert code == 1
    assert err.count("\n") == 1
    assert not two[1][1].exists()


def test_a_mask_needs_a_mode(run, picture, mask) -> None:
    code, out, err = run(picture, picture.with_name("out.png"), "--roi-mask", mask)
    assert (code, out) == (1, "")
    assert "a mask needs --roi attenuate or --roi strict" in err


def test_a_missing_mask_is_named(run, picture, tmp_path) -> None:
    code, _, err = run(picture, picture.with_name("out.png"), "--roi", "strict", "--roi-mask", tmp_path / "none.dcm")
    assert code == 1
    assert f"{tmp_path / 'none.dcm'}: it cannot be read" in err
