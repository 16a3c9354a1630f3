"""Decode one DICOM frame with GDCM in a process of its own: file in on stdin, NumPy array out on stdout.

Run as a script and importing nothing of this package, so that it starts fast and wherever the package lies.
"""

from __future__ import annotations

import sys
import warnings
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.pixels.decoders.base import get_decoder


def main() -> None:
    """Write the array as ``as_array`` gives it, with the words' unused bits as they are."""
    warnings.simplefilter("ignore")
    dataset = dcmread(BytesIO(sys.stdin.buffer.read()))
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    options: dict[str, Any] = {"correct_unused_bits": False, "decoding_plugin": "gdcm"}
    array, meta = decoder.as_array(dataset, index=0, **options)
    sys.stdout.buffer.write(str(meta["photometric_interpretation"]).encode() + b"\n")
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    sys.stdout.buffer.write(buffer.getvalue())


if __name__ == "__main__":
    main()
