"""Generation of one 16-frame video beside two rivals, rebuilt from what their papers and code fix.

    python benchmarks/rivals.py [--threads 2] [--output FILE.json]

MoCoGAN's generator (Tulyakov et al., CVPR 2018): a GRU cell of 10 that takes fresh noise at each
frame, 50 numbers of content, DCGAN's transposed convolutions on all frames together. SVG-LP with
DCGAN's networks (Denton and Fergus, ICML 2018): each frame is encoded again, a learned prior of one
LSTM cell and a predictor of two give the next code, a decoder with skips from the given frame
paints it. Sizes are those of their published code (sergeytulyakov/mocogan, edenton/svg), with one
frame given to SVG; weights are random. The rivals loop over frames in Python, as their code does.

Ours is dual_mtgan_weizmann, the way `mtzoo sample` runs it. Counted are the operations that the
dispatcher sees and the floating point operations of convolutions and matrix products; times are
taken in turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from generation import FRAMES, SIDE, settle
from reference_step import RECIPE
from report import keep, markdown, surroundings
from torch import Tensor, nn

from mtzoo.engine.measure import ceilings, cost, floor, in_turn, ratio
from mtzoo.models.dual_mtgan import DualMTGAN
from mtzoo.nn.fold import fold
from mtzoo.recipe import build_model, load_recipe

WIDTHS = (512, 256, 128, 64)


def up(inputs: int, outputs: int, stride: int = 2) -> nn.Sequential:
    """Transposed 4x4 convolution, batch norm, activation."""
    conv = nn.ConvTranspose2d(inputs, outputs, 4, stride, stride - 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class MoCoGAN(nn.Module):
    """Noise to a video."""

    content, motion = 50, 10

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(self.motion, self.motion)
        sizes = pairwise(WIDTHS)
        self.paint = nn.Sequential(
            up(self.content + self.motion, WIDTHS[0], 1),
            *(up(a, b) for a, b in sizes),
            nn.ConvTranspose2d(WIDTHS[-1], 3, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self) -> Tensor:
        """``(T, 3, 64, 64)``."""
        state, states = torch.randn(1, self.motion), []
        for _ in range(FRAMES):
            state = self.cell(torch.randn(1, self.motion), state)
            states.append(state)
        motion = torch.cat(states)
        content = torch.randn(1, self.content).expand(FRAMES, -1)
        return self.paint(torch.cat((content, motion), 1)[:, :, None, None])


class Cells(nn.Module):
    """SVG's recurrent parts: a linear layer, LSTM cells of 256, linear layers."""

    def __init__(self, inputs: int, layers: int, *outputs: int) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, 256)
        self.cells = nn.ModuleList([nn.LSTMCell(256, 256) for _ in range(layers)])
        self.leave = nn.ModuleList([nn.Linear(256, size) for size in outputs])
        self.states: list[tuple[Tensor, Tensor]] = []

    def start(self) -> None:
        """Forget."""
        self.states = [(torch.zeros(1, 256), torch.zeros(1, 256)) for _ in self.cells]

    def forward(self, x: Tensor) -> list[Tensor]:
        """One step."""
        x = self.enter(x)
        for index, cell in enumerate(self.cells):
            self.states[index] = cell(x, self.states[index])
            x = self.states[index][0]
        return [layer(x) for layer in self.leave]


