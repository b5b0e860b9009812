"""``mtzoo sample``: move a picture in several drawn ways."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb's arguments to the command line."""
    parser = subparsers.add_parser(
        "sample",
        help="move a picture in several ways drawn at random",
        description="Move a picture with motions drawn from the model's prior. The same seed "
        "gives the same file.",
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="DIR|NAME",
        help="a run folder, a folder with model.safetensors and config.json, or the name of a "
        "model that comes with mtzoo, see `mtzoo ls pretrained`",
    )
    parser.add_argument("--image", required=True, metavar="FILE", help="the picture to move")
    parser.add_argument(
        "--samples", type=int, default=4, metavar="N", help="how many motions (default: 4)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of the draws (default: 0)"
    )
    parser.add_argument(
        "--frames",
        type=int,
        metavar="T",
        help="frames of each (default: as many as a clip had in training)",
    )
    parser.add_argument(
        "--fps",
        type=float,
        default=12.5,
        metavar="F",
        help="rate at which .mp4 and .gif play (default: 12.5)",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="what to write, by its ending: .mp4 and .gif play all samples in a grid, .png has "
        "one row a sample, the picture first",
    )
    parser.add_argument(
        "--scale",
        type=int,
        metavar="N",
        help="enlarge the output so many times (default: .mp4 and .gif to 256 pixels or more)",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to compute (default: a GPU where there is one)",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Draw, write, and say in one line what was made."""
    from mtzoo.cli import _use

    # What would fail at the end is looked at before the work.
    _use.check_count("--samples", args.samples, most=256)
    _use.check_count("--frames", args.frames)
    _use.check_rate(args.fps)
    _use.check_seed(args.seed)
    output = _use.check_output(args.output, args.scale, args.image)

    import torch

    from mtzoo import media
    from mtzoo.interfaces import as_frames

    device = _use.pick_device(args.device)
    model, config = _use.load_folded(args.model, device)
    frames = args.frames or config["frames"]
    _use.check_size(output, args.samples * frames, model.resolution, args.scale)
    image = media.read_image(args.image, resolution=model.resolution)
    # Drawn on the CPU, so that the motions do not depend on the device.
    generator = torch.Generator().manual_seed(args.seed)
    with _use.computing(device), torch.inference_mode(), _use.progress() as bar:
        bar.add_task("samples", total=None)  # one pass: that it goes on is all there is to tell
        picture = _use.to_video(image[None], model.channels)[:, 0].to(device)
        drawn = model.sample(picture, args.samples, frames, generator)[0]
        made = as_frames(_use.finite(drawn, args.model)).cpu()

    made = made.expand(*made.shape[:4], 3)
    if output.suffix.lower() == ".png":
        rows = [torch.cat([image[None], sample]) for sample in made]
        labels = [f"sample {i}" for i in range(1, len(rows) + 1)]
        media.write_image(output, media.sheet(rows, labels=labels, scale=args.scale or 1))
    else:
        _use.write_clip(output, media.grid(made), args.fps, args.scale, model.resolution)
    print(
        f"{output}: {args.samples} samples of {frames} frames at "
        f"{model.resolution}x{model.resolution}, seed {args.seed}"
    )
    return 0
