"""Models that the installed packages bring along; this package knows none of them by name."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from .errors import ConfigError

GROUP = "medprov.models"
"""Entry-point group: each entry is a function without arguments that returns the model's hash, 32 bytes."""


def offered() -> tuple[list[bytes], list[str]]:
    """Hashes of the models that the installed packages offer.

    Returns
    -------
    models : list of bytes
        32 bytes each, every one once, in the order of the entries' names.
    problems : list of str
        One line for each entry that gave none.
    """
    models: dict[bytes, None] = {}
    problems: list[str] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda one: (one.name, one.value)):
        try:
            models[_ask(entry)] = None
        except ConfigError as error:
            problems.append(str(error))
    return list(models), problems


def _ask(entry: EntryPoint) -> bytes:
    package = entry.dist.name if entry.dist is not None else entry.value
    remedy = "install it anew, or name a model with --model"
    try:
        found = entry.load()()
    # another package's code: a missing file, a missing module, anything
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"{package}: its model '{entry.name}' cannot be read ({reason}); {remedy}") from error
    if not isinstance(found, bytes) or len(found) != 32 or not any(found):
        raise ConfigError(f"{package}: its model '{entry.name}' is not a hash of 32 bytes; {remedy}")
    return found
