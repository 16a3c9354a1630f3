"""What survives an attacker who has the software: marks over marks, marks subtracted, surrogate networks.

    python -m benchmarks.surrogate [--images DIR] [--pairs 16,64,256] [--pictures N] [--json FILE] [--quick]

Overwriting: a second party marks a marked picture (:mod:`benchmarks.insiders`). White box: the mark is restored off,
or estimated on a recompressed copy and subtracted. Surrogate: a network learns from pairs of covers and marked pictures
to take marks off other pictures and to put them on; beside it the plain mean of the pairs' residuals, and a residual
copied from one picture to another. The attacks are those that MedSecure (MIDL 2025) names.

Pictures are grey, 256 px. Those to be attacked are marked by ``DualWatermarker.mark``; the pairs that the surrogate
learns from are marked with equal amplitudes at 46 dB and no W2, because ``mark`` takes seconds for each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks import insiders, split
from benchmarks.insiders import Picture, Software, Victim
from medprov_watermark import carriers as cr
from medprov_watermark import coupling, features, tuning
from medprov_watermark.coupling import Frozen
from medprov_watermark.hashing import hamming, perceptual_hash
from medprov_watermark.payload import Payload

PAIRS_DB = 46.0
FOLD = 4
"""Space-to-depth factor of the surrogate: a mark has at most 34 cycles per picture."""
STRENGTHS = (1.0, 2.0, 4.0)
"""How much of what a surrogate gives is taken off; one that is unsure gives too little."""
SIDE = cr.SIZE // FOLD


@dataclass(frozen=True)
class Effort:
    """What the attacker of the surrogates puts in.

    Parameters
    ----------
    pairs : tuple of int
        Sizes of the sets that surrogates are trained on, ascending.
    steps, batch : int
        Of each training.
    width : int
        Channels of the surrogate.
    """

    pairs: tuple[int, ...] = (16, 64, 256)
    steps: int = 300
    batch: int = 8
    width: int = 32
    rate: float = 2e-3
    seed: int = 0


@dataclass(frozen=True)
class Pairs:
    """Pictures before and after marking, float32 tensors (N, 1, SIZE, SIZE), and their payloads."""

    covers: Tensor
    marked: Tensor
    payloads: list[Payload]

    def first(self, count: int) -> Pairs:
        return Pairs(self.covers[:count], self.marked[:count], self.payloads[:count])

    @property
    def residuals(self) -> Tensor:
        return self.marked - self.covers


def quickly_marked(software: Software, cover: Picture, payload: Payload) -> Picture:
    """W1 with equal amplitudes at PAIRS_DB, without the loop of `mark`."""
    values = 4 * software.signs(payload).astype(np.int64)

    def at(gain: int) -> NDArray[np.int32]:
        frozen = Frozen(gain, 0, 0, (0, 255), None, None, software.carriers)
        return coupling.forward(cover, values, software.release.network, frozen).picture

    energy = float(np.mean(np.square(at(tuning.FIRST_GAIN).astype(np.float64) - cover)))
    wanted = 255.0**2 / 10 ** (PAIRS_DB / 10)
    gain = int(np.clip(tuning.FIRST_GAIN * (wanted / max(energy, 1e-3)) ** 0.5, 1, tuning.LARGEST_GAIN))
    return np.asarray(at(gain), np.uint8)


def make_pairs(software: Software, covers: Picture, seed: int) -> Pairs:
    """Mark many pictures, each with its own payload as the software gives them out."""
    rng = np.random.default_rng(seed)
    payloads = [Payload(perceptual_hash(cover), rng.bytes(4)) for cover in covers]
    marked = np.stack([quickly_marked(software, c, p) for c, p in zip(covers, payloads, strict=True)])
    return Pairs(_tensor(covers), _tensor(marked), payloads)


def _tensor(pictures: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pictures.astype(np.float32))[:, None]


class Surrogate(nn.Module):
    """Picture -> the residual that marking has put or would put there, in grey levels.

    A small U-Net on a picture folded into channels. Carriers stand at fixed places, which a convolution cannot know:
    so a canvas is learned beside it, goes in with the picture, and comes out weighed by what the network sees.

    Parameters
    ----------
    width : int
        Channels at full size; twice as many below.
    canvas : float tensor (1, 1, SIZE, SIZE)
        First values of the canvas.
    """

    def __init__(self, width: int, canvas: Tensor) -> None:
        super().__init__()
        depth = FOLD * FOLD
        self.canvas = nn.Parameter(F.pixel_unshuffle(canvas, FOLD))
        self.enter = nn.Conv2d(2 * depth, width, 3, padding=1)
        self.wide = nn.Conv2d(width, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
        self.deep = nn.ModuleList(nn.Conv2d(2 * width, 2 * width, 3, padding=d, dilation=d) for d in (1, 2, 4))
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.leave = nn.Conv2d(2 * width, depth + 1, 3, padding=1)
        # So that it starts as the canvas alone.
        for part in self.leave.parameters():
            nn.init.zeros_(part)

    def forward(self, picture: Tensor) -> Tensor:
        """Float tensor (B, 1, SIZE, SIZE) of grey values -> the same shape."""
        folded = F.pixel_unshuffle((picture - 128) / 64, FOLD)
        canvas = self.canvas.expand(len(picture), -1, -1, -1)
        level = F.gelu(self.enter(torch.cat([folded, canvas], 1)))
        level = level + F.gelu(self.wide(level))
        below = F.gelu(self.down(level))
        for layer in self.deep:
            below = below + F.gelu(layer(below))
        out = self.leave(torch.cat([level, F.gelu(self.up(below))], 1))
        weighed: Tensor = F.pixel_shuffle(out[:, :-1] + canvas * (1 + out[:, -1:]), FOLD)
        return weighed


def train(pictures: Tensor, residuals: Tensor, effort: Effort) -> tuple[Surrogate, list[float]]:
    """A surrogate that gives the residuals of pictures, and its mean squared error by step.

    Parameters
    ----------
    pictures, residuals : float tensor (N, 1, SIZE, SIZE)
        Marked pictures for a surrogate that removes, covers for one that forges.
    """
    torch.manual_seed(effort.seed)
    net = Surrogate(effort.width, residuals.mean(0, keepdim=True))
    optimiser = torch.optim.AdamW(net.parameters(), lr=effort.rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, effort.steps)
    losses = []
    for _ in range(effort.steps):
        pick = torch.randint(0, len(pictures), (effort.batch,))
        loss = F.mse_loss(net(pictures[pick]), residuals[pick])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    return net.eval(), losses


@torch.no_grad()
def given_by(net: nn.Module, picture: Picture) -> NDArray[np.float32]:
    """What a surrogate gives for a picture, float32 (SIZE, SIZE)."""
    return np.asarray(net(_tensor(picture[None]))[0, 0].numpy(), np.float32)


def moved(picture: Picture, residual: NDArray[np.floating], strength: float) -> Picture:
    return np.asarray(np.clip(np.rint(picture + strength * residual), 0, 255), np.uint8)


class Constant(nn.Module):
    """The simplest surrogate: the same residual for every picture."""

    def __init__(self, residual: Tensor) -> None:
        super().__init__()
        self.residual = residual

    def forward(self, picture: Tensor) -> Tensor:
        return self.residual.expand_as(picture)


def surrogates(pairs: Pairs, effort: Effort) -> list[dict[str, Any]]:
    """Surrogates that remove and forge, by size of the training set; with them, how their errors fell."""
    out: list[dict[str, Any]] = []
    for count in effort.pairs:
        part = pairs.first(count)
        residuals = part.residuals
        mean = Constant(residuals.mean(0, keepdim=True))
        error = float(residuals.square().mean())
        for aim, pictures in (("remove", part.marked), ("forge", part.covers)):
            net, losses = train(pictures, residuals, effort)
            last = losses[-max(1, len(losses) // 10) :]
            figures = {"aim": aim, "pairs": count}
            out.append({**figures, "kind": "mean", "net": mean})
            out.append({**figures, "kind": "network", "net": net, "error_of_nothing": error})
            out[-1] |= {"error_first": losses[0], "error_last": float(np.mean(last))}
    return out


def attacked_by(
    made: dict[str, Any], software: Software, victims: Sequence[Victim], known: Sequence[Payload]
) -> list[dict[str, Any]]:
    """One surrogate before all pictures, at all strengths."""
    rows = []
    for victim in victims:
        before = victim.marked if made["aim"] == "remove" else victim.cover
        residual = given_by(made["net"], before)
        for strength in STRENGTHS:
            sign = -strength if made["aim"] == "remove" else strength
            picture = moved(before, residual, sign)
            rows.append(
                {
                    **{k: made[k] for k in ("aim", "kind", "pairs")},
                    "strength": strength,
                    "picture": victim.name,
                    **insiders.reading(software, picture, victim.payload, known),
                    **insiders.paid(picture, before, victim.cover),
                }
            )
    return rows


def copied(software: Software, victims: Sequence[Victim], known: Sequence[Payload]) -> list[dict[str, Any]]:
    """The residual of each picture added to the next one: a mark moved as it stands.

    `payload` is "owner" where the payload of the picture that the residual comes from is read; `hash_distance` is from
    the perceptual hash in that payload to the picture that it was moved to; `shows_else` says whether the comparison
    of content calls it another picture.
    """
    rows = []
    for victim, target in zip(victims, [*victims[1:], *victims[:1]], strict=True):
        residual = victim.marked.astype(np.float32) - victim.cover
        picture = moved(target.cover, residual, 1.0)
        compared = features.compare(features.ordinal_features(victim.marked), picture)
        rows.append(
            {
                "picture": f"{victim.name} -> {target.name}",
                **insiders.reading(software, picture, victim.payload, known),
                **insiders.paid(picture, target.cover, target.cover),
                "hash_distance": hamming(perceptual_hash(picture), victim.payload.perceptual_hash),
                "shows_else": compared.share >= features.COPIED_SHARE or compared.vanished,
            }
        )
    return rows


def measured(
    pictures: split.Split, effort: Effort, ways: Sequence[str] | None = None, keyed: bool = True
) -> dict[str, Any]:
    """All figures.

    Parameters
    ----------
    pictures : Split
    effort : Effort
    ways : sequence of str or None
        Of overwriting; None takes all.
    keyed : bool
        Whether to mark with a consortium key too.
    """
    rng = np.random.default_rng(effort.seed)
    public = Software()
    foreign, private = (Software(public.release, k) for k in (insiders.FOREIGN_KEY, insiders.VICTIMS_KEY))
    victims, refused = insiders.mark_all(public, pictures.judged, rng)
    if not victims:
        raise ValueError("none of the pictures could be marked")
    known = [victim.payload for victim in victims]
    data: dict[str, Any] = {
        "pictures": len(victims),
        "refused": refused,
        "marked": [
            {"picture": v.name, **insiders.reading(public, v.marked, v.payload, known)}
            | insiders.paid(v.marked, v.cover, v.cover)
            for v in victims
        ],
    }
    ways = list(insiders.overwriting(public, foreign)) if ways is None else ways
    seconds = [Payload(perceptual_hash(v.marked), rng.bytes(4)) for v in victims]
    data["overwrite"] = [
        insiders.overwrite(public, foreign, victim, second, way)
        for way in ways
        for victim, second in zip(victims, seconds, strict=True)
    ]
    data["white_box"] = [row for victim in victims for row in insiders.white_box(public, victim, known)]
    if keyed:
        hidden, _ = insiders.mark_all(private, pictures.judged, rng)
        payloads = [v.payload for v in hidden]
        data["keyed"] = [insiders.without_key(public, private, victim, payloads) for victim in hidden]
    pairs = make_pairs(public, pictures.training[: max(effort.pairs)], effort.seed)
    made = surrogates(pairs, effort)
    data["surrogates"] = [{k: v for k, v in one.items() if k != "net"} for one in made]
    everybody = [*known, *pairs.payloads]
    data["surrogate"] = [row for one in made for row in attacked_by(one, public, victims, everybody)]
    data["copied"] = copied(public, victims, everybody)
    return data | {"summary": summary(data)}


def _percent(rows: Sequence[dict[str, Any]], name: str, *values: object) -> float:
    return 100 * float(np.mean([row[name] in values for row in rows]))


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def _grouped(rows: Sequence[dict[str, Any]], *names: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def _read(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of readings of pictures that were attacked."""
    return {
        "present": _percent(rows, "present", True),
        "payload": _percent(rows, "payload", "owner"),
        "listed": _percent(rows, "listed", "owner"),
        "known_not_owner": _percent(rows, "payload", "known"),
        "listed_known": _percent(rows, "listed", "known"),
        "other_payload": _percent(rows, "payload", "other"),
        "bits": 100 * _mean(rows, "bits"),
        "pilots": _mean(rows, "pilots"),
        "psnr_paid": _mean(rows, "psnr_paid"),
        "ssim_paid": _mean(rows, "ssim_paid"),
        "psnr_cover": _mean(rows, "psnr_cover"),
    }


