"""Decoding of compressed DICOM pixels (PS3.5 section 8.2) through the plugins of pydicom."""

from __future__ import annotations

import struct
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.uid import UID

from medprov_watermark.errors import MediaError

_PLUGINS = ("pydicom", "pyjpegls", "pylibjpeg", "pillow")
_CHILD = Path(__file__).with_name("_gdcm_child.py")
_CHILD_SECONDS = 120
# Decoders undo all other colour spaces, when asked for RGB.
_DECODED = ("MONOCHROME1", "MONOCHROME2", "RGB")


def named(syntax: UID) -> str:
    """Name a transfer syntax in an error."""
    return f"transfer syntax {syntax.name} ({syntax})" if syntax.name != syntax else f"transfer syntax {syntax}"


def decompress(dataset: FileDataset, syntax: UID, shape: tuple[int, ...], data: bytes) -> NDArray[np.uint16]:
    """Decode the first frame.

    Parameters
    ----------
    dataset : FileDataset
    syntax : UID
        Its transfer syntax.
    shape : tuple of int
        (H, W) or (H, W, 3), as the header says and already checked.
    data : bytes
        The file that the dataset was read from.

    Returns
    -------
    ndarray of uint16
        The words, with the bits that belong to no sample as the decoder gives them.

    Raises
    ------
    MediaError
        When there is no decoder, or it fails, or the result is not what the header says.
    """
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise MediaError(f"{named(syntax)} is not supported; convert the file to Explicit VR Little Endian") from error
    if not decoder.is_available:
        raise MediaError(f"{named(syntax)} cannot be decoded here; install {' or '.join(decoder.missing_dependencies)}")
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    size = _codestream_size(frame)
    if size is not None and size != shape[:2]:
        # A decoder would allocate what the codestream says, not what was checked.
        raise MediaError(f"the codestream holds {size[1]} x {size[0]} pixels, the header says otherwise; get it again")
    plugins = [plugin for plugin in _PLUGINS if plugin in decoder.available_plugins]
    reasons = []
    for plugin in plugins or ["gdcm"]:
        try:
            array, photometric = _decoded_by(plugin, decoder, dataset, data)
            break
        except Exception as error:  # each plugin raises its own kinds
            reasons.append(_plugin_reason(error))
    else:
        reason = ", ".join(reasons)[:300]
        raise MediaError(f"{named(syntax)} could not be decoded ({reason}); convert the file with another tool")
    if array.shape != shape or photometric not in _DECODED:
        raise MediaError(f"{named(syntax)} decoded to another kind of picture than the header says; get the file again")
    return array.view(f"u{array.dtype.itemsize}").astype(np.uint16)


def _decoded_by(plugin: str, decoder: Decoder, dataset: FileDataset, data: bytes) -> tuple[NDArray[Any], str]:
    if plugin != "gdcm":
        options: dict[str, Any] = {"correct_unused_bits": False, "decoding_plugin": plugin}
        array, meta = decoder.as_array(dataset, index=0, **options)
        return array, str(meta["photometric_interpretation"])
    # GDCM ends its process on some damaged input. So it runs in a child, and only where nothing else can decode.
    child = subprocess.run(
        [sys.executable, "-I", str(_CHILD)], input=data, capture_output=True, check=False, timeout=_CHILD_SECONDS
    )
    if child.returncode:
        lines = child.stderr.decode("utf-8", "replace").strip().splitlines()
        raise RuntimeError(f"plugins:\ngdcm: {lines[-1] if lines else f'ended with code {child.returncode}'}")
    photometric, _, saved = child.stdout.partition(b"\n")
    return np.load(BytesIO(saved), allow_pickle=False), photometric.decode()


def _plugin_reason(error: Exception) -> str:
    # pydicom puts a heading before what the plugin said.
    return str(error).rpartition("plugins:\n")[2].strip().partition("\n")[0] or type(error).__name__


def _codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns of a JPEG (T.81 B.2.2, T.87) or JPEG 2000 (T.800 A.5.1) codestream, None for others."""
    if frame.startswith(b"\xff\x4f\xff\x51") and len(frame) >= 24:
        width, height, left, top = struct.unpack_from(">4I", frame, 8)
        return height - top, width - left
    place = 2
    while frame.startswith(b"\xff\xd8") and place + 9 <= len(frame) and frame[place] == 0xFF:
        marker, length = struct.unpack_from(">BH", frame, place + 1)
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            height, width = struct.unpack_from(">2H", frame, place + 5)
            return height, width
        # 0xFF before a marker is filling.
        place += 1 if marker == 0xFF else 2 + length
    return None
