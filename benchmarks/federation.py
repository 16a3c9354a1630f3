"""A development federation in a temporary folder, for what can only be measured with a ledger."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.phantoms import phantom
from medprov_ledger import development
from medprov_node.mark import mark_files
from medprov_watermark import weights


@dataclass(frozen=True)
class Released:
    """Marked pictures whose records are anchored.

    Parameters
    ----------
    files : tuple of Path
        PNG files.
    config : Path
        The verifier's configuration.
    """

    files: tuple[Path, ...]
    config: Path


@contextmanager
def released(sizes: Sequence[int]) -> Iterator[Released]:
    """Bring a federation up, mark one 8-bit phantom of each size and anchor them; all is gone at the end."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        jobs = [(folder / f"cover{size}.png", folder / f"marked{size}.png") for size in sizes]
        for (cover, _), size in zip(jobs, sizes, strict=True):
            Image.fromarray(phantom(size, size, 8, False, 3)).save(cover)
        config = development.up(folder / "chain", [weights.released_model()]).config
        try:
            mark_files(jobs, "hospital-a", config)
            yield Released(tuple(marked for _, marked in jobs), folder / "chain" / "verifier.toml")
        finally:
            development.down(folder / "chain")
