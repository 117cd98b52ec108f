"""What a trained network says of every image of the pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ml_worker import augment
from ml_worker.batches import seed_of
from ml_worker.images import Images
from ml_worker.nets import Network
from ml_worker.pool import Floats, Rows
from ml_worker.precision import autocast, precision


class Predictions(NamedTuple):
    """float32: probs (n, C), rows sum to 1; features (n, D); logits (n, C), to be calibrated."""

    probs: Floats
    features: Floats
    logits: Floats


@torch.inference_mode()
def predict(
    net: Network,
    images: Images,
    rows: Rows,
    *,
    device: torch.device | str,
    batch: int,
    views: int = 1,
    policy: augment.Policy | None = None,
    amp: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Predictions:
    """What the network says of these rows, in their order; the images are read batch by batch.

    images: uint8 (N, px, px, 3), may be memory-mapped. rows: int64 (n,). views: 1 looks at the plain image; more look
    at so many weak views of it instead, drawn under the policy from the row's place, and average the probabilities
    (the logits are then the logarithms of that mean) and the features. progress(done, total) is called after each
    batch and may raise to cancel. The network must be on the device; it comes back in the mode it was in.
    """
    if views > 1 and policy is None:
        raise ValueError(f"{views} views need a policy that says what may be done to an image")
    device, training = torch.device(device), net.training
    n, n_classes, dtype = len(rows), net.classifier.out_features, precision(torch.device(device), amp)
    features, logits = np.empty((n, net.n_features), np.float32), np.empty((n, n_classes), np.float32)
    net.eval()
    try:
        for start in range(0, n, batch):
            span = slice(start, start + batch)
            squares = torch.from_numpy(np.array(images[rows[span]])).to(device).permute(0, 3, 1, 2)
            with autocast(device, dtype):
                seen, said = _look(net, squares, views, policy, start)
            features[span], logits[span] = seen.cpu().numpy(), said.cpu().numpy()
            progress(min(start + batch, n), n)
    finally:
        net.train(training)
    return Predictions(torch.from_numpy(logits).softmax(dim=1).numpy(), features, logits)


def _look(
    net: Network, squares: Tensor, views: int, policy: augment.Policy | None, start: int
) -> tuple[Tensor, Tensor]:
    """Features (B, D) and logits (B, C) of uint8 images (B, 3, H, W), float32."""
    if views <= 1 or policy is None:
        seen = net.features(squares.float() / 255.0)
        return seen.float(), net.classify(seen).float()
    generator = torch.Generator().manual_seed(seed_of(start))
    looks = [net.features(augment.weak(squares, policy, generator)) for _ in range(views)]
    probs = torch.stack([net.classify(seen).float().softmax(dim=1) for seen in looks]).mean(dim=0)
    return torch.stack([seen.float() for seen in looks]).mean(dim=0), probs.clamp_min(1e-12).log()
