"""Opening published vision models: where their files are, the transform they expect, which output is the image."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
_MODES = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.model"]
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SIDE_AT_MOST = 4096
# Absolute paths in what libraries say, in quotes (where they may hold blanks) or not; the last group is what is kept.
_PATHS = (
    re.compile(r"(?P<quote>['\"`])(?:~[^\s/'\"`]*)?/(?:[^'\"`]*/)?(?P<last>[^/'\"`]+)/*(?P=quote)"),
    re.compile(r"(?<![\w/.~-])(?!(?<=:)//)(?P<quote>)(?:~[^\s/]*)?/(?:[^\s/'\"`:;,()]*/)*(?P<last>[^\s/'\"`:;,()]+)"),
)


class ModelUnavailable(ValueError):
    """This model cannot be used here; the message says what to do."""


def plain_name(model: str | Path) -> str:
    """A model's name; of a folder the last part, since the folders of the server are nobody's business."""
    folder = Path(model)
    fetched = folder.parent.parent.name  # in the download cache the last part is a revision
    if folder.parent.name == "snapshots" and fetched.startswith("models--"):
        return fetched.removeprefix("models--").replace("--", "/")
    is_folder = folder.is_absolute() or str(model).startswith((".", "~"))
    return (folder.name if is_folder else "") or str(model)


def reason(error: BaseException | str, folder: Path | None = None) -> str:
    """What an error says, in one line of at most 300 characters, of each path only the last part: viewers read it."""
    said = str(error) or type(error).__name__
    for path in (folder, getattr(error, "filename", None), getattr(error, "filename2", None)):
        if path and Path(str(path)).is_absolute():
            said = said.replace(str(path), plain_name(str(path)))
    said = " ".join(said[:2000].split())
    for pattern in _PATHS:
        said = pattern.sub(r"\g<quote>\g<last>\g<quote>", said)
    return said if len(said) <= 300 else f"{said[:299]}…"


# --- files


def find_folder(model: str) -> Path:
    """The folder of a model: as given, from the download cache, or downloaded. Raises ModelUnavailable.

    The cache comes first, so that a name keeps meaning the revision it meant when it was first used.
    """
    given = _as_folder(model)
    if given is not None:
        return _complete(given)
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
        raise ModelUnavailable(
            f"huggingface.co does not give out {model!r} ({reason(error)}); give a folder"
        ) from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise ModelUnavailable(
            f"the model {model!r} is not on this computer and cannot be downloaded: connect it to the internet once,"
            " or give a folder with the model's files"
        ) from error


def _as_folder(model: str) -> Path | None:
    """The folder this is, None for what may be a name. Raises ModelUnavailable for what can only be a folder."""
    missing = ModelUnavailable(f"there is no folder {plain_name(model)!r}; give one with a model in it, or a name")
    try:
        given = Path(model).expanduser()
        if given.is_dir():
            return given
    except (OSError, RuntimeError) as error:  # a path too long or not for this user; the home of nobody
        raise missing from error
    if given.is_absolute() or model.startswith((".", "~")):
        raise missing
    return None


def _complete(folder: Path) -> Path:
    try:
        if not (folder / "config.json").is_file():
            raise ModelUnavailable(f"{_named(folder)} holds no config.json; give a folder that a model was saved in")
        _read_object(folder / "config.json")
        weight_files(folder)
    except OSError as error:
        raise ModelUnavailable(f"{_named(folder)} cannot be read: {reason(error, folder)}") from error
    return folder


def _named(folder: Path) -> str:
    return repr(plain_name(folder))


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model. Raises ModelUnavailable for whatever else is there."""
    where = f"{path.name} of {_named(path.parent)}"
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnavailable(f"{where} is no JSON ({reason(error, path)}); fetch the model again") from error
    if not isinstance(found, dict):
        raise ModelUnavailable(f"{where} holds a {type(found).__name__}, not a JSON object; fetch the model again")
    return found


def index_file(folder: Path) -> Path | None:
    """The file that says which files hold the weights; None where one holds them all."""
    return None if (folder / _WHOLE).is_file() else folder / _INDEX


def weight_files(folder: Path) -> list[Path]:
    """The files that the weights of a model are read from, all of them *.safetensors of its folder.

    Raises ModelUnavailable where there is none, and where any index of such files names anything else. Indices of
    pickles (pytorch_model.bin.index.json), which published models often have beside it, are never read.
    """
    shards = {path.name: _shards(path) for path in sorted(folder.glob("*.safetensors.index.json"))}
    if index_file(folder) is None:
        return [folder / _WHOLE]
    if _INDEX not in shards:
        raise ModelUnavailable(
            f"{_named(folder)} holds no {_WHOLE}; weights of other kinds can run code and are not read"
        )
    return shards[_INDEX]