def _overwritten(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    made = [row for row in rows if row["refused"] is None]
    out: dict[str, Any] = {"n": len(rows), "refused": 100 * (1 - len(made) / len(rows))}
    if not made:
        return out
    for name in ("read", "jpeg70_read", "beneath", "peeled", "keyed"):
        out[name] = {who: _percent(made, name, who) for who in ("first", "second")}
    out["jpeg70_listed"] = {
        who: 100 * float(np.mean([who in row["jpeg70_listed"] for row in made])) for who in ("first", "second")
    }
    out["hash_distance"] = max(row["hash_distance"] for row in made)
    return out | {name: _mean(made, name) for name in ("psnr_paid", "ssim_paid", "psnr_cover")}


def summary(data: dict[str, Any]) -> dict[str, Any]:
    """Shares in per cent and means, by attack."""
    out: dict[str, Any] = {
        "marked": _read(data["marked"]),
        "overwrite": {way: _overwritten(rows) for (way,), rows in _grouped(data["overwrite"], "way").items()},
        "white_box": {
            way: _read(rows) | {"hash_distance": max(row["hash_distance"] for row in rows)}
            for (way,), rows in _grouped(data["white_box"], "way").items()
        },
        "surrogate": [
            {"aim": aim, "kind": kind, "pairs": pairs, "strength": strength, **_read(rows)}
            for (aim, kind, pairs, strength), rows in _grouped(
                data["surrogate"], "aim", "kind", "pairs", "strength"
            ).items()
        ],
        "copied": _read(data["copied"])
        | {
            "hash_distance_least": min(row["hash_distance"] for row in data["copied"]),
            "shows_else": _percent(data["copied"], "shows_else", True),
        },
    }
    exact = [row for row in data["white_box"] if "cover_exact" in row]
    out["cover_exact"] = _percent(exact, "cover_exact", True)
    if data.get("keyed"):
        out["keyed"] = _read(data["keyed"]) | {
            "restored": _percent(data["keyed"], "restored", True),
            "read_without_key": _percent(data["keyed"], "read_without_key", True),
        }
    return out


_COLUMNS = ("present", "payload", "listed", "bits", "pilots", "psnr_paid", "ssim_paid", "psnr_cover")


def _line(label: str, figures: dict[str, Any]) -> str:
    return f"{label:34s}" + "".join(f"{figures[c]:11.4f}" if "ssim" in c else f"{figures[c]:11.1f}" for c in _COLUMNS)


def show(data: dict[str, Any]) -> None:
    """Print the tables; shares in per cent of the pictures, PSNR in dB."""
    total = data["summary"]
    print(f"{data['pictures']} pictures, {data['refused']} refused")
    print("\nA second mark over the first: who is read, first / second owner, per cent")
    heads = ("read", "JPEG 70", "+ listed", "restored", "peeled", "by key", "PSNR paid", "cover", "hash")
    print(f"{'':28s}{'refused':>8s}" + "".join(f"{head:>12s}" for head in heads))
    for way, f in total["overwrite"].items():
        cells: list[str] = []
        if "read" in f:
            shares = (f[c] for c in ("read", "jpeg70_read", "jpeg70_listed", "beneath", "peeled", "keyed"))
            cells = [f"{share['first']:.0f} / {share['second']:.0f}" for share in shares]
            cells += [f"{f['psnr_paid']:.1f}", f"{f['psnr_cover']:.1f}", f"{f['hash_distance']}"]
        print(f"{way:28s}{f['refused']:8.0f}" + "".join(f"{cell:>12s}" for cell in cells))
    print("\n" + " " * 34 + "".join(f"{c:>11s}" for c in _COLUMNS))
    print(_line("marked", total["marked"]))
    for way, f in total["white_box"].items():
        print(_line(way, f) + f"   hash {f['hash_distance']} of 64 bits at most")
    if "keyed" in total:
        f = total["keyed"]
        print(
            _line("key unknown, answers to zero", f),
            f"  restored {f['restored']:.0f}, read {f['read_without_key']:.0f}",
        )
    for f in total["surrogate"]:
        label = f"{f['aim']} {f['kind']} {f['pairs']} pairs x{f['strength']:g}"
        strange = f"   payloads of others {f['known_not_owner']:.0f} (listed {f['listed_known']:.0f}), "
        strange += f"of nobody {f['other_payload']:.0f}"
        print(_line(label, f) + strange)
    f = total["copied"]
    print(
        _line("residual copied", f),
        f"  hash {f['hash_distance_least']} bits at least, shows else {f['shows_else']:.0f}",
    )
    for one in data["surrogates"]:
        if one["kind"] == "network":
            print(
                f"{one['aim']} network, {one['pairs']} pairs: squared error {one['error_of_nothing']:.3f} of nothing, "
                f"{one['error_first']:.3f} at first, {one['error_last']:.3f} at last"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--pairs", default="16,64,256")
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two pictures, small surrogates, under a minute")
    args = parser.parse_args()
    torch.set_num_threads(1)
    effort = Effort(tuple(sorted(int(n) for n in args.pairs.split(","))))
    ways: list[str] | None = None
    if args.quick:
        effort, ways = Effort((8,), 40, 4, 16), ["mark again", "check taken out"]
    pictures = split.make(args.images, max(effort.pairs), 2 if args.quick else args.pictures)
    data = measured(pictures, effort, ways, keyed=not args.quick)
    show(data)
    if args.json:
        args.json.write_text(json.dumps(data, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