class SVG(nn.Module):
    """A picture to a video, with a learned prior."""

    code, noise = 128, 10

    def __init__(self) -> None:
        super().__init__()
        downs = [3, *WIDTHS[::-1]]
        self.encoder = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.LeakyReLU(0.2))
                for a, b in pairwise(downs)
            ]
        )
        last = nn.Conv2d(WIDTHS[0], self.code, 4)
        self.last = nn.Sequential(last, nn.BatchNorm2d(self.code), nn.Tanh())
        self.first = up(self.code, WIDTHS[0], 1)
        self.decoder = nn.ModuleList([up(2 * a, b) for a, b in pairwise(WIDTHS)])
        self.head = nn.Sequential(nn.ConvTranspose2d(2 * WIDTHS[-1], 3, 4, 2, 1), nn.Sigmoid())
        self.predictor = Cells(self.code + self.noise, 2, self.code)
        self.prior = Cells(self.code, 1, self.noise, self.noise)

    def encode(self, picture: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Its code, and the maps for the skips."""
        maps = []
        for layer in self.encoder:
            picture = layer(picture)
            maps.append(picture)
        return self.last(picture).flatten(1), maps

    def forward(self, picture: Tensor) -> Tensor:
        """``(1, 3, 64, 64)`` to ``(T, 3, 64, 64)``, the first of which was given."""
        self.predictor.start()
        self.prior.start()
        frames, skips = [picture], None
        for _ in range(FRAMES - 1):
            code, maps = self.encode(frames[-1])
            skips = skips or maps
            mean, log_variance = self.prior(code)
            noise = torch.randn_like(mean) * (0.5 * log_variance).exp() + mean
            (code,) = self.predictor(torch.cat((code, noise), 1))
            x = self.first(code.tanh()[:, :, None, None])
            for layer, skip in zip([*self.decoder, self.head], reversed(skips), strict=True):
                x = layer(torch.cat((x, skip), 1))
            frames.append(x)
        return torch.cat(frames)


def runs() -> dict[str, tuple[Callable[[], Tensor], int]]:
    """What makes a video, and how many parameters it has."""
    torch.manual_seed(0)
    model = build_model(load_recipe(RECIPE).model, resolution=SIDE, channels=3)
    assert isinstance(model, DualMTGAN)
    settle(model)
    ours = fold(model)
    picture, code = torch.rand(1, 3, SIDE, SIDE), torch.randn(1, model.motion_dim)
    mocogan, svg = MoCoGAN().eval(), SVG().eval()

    def sample() -> Tensor:
        motion = ours.motion_generator(code, FRAMES)
        return ours.paint(ours.content_encoder(picture), motion, picture)

    own = (model.content_encoder, model.motion_generator, model.image_generator)
    return {
        "Dual-MTGAN, by mtzoo": (sample, parameters(*own)),
        "MoCoGAN, no picture given": (mocogan, parameters(mocogan)),
        "SVG-LP, dcgan": (lambda: svg(picture), parameters(svg)),
    }


def parameters(*parts: nn.Module) -> int:
    return sum(p.numel() for part in parts for p in part.parameters())


def compare(repeats: int) -> dict[str, object]:
    """Counts, and times as multiples of ours."""
    made = runs()
    with torch.inference_mode():
        for run, _ in made.values():  # what is done once, such as packing weights, costs no video
            run()
        costs = {name: cost(run) for name, (run, _) in made.items()}
        times = in_turn({name: run for name, (run, _) in made.items()}, repeats=repeats, warmup=2)
    ours = next(iter(times.values()))
    limits = ceilings(torch.device("cpu"))
    video = 4 * FRAMES * 3 * SIDE * SIDE
    return {
        **surroundings(),
        "ceilings": limits,
        "results": {
            name: {
                "parameters": count,
                "operations": costs[name].operations,
                "flops": costs[name].flops,
                "moved": costs[name].moved,
                "above_floor": min(times[name]) / floor(costs[name], 4 * count + video, limits),
                "time": ratio(times[name], ours),
            }
            for name, (_, count) in made.items()
        },
    }


def table(result: Mapping[str, Any]) -> str:
    """For people."""
    head = (
        "one video of 16 frames",
        "million parameters",
        "operations",
        "GF",
        "MiB moved",
        "times its floor",
        "time / mtzoo's",
    )
    rows = [
        (
            name,
            f"{entry['parameters'] / 1e6:.1f}",
            f"{entry['operations']:,}",
            f"{entry['flops'] / 1e9:.2f}",
            f"{entry['moved'] / 2**20:,.0f}",
            f"{entry['above_floor']:.2f}",
            f"{entry['time']:.2f}",
        )
        for name, entry in result["results"].items()
    ]
    return markdown(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = compare(args.repeats)
    keep(args.output, result)
    print(table(result))


if __name__ == "__main__":
    main()
