"""Opening published vision models: where their files are, the transform they expect, which output is the image."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
_MODES = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.model"]


class ModelUnavailable(ValueError):
    """This model cannot be used here; the message says what to do."""


def find_folder(model: str) -> Path:
    """The folder of a model: as given, from the download cache, or downloaded. Raises ModelUnavailable.

    The cache comes first, so that a name keeps meaning the revision it meant when it was first used.
    """
    given = Path(model).expanduser()
    if given.is_dir():
        return _complete(given)
    if given.is_absolute() or model.startswith((".", "~")):
        raise ModelUnavailable(f"there is no folder {model!r}; give one with a model in it, or a name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    options: dict[str, Any] = {"allow_patterns": _WANTED, "ignore_patterns": ["*/*"]}
    try:
        try:
            return _complete(Path(snapshot_download(model, local_files_only=True, **options)))
        except (LocalEntryNotFoundError, ModelUnavailable):
            return _complete(Path(snapshot_download(model, **options)))
    except HFValidationError as error:
        raise ModelUnavailable(f"{model!r} is neither a folder nor a model's name; give one of them") from error
    except HfHubHTTPError as error:
        raise ModelUnavailable(f"huggingface.co does not give out {model!r} ({error}); give a folder") from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise ModelUnavailable(
            f"the model {model!r} is not on this computer and cannot be downloaded: connect it to the internet once,"
            " or give a folder with the model's files"
        ) from error


def _complete(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise ModelUnavailable(f"{folder} holds no config.json; give a folder that a model was saved in")
    if not any(folder.glob("*.safetensors")):
        raise ModelUnavailable(
            f"{folder} holds no *.safetensors; weights of other kinds can run code and are not read"
        )
    return folder


# --- transform


@dataclass(frozen=True)
class Transform:
    """What a model expects of an image, applied to whole batches of squares.

    Squares are resized to resize_px, cut to the middle crop_px, and (values - mean) / std taken of values in 0..1 (or
    0..255 * rescale in general). mode: nearest-exact, bilinear or bicubic, always antialiased, rounded to whole
    values as Pillow does.
    """

    resize_px: int
    crop_px: int
    mode: str
    rescale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, px, px) -> float32 (B, 3, crop_px, crop_px)."""
        values = images.float()
        if images.shape[-1] != self.resize_px:
            # Columns, whole values, rows: Pillow's order. In one pass bicubic overshoots differ by 15 of 255.
            for size in ((images.shape[-2], self.resize_px), (self.resize_px, self.resize_px)):
                values = self._resized(values, size)
        edge = round((self.resize_px - self.crop_px) / 2)
        values = values[:, :, edge : edge + self.crop_px, edge : edge + self.crop_px]
        mean, std = (values.new_tensor(numbers).reshape(1, -1, 1, 1) for numbers in (self.mean, self.std))
        return (values * self.rescale - mean) / std

    def _resized(self, values: Tensor, size: tuple[int, int]) -> Tensor:
        if self.mode == "nearest-exact":
            return functional.interpolate(values, size, mode=self.mode)
        values = functional.interpolate(values, size, mode=self.mode, antialias=True, align_corners=False)
        return values.round_().clamp_(0, 255)

    def as_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Transform:
        """From the settings of the model's image processor. Raises ModelUnavailable: guessing would be costly."""
        path = next((folder / name for name in _PROCESSORS if (folder / name).is_file()), None)
        if path is None:
            raise ModelUnavailable(f"{folder} holds no preprocessor_config.json, so its transform is unknown; add it")
        settings = json.loads(path.read_text())
        settings = settings.get("image_processor", settings)
        try:
            return cls._from(settings)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ModelUnavailable(f"{path} describes a transform that is not known here: {error!r}") from error

    @classmethod
    def _from(cls, settings: dict[str, Any]) -> Transform:
        size = _side(settings["size"])
        crop = size
        if settings.get("do_center_crop"):
            crop = _side(settings.get("crop_size") or settings["size"])
        elif "crop_pct" in settings and size < 384:  # ConvNeXt: enlarge, then cut
            size = int(size / (settings["crop_pct"] or 224 / 256))
        if not 1 <= crop <= size:
            raise ValueError(f"crops of {crop} px from {size} px")
        rescales, normalises = settings.get("do_rescale", True), settings.get("do_normalize", True)
        return cls(
            resize_px=size,
            crop_px=crop,
            mode=_MODES[settings.get("resample", 2)],
            rescale=float(settings.get("rescale_factor", 1 / 255)) if rescales else 1.0,
            mean=tuple(settings["image_mean"]) if normalises else (0.0,) * 3,
            std=tuple(settings["image_std"]) if normalises else (1.0,) * 3,
        )


def _side(size: Any) -> int:
    """One side for square images: a number, {height, width} or {shortest_edge}."""
    if isinstance(size, int):
        return size
    sides = {int(size[key]) for key in ("height", "width", "shortest_edge") if size.get(key)}
    if len(sides) != 1:
        raise ValueError(f"size {size}")
    return sides.pop()


# --- model


class VisionModel(nn.Module):
    """The image side of a model: float32 (B, 3, px, px), transformed -> features (B, n_features)."""

    def __init__(self, model: Any, n_features: int) -> None:
        super().__init__()
        self.model, self.n_features = model, n_features

    def features(self, images: Tensor) -> Tensor:
        if hasattr(self.model, "get_image_features"):
            found = self.model.get_image_features(pixel_values=images)
            return found if isinstance(found, Tensor) else found.pooler_output
        output = self.model(pixel_values=images)
        pooled = getattr(output, "pooler_output", None)
        # ViT's dense pooler was trained for one task, if at all (many folders lack it and would get random weights):
        # its class token, already normalised, is the image.
        if pooled is None or hasattr(getattr(self.model, "pooler", None), "dense"):
            return output.last_hidden_state[:, 0]
        return pooled.flatten(1)


def open_model(folder: Path) -> VisionModel:
    """The model in a folder, in eval mode, on the CPU. Raises ModelUnavailable if it is none, or not whole."""
    model = load_weights(folder)
    size = Transform.read(folder).crop_px
    network = VisionModel(model, 0)
    try:
        with torch.inference_mode():
            network.n_features = network.features(torch.zeros(1, 3, size, size)).shape[1]
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise ModelUnavailable(f"the model in {folder} does not turn images into features: {error}") from error
    return network


def load_weights(folder: Path) -> Any:
    """A `transformers` model of the folder's own kind, float32, eval. Never runs code that came with the weights."""
    from transformers import AutoModel

    try:
        model, report = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelUnavailable(f"the model in {folder} cannot be opened: {error}") from error
    # A missing weight would be drawn at random and the features be noise.
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler.dense."))
    if missing:
        raise ModelUnavailable(f"{folder} lacks {len(missing)} weights, {missing[0]} among them; fetch it again")
    return model.eval()
