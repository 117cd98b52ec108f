"""Principal components of the pixels: an encoder that needs no training and no download."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from ml_worker.pool import Floats

Images = NDArray[np.uint8]

_FIT_SAMPLE, _FIT_VALUES = 10_000, 10_000 * 64 * 64 * 3  # components barely move with more; half a gigabyte
_VARIANCE_KEPT = 0.97
_BLOCK = 4096


class Encoder:
    """Pixels projected on their principal components and partly whitened.

    components: at most so many dimensions; fewer where 97 % of the variance needs fewer. whitening in [0, 1]:
    each component is divided by variance ** (whitening / 2). 0 keeps pixel distances; 1 makes all components
    weigh the same, which lifts noise: on the digits neighbours were worse so. seed: the sample fitted on.
    Grey when every channel of the sample is equal. Scaled so that a pool item is at distance 1 from the mean
    (root mean square).
    """

    def __init__(self, *, components: int, whitening: float, seed: int) -> None:
        self.components, self.whitening, self.seed = components, whitening, seed
        self.grey = False
        self.mean: Floats = np.zeros(0, np.float32)
        self.projection: Floats = np.zeros((0, 0), np.float32)

    def fit(self, images: Images) -> None:
        """Learn components from images uint8 (N, px, px, 3), N >= 1."""
        if len(images) == 0:
            raise ValueError("cannot fit an encoder on no image; import images first")
        rng = np.random.default_rng(self.seed)
        most = max(1, min(_FIT_SAMPLE, _FIT_VALUES // images[0].size))
        # Not np.asarray before that: the images may be many and lie on the disk.
        rows = np.sort(rng.choice(len(images), most, replace=False)) if len(images) > most else slice(None)
        sample = np.asarray(images[rows])
        self.grey = bool((sample[..., :1] == sample).all())
        pixels = self._pixels(sample)
        self.mean = pixels.mean(axis=0)
        self.projection = self._projection(pixels)

    def _projection(self, pixels: Floats) -> Floats:
        """Pixels (N, P) -> matrix float32 (P, D): rotate, whiten, scale."""
        wanted = min(self.components, *pixels.shape)
        total = float(pixels.var(axis=0).sum())
        if total < 1e-9:  # one image, or all alike: nothing to tell apart
            return np.zeros((pixels.shape[1], 1), np.float32)
        pca = PCA(n_components=wanted, random_state=self.seed).fit(pixels)
        variance = np.maximum(pca.explained_variance_, 1e-12)
        enough = int(np.searchsorted(np.cumsum(variance) / total, _VARIANCE_KEPT)) + 1
        variance, rotation = variance[:enough], pca.components_[:enough]
        whitened = variance ** (1.0 - self.whitening)
        factors = variance ** (-self.whitening / 2.0) / np.sqrt(whitened.sum())
        return np.ascontiguousarray((rotation * factors[:, None]).T, dtype=np.float32)

    def embed(self, images: Images) -> Floats:
        """Images uint8 (N, px, px, 3) -> embeddings float32 (N, D), in blocks."""
        embeddings = np.zeros((len(images), self.projection.shape[1]), np.float32)
        for start in range(0, len(images), _BLOCK):
            pixels = self._pixels(images[start : start + _BLOCK])
            if pixels.shape[1] != len(self.mean):
                raise ValueError(
                    f"images have {pixels.shape[1]} values each; this encoder was fitted on {len(self.mean)}"
                )
            embeddings[start : start + _BLOCK] = (pixels - self.mean) @ self.projection
        return embeddings

    def _pixels(self, images: Images) -> Floats:
        values = np.asarray(images, np.float32) / 255.0
        if self.grey:
            values = values.mean(axis=3)
        return values.reshape(len(images), -1)

    def save(self, folder: Path) -> None:
        """Write settings and components into a folder, which is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        settings = {k: getattr(self, k) for k in ("components", "whitening", "seed", "grey")}
        (folder / "encoder.json").write_text(json.dumps(settings))
        np.save(folder / "mean.npy", self.mean)
        np.save(folder / "projection.npy", self.projection)

    @classmethod
    def load(cls, folder: Path) -> Encoder:
        """The encoder saved in a folder, ready to embed."""
        settings = json.loads((folder / "encoder.json").read_text())
        grey = settings.pop("grey")
        encoder = cls(**settings)
        encoder.grey = grey
        encoder.mean = np.load(folder / "mean.npy", allow_pickle=False)
        encoder.projection = np.load(folder / "projection.npy", allow_pickle=False)
        return encoder
