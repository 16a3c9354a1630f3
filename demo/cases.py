"""What an outsider is shown: marked pictures, honest copies and forgeries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread

from demo.pictures import Case, host_for_copy, other_picture
from medprov_sdk.metadata import State
from medprov_sdk.verdict import Verdict
from medprov_sdk.verification import Verification
from medprov_watermark import media

Samples = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Shown:
    """A picture that the verifier gets, and what it must say; of the header only where that is the point."""

    title: str
    path: Path
    expected: Verdict
    metadata: State | None = None

    def fits(self, found: Verification) -> bool:
        """Whether the verifier has said it."""
        return found.verdict is self.expected and self.metadata in (None, found.metadata.state)


def _lesion(picture: Samples) -> Samples:
    """Paint a soft disc of the surrounding level over a place right of the centre."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - 0.5 * height, x - 0.62 * width) / (0.06 * min(height, width))
    weight = np.clip(1.3 - distance, 0, 1)
    target = np.quantile(picture.reshape(-1, 3) if picture.ndim == 3 else picture.reshape(-1, 1), 0.9, axis=0)
    weight = weight[..., None] if picture.ndim == 3 else weight
    level = target if picture.ndim == 3 else target[0]
    return np.asarray(np.rint(picture * (1 - weight) + level * weight), picture.dtype)


def make(cases: list[Case], marked: dict[str, Path], folder: Path) -> list[Shown]:
    """Write all pictures to be shown."""
    folder.mkdir(parents=True, exist_ok=True)
    read = {name: media.read(path) for name, path in marked.items()}
    shown = [Shown(f"{case.name}: untouched", marked[case.name], Verdict.AUTHENTIC, State.MATCHES) for case in cases]

    def add(title: str, file: str, picture: Samples, like: str, expected: Verdict) -> None:
        path = folder / file
        media.write(path, np.ascontiguousarray(picture), read[like])
        shown.append(Shown(title, path, expected))

    for name in ("fundus", "histology"):
        path = folder / f"{name}_q70.jpg"
        Image.fromarray(np.asarray(read[name].array, np.uint8)).save(path, quality=70)
        shown.append(Shown(f"{name}: JPEG quality 70", path, Verdict.AUTHENTIC_DERIVED))
    for name in ("mr", "histology"):
        turned = np.rot90(read[name].array)
        add(f"{name}: turned by 90 degrees", f"{name}_turned.png", turned, name, Verdict.AUTHENTIC_DERIVED)
    header = dcmread(marked["ct"])
    header.PatientName, header.Laterality = "Somebody^Else", "R"
    header.save_as(folder / "ct_renamed.dcm")
    title = "ct: another patient's name and side"
    shown.append(Shown(title, folder / "ct_renamed.dcm", Verdict.AUTHENTIC, State.DIFFERS))
    one = read["ct"].array.copy()
    one[one.shape[0] // 2, one.shape[1] // 2] += 1
    add("ct: one pixel changed", "ct_one_pixel.dcm", one, "ct", Verdict.TAMPERED)
    for name in ("mr", "fundus"):
        suffix = ".dcm" if name == "mr" else ".png"
        painted = _lesion(read[name].array)
        add(f"{name}: lesion painted over", f"{name}_lesion{suffix}", painted, name, Verdict.TAMPERED)
    add("cell: never marked", "never_marked.png", other_picture(), "fundus", Verdict.UNKNOWN)
    cover = media.read(next(case.source for case in cases if case.name == "histology")).array.astype(np.int32)
    mark = read["histology"].array.astype(np.int32) - cover
    # A mark is as loud as its own picture makes necessary, so a thief has to turn it up for another one.
    host = np.clip(host_for_copy(mark.shape).astype(np.int32) + 4 * mark, 0, 255).astype(np.uint8)
    add("histology's mark on a fundus", "moved_mark.png", host, "histology", Verdict.COPIED_MARK)
    return shown
