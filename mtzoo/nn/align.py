"""Finding where layers of a picture lie in given frames."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mtzoo.nn.precision import without_autocast
from mtzoo.nn.warp import warp_affine

_LEAST = 1e-6  # keeps what does not change a frame from dividing by nothing


def extent(opacity: Tensor) -> tuple[Tensor, Tensor]:
    """Where things are and how far they reach, in half sides of the picture.

    Args:
        opacity: ``(N, H, W)`` in [0, 1].

    Returns:
        Centres of mass, x to the right and y down from the middle, ``(N, 2)``; and the root mean
        square distances from them, ``(N,)``, at least 0.03.
    """
    height, width = opacity.shape[1:]
    opacity = opacity + 1e-4  # something, where nothing is
    mass = opacity.sum((1, 2))
    x = (torch.arange(width, device=opacity.device) * 2 + 1) / width - 1
    y = (torch.arange(height, device=opacity.device) * 2 + 1) / height - 1
    columns, rows = opacity.sum(1) / mass[:, None], opacity.sum(2) / mass[:, None]
    centre = torch.stack(((columns * x).sum(1), (rows * y).sum(1)), 1)
    spread = (columns * x**2).sum(1) + (rows * y**2).sum(1) - centre.square().sum(1)
    return centre, spread.clamp(min=1e-3).sqrt()


def places(height: int, width: int, device: torch.device) -> Tensor:
    """Where the pixels of a frame lie, x, y in half sides from the middle and 1: ``(3, H, W)``."""
    x = (torch.arange(width, device=device) * 2 + 1) / width - 1
    y = ((torch.arange(height, device=device) * 2 + 1) / height - 1)[:, None]
    return torch.stack((x.expand(height, width), y.expand(height, width), torch.ones_like(x + y)))


def moved(layers: Tensor, moves: Tensor) -> list[Tensor]:
    """Layers as frames see them; what lies outside a layer is nothing.

    Args:
        layers: ``(N, L, C, H, W)``.
        moves: ``(N, T, L, 3, 3)``, from places of a frame to where they look in a layer, in half
            sides from the middle.

    Returns:
        ``(N, T, C, H, W)`` of each layer.
    """
    return [
        warp_affine(layers[:, i], moves[:, :, i, :2], outside="zeros").unflatten(0, moves.shape[:2])
        for i in range(layers.shape[1])
    ]


def lay(background: Tensor, seen: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Layers over a background.

    Args:
        background: ``(N, T or 1, C, H, W)``.
        seen: From the lowest up, ``(N, T, C + 1, H, W)`` each: colours times opacity, and opacity.

    Returns:
        The frames ``(N, T, C, H, W)``, and what lies below each layer.
    """
    below = []
    shown = background
    for layer in seen:
        below.append(shown)
        colours, opacity = layer[:, :, :-1], layer[:, :, -1:]
        shown = shown * (1 - opacity) + colours
    return shown, below


def slopes(maps: Tensor) -> tuple[Tensor, Tensor]:
    """How maps change to the right and downwards, for a half side of the map each.

    Central differences; beyond the border, the border.

    Args:
        maps: ``(..., H, W)``.

    Returns:
        The change to the right and the change downwards, ``(..., H, W)`` each.
    """
    height, width = maps.shape[-2:]
    padded = F.pad(maps.reshape(-1, height, width), (1, 1, 1, 1), mode="replicate")
    padded = padded.reshape(*maps.shape[:-2], height + 2, width + 2)
    right = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) * (width / 4)
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) * (height / 4)
    return right, down


@torch.no_grad()
def align_layers(
    background: Tensor,
    layers: Tensor,
    moves: Tensor,
    frames: Tensor,
    *,
    steps: int = 4,
    whole: bool = False,
) -> tuple[Tensor, Tensor]:
    """Improve where layers are taken to lie in frames, until the frames look as given.

    Gauss-Newton on the squared error, damped (Levenberg, Marquardt), each frame by itself: Lucas,
    Kanade, "An Iterative Image Registration Technique", IJCAI 1981, with several layers at once.
    It finds the nearest fit, so ``moves`` have to be about right; a step that makes a frame worse
    is taken back.

    Args:
        background: ``(N, C, H, W)``.
        layers: From the lowest up, ``(N, L, C + 1, H, W)``: colours times opacity, and opacity in
            [0, 1].
        moves: ``(N, T, L, 3, 3)``, from places of a frame to where they look in a layer, in half
            sides from the middle.
        frames: What is to be seen, ``(N, T, C, H, W)``.
        steps: How many times to improve; each costs about a painting of the frames and of their
            derivatives.
        whole: Whether moves may become any affine maps; else they change by shift, turn and size.

    Returns:
        Moves of the same shape, and the mean squared error of each frame with them, ``(N, T)``;
        computed and returned in float32, whatever came in.
    """
    with without_autocast(frames):
        return _align(background, layers, moves, frames, steps, whole)


