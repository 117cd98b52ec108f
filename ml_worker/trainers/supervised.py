"""The labelled images alone, strongly augmented: the yardstick of every other trainer."""

from __future__ import annotations

from torch import Tensor, nn

from ml_worker.trainers import Batch, Logs, Setting, Step, scalars, supervised_loss


class Trainer(nn.Module):
    """Cross-entropy on strong views of the labelled images."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()

    def loss(self, net: nn.Module, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
        loss = supervised_loss(net(labeled.strong()), labeled)
        return loss, scalars(labelled_loss=loss)
