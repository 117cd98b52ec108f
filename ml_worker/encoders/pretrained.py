"""A vision model that `transformers` loads, from its name or a folder, as it is: nothing is taught, only computed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ml_worker import encoders
from ml_worker.pool import Floats
from ml_worker.precision import autocast, precision
from ml_worker.vision_models import Transform, VisionModel, find_folder, index_file, open_model, plain_name

Images = NDArray[np.uint8]


class Encoder:
    """Image features of a published model: DINOv2 and v3, CLIP, SigLIP, ViT, ConvNeXt and their like.

    model: a name on huggingface.co, or a folder that holds config.json, preprocessor_config.json and safetensors. The
    model's own transform (size, crop, mean, spread, interpolation) is read from there and applied here: a wrong one
    silently costs 10 to 30 points. batch: images at a time. amp: "auto" computes in bf16 or fp16 where the hardware
    is made for it, "off" in float32. seed is taken because every encoder takes one.

    Embeddings are float32 (N, D) of length 1. Kept as float16 they take half the room and no neighbour changes that
    bf16 had not changed before. `fingerprint` stands for weights and transform: embeddings of different fingerprints
    are never compared. Whoever decodes images for this encoder should decode them at `image_px`; smaller squares are
    enlarged, which is right but shows the model less than it could see.
    """

    def __init__(self, *, model: str, batch: int, amp: str, seed: int) -> None:
        self.model, self.batch, self.amp, self.seed = model, batch, amp, seed
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._folder: Path | None = None
        self._transform: Transform | None = None
        self._network: VisionModel | None = None
        self._fingerprint = ""

    def _open(self) -> tuple[VisionModel, Transform]:
        """The model, read when it is first needed: listing encoders must not cost a download."""
        if self._network is None or self._transform is None:
            self._folder = find_folder(self.model)
            self._transform = Transform.read(self._folder)
            self._network = open_model(self._folder).to(self.device)
        return self._network, self._transform

    @property
    def image_px(self) -> int:
        """The side at which this model would like its squares decoded."""
        return self._open()[1].resize_px

    @property
    def folder(self) -> Path:
        """Where the model's files are."""
        self._open()
        assert self._folder is not None
        return self._folder

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits for these weights and this transform."""
        if not self._fingerprint:
            self._fingerprint = _digest(self.folder, self._open()[1])
        return self._fingerprint

    def fit(self, images: Images) -> None:
        """Opens the model; there is nothing to learn. Raises ModelUnavailable, saying what to do."""
        if len(images) == 0:
            raise ValueError("cannot fit an encoder on no image; import images first")
        self._open()

    @torch.inference_mode()
    def embed(self, images: Images) -> Floats:
        """Images uint8 (N, px, px, 3) of any size -> embeddings float32 (N, D), in batches."""
        network, transform = self._open()
        dtype = precision(self.device, self.amp)
        embeddings = np.zeros((len(images), network.n_features), np.float32)
        for start in range(0, len(images), self.batch):
            block = torch.from_numpy(np.ascontiguousarray(images[start : start + self.batch])).to(self.device)
            with autocast(self.device, dtype):
                features = network.features(transform(block.permute(0, 3, 1, 2)))
            embeddings[start : start + self.batch] = functional.normalize(features.float(), dim=1).cpu().numpy()
        return embeddings

    def save(self, folder: Path) -> None:
        """Write settings, transform and fingerprint into a folder; the weights stay where they were."""
        _, transform = self._open()
        folder.mkdir(parents=True, exist_ok=True)
        settings = {name: getattr(self, name) for name in ("model", "batch", "amp", "seed")}
        written = settings | {"transform": transform.as_json(), "fingerprint": self.fingerprint}
        (folder / "encoder.json").write_text(json.dumps(written))

    @classmethod
    def load(cls, folder: Path) -> Encoder:
        """The encoder saved in a folder. Raises encoders.Mismatch if its model is another by now."""
        settings: dict[str, Any] = json.loads((folder / "encoder.json").read_text())
        saved, transform = settings.pop("fingerprint"), settings.pop("transform")
        encoder = cls(**settings)
        if encoder.fingerprint != saved:
            found = encoder._open()[1].as_json()
            changed = "transform" if found != transform else "weights"
            raise encoders.Mismatch(
                f"the model {plain_name(encoder.model)!r} has other {changed} by now ({encoder.fingerprint}, was"
                f" {saved}); put the old files back, or embed the project again"
            )
        return encoder


def _digest(folder: Path, transform: Transform) -> str:
    """Over the weights themselves, so that a folder overwritten by another model, or a moved name, shows."""
    digest = hashlib.sha256(json.dumps(transform.as_json(), sort_keys=True).encode())
    index = index_file(folder)
    for path in [folder / "config.json", *([index] if index else []), *sorted(folder.glob("*.safetensors"))]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
