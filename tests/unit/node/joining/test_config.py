from pathlib import Path

import pytest

from medprov_ledger.errors import ConfigError
from medprov_node.joining.config import FILE, PRIVACIES, Site
from medprov_watermark.training.privacy import MODES
from tests.unit.node.conftest import House
from tests.unit.node.joining.conftest import MakeSite

LINK = '[superlink]\naddress = "c.example:9092"\nca = "ca.pem"\nkey = "k"\nnode = "12"\n'


def test_what_is_written_can_be_loaded(make_site: MakeSite, house: House) -> None:
    site = make_site("c.example:9092", 2**64 - 1)
    assert (site.host, site.port, site.node) == ("c.example", 9092, 2**64 - 1)
    assert site.ca == site.path.parent / "ca.pem"
    assert site.node_config() == {
        "images": str(site.images),
        "medprov-config": str(house.file),
        "hospital": "hospital-a",
        "device": "cpu",
        "threads": 1,
    }


def test_everything(house: House, tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.write_text(
        f'[site]\nmedprov = "{house.file}"\nhospital = "hospital-b"\nimages = "i"\nstate = "s"\ndevice = "cuda:1"\n'
        "max_images = 5\n" + LINK.replace("c.example", "[::1]")
    )
    site = Site.load(file)
    assert (site.host, site.device, site.hospital.name) == ("::1", "cuda:1", "hospital-b")
    assert site.node_config()["max-images"] == 5


def test_what_a_site_insists_on(house: House, tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.write_text(
        f'[site]\nmedprov = "{house.file}"\nhospital = "hospital-b"\nimages = "i"\nstate = "s"\n'
        'privacy = "local-dp"\nmin_noise_multiplier = 2\n' + LINK
    )
    config = Site.load(file).node_config()
    assert (config["privacy"], config["min-noise-multiplier"]) == ("local-dp", 2)
    assert PRIVACIES == MODES


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[site\n", "not valid TOML"),
        (LINK, r"\[site\] is missing"),
        ("SITE", r"\[superlink\] is missing"),
        ("SITEimage = 1\n" + LINK, r"site\.image is unknown; known here: medprov, hospital, images"),
        ("SITE" + LINK + "port = 1\n", r"superlink\.port is unknown"),
        ("SITE" + LINK + "[run]\n", r"file\.run is unknown; known here: site, superlink"),
        ("SITE" + LINK.replace('"12"', '"x"'), r"superlink\.node must be a text of digits"),
        ("SITE" + LINK.replace('"12"', '"0"'), r"superlink\.node must be a text of digits"),
        ("SITE" + LINK.replace("12", "9" * 5000), r"superlink\.node must be a text of digits"),
        ("SITE" + LINK.replace('"12"', "12"), r"superlink\.node has the wrong type"),
        ("SITE" + LINK.replace(":9092", ""), r"superlink\.address host:port is needed"),
        ("SITEmax_images = 0\n" + LINK, r"site\.max_images must lie between 1"),
        ("SITE" + LINK.replace('key = "k"\n', ""), r"superlink\.key is missing"),
        ('SITEprivacy = "some"\n' + LINK, r"site\.privacy must be one of none, central-dp"),
        ("SITEmin_noise_multiplier = -1\n" + LINK, r"site\.min_noise_multiplier must lie between 0"),
    ],
)
def test_a_wrong_file_is_refused_with_the_key(house: House, tmp_path: Path, text: str, why: str) -> None:
    site = f'[site]\nmedprov = "{house.file}"\nhospital = "hospital-a"\nimages = "i"\nstate = "s"\n'
    (tmp_path / FILE).write_text(text.replace("SITE", site))
    with pytest.raises(ConfigError, match=why):
        Site.load(tmp_path / FILE)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file; 'medprov-node join --kit KIT' writes one"):
        Site.load(tmp_path / FILE)
