"""What several processes that train one network have to agree on. In a process of its own nothing here does anything.

All draw the same batch and each learns from its own part of it: rows `span(n)`, in the order of their ranks. Their
losses are made so that the mean over the processes is the loss of the whole batch; `DistributedDataParallel` averages
the gradients, and every number that depends on a batch as a whole (a threshold, a bank, a normalisation) is worked
out from all of it. So the weights are those of one process, but for rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel


class Ended(Exception):
    """The first process ended the run, and told this one so."""


def world() -> int:
    """How many processes train together; 1 for one that does so alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0. The first one talks to whoever waits, and writes."""
    return dist.get_rank() if world() > 1 else 0


def span(n: int, of: int | None = None) -> slice:
    """Which of n rows are this process's, or those of process `of`; no part is larger than another by more than 1."""
    part = rank() if of is None else of
    return slice(part * n // world(), (part + 1) * n // world())


def total(values: Tensor) -> Tensor:
    """The sum over all processes, at each of them; with gradient, as if all losses were added up."""
    if world() == 1:
        return values
    return _Total.apply(values)


class _Total(torch.autograd.Function):
    """Torch's own with a gradient is deprecated in favour of a private one."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        summed = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return total(gradient)


def mean(rows: Tensor) -> Tensor:
    """The mean over the rows (dimension 0) of all processes, without gradient."""
    if world() == 1:
        return rows.detach().mean(dim=0)
    sums = rows.detach().sum(dim=0)
    count = torch.full((1,), float(len(rows)), dtype=sums.dtype, device=sums.device)
    both = total(torch.cat([sums.flatten(), count]))
    return (both[:-1] / both[-1]).view(sums.shape)


def gather(rows: Tensor, n: int) -> Tensor:
    """The rows of all processes, n of them, in their order in the whole batch; without gradient."""
    if world() == 1:
        return rows.detach()
    parts = [span(n, of) for of in range(world())]
    sizes = [part.stop - part.start for part in parts]
    # Padded to one size, which is all that gloo gathers.
    mine = rows.new_zeros(max(sizes), *rows.shape[1:])
    mine[: len(rows)] = rows.detach()
    padded = [torch.empty_like(mine) for _ in sizes]
    dist.all_gather(padded, mine)
    return torch.cat([piece[:size] for piece, size in zip(padded, sizes, strict=True)])


def decided(*numbers: float) -> tuple[float, ...]:
    """The first process's numbers, at all of them: what depends on a clock or on a person must not differ.

    On the CPU, where gloo passes them on, so that no GPU is waited for.
    """
    if world() == 1:
        return numbers
    told = torch.tensor(numbers, dtype=torch.float64)
    dist.broadcast(told, 0)
    return tuple(told.tolist())


def averaged(numbers: list[float]) -> list[float]:
    """The mean over the processes of each number."""
    if world() == 1:
        return numbers
    return (total(torch.tensor(numbers, dtype=torch.float64)) / world()).tolist()


def shared(lesson: nn.Module, *, uses_all: bool) -> nn.Module:
    """The module, its gradients averaged over the processes during the backward pass.

    uses_all: whether each parameter has a part in each loss; where not, those without are looked for in each step.
    Buffers are not passed on: the same numbers come about everywhere.
    """
    if world() == 1:
        return lesson
    return DistributedDataParallel(
        lesson, forward_sync_buffers=False, find_unused_parameters=not uses_all, gradient_as_bucket_view=True
    )


def normalise_together(net: nn.Module, device: torch.device) -> None:
    """Let every batch normalisation of a network take its statistics from the whole batch. Its state stays the same.

    On a GPU by torch's own, which has no version for the CPU.
    """
    if world() == 1:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(net)
        return
    for module in net.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _BatchNorm2d  # keeps its weights, and its place in the network


class _BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with, in training, the mean and variance of all processes' images."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        values = x.float()
        count = torch.full((1,), values.numel() / values.shape[1], device=x.device)
        # Moments about the running mean: about zero, where means are large, little of the variance would be left.
        centre = self.running_mean.clone()
        var, mean = torch.var_mean(values, dim=(0, 2, 3), correction=0)
        offset = mean - centre
        moments = total(torch.cat([count * offset, count * (var + offset.square()), count]))
        first, second = (moments[:-1] / moments[-1]).chunk(2)
        mean, var = centre + first, (second - first.square()).clamp_min(0.0)
        if self.track_running_stats:
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var * moments[-1] / (moments[-1] - 1.0), self.momentum)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
        scale = self.weight * (var + self.eps).rsqrt()
        return ((values - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)
