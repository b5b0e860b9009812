"""A motion encoder that reads each frame alone and sums tracks up in cosines."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from mtzoo.errors import MtzooError
from mtzoo.interfaces import (
    Gaussian,
    MotionEncoder,
    check_choice,
    check_numbers,
    check_resolution,
    check_sizes,
)
from mtzoo.nn.blocks2d import conv_tower
from mtzoo.nn.blocks3d import (
    SLOPE,
    check_shrink,
    check_video,
    halvings,
    random_rotations,
    shrunken,
    widths,
)
from mtzoo.nn.camera import camera_motion
from mtzoo.nn.norm import Norm
from mtzoo.nn.precision import without_autocast
from mtzoo.nn.time import to_cosines
from mtzoo.registries import motion_encoders
from mtzoo.registry import Card

WHO = "motion encoder 'trajectories'"

View = Literal["frames", "deviations"]
"""What is looked at of a clip."""


@motion_encoders.register(
    "trajectories",
    Card(
        summary="Reads a few numbers off each frame; their tracks as cosines are the code.",
        source=(
            "mtzoo. Tracks in a basis of cosines as in Akhter et al., Trajectory Space: A Dual "
            "Representation for Nonrigid Structure from Motion, IEEE TPAMI 2011"
        ),
        faithful=(
            "Original. There the tracks are of points that are followed; here they are of whatever "
            "the network learns to read off a frame."
        ),
        inputs="video (B, T, C, H, W) in [-1, 1], T >= 2, H = W = 32, 64 or 128",
        outputs="mean and log-variance of the motion code, (B, motion_dim) each, unbounded",
        tiny={"width": 4, "tracks": 2, "terms": 3, "hidden": 8},
        needs="frames >= 2",
    ),
)
class TrajectoryMotionEncoder(MotionEncoder):
    """A video to its motion code, frame by frame.

    The same 2D convolutions read ``tracks`` numbers off every frame, so what is learned from one
    frame serves all. Over time each number is a track; its first ``terms`` coefficients of the
    discrete cosine transform are its part of the code, ``motion_dim = tracks * terms`` in all
    (two tracks more with ``camera``), those of a track together. So few numbers a frame leave no
    room for what the frame shows.

    With the motion generator ``lstm`` and its ``entry: tracks``, which knows the same cosines, the
    error in a frame reaches what was read off that frame without detours.

    Args:
        resolution: Side of a frame: 32, 64 or 128.
        channels: Colour channels.
        tracks: Numbers that are read off a frame.
        terms: Cosines a track, at most ``period``. A track of ``n`` terms swings at most
            ``(n - 1) / 2`` times over the period.
        period: Frames over which the cosines are orthogonal: those of a training clip.
        width: Channels of the first stage; doubled from stage to stage up to 8 times.
        hidden: Units between a frame's last map and its numbers.
        view: What the convolutions see: the ``frames``, or their ``deviations`` from the clip's
            mean, in which nothing that stands still shows.
        turn_colours: Whether each clip's colours are turned by a random rotation or reflection
            of colour space in training, so that the code cannot carry colours over into a
            transfer.
        shrink: Side of the squares of pixels that are averaged before all else, a power of 2 that
            leaves frames of 16x16 or more.
        camera: Whether two more tracks, the last, say where the background lies, x and y, found
            by `mtzoo.nn.camera.camera_motion`. No frame shows that by itself. Nothing learns
            through them: L_M cannot teach how a background is to move.
        norm: After each convolution.
        initial_sigma: Standard deviation of the posterior at the start of training.

    Raises:
        MtzooError: The resolution is not supported, a size or number cannot work, or there is no
            such ``view``.
    """

    min_frames = 2

    def __init__(
        self,
        resolution: int,
        channels: int = 3,
        *,
        tracks: int = 6,
        terms: int = 6,
        period: int = 16,
        width: int = 24,
        hidden: int = 128,
        view: View = "deviations",
        turn_colours: bool = False,
        shrink: int = 1,
        camera: bool = False,
        norm: Norm = "batch",
        initial_sigma: float = 0.3,
    ) -> None:
        super().__init__()
        check_resolution(resolution, WHO)
        check_sizes(WHO, channels=channels, tracks=tracks, terms=terms, period=period)
        check_sizes(WHO, width=width, hidden=hidden)
        if terms > period:
            raise MtzooError(
                f"{WHO}: terms is {terms}; in {period} frames it must be 1 to {period}"
            )
        check_numbers(WHO, above=0, initial_sigma=initial_sigma)
        check_choice(WHO, "view", view, View)
        check_shrink(shrink, resolution, WHO)
        self.resolution = resolution
        self.channels = channels
        self.camera = camera
        self.motion_dim = (tracks + 2 * camera) * terms
        self.terms = terms
        self.period = period
        self.view = view
        self.turn_colours = turn_colours
        self.shrink = shrink
        side = resolution // shrink
        self.features = conv_tower(channels, side, width, norm, False, first_norm=True)
        outputs = widths(width, halvings(side))[-1]
        self.hidden = nn.Sequential(nn.Linear(16 * outputs, hidden), nn.LeakyReLU(SLOPE))
        self.tracks = nn.Linear(hidden, tracks)
        # Coefficients of a young network's tracks are small beside the posterior's deviation.
        self.size = nn.Parameter(torch.full((tracks + 2 * camera, terms), 3.0))
        self.log_variance = nn.Linear(hidden, self.motion_dim)
        for part in self.features.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, SLOPE)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        nn.init.normal_(self.tracks.weight, std=hidden**-0.5)
        nn.init.zeros_(self.tracks.bias)
        nn.init.normal_(self.log_variance.weight, std=0.01 * hidden**-0.5)
        nn.init.constant_(self.log_variance.bias, 2 * math.log(initial_sigma))

    def forward(self, video: Tensor, camera: Tensor | None = None) -> Gaussian:
        """Encode videos.

        Args:
            video: ``(B, T, C, H, W)`` in [-1, 1], T at least 2.
            camera: What `camera_motion` says of it, ``(B, T, 2)``, where that is known already;
                for an encoder with ``camera``.

        Returns:
            Mean and log-variance, ``(B, motion_dim)`` each.

        Raises:
            MtzooError: The clip is shorter than 2 frames or its frames are of another size.
        """
        check_video(video, self.channels, self.resolution, self.min_frames, WHO)
        if self.camera and camera is None:
            camera = camera_motion(video)
        video = shrunken(video, self.shrink)
        if self.view == "deviations":
            video = video - video.mean(1, keepdim=True)
        if self.turn_colours and self.training:
            turns = random_rotations(video.shape[0], self.channels, video.device).to(video)
            video = torch.einsum("bij,btjhw->btihw", turns, video)
        hidden = self.hidden(self.features(video.flatten(0, 1)).flatten(1))
        hidden = hidden.unflatten(0, video.shape[:2])
        # What differs between frames is small beside the numbers, and rounded away in bfloat16.
        with without_autocast(video):
            hidden = hidden.to(self.size.dtype)
            tracks = self.tracks(hidden)
            if self.camera and camera is not None:
                moved = camera - camera.mean(1, keepdim=True)
                tracks = torch.cat((tracks, moved.to(tracks)), 2)
            found = to_cosines(tracks, self.terms, self.period) * self.size
            return Gaussian(found.flatten(1), self.log_variance(hidden.mean(1)))
