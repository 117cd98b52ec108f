"""Published models, stood in for by tiny ones: their transform, their files, what is said when they are missing."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from annotator.algorithms import clean_parameters
from ml_worker import encoders
from ml_worker.vision_models import ModelUnavailable, Transform, find_folder, open_model
from tests.tiny_models import KINDS, save_tiny

Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Where a tiny model of this kind is; each is made once."""
    made: dict[str, Path] = {}

    def find(kind: str) -> Path:
        if kind not in made:
            made[kind] = save_tiny(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return find


def pretrained(folder: Path, **parameters: Any) -> Any:
    given = {"model": str(folder), "amp": "off"} | parameters
    return encoders.load("pretrained")(seed=0, **clean_parameters("encoder", "pretrained", given))


def images(n: int = 5, px: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, px, px, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_model_gives_features_of_length_one(kind: str, folder: Folder) -> None:
    encoder = pretrained(folder(kind))
    encoder.fit(images())
    embeddings = encoder.embed(images())
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (5, 12 if kind == "clip" else 16)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert len(np.unique(embeddings.round(5), axis=0)) == 5
    # Squares of any size are resized, and a batch is only a batch.
    np.testing.assert_allclose(pretrained(folder(kind), batch=2).embed(images()), embeddings, atol=1e-5)
    assert encoder.embed(images(2, px=7)).shape == (2, embeddings.shape[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("px", [10, 33])
def test_the_transform_is_the_one_the_model_was_published_with(kind: str, px: int, folder: Folder) -> None:
    from transformers import AutoImageProcessor

    theirs = AutoImageProcessor.from_pretrained(folder(kind), backend="pil", local_files_only=True)
    wanted = theirs(list(images(px=px)), return_tensors="pt")["pixel_values"]
    found = Transform.read(folder(kind))(torch.from_numpy(images(px=px)).permute(0, 3, 1, 2))
    assert found.shape == wanted.shape
    # Pillow interpolates in fixed point: a value may round to its neighbour, once in each direction.
    steps = ((found - wanted).abs() * 255 * 0.225).round()
    assert steps.max() <= 2
    assert (steps > 0).float().mean() < 0.1


@pytest.mark.parametrize("kind", ["vit", "dinov2", "clip"])
def test_the_features_are_those_the_library_computes(kind: str, folder: Folder) -> None:
    from transformers import AutoModel

    values = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = AutoModel.from_pretrained(folder(kind), local_files_only=True).eval()
    with torch.inference_mode():
        if kind == "clip":
            wanted = model.visual_projection(model.vision_model(pixel_values=values).pooler_output)
        else:
            wanted = model(pixel_values=values).last_hidden_state[:, 0]
        torch.testing.assert_close(open_model(folder(kind)).features(values), wanted)


def test_it_asks_for_squares_of_its_own_size(folder: Folder) -> None:
    assert pretrained(folder("vit")).image_px == 16
    assert pretrained(folder("dinov2")).image_px == 20  # resized to 20, of which the middle 16 are seen
    assert pretrained(folder("convnext")).image_px == 36  # 32 / 0.875, of which the middle 32 are seen


def test_other_weights_or_another_transform_are_another_fingerprint(folder: Folder, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(folder("vit"), model)
    encoder = pretrained(model)
    encoder.fit(images())
    encoder.save(tmp_path / "encoder")
    np.testing.assert_array_equal(
        encoders.load("pretrained").load(tmp_path / "encoder").embed(images()), encoder.embed(images())
    )
    settings = json.loads((model / "preprocessor_config.json").read_text())
    (model / "preprocessor_config.json").write_text(json.dumps(settings | {"image_mean": [0.5, 0.5, 0.5]}))
    with pytest.raises(encoders.Mismatch, match=r"other transform .* embed the project again"):
        encoders.load("pretrained").load(tmp_path / "encoder")
    shutil.rmtree(model)
    save_tiny("vit", model, seed=1)
    with pytest.raises(encoders.Mismatch, match="other weights"):
        encoders.load("pretrained").load(tmp_path / "encoder")


def test_embeddings_of_two_encoders_are_not_mixed(folder: Folder, tmp_path: Path) -> None:
    for kind in ("vit", "dinov2"):
        pretrained(folder(kind)).save(tmp_path / kind)
    vit = encoders.fingerprint(tmp_path / "vit")
    encoders.check_same(tmp_path / "vit", vit)
    with pytest.raises(encoders.Mismatch, match=f"by {vit}; .* embed the project again"):
        encoders.check_same(tmp_path / "dinov2", vit)


def test_a_model_that_lacks_weights_is_not_filled_up_at_random(folder: Folder, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(folder("vit"), model)
    weights = load_file(model / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnavailable, match=r"lacks 1 weights, layernorm.weight among them"):
        open_model(model)


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("config.json", "holds no config.json"),
        ("model.safetensors", r"weights of other kinds can run code"),
        ("preprocessor_config.json", "its transform is unknown"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused_by_name(
    missing: str, sentence: str, folder: Folder, tmp_path: Path
) -> None:
    shutil.copytree(folder("vit"), tmp_path / "model")
    (tmp_path / "model" / missing).unlink()
    with pytest.raises(ModelUnavailable, match=sentence):
        pretrained(tmp_path / "model").fit(images())


def test_a_folder_that_is_not_there_and_a_name_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="there is no folder"):
        find_folder(str(tmp_path / "nowhere"))
    with pytest.raises(ModelUnavailable, match="neither a folder nor a model's name"):
        find_folder("not a name")


def test_without_a_connection_it_says_in_one_sentence_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(name: str, **options: Any) -> str:
        raise LocalEntryNotFoundError("nothing cached, nobody answers")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ModelUnavailable, match=r"^the model 'some/model' is not .*connect it.* or give a folder"):
        find_folder("some/model")


def test_a_model_that_was_fetched_before_needs_no_connection(monkeypatch: pytest.MonkeyPatch, folder: Folder) -> None:
    import huggingface_hub

    def cached(name: str, **options: Any) -> str:
        assert options["local_files_only"], "it asked the network for what is on the disk"
        return str(folder("vit"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    assert find_folder("some/model") == folder("vit")


@pytest.mark.parametrize("changed", [{"resample": 4}, {"size": {"height": 16, "width": 20}}, {"size": None}])
def test_a_transform_that_is_not_known_is_refused_rather_than_guessed(changed: dict[str, Any], tmp_path: Path) -> None:
    settings = {"size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3} | changed
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelUnavailable, match="not known here"):
        Transform.read(tmp_path)


def test_importing_the_module_does_not_import_the_library() -> None:
    # It takes seconds, which only those who use such a model should pay.
    script = "import sys, ml_worker.encoders.pretrained; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[1]).returncode == 0
