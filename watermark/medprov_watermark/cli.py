"""Command line of the watermark: training and releases.

``medprov-watermark train`` trains both networks on a folder of pictures and can be stopped and resumed at any time;
``medprov-watermark release`` turns a checkpoint into a release; ``train-roi`` and ``release-roi`` do the same for the
network that finds the region of interest; ``medprov-watermark info`` says what is installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from medprov_watermark.errors import WatermarkError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="medprov-watermark", description="Train and inspect the watermark networks.")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train, or go on training, on a folder of pictures")
    train.add_argument(
        "--images", type=Path, required=True, help="folder of PNG, JPEG or TIFF pictures, read below too"
    )
    train.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and the log")
    train.add_argument("--steps", type=int, default=3800, help="steps of the whole run (default: %(default)s)")
    train.add_argument("--minutes", type=float, help="stop after so many minutes; the next call goes on")
    train.add_argument("--batch", type=int, default=32, help="pictures per step (default: %(default)s)")
    train.add_argument("--crops", type=int, default=4, help="windows taken of each picture (default: %(default)s)")
    train.add_argument(
        "--final-db", type=float, default=43.5, help="PSNR the curriculum ends at (default: %(default)s)"
    )
    train.add_argument("--rate", type=float, default=1e-3, help="highest learning rate (default: %(default)s)")
    train.add_argument("--ssim-weight", type=float, default=5.0, help="weight of SSIM (default: %(default)s)")
    train.add_argument(
        "--start", type=Path, metavar="FILE", help=".safetensors file to begin with; a checkpoint in --out comes first"
    )
    train.add_argument(
        "--adversarial-weight",
        type=float,
        default=0.02,
        help="weight of the discriminator in the last quarter, 0 for none (default: %(default)s)",
    )
    train.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    train.add_argument("--threads", type=int, help="threads on the CPU")
    train.add_argument("--all", action="store_true", help="train on the validation split too")
    roi = commands.add_parser(
        "train-roi", help="train, or go on training, the network that finds the region of interest"
    )
    roi.add_argument("--images", type=Path, required=True, help="folder of folders NAME of pictures and NAME_masks")
    roi.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and the log")
    roi.add_argument("--steps", type=int, default=2600, help="steps of the whole run (default: %(default)s)")
    roi.add_argument("--minutes", type=float, help="stop after so many minutes; the next call goes on")
    roi.add_argument("--batch", type=int, default=8, help="windows per step (default: %(default)s)")
    roi.add_argument("--crop", type=int, default=320, help="side of a window (default: %(default)s)")
    roi.add_argument("--rate", type=float, default=2e-3, help="highest learning rate (default: %(default)s)")
    roi.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    roi.add_argument("--threads", type=int, help="threads on the CPU")
    roi.add_argument("--all", action="store_true", help="train on the validation split too")
    release_roi = commands.add_parser("release-roi", help="write the release file of a checkpoint of train-roi")
    release_roi.add_argument("checkpoint", type=Path)
    release_roi.add_argument("--out", type=Path, required=True, help="folder for NAME.onnx")
    release_roi.add_argument("--name", default="medprov-roi-1")
    release = commands.add_parser("release", help="write the release files of a checkpoint or of a federation's round")
    release.add_argument("checkpoint", type=Path, help="checkpoint.pt, or a .safetensors file")
    release.add_argument("--out", type=Path, required=True, help="folder for NAME.safetensors and NAME.onnx")
    release.add_argument("--name", default="medprov-w1-3")
    plots = commands.add_parser("plots", help="draw loss.png and attacks.png of a training run")
    plots.add_argument("run", type=Path, help="the --out folder of train")
    commands.add_parser("info", help="the installed release and its hashes")
    args = parser.parse_args(argv)
    try:
        if args.command == "info":
            return _info()
        try:
            from medprov_watermark.training import commands as training
            from medprov_watermark.training import segmentation_commands as segmentation
        except ImportError as error:
            raise WatermarkError(f"training needs torch ({error}): pip install 'medprov-watermark[train]'") from error
        run = {
            "train": training.train,
            "plots": training.plots,
            "release": training.release,
            "train-roi": segmentation.train,
            "release-roi": segmentation.release,
        }
        return run[args.command](args)
    except WatermarkError as error:
        print(f"medprov-watermark: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("medprov-watermark: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def _info() -> int:
    from medprov_watermark import carriers, weights

    release = weights.load_release()
    print(f"model     {release.model.hex()}")
    print(f"carriers  {carriers.digest()}")
    print(f"files     {weights.FOLDER / weights.RELEASE}.safetensors, .onnx")
    return 0


if __name__ == "__main__":
    sys.exit(main())