def _align(
    background: Tensor, layers: Tensor, moves: Tensor, frames: Tensor, steps: int, whole: bool
) -> tuple[Tensor, Tensor]:
    channels, height, width = background.shape[1:]
    count = layers.shape[1]
    each = torch.cat((layers, *slopes(layers)), 2).float()
    background, frames = background.float()[:, None], frames.float()
    place = places(height, width, frames.device)
    middle, _ = extent(layers[:, :, -1].float().flatten(0, 1))
    middle = middle.unflatten(0, (-1, 1, count))

    tried = best = moves.float()
    least = torch.full(frames.shape[:2], torch.inf, device=frames.device)
    damping = torch.full_like(least, 1e-2)
    square = pull = torch.zeros(())
    for step in range(steps + 1):
        seen = moved(each, tried)
        shown, below = lay(background, [layer[:, :, : channels + 1] for layer in seen])
        missing = frames - shown
        error = missing.square().mean((2, 3, 4))
        better = error < least
        least = torch.where(better, error, least)
        best = torch.where(better[..., None, None, None], tried, best)
        damping = torch.where(better, damping / 2, damping * 8)
        if step == steps:
            break
        derivatives = _derivatives(seen, below, tried, place, middle, whole)
        made = torch.einsum("ntkp,ntlp->ntkl", derivatives, derivatives)
        asked = torch.einsum("ntkp,ntp->ntk", derivatives, missing.flatten(2))
        if step:
            made = torch.where(better[..., None, None], made, square)
            asked = torch.where(better[..., None], asked, pull)
        square, pull = made, asked
        size = torch.diagonal(square, dim1=-2, dim2=-1)
        firm = damping[..., None] * size + 1e-3 * size.mean(-1, keepdim=True) + _LEAST
        # Not `solve`, which waits to tell whether it could.
        change, _ = torch.linalg.solve_ex(square + torch.diag_embed(firm), pull)
        change = change.clamp(-0.3, 0.3)
        tried = _changes(change.unflatten(-1, (count, -1)), middle) @ best
    return best, least


def _derivatives(
    seen: list[Tensor],
    below: list[Tensor],
    moves: Tensor,
    place: Tensor,
    middle: Tensor,
    whole: bool,
) -> Tensor:
    """Of frames by the numbers of `_changes`, ``(N, T, numbers, C * H * W)``."""
    through = 1.0
    found: list[Tensor] = []
    for index in reversed(range(len(seen))):
        layer, right, down = seen[index].chunk(3, 2)
        x, y = ((way[:, :, :-1] - below[index] * way[:, :, -1:]) * through for way in (right, down))
        through = through * (1 - layer[:, :, -1:])
        at = torch.einsum("ntij,jhw->ntihw", moves[:, :, index, :2], place)
        u, v = (at - middle[:, :, index, :, None, None]).split(1, 2)
        ways = [x, y, x * u, x * v, y * u, y * v] if whole else [x, y, x * u + y * v, y * u - x * v]
        found.append(torch.stack(ways, 2))
    return torch.cat(found[::-1], 2).flatten(3)


def _changes(numbers: Tensor, middle: Tensor) -> Tensor:
    """Affine maps ``(N, T, L, 3, 3)``, about ``middle``, from ``(N, T, L, 4 or 6)``."""
    shift, rest = numbers.split((2, numbers.shape[-1] - 2), -1)
    if rest.shape[-1] == 4:
        linear = rest.unflatten(-1, (2, 2)) + torch.eye(2, device=rest.device)
    else:
        size, turn = rest.unbind(-1)
        cosine, sine = size.exp() * turn.cos(), size.exp() * turn.sin()
        linear = torch.stack((cosine, -sine, sine, cosine), -1).unflatten(-1, (2, 2))
    shift = shift + middle - (linear @ middle[..., None])[..., 0]
    maps = torch.cat((linear, shift[..., None]), -1)
    return torch.cat((maps, torch.eye(3, device=maps.device)[2].expand_as(maps[..., :1, :])), -2)
