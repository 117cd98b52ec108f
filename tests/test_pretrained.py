"""Published models, stood in for by tiny ones: their transform, their files, what is said when they are missing."""

import json
import pickle
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
from ml_worker.vision_models import (
    ModelUnavailable,
    Transform,
    find_folder,
    load_weights,
    open_model,
    plain_name,
    reason,
)
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


Break = Callable[[Path], object]


class Told:
    """A pickle that leaves a mark when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def refused(model: Path) -> str:
    """What is said of a model that cannot be opened: one line, without where on the server it lies."""
    with pytest.raises(ModelUnavailable) as caught:
        pretrained(model).fit(images())
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(model.parent) not in sentence
    assert model.name in sentence
    return sentence


def sharded(folder: Path, model: Path, shard: str | None = None, name: str = "model.safetensors.index.json") -> Path:
    """A copy of a tiny model whose weights an index names; shard: what it names in place of the file they are in."""
    from safetensors import safe_open

    shutil.copytree(folder, model)
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    with safe_open(model / "model-00001-of-00001.safetensors", "pt") as file:
        where = dict.fromkeys(file.keys(), "model-00001-of-00001.safetensors")
    where["layernorm.weight"] = shard or where["layernorm.weight"]
    (model / name).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return model


def test_weights_in_several_files_are_read_by_their_index(folder: Folder, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = sharded(folder("vit"), tmp_path / "model", "model-00002.safetensors")
    weights = load_file(model / "model-00001-of-00001.safetensors")
    save_file({"layernorm.weight": weights.pop("layernorm.weight")}, model / "model-00002.safetensors")
    save_file(weights, model / "model-00001-of-00001.safetensors")
    # Published beside the others, names pickles, and is read by nobody.
    (model / "pytorch_model.bin.index.json").write_text('{"weight_map": {"x": "pytorch_model-00001.bin"}}')
    encoder = pretrained(model)
    np.testing.assert_array_equal(encoder.embed(images()), pretrained(folder("vit")).embed(images()))
    before = encoder.fingerprint
    index = model / "model.safetensors.index.json"
    index.write_text(index.read_text() + " ")
    assert pretrained(model).fingerprint != before


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "model.fp16.safetensors.index.json"])
@pytest.mark.parametrize(
    "shard",
    ["../elsewhere/pytorch_model.bin", "pytorch_model.bin", "../elsewhere/a.safetensors", "leads_out.safetensors",
     "nowhere.safetensors", "within/a.safetensors", "..", "{absolute}", 7, ["a.safetensors"]],
)  # fmt: skip
def test_an_index_that_names_anything_but_safetensors_of_its_folder_is_refused(
    shard: Any, index: str, folder: Folder, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if shard == "{absolute}":
        shard = str(elsewhere / "a.safetensors")
    model = sharded(folder("vit"), tmp_path / "model", shard, index)
    (model / "within").mkdir()
    for pickled in (elsewhere / "pytorch_model.bin", model / "pytorch_model.bin"):
        torch.save({"layernorm.weight": torch.zeros(16)}, pickled)
    for copied in (elsewhere / "a.safetensors", model / "within" / "a.safetensors"):
        shutil.copy(model / "model-00001-of-00001.safetensors", copied)
    (model / "leads_out.safetensors").symlink_to(elsewhere / "a.safetensors")
    assert "no *.safetensors file of that folder" in refused(model)
    with pytest.raises(ModelUnavailable, match="of that folder"):
        load_weights(model)


def test_in_the_download_cache_a_file_may_be_a_link_to_elsewhere_there(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = sharded(folder("vit"), tmp_path / "models--some--model" / "snapshots" / "abc")
    shard, blob = model / "model-00001-of-00001.safetensors", tmp_path / "models--some--model" / "blob"
    shard.rename(blob)
    shard.symlink_to(blob)
    assert pretrained(model).embed(images()).shape == (5, 16)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "another"))
    with pytest.raises(ModelUnavailable, match="of 'some/model' names"):
        pretrained(model).fit(images())


@pytest.mark.parametrize("lured", ["transformers_weights", "adapter", "distributed"])
def test_no_pickle_is_opened_whatever_lies_in_the_folder(
    lured: str, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder("vit"), tmp_path / "model")
    model, mark = tmp_path / "model", tmp_path / "opened"
    for name in ("adapter_model.bin", "pytorch_model.bin", ".metadata", "0.distcp"):
        (model / name).write_bytes(pickle.dumps(Told(mark)))
    if lured == "transformers_weights":
        settings = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(settings | {"transformers_weights": "adapter_model.bin"}))
    if lured == "adapter":
        (model / "adapter_config.json").write_text('{"base_model_name_or_path": "../x", "peft_type": "LORA"}')
    opened: list[object] = []
    monkeypatch.setattr(torch, "load", lambda *given, **options: opened.append(given))
    np.testing.assert_array_equal(pretrained(model).embed(images()), pretrained(folder("vit")).embed(images()))
    assert not opened
    assert not mark.exists()


def rewritten(name: str, **changed: Any) -> Break:
    def change(model: Path) -> None:
        (model / name).write_text(json.dumps(json.loads((model / name).read_text()) | changed))

    return change


def holding(name: str, content: bytes) -> Break:
    return lambda model: (model / name).write_bytes(content)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (holding("config.json", b"{"), "config.json of 'tiny' is no JSON"),
        (holding("config.json", b"[]"), "config.json of 'tiny' holds a list"),
        (holding("config.json", b"{}"), "cannot be opened"),
        (rewritten("config.json", model_type=["vit"]), "cannot be opened"),
        (rewritten("config.json", model_type="nonsense", auto_map={"AutoConfig": "c.C"}), "cannot be opened"),
        (rewritten("config.json", hidden_size="many"), "cannot be opened"),
        (rewritten("config.json", num_channels=7), "cannot be opened"),
        (holding("preprocessor_config.json", b"\xff\x00\xfe"), "preprocessor_config.json of 'tiny' is no JSON"),
        (holding("preprocessor_config.json", b"{,}"), "preprocessor_config.json of 'tiny' is no JSON"),
        (holding("preprocessor_config.json", b"[" * 100_000), "preprocessor_config.json of 'tiny' is no JSON"),
        (holding("preprocessor_config.json", b"[1]"), "preprocessor_config.json of 'tiny' holds a list"),
        (rewritten("preprocessor_config.json", image_processor=[1]), "not known here"),
        (rewritten("preprocessor_config.json", size={"height": float("inf")}), "not known here"),
        (rewritten("preprocessor_config.json", size=10**9), "not known here"),
        (holding("model.safetensors", b"\x80\x05junk" * 99), "cannot be opened"),
        (holding("model.safetensors", b""), "cannot be opened"),
        (holding("model.safetensors.index.json", b"PK"), "index.json of 'tiny' is no JSON"),
        (holding("model.safetensors.index.json", b"{}"), "index.json of 'tiny' has no weight_map"),
        (holding("model.safetensors.index.json", b'{"weight_map": []}'), "index.json of 'tiny' has no weight_map"),
    ],
)  # fmt: skip
def test_a_broken_folder_is_one_sentence(change: Break, sentence: str, folder: Folder, tmp_path: Path) -> None:
    model = tmp_path / "server" / "tiny"
    shutil.copytree(folder("vit"), model)
    change(model)
    assert sentence in refused(model)


@pytest.mark.parametrize("field", ["image_mean", "image_std"])
@pytest.mark.parametrize(
    "value",
    [[0.5, float("nan"), 0.5], [0.5, 0.5, float("inf")], [0.5, 0.5], [0.5] * 4, [], 0.5, "0.5", None, {"r": 0.5},
     ["0.5"] * 3, [True] * 3, [[0.5]] * 3, [10**400] * 3],
)  # fmt: skip
def test_a_mean_or_spread_that_is_no_three_numbers_is_refused_by_its_name(
    field: str, value: Any, tmp_path: Path
) -> None:
    settings = {"size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3} | {field: value}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelUnavailable, match=f"not known here: {field} "):
        Transform.read(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("image_std", [0, 0, 0]), ("image_std", [0.5, 0.5, -0.5]), ("image_std", [1e-300] * 3),
     ("rescale_factor", float("nan")), ("rescale_factor", 0), ("rescale_factor", "1/255")],
)  # fmt: skip
def test_nothing_is_divided_by_nothing(field: str, value: Any, tmp_path: Path) -> None:
    settings = {"size": 16, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    assert Transform.read(tmp_path).mean == (0.0, 0.0, 0.0)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | {field: value}))
    with pytest.raises(ModelUnavailable, match=f"not known here: {field} holds .* must be from 1e-0"):
        Transform.read(tmp_path)


@pytest.mark.parametrize("name", ["~nobodyzz/x", "/" + "x" * 5000, "./nowhere/x"])
def test_a_folder_that_nobody_can_have_is_not_there(name: str) -> None:
    with pytest.raises(ModelUnavailable, match=r"there is no folder 'x+'"):
        find_folder(name)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("facebook/dinov2-small", "facebook/dinov2-small"),
        ("/srv/models/mine", "mine"),
        ("~/mine", "mine"),
        ("./mine", "mine"),
        ("/root/.cache/huggingface/hub/models--facebook--dinov2-small/snapshots/0a1b", "facebook/dinov2-small"),
    ],
)
def test_a_model_goes_by_its_name_wherever_it_lies(model: str, name: str) -> None:
    assert plain_name(model) == name


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (OSError("no file in /srv/models/x.\nTry again"), "no file in x. Try again"),
        (FileNotFoundError(2, "No such file", "/srv/my models/x"), "[Errno 2] No such file: 'x'"),
        (RuntimeError("open(~bob/a/x, 'rb') and '/srv/my models/y'"), "open(x, 'rb') and 'y'"),
        (ValueError("see https://huggingface.co/a/b or 'some/model', 1 / 2"), None),
        (ValueError("failed:/srv//models/x, path=/srv/y"), "failed:x, path=y"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_viewers_read_no_path_of_the_server(said: Exception, shown: str | None) -> None:
    assert reason(said) == (shown or str(said))


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