def _shards(index: Path) -> list[Path]:
    """The files an index names. Raises ModelUnavailable unless they lie beside it: `../x.bin` would be a pickle."""
    where, named = f"{index.name} of {_named(index.parent)}", _read_object(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise ModelUnavailable(f"{where} has no weight_map; fetch the model again")
    for name in named.values():
        if not isinstance(name, str) or not _lies_beside(index, name):
            raise ModelUnavailable(
                f"{where} names {reason(name)[:80]!r}, which is no *.safetensors file of that folder;"
                " fetch the model again"
            )
    return [index.parent / name for name in sorted(set(named.values()))]


def _lies_beside(index: Path, name: str) -> bool:
    """Whether this is the plain name of a *.safetensors file in the folder of the index, and no link that leads out.

    In the download cache every file is a link to elsewhere in the cache.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    path, folder, cache = index.parent / name, index.parent.resolve(), Path(HF_HUB_CACHE).resolve()
    if Path(name).name != name or "\\" in name or not name.endswith(".safetensors") or not path.is_file():
        return False
    return path.resolve().is_relative_to(cache if folder.is_relative_to(cache) else folder)


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
            raise ModelUnavailable(
                f"{_named(folder)} holds no preprocessor_config.json, so its transform is unknown; add it"
            )
        settings = _read_object(path)
        try:
            return cls._from(settings.get("image_processor", settings))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            lacks = f"{error} is not there, or not one it can be" if isinstance(error, KeyError) else reason(error)
            raise ModelUnavailable(
                f"{path.name} of {_named(folder)} describes a transform that is not known here: {lacks}"
            ) from error

    @classmethod
    def _from(cls, settings: dict[str, Any]) -> Transform:
        size = _side(settings["size"])
        crop = size
        if settings.get("do_center_crop"):
            crop = _side(settings.get("crop_size") or settings["size"])
        elif "crop_pct" in settings and size < 384:  # ConvNeXt: enlarge, then cut
            size = int(size / (settings["crop_pct"] or 224 / 256))
        if not 1 <= crop <= size <= _SIDE_AT_MOST:
            raise ValueError(f"crops of {crop} px from {size} px")
        rescales, normalises = settings.get("do_rescale", True), settings.get("do_normalize", True)
        return cls(
            resize_px=size,
            crop_px=crop,
            mode=_MODES[settings.get("resample", 2)],
            rescale=_number(settings.get("rescale_factor", 1 / 255), "rescale_factor", 1e-9) if rescales else 1.0,
            mean=_three(settings, "image_mean", -1e6) if normalises else (0.0,) * 3,
            std=_three(settings, "image_std", 1e-6) if normalises else (1.0,) * 3,
        )


def _side(size: Any) -> int:
    """One side for square images: a number, {height, width} or {shortest_edge}."""
    if isinstance(size, int):
        return size
    sides = {int(size[key]) for key in ("height", "width", "shortest_edge") if size.get(key)}
    if len(sides) != 1:
        raise ValueError(f"size {size}")
    return sides.pop()


def _three(settings: dict[str, Any], field: str, least: float) -> tuple[float, ...]:
    found = settings[field]
    if not isinstance(found, list) or len(found) != 3:
        raise ValueError(f"{field} is {_short(found)}; it must be a list of three numbers")
    return tuple(_number(number, field, least) for number in found)


def _number(found: Any, field: str, least: float) -> float:
    # NaN is in no range.
    if isinstance(found, bool) or not isinstance(found, int | float) or not least <= found <= 1e6:
        raise ValueError(f"{field} holds {_short(found)}; its numbers must be from {least:g} to 1,000,000")
    return float(found)


def _short(found: Any) -> str:
    return f"{found!r:.60}"


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
    size = Transform.read(folder).crop_px
    network = VisionModel(load_weights(folder), 0)
    try:
        with torch.inference_mode():
            network.n_features = network.features(torch.zeros(1, 3, size, size)).shape[1]
    except Exception as error:  # a model of another kind may raise anything
        raise ModelUnavailable(
            f"the model in {_named(folder)} does not turn images into features: {reason(error, folder)}"
        ) from error
    return network


def load_weights(folder: Path) -> Any:
    """A `transformers` model of the folder's own kind, float32, eval. Never runs code that came with the weights.

    The weights are read here and handed over. Given the folder, the library would go by whatever else lies there or is
    named there: adapters, distributed checkpoints, `transformers_weights`, shards elsewhere, some of them pickles.
    """
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModel

    files = weight_files(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):  # only its class is wanted
            kind = type(AutoModel.from_config(config, trust_remote_code=False))
        weights = {name: weight for path in files for name, weight in load_file(path).items()}
        model, report = kind.from_pretrained(
            None, config=config, state_dict=weights, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # files from elsewhere: every layer of the library has errors of its own
        raise ModelUnavailable(f"the model in {_named(folder)} cannot be opened: {reason(error, folder)}") from error
    # A missing weight would be drawn at random and the features be noise.
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler.dense."))
    if missing:
        raise ModelUnavailable(
            f"{_named(folder)} lacks {len(missing)} weights, {missing[0]} among them; fetch it again"
        )
    return model.eval()
