"""What ``medprov-watermark train-roi`` and ``release-roi`` do."""

from __future__ import annotations

import argparse

import torch

from medprov_watermark.errors import WatermarkError
from medprov_watermark.roi_picture import MULTIPLE
from medprov_watermark.training import data, loop, masked, segmentation
from medprov_watermark.training.commands import DAMAGED, left_out_in_one_line


def train(args: argparse.Namespace) -> int:
    """Train, or go on training.

    Raises
    ------
    WatermarkError
        No pictures with masks, no such device, or a checkpoint that does not fit.
    """
    if not args.images.is_dir():
        raise WatermarkError(f"{args.images}: no such folder; --images names the folder of the training pictures")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise WatermarkError("device cuda: torch finds no CUDA device; use --device cpu")
    if args.crop < 64 or args.crop % MULTIPLE:
        raise WatermarkError(f"crop {args.crop}: give a multiple of {MULTIPLE}, at least 64")
    if args.threads:
        torch.set_num_threads(args.threads)
    paths = [p for p in data.list_images(args.images) if args.all or not data.held_back(p)]
    try:
        with left_out_in_one_line():
            pictures = masked.load(paths, args.crop)
    except ValueError as error:
        raise WatermarkError(f"{args.images}: {error}") from error
    settings = segmentation.Settings(steps=args.steps, batch=args.batch, rate=args.rate)
    print(f"{pictures.size} pictures, {', '.join(pictures.kinds)}; {settings.steps} steps on {args.device}", flush=True)
    trainer = segmentation.Trainer(pictures, settings, torch.device(args.device))

    def report(f: dict[str, float]) -> None:
        print(
            f"step {f['step']:.0f}  loss {f['region']:.3f}  dice {f['dice']:.3f}  kinds right {f['kinds right']:.3f}  "
            f"{f['seconds']:.0f} s",
            flush=True,
        )

    checkpoint = args.out / loop.CHECKPOINT
    if checkpoint.exists():
        try:
            trainer.resume(checkpoint)
        except DAMAGED as error:
            raise WatermarkError(
                f"{checkpoint}: cannot go on from this checkpoint ({_reason(error)}); use another --out"
            ) from error
    loop.run(trainer, args.out, args.minutes, report)
    return 0


def release(args: argparse.Namespace) -> int:
    """Write the release file of a checkpoint.

    Raises
    ------
    WatermarkError
        Not a checkpoint.
    """
    from medprov_watermark.training import segmentation_export  # needs onnx, which training alone does not

    try:
        written = segmentation_export.write_release(args.checkpoint, args.out, args.name)
    except DAMAGED as error:
        raise WatermarkError(
            f"{args.checkpoint}: not a checkpoint of medprov-watermark train-roi ({_reason(error)})"
        ) from error
    print(written)
    return 0


def _reason(error: BaseException) -> str:
    """What torch says, without the advice in the lines below."""
    return (str(error).splitlines() or [type(error).__name__])[0]
