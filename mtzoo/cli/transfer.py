"""``mtzoo transfer``: move a picture as a video moves."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb's arguments to the command line."""
    parser = subparsers.add_parser(
        "transfer",
        help="move a picture with the motion of a video",
        description="Move a picture with the motion of a video. Pictures and videos of any common "
        "kind, size and rate are cropped to their central square and resized to the model's "
        "resolution.",
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
        "--video",
        required=True,
        metavar="FILE",
        help="whose motion to take: a video, an animated GIF or a folder of frames",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="what to write, by its ending: .mp4, .gif, or .png (a sheet of frames)",
    )
    parser.add_argument(
        "--frames",
        type=int,
        metavar="N",
        help="how many frames of the video to take, from its start "
        "(default: as many as a clip had in training; longer ones are allowed)",
    )
    parser.add_argument(
        "--fps",
        type=float,
        metavar="F",
        help="resample the video to this many frames a second first (default: its own rate)",
    )
    parser.add_argument(
        "--side-by-side",
        action="store_true",
        help="show the picture and the video beside the result",
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
    """Transfer, write, and say in one line what was made."""
    from mtzoo.cli import _use

    # What would fail at the end is looked at before the work.
    _use.check_count("--frames", args.frames)
    _use.check_rate(args.fps)
    output = _use.check_output(args.output, args.scale, args.image, args.video)

    import torch

    from mtzoo import media
    from mtzoo.interfaces import as_frames

    device = _use.pick_device(args.device)
    model, config = _use.load_folded(args.model, device)
    frames = args.frames or config["frames"]
    image = media.read_image(args.image, resolution=model.resolution)
    clip = media.read_video(args.video, resolution=model.resolution, frames=frames, fps=args.fps)
    _use.check_clip(model, len(clip.frames), args.video)
    shown = 3 if args.side_by_side else 1
    _use.check_size(output, shown * len(clip.frames), model.resolution, args.scale)
    with _use.computing(device), torch.inference_mode():
        picture = _use.to_video(image[None], model.channels)[:, 0].to(device)
        video = _use.to_video(clip.frames, model.channels).to(device)
        moved = model.transfer(picture, video)[0]
        made = as_frames(_use.finite(moved, args.model)).cpu()

    made = made.expand(*made.shape[:3], 3)
    if output.suffix.lower() == ".png":
        rows, labels = [made], None
        if args.side_by_side:
            rows = [image[None], clip.frames, made]
            labels = ["picture", "video", "result"]
        media.write_image(output, media.sheet(rows, labels=labels, scale=args.scale or 1))
    else:
        if args.side_by_side:
            still = image[None].expand_as(clip.frames)
            made = media.row([still, clip.frames, made])
        _use.write_clip(output, made, clip.fps, args.scale, model.resolution)
    skipped = f", {clip.skipped} broken frames skipped" if clip.skipped else ""
    count = len(clip.frames)
    print(
        f"{output}: {count} frames at {model.resolution}x{model.resolution}, from the first "
        f"{clip.seconds:.2f} s of {args.video} ({clip.fps:g} frames a second{skipped})"
    )
    return 0
