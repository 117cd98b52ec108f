"""A trained network as a folder that runs without Winnow: weights, graph, what they mean, a script that uses them."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ml_worker import nets

FILES = ("model.safetensors", "model.onnx", "model.json", "predict.py", "README.md")

# Images are read as `images.decode` reads them: turned as EXIF says, what is transparent on white, squashed.
PREDICT = '''\
"""python predict.py IMAGE ...: file, class and probability of each. Needs onnxruntime, pillow and numpy."""
import json, pathlib, sys, numpy, onnxruntime
from PIL import Image, ImageOps
here = pathlib.Path(__file__).parent
about, model = json.loads((here / "model.json").read_text("utf-8")), onnxruntime.InferenceSession(here / "model.onnx")
for name in sys.argv[1:]:
    seen = ImageOps.exif_transpose(Image.open(name))
    if seen.mode[0] == "I":  # 16 bits of grey
        seen = Image.fromarray((numpy.asarray(seen) // (256 if seen.getextrema()[1] > 255 else 1)).astype("uint8"))
    rgb = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen.convert("RGBA")).convert("RGB")
    small = rgb.resize((about["image_px"], about["image_px"]), Image.Resampling.BICUBIC, reducing_gap=3.0)
    probs = model.run(None, {"images": numpy.asarray(small, "float32").transpose(2, 0, 1)[None] / 255})[0][0]
    print(name, about["classes"][probs.argmax()], f"{probs.max():.4f}", sep="\\t")
'''

_CONTENTS = """\
| file | holds |
|---|---|
| `model.onnx` | the network as a graph, from images to probabilities |
| `model.safetensors` | its weights, for further training |
| `model.json` | classes in the order of the outputs, image size, temperature, what was measured |
| `predict.py` | a few lines that read an image and print its class |"""

PREPARE = (
    "Turn the image as its EXIF data says and put what is transparent on white; of 16-bit grey take the upper 8 bits.",
    "Squash it to a square of image_px (bicubic, with antialiasing), in RGB.",
    "Scale to 0..1, channels first. Mean and deviation are inside the network.",
)


@dataclass(frozen=True, eq=False)
class Model:
    """A network of `nets` to take home, and the side of the squares it was trained on. classes: in the order of its
    outputs. temperature: one for all of them, as a network has it (predicted classes have their own in heads alone);
    None where too few random checks were answered to fit one."""

    net: nets.Network
    image_px: int
    classes: list[str]
    temperature: float | None


class Calibrated(nn.Module):
    """Probabilities (B, C) of images (B, 3, H, W) in 0..1: the softmax of the logits over a temperature."""

    def __init__(self, net: nn.Module, temperature: float | None) -> None:
        super().__init__()
        self.net, self.temperature = net, temperature or 1.0

    def forward(self, images: Tensor) -> Tensor:
        return (self.net(images) / self.temperature).softmax(dim=1)


def write(model: Model, folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """FILES in a folder, which is made if need be; returns what model.json says. The network stays as it is.

    facts: what else model.json is to say (accuracy, label count, versions). Raises ValueError where classes and
    outputs do not fit each other.
    """
    n_outputs = model.net.classifier.out_features
    if len(model.classes) != n_outputs:
        raise ValueError(f"{len(model.classes)} class names for {n_outputs} outputs; wanted one each")
    folder.mkdir(parents=True, exist_ok=True)
    net = copy.deepcopy(model.net).cpu().float().eval()
    _save_weights(net, folder / "model.safetensors", model.image_px)
    _save_graph(Calibrated(net, model.temperature).eval(), folder / "model.onnx", model.image_px)
    about = {
        "classes": model.classes,
        "image_px": model.image_px,
        "network": net.name,
        "prepare": list(PREPARE),
        "input": {"name": "images", "type": "float32", "shape": ["n", 3, model.image_px, model.image_px]},
        "output": {"name": "probs", "type": "float32", "shape": ["n", n_outputs]},
        "temperature": model.temperature,
        "temperature_is": "applied inside model.onnx; divide the logits of model.safetensors by it before the softmax",
        **facts,
    }
    (folder / "model.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", "utf-8")
    (folder / "predict.py").write_text(PREDICT, "utf-8")
    (folder / "README.md").write_text(card(about), "utf-8")
    return about


def card(about: Mapping[str, Any]) -> str:
    """What model.json says, for people: what the model is for, how good it is, how to run it, where it comes from."""
    origin = [f"A network of the kind `{about['network']}`."]
    if "model_version" in about:
        origin = [
            f"Model {about['model_version']} of the project, `{about['learnt_by']}` on `{about['encoder']}`, learnt"
            f" from {about['labels']:,} labels."
        ]
    if taught := about.get("distilled"):
        origin.append(
            f"In this package is not that model but a small network (`{about['network']}`) that learnt from it what to"
            " say of the pool, without its labels."
        )
        if taught["agreement"] is not None:
            origin.append(
                f"The two agree on {taught['agreement']:.1%} of {taught['held_out']:,} images that the small one had"
                " not seen."
            )
        if taught["teacher_audit"]:
            origin.append(f"The larger one: {_measured(taught['teacher_audit'])}.")
    if about.get("winnow"):
        origin.append(f"Made by Winnow {about['winnow']}.")
    lines = [
        f"# {about.get('project', 'Model')}",
        "Names which of these classes an image belongs to:",
        "\n".join(f"- {name}" for name in about["classes"]),
        "It knows no other: an image of something else is called one of these as well.",
        "## How good it is",
        _accuracy_in_words(about),
        "## Use",
        "    pip install onnxruntime pillow numpy\n    python predict.py IMAGE ...",
        "prints the file, the class and its probability. What is where:",
        _CONTENTS,
        "To run `model.onnx` from another language, prepare the images thus:",
        "\n".join(f"{number}. {step}" for number, step in enumerate(about["prepare"], 1)),
        f"Squares are {about['image_px']} pixels a side.",
        "## Where it comes from",
        "\n".join(origin),
    ]
    return "\n\n".join(lines) + "\n"


def _accuracy_in_words(about: Mapping[str, Any]) -> str:
    audit = about.get("audit")
    said = f"{_measured(audit).capitalize()}." if audit else "Not measured: no random check was answered."
    if about["temperature"] is None:
        return f"{said} Its probabilities are not calibrated: they give an order, not how often it is right."
    return f"{said} Its probabilities were calibrated on the same images."


def _measured(audit: Mapping[str, Any]) -> str:
    return (
        f"right on {audit['correct']:,} of {audit['n']:,} images drawn at random, from which it never learnt:"
        f" {audit['accuracy']:.1%}, and between {audit['low']:.1%} and {audit['high']:.1%} of all such images"
        f" ({audit['level']:.0%} interval)"
    )


def read(folder: Path) -> Model:
    """The model that `write` left in a folder, in eval mode. Raises RuntimeError where its parts do not fit."""
    about = json.loads((folder / "model.json").read_text("utf-8"))
    weights = load_file(folder / "model.safetensors")
    classes, image_px = about["classes"], about["image_px"]
    net = nets.build(about["network"], len(classes), image_px, mean=weights["mean"], std=weights["std"])
    net.load_state_dict(weights)
    return Model(net.eval(), image_px, classes, about["temperature"])


def _save_weights(net: nets.Network, path: Path, image_px: int) -> None:
    """Weights and buffers, with what is needed to build the network around them should model.json be lost."""
    weights = {key: value.contiguous() for key, value in net.state_dict().items()}
    said = {"net": net.name, "image_px": str(image_px), "n_classes": str(net.classifier.out_features)}
    save_file(weights, path, metadata=said)


def _save_graph(model: nn.Module, path: Path, image_px: int) -> None:
    """The graph with any number of images at once.

    The temperature is in the graph, not in the script: whatever runs it, in whatever language, gets probabilities that
    mean what they say and cannot forget to. torch's newer exporter would want onnxscript and onnx_ir as well and takes
    3 s to 8 s instead of 0.3 s for the same plain graph; torch is pinned, so the older one does not go unnoticed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model,
            (torch.zeros(2, 3, image_px, image_px),),
            str(path),
            dynamo=False,
            input_names=["images"],
            output_names=["probs"],
            dynamic_axes={"images": {0: "n"}, "probs": {0: "n"}},
        )
