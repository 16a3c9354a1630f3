"""What a hospital does to its own update before it leaves: bound it, and in the local mode drown it in noise.

Node configuration: ``privacy`` (the mode this hospital insists on) and ``min-noise-multiplier``. Without them the
coordinator decides.
"""

from __future__ import annotations

import math
import os

import numpy as np
from flwr.app import Context, Message
from flwr.supercore.differential_privacy import clip_inputs_inplace

from medprov_watermark.training import exchange as ex
from medprov_watermark.training.privacy import LOCAL, MODES, PRIVACY, Entropy, Privacy, add_noise
from medprov_watermark.training.tasks.base import TaskError


def wanted(message: Message, context: Context) -> Privacy | None:
    """What the coordinator asks for; None where updates go as they are.

    Raises
    ------
    TaskError
        It protects less than this hospital insists on, or the hospital's own configuration is wrong.
    ExchangeError
        The coordinator's record is not what the protocol asks for.
    """
    records = message.content.config_records
    privacy = Privacy.from_config(records[PRIVACY]) if PRIVACY in records else None
    mode = "none" if privacy is None else privacy.mode
    own = context.node_config.get("privacy")
    if own is not None and own not in MODES:
        raise TaskError(f"privacy is {str(own)[:40]!r} in this node's configuration: choose one of {', '.join(MODES)}")
    if own not in (None, "none", mode):
        raise TaskError(f"the coordinator trains with privacy '{mode}', this hospital insists on '{own}'")
    least = context.node_config.get("min-noise-multiplier", 0.0)
    if isinstance(least, bool) or not isinstance(least, int | float) or not 0 <= least < math.inf:
        raise TaskError(f"min-noise-multiplier is {str(least)[:40]} in this node's configuration: a number is needed")
    if least and (privacy is None or privacy.noise_multiplier < least):
        found = privacy.noise_multiplier if privacy else 0.0
        raise TaskError(f"the coordinator trains with noise-multiplier {found:g}, this hospital insists on {least:g}")
    return privacy


def bounded(deltas: ex.Arrays, privacy: Privacy, entropy: Entropy = os.urandom) -> dict[str, ex.Float32]:
    """An update that may leave: at most as long as the bound, with noise where the mode is local.

    Parameters
    ----------
    deltas : mapping of str to float32 array
    privacy : Privacy
    entropy : callable
        Where the noise is drawn from; another source than the system's only in tests.
    """
    out = {name: np.array(deltas[name], np.float64) for name in sorted(deltas)}
    if any(array.any() for array in out.values()):
        # Flower divides by the norm.
        clip_inputs_inplace(list(out.values()), privacy.clip)
    if privacy.mode == LOCAL:
        out = add_noise(out, privacy.noise_multiplier * privacy.clip, entropy)
    return {name: np.asarray(array, np.float32) for name, array in out.items()}
