"""What ``medprov-watermark train`` and ``release`` do."""

from __future__ import annotations

import argparse
import pickle
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from medprov_watermark.errors import WatermarkError
from medprov_watermark.training import data, loop, records

DAMAGED = (OSError, EOFError, RuntimeError, KeyError, TypeError, ValueError, AttributeError, pickle.UnpicklingError)
"""What torch raises for files that are no checkpoints of ours."""


def train(args: argparse.Namespace) -> int:
    """Train, or go on training.

    Raises
    ------
    WatermarkError
        No pictures, no such device, or a checkpoint that does not fit.
    """
    if not args.images.is_dir():
        raise WatermarkError(f"{args.images}: no such folder; --images names the folder of the training pictures")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise WatermarkError("device cuda: torch finds no CUDA device; use --device cpu")
    if args.threads:
        torch.set_num_threads(args.threads)
    paths = [p for p in data.list_images(args.images) if args.all or not data.held_back(p)]
    try:
        with left_out_in_one_line():
            pictures = data.load(paths, args.crops)
    except ValueError as error:
        raise WatermarkError(f"{args.images}: {error}") from error
    settings = loop.Settings(
        steps=args.steps,
        batch=args.batch,
        rate=args.rate,
        final_db=args.final_db,
        ssim_weight=args.ssim_weight,
        adversarial_weight=args.adversarial_weight,
    )
    print(f"{len(paths)} pictures, {len(pictures)} windows, {settings.steps} steps on {args.device}", flush=True)
    trainer = loop.Trainer(pictures, settings, torch.device(args.device))

    def report(f: dict[str, float]) -> None:
        print(
            f"step {f['step']:.0f}  loss {f['loss']:.3f}  bits right {f['accuracy']:.4f}  ssim {f['ssim']:.4f}  "
            f"attacks {f['probability']:.2f}  {f['db']:.1f} dB  {f['seconds']:.0f} s",
            flush=True,
        )

    checkpoint = args.out / loop.CHECKPOINT
    if checkpoint.exists():
        try:
            trainer.resume(checkpoint)
        except DAMAGED as error:
            raise WatermarkError(
                f"{checkpoint}: cannot go on from this checkpoint ({error}); use another --out"
            ) from error
    elif args.start:
        try:
            trainer.start_from(args.start)
        except (*DAMAGED, SafetensorError) as error:
            raise WatermarkError(f"{args.start}: no weights of a model of this size ({error})") from error
    loop.run(trainer, args.out, args.minutes, report)
    return 0


@contextmanager
def left_out_in_one_line() -> Iterator[None]:
    """Name each file that is not used, without the place in this program; Pillow's own warnings name no file."""
    with warnings.catch_warnings(record=True) as left_out:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", r"(?s).*: not used for training: ", UserWarning)
        try:
            yield
        finally:
            for one in left_out:
                print(f"medprov-watermark: {' '.join(str(one.message).splitlines())}", file=sys.stderr)


def plots(args: argparse.Namespace) -> int:
    """Draw the curves of a run.

    Raises
    ------
    WatermarkError
        No log, or matplotlib is missing.
    """
    try:
        for path in records.plot(args.run):
            print(path)
    except (OSError, KeyError, ValueError) as error:
        raise WatermarkError(f"{args.run}: no log of medprov-watermark train ({error})") from error
    except ImportError as error:
        raise WatermarkError("plots need matplotlib; install medprov-watermark[train]") from error
    return 0


def release(args: argparse.Namespace) -> int:
    """Write the release files of a checkpoint, or of the weights of a federation's round.

    Raises
    ------
    WatermarkError
        Neither.
    """
    from medprov_watermark.training import export  # needs onnx, which training alone does not

    if args.checkpoint.suffix == ".safetensors":
        print(f"model {export.write_release(export.model_of_weights(args.checkpoint), args.out, args.name)}")
        return 0
    try:
        model, about = export.model_of_checkpoint(args.checkpoint)
    except DAMAGED as error:
        raise WatermarkError(f"{args.checkpoint}: not a checkpoint of medprov-watermark train ({error})") from error
    print(f"model {export.write_release(model, args.out, args.name)}  {about['progress']}")
    return 0
