"""Batch norms whose statistics are those of all processes that train together.

torch's own ``SyncBatchNorm`` runs on GPUs only. Here the layers keep their names, weights and
buffers; while several processes train, mean and variance are exchanged once forward and the two
sums of the gradient once backward, on whatever device and by whatever torch.distributed has.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mtzoo.nn.norm import Standard


def processes() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


class _Normalised(torch.autograd.Function):
    """Normalise by mean and variance over the batches of all processes, which are equally large.

    Returns the result, mean and biased variance; the last two take no gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        own = torch.var_mean(_wide(x), _places(x), correction=0)
        each = [torch.empty_like(torch.cat(own)) for _ in range(processes())]
        distributed.all_gather(each, torch.cat(own))
        variances, means = torch.stack(each).chunk(2, 1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        made = F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return made, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, mean, variance = ctx.saved_tensors
        # As in eval mode: the mean and the variance as if they were given ...
        given, for_weight, for_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0],
            x,
            torch.ones_like(mean) if weight is None else weight,
            mean,
            variance,
            None,
            None,
            False,
            ctx.eps,
            [True, True, True],
        )
        if ctx.needs_input_grad[0]:
            # ... and what they take from x, over all processes.
            sums = torch.stack([_wide(for_bias), _wide(for_weight)])
            distributed.all_reduce(sums)
            sums /= processes() * (x.numel() // x.shape[1])
            scale = (variance + ctx.eps).rsqrt()
            slope = sums[1] * scale
            if weight is not None:
                scale = scale * weight
            size = [-1 if dim == 1 else 1 for dim in range(x.dim())]
            centred = (_wide(x) - mean.view(size)).mul_((slope * scale).view(size))
            taken = centred.add_((sums[0] * scale).view(size))
            given = (given - taken).to(x.dtype)
        if weight is None:
            for_weight = for_bias = None
        return given, for_weight, for_bias, None


def _wide(values: Tensor) -> Tensor:
    """Statistics of half precision are in float32."""
    return values if values.dtype == torch.float64 else values.float()


def _places(x: Tensor) -> list[int]:
    return [dim for dim in range(x.dim()) if dim != 1]


class _Synchronised(_BatchNorm):
    """What synchronised batch norms have in common: the other base class is the layer's own."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or processes() == 1:
            return super().forward(input)
        return _uncompiled(self, input)

    def _over_all(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        count = processes() * (x.numel() // x.shape[1])
        if count < 2:
            raise ValueError(f"Expected more than 1 value per channel when training, got {count}")
        made, mean, variance = _Normalised.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self._remember(mean, variance * (count / (count - 1)))
        return made

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:
            share = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def _call(layer: _Synchronised, x: Tensor) -> Tensor:
    return layer._over_all(x)


# Collectives are in no compiler's graph.
_uncompiled: Any = torch.compiler.disable(_call)


class SyncBatchNorm1d(_Synchronised, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` over all processes."""


class SyncBatchNorm2d(_Synchronised, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` over all processes."""


class SyncBatchNorm3d(_Synchronised, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` over all processes."""


class SyncStandard(_Synchronised, Standard):
    """`mtzoo.nn.norm.Standard` over all processes."""


class SyncBatchNormAct2d(_Synchronised, BatchNormAct2d):
    """timm's ``BatchNormAct2d``, which has dropout and an activation, over all processes."""

    def _over_all(self, x: Tensor) -> Tensor:
        layer: Any = self
        return layer.act(layer.drop(super()._over_all(x)))


_SYNCHRONISED: dict[type[nn.Module], type[_Synchronised]] = {
    nn.BatchNorm1d: SyncBatchNorm1d,
    nn.BatchNorm2d: SyncBatchNorm2d,
    nn.BatchNorm3d: SyncBatchNorm3d,
    Standard: SyncStandard,
    BatchNormAct2d: SyncBatchNormAct2d,
}


def synchronise_(module: nn.Module) -> list[str]:
    """Let a module's batch norms take their statistics over all processes, in place.

    Layers keep their names, attributes and weights. Alone, and in eval mode, they do what they
    did. While several processes train, all have to run the same layers on batches of the same
    size; the gradients of the losses' sum come out, as with gradients that are averaged after.

    Args:
        module: On its device.

    Returns:
        Names of the types of batch norms of other kinds, which still see their process's share.
    """
    left = set()
    for part in module.modules():
        if isinstance(part, _BatchNorm) and not isinstance(part, _Synchronised):
            kind = _SYNCHRONISED.get(type(part))
            if kind is None:
                left.add(type(part).__name__)
            else:
                part.__class__ = kind
    return sorted(left)
