import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medprov_sdk import Reason, Verdict, Verification
from medprov_sdk.metadata import Metadata, State
from medprov_sdk.report import SHOWN, page
from medprov_sdk.verification import Check
from medprov_watermark.detection import FALSE_ALARM

HOSTILE = '"><script>alert(1)</script>$source${verdict}'


class Checker(HTMLParser):
    """Collects tags and attributes, and sees that what opens also closes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


def pictures(html: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


@pytest.fixture
def tampered(world: Any) -> tuple[Verification, np.ndarray]:
    image = world.phantom()
    world.release(image, world.alice)
    changed = image.copy()
    changed[70, 40] ^= 1
    world.reader.say(changed, world.payload)
    return world.verifier.verify(changed), changed


def test_the_page_holds_the_verdict_the_record_and_both_pictures(tampered: Any) -> None:
    result, image = tampered
    html = page(result, image)
    checker = check(html)
    assert "tampered" in html and result.reason.sentence in html
    for value in (result.owner, result.transaction, result.evidence_cid, result.content_hash, "alice"):
        assert value in html
    assert all(link.startswith("data:") for link in checker.links)
    plain, marked = pictures(html)
    assert plain.size == marked.size == (image.shape[1], image.shape[0])
    colour = np.asarray(marked).astype(int)
    red = (colour[..., 0] - colour[..., 1]) > 40
    assert red[64:96, 32:64].all() and red.sum() == 32 * 32


def test_nothing_from_outside_becomes_markup(tampered: Any) -> None:
    result, image = tampered
    record = replace(result.record, owner=HOSTILE, member=HOSTILE, record={HOSTILE: HOSTILE}, transaction=HOSTILE)
    hostile = replace(
        result,
        source=HOSTILE,
        claims=(record,),
        record=record,
        signer=HOSTILE,
        checks=(Check(HOSTILE, None, HOSTILE),),
        proved_offline=(HOSTILE,),
        payload=HOSTILE,
    )
    html = page(hostile, image)
    assert "script" not in check(html).tags
    assert "alert(1)" in html and "$source${verdict}" in html


def test_a_large_deep_picture_is_shown_small_in_eight_bits(tampered: Any) -> None:
    result, _ = tampered
    ramp = np.broadcast_to(np.linspace(1000, 3000, 900).astype(np.uint16), (1200, 900))
    shown = pictures(page(result, np.ascontiguousarray(ramp)))[0]
    assert max(shown.size) == SHOWN
    levels = np.asarray(shown.convert("L"))
    assert levels.min() < 10 and levels.max() > 245


def test_without_a_picture_and_without_findings(world: Any) -> None:
    html = page(world.verifier.verify(world.phantom(9)))
    assert "img" not in check(html).tags
    assert "unknown" in html and f"just strong enough to count would make at most {FALSE_ALARM:.1e}" in html


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize("reason", [Reason.NOTHING_FOUND, Reason.CONTENT_AGREES])
def test_every_verdict_has_a_page(tampered: Any, verdict: Verdict, reason: Reason) -> None:
    result, image = tampered
    other = replace(result, verdict=verdict, reason=reason)
    html = page(other, image[:70, :70])
    check(html)
    assert other.sentence in html.replace("&#x27;", "'")


@pytest.mark.parametrize("state", list(State))
def test_every_state_of_the_metadata_is_told(tampered: Any, state: State) -> None:
    found = Metadata(state, ("PatientName", HOSTILE), 44, HOSTILE)
    html = page(replace(tampered[0], metadata=found))
    assert "script" not in check(html).tags
    assert f"Metadata: <b>{state.value.replace('_', ' ')}</b>" in html
    assert ("PatientName" in html) == (state is State.DIFFERS)
