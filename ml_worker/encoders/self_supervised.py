"""A small network taught on the pool itself, without one answer, to know an image again in another guise."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional

from ml_worker import nets
from ml_worker.pool import Floats, Rows
from ml_worker.precision import autocast, precision
from ml_worker.views import contrastive
from ml_worker.whole_files import whole_file

Images = NDArray[np.uint8]
Progress = Callable[[float, str], None]

BATCH = 256  # images; twice as many views
CHECKPOINT_S = 30.0
LEARNING_RATE, WARM_UP = 2e-3, 0.05
TEMPERATURE = 0.2
# Images that mean, spread, clusters and whitening are estimated from; fewer of large ones, half a gigabyte as float32.
_SAMPLE, _SAMPLE_VALUES = 10_000, 10_000 * 64 * 64 * 3
_BLOCK = 512


class Encoder:
    """Features of a network that learned which two views come from one image.

    variant: "contrastive" pulls the two views of an image together and pushes all others of the batch away (NT-Xent:
    Chen et al. 2020, SimCLR, equation 1); "vicreg" pulls together and asks of every feature that it varies over the
    batch and repeats no other (Bardes et al. 2022, VICReg, section 4), without pushing images apart: a pool with many
    near copies has no false strangers. On 2,000 photographs both were level; BYOL, SimSiam and Barlow Twins, tried in
    VICReg's place, were 1 to 8 points behind it. network: a name of nets.py. Training ends after so many epochs or so
    many minutes, whichever is first; the learning rate follows the share of whichever is nearer. Only a run that the
    epochs end is the same every time. colour, flip: see views.py. batches: "clustered" spreads each batch over
    clusters of the pixels, so that few of the images pushed apart are alike (Chakraborty et al. 2020, G-SimCLR; there
    they come from an autoencoder, here from principal components, which cost a second).

    Embeddings are the features before the projection (Chen et al., section 4.2), centred, half whitened (each
    principal component divided by variance ** 0.25) and of length 1, float32 (N, n_features).
    """

    def __init__(
        self,
        *,
        variant: str,
        network: str,
        minutes: float,
        epochs: int,
        colour: float,
        flip: str,
        batches: str,
        seed: int,
    ) -> None:
        if variant not in _LOSSES:
            raise ValueError(f"there is no variant {variant!r}; there are: {', '.join(_LOSSES)}")
        self.variant, self.network, self.minutes, self.epochs = variant, network, minutes, epochs
        self.colour, self.flip, self.batches, self.seed = colour, flip, batches, seed
        self.image_px = 0
        self.net: nets.Network | None = None
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.centre = self.whitening = torch.zeros(0)

    def fit(self, images: Images, *, progress: Progress | None = None, folder: Path | None = None) -> None:
        """Learn from images uint8 (N, px, px, 3), N >= 1.

        progress(share 0..1, sentence) is called after every step; what it raises ends the run. folder: where the state
        of the run is kept, every half minute; a run of the same settings on the same images goes on from there.
        """
        if len(images) == 0:
            raise ValueError("cannot fit an encoder on no image; import images first")
        self.image_px = images.shape[1]
        self.net = self._fresh(images)
        if len(images) > 1:
            self._train(_Run(self, images), images, progress or (lambda share, text: None), folder)
        self.net.eval()
        sample = self._features(_sample(images, self.seed))
        self.centre = sample.mean(dim=0)
        self.whitening = _half_whitening(sample - self.centre)

    def _fresh(self, images: Images) -> nets.Network:
        pixels = torch.from_numpy(_sample(images, self.seed).reshape(-1, 3)).float() / 255.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            mean, std = pixels.mean(dim=0), pixels.std(dim=0)
            return nets.build(self.network, 1, self.image_px, mean=mean, std=std).to(self.device)

    def _train(self, run: _Run, images: Images, progress: Progress, folder: Path | None) -> None:
        checkpoint = folder / "self_supervised.pt" if folder else None
        if checkpoint and checkpoint.exists():
            run.resume(torch.load(checkpoint, map_location=self.device, weights_only=True))
        began, saved = time.monotonic() - run.elapsed_s, time.monotonic()
        sentence, n_steps = "", max(1, self.epochs * run.steps_per_epoch)
        while (share := max(run.step / n_steps, run.elapsed_s / (60.0 * self.minutes))) < 1.0:
            loss = run.advance(images, share)
            run.elapsed_s = time.monotonic() - began
            if checkpoint and time.monotonic() - saved >= CHECKPOINT_S:
                with whole_file(checkpoint) as file:
                    torch.save(run.state(), file)
                saved = time.monotonic()
            # Reading the loss of every step would make a GPU wait.
            if not sentence or run.step % 10 == 0:
                epoch = run.step / run.steps_per_epoch
                sentence = f"self-supervised: epoch {epoch:.1f} of {self.epochs}, loss {float(loss):.3f}"
            progress(min(1.0, share), sentence)
        if checkpoint:
            checkpoint.unlink(missing_ok=True)

    def embed(self, images: Images) -> Floats:
        """Images uint8 (N, px, px, 3) of the size it was fitted on -> embeddings float32 (N, D), in blocks."""
        if images.shape[1] != self.image_px:
            raise ValueError(f"images have {images.shape[1]} px; this encoder was fitted on {self.image_px} px")
        white = (self._features(images) - self.centre) @ self.whitening
        return np.asarray(functional.normalize(white, dim=1, eps=1e-4).numpy(), np.float32)

    @torch.inference_mode()
    def _features(self, images: Images) -> Tensor:
        """float32 (N, n_features) on the CPU. Never in bf16: neighbours are told apart by the last digits."""
        assert self.net is not None
        blocks = [torch.zeros(0, self.net.n_features)]
        for start in range(0, len(images), _BLOCK):
            block = _tensor(images[start : start + _BLOCK]).to(self.device)
            blocks.append(self.net.features(block.float() / 255.0).float().cpu())
        return torch.cat(blocks)

    def _settings(self) -> dict[str, Any]:
        names = ("variant", "network", "minutes", "epochs", "colour", "flip", "batches", "seed")
        return {name: getattr(self, name) for name in names}

    def save(self, folder: Path) -> None:
        """Write settings and weights into a folder, which is made if need be."""
        assert self.net is not None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "encoder.json").write_text(json.dumps(self._settings() | {"image_px": self.image_px}))
        weights = {f"net.{name}": weight.cpu().contiguous() for name, weight in self.net.state_dict().items()}
        save_file(weights | {"centre": self.centre, "whitening": self.whitening}, folder / "encoder.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Encoder:
        """The encoder saved in a folder, ready to embed."""
        settings = json.loads((folder / "encoder.json").read_text())
        image_px = settings.pop("image_px")
        encoder = cls(**settings)
        encoder.image_px = image_px
        weights = load_file(folder / "encoder.safetensors")
        encoder.centre, encoder.whitening = weights.pop("centre"), weights.pop("whitening")
        net = nets.build(encoder.network, 1, image_px, mean=torch.zeros(3), std=torch.ones(3))
        net.load_state_dict({name.removeprefix("net."): weight for name, weight in weights.items()})
        encoder.net = net.to(encoder.device).eval()
        return encoder


# --- one run


class _Run:
    """What training remembers from step to step. Order and views come from (seed, step), so none of it is random."""

    def __init__(self, encoder: Encoder, images: Images) -> None:
        assert encoder.net is not None
        self.encoder, self.net = encoder, encoder.net
        self.step, self.elapsed_s = 0, 0.0
        self.batch = min(BATCH, len(images))
        self.steps_per_epoch = len(images) // self.batch
        self.dtype = precision(encoder.device, "auto")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(encoder.seed)
            width = self.net.n_features
            self.projection = _projection(width, 128 if encoder.variant == "contrastive" else 512).to(encoder.device)
        weights = [*self.net.body.parameters(), *self.projection.parameters()]
        self.optimiser = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=1e-4)
        self.scaler = torch.amp.GradScaler(encoder.device.type, enabled=self.dtype == torch.float16)
        self.clusters = _clusters(images, encoder.seed) if encoder.batches == "clustered" else None
        self._order: Rows = np.zeros(0, np.int64)
        self._order_of = -1
        self._made_for = encoder._settings() | {"n": len(images), "sum": int(_sample(images, 0).sum(dtype=np.int64))}

    def advance(self, images: Images, share: float) -> Tensor:
        """One step of the optimiser; its loss."""
        encoder = self.encoder
        self.net.train()
        for group in self.optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (share + 1e-3) / WARM_UP) * 0.5 * (1.0 + math.cos(math.pi * share))
        generator = torch.Generator().manual_seed(encoder.seed * 1_000_003 + self.step)
        block = _tensor(images[self.rows()]).to(encoder.device)
        looks = [contrastive(block, generator, colour=encoder.colour, flip=encoder.flip == "yes") for _ in range(2)]
        with autocast(encoder.device, self.dtype):
            projected = self.projection(self.net.features(torch.cat(looks)))
        loss = _LOSSES[encoder.variant](*projected.float().chunk(2))
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.step += 1
        return loss.detach()

    def rows(self) -> Rows:
        """Rows of this step's batch: every epoch a new order, of which a rest smaller than a batch is left out."""
        epoch, place = divmod(self.step, self.steps_per_epoch)
        if epoch != self._order_of:
            rng = np.random.default_rng((self.encoder.seed, epoch))
            self._order, self._order_of = _order(self._made_for["n"], self.clusters, rng), epoch
        return np.sort(self._order[place * self.batch : (place + 1) * self.batch])

    def state(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in ("net", "projection", "optimiser", "scaler")}
        return parts | {"step": self.step, "elapsed_s": self.elapsed_s, "made_for": self._made_for}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a state. One of other images or settings is left alone: this run starts at the beginning."""
        if state["made_for"] != self._made_for:
            return
        for name in ("net", "projection", "optimiser", "scaler"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]


def _projection(inputs: int, outputs: int) -> nn.Module:
    hidden = max(inputs, outputs)
    return nn.Sequential(
        nn.Linear(inputs, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, outputs),
    )


# --- losses: both views float32 (B, D) -> scalar


def _nt_xent(first: Tensor, second: Tensor) -> Tensor:
    """Mean cross-entropy of finding each view's twin among the 2B - 1 others, by cosine over TEMPERATURE."""
    views = functional.normalize(torch.cat([first, second]), dim=1)
    similar = (views @ views.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    twins = torch.arange(len(views), device=views.device).roll(len(first))
    return functional.cross_entropy(similar, twins)


def _vicreg(first: Tensor, second: Tensor) -> Tensor:
    """Distance of twins, plus how far each feature's spread is below 1, plus covariance of features / 25.

    The published weights 25, 25 and 1, divided by 25.
    """
    loss = functional.mse_loss(first, second)
    for views in (first, second):
        centred = views - views.mean(dim=0)
        covariance = centred.T @ centred / (len(views) - 1)
        variance = covariance.diagonal()
        loss = loss + 0.5 * functional.relu(1.0 - (variance + 1e-4).sqrt()).mean()
        loss = loss + (covariance.square().sum() - variance.square().sum()) / (25.0 * views.shape[1])
    return loss


_LOSSES = {"contrastive": _nt_xent, "vicreg": _vicreg}


# --- images, batches, whitening


def _sample(images: Images, seed: int) -> Images:
    most = max(1, min(_SAMPLE, _SAMPLE_VALUES // images[0].size))
    if len(images) <= most:
        return np.asarray(images)
    return images[np.sort(np.random.default_rng(seed).choice(len(images), most, replace=False))]


def _tensor(images: Images) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


def _clusters(images: Images, seed: int) -> Rows:
    """A cluster for every image, int64 (N,): about as many clusters as a batch has places, never of one image."""
    sample = _sample(images, seed).reshape(-1, images[0].size)
    components = PCA(min(32, *sample.shape), random_state=seed).fit(sample.astype(np.float32))
    points = np.concatenate(
        [
            components.transform(images[start : start + _BLOCK].reshape(-1, sample.shape[1]).astype(np.float32))
            for start in range(0, len(images), _BLOCK)
        ]
    )
    k = int(max(1, min(BATCH, len(images) // 8)))
    return np.asarray(MiniBatchKMeans(k, random_state=seed, n_init=1).fit_predict(points), np.int64)


def _order(n: int, clusters: Rows | None, rng: np.random.Generator) -> Rows:
    """Every row once. With clusters, any stretch of the order holds each cluster in its share of the pool.

    The members of a cluster, shuffled, are put at equal distances over the epoch, from a start drawn by lot.
    """
    shuffled = rng.permutation(n)
    if clusters is None:
        return shuffled
    members = shuffled[np.argsort(clusters[shuffled], kind="stable")]
    own, first, size = np.unique(clusters[members], return_index=True, return_counts=True)
    rank = np.arange(n) - np.repeat(first, size)
    place = (rank + np.repeat(rng.random(len(own)), size)) / np.repeat(size, size)
    return members[np.argsort(place, kind="stable")]


def _half_whitening(features: Tensor) -> Tensor:
    """Centred features (N, D) -> matrix (D, D): rotated on the principal components, each over variance ** 0.25."""
    covariance = (features.double().T @ features.double()) / max(1, len(features))
    variance, rotation = torch.linalg.eigh(covariance)
    # The floor keeps directions in which nothing varies from being lifted out of rounding errors.
    return (rotation * (variance.clamp_min(0.0) + 1e-3 * variance.max() + 1e-8) ** -0.25).float().contiguous()
