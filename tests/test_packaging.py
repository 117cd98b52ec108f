"""A network taken home: files that say the same as the network did, without Winnow."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from ml_worker import loop, nets, packaging
from ml_worker.augment import Policy
from ml_worker.batches import Examples
from ml_worker.calibrate import softmax
from ml_worker.distil import distil, soften
from ml_worker.images import Images, decode
from ml_worker.packaging import Model
from ml_worker.pool import Rows
from ml_worker.predict import predict

CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "“nine”"]
N_LEARNT = 1200
PX = 8


def digits() -> tuple[Images, Rows]:
    found = load_digits()
    grey = (found.images * 255 / 16).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3), found.target


def squares(images: Images) -> torch.Tensor:
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255


def network(name: str = "small", image_px: int = PX) -> nets.Network:
    """Fresh, but for the running means of its normalisations, without which it says the same of everything."""
    torch.manual_seed(0)
    net = nets.build(name, len(CLASSES), image_px, mean=torch.full((3,), 0.3), std=torch.full((3,), 0.4))
    with torch.no_grad():
        net.train()(squares(digits()[0][:64]))
    return net.eval()


@pytest.mark.parametrize("name", nets.NAMES)
def test_the_graph_says_what_the_network_says(name: str, tmp_path: Path) -> None:
    net = network(name)
    packaging.write(Model(net, PX, CLASSES, 1.7), tmp_path, {})
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    seen = squares(digits()[0][:33])
    with torch.no_grad():
        wanted = softmax(net(seen).numpy(), 1.7)
    for batch in (seen, seen[:1]):
        said = session.run(None, {"images": batch.numpy()})[0]
        np.testing.assert_allclose(said, wanted[: len(batch)], atol=1e-4)
    assert np.abs(wanted - softmax(net(seen).detach().numpy())).max() > 1e-3  # the temperature is in it


def test_the_weights_fit_a_fresh_network(tmp_path: Path) -> None:
    net = network()
    packaging.write(Model(net, PX, CLASSES, None), tmp_path, {})
    again = packaging.read(tmp_path)
    assert (again.image_px, again.classes, again.temperature) == (PX, CLASSES, None)
    seen = squares(digits()[0][:9])
    with torch.no_grad():
        assert torch.equal(again.net(seen), net(seen))


def test_another_project_may_start_from_them(tmp_path: Path) -> None:
    packaging.write(Model(network(), PX, CLASSES, None), tmp_path, {})
    recipe = loop.Recipe("supervised", start=str(tmp_path / "model.safetensors"), steps=1, batch=4, ratio=1)
    images, targets = digits()
    loop.train(labelled(images[:20], targets[:20]), recipe, Policy.for_images(images[:20]), folder=None, report=id)


def labelled(images: Images, targets: Rows) -> Examples:
    n = len(images)
    return Examples(
        images=images,
        labeled=np.arange(n),
        targets=targets,
        weights=np.ones(n, np.float32),
        label_versions=np.ones(n, np.int64),
        unlabeled=np.arange(n),
        audit=np.zeros(0, np.int64),
        audit_targets=np.zeros(0, np.int64),
        n_classes=len(CLASSES),
        prior=np.full(len(CLASSES), 0.1, np.float32),
    )


def test_it_says_what_it_is_and_leaves_the_network_alone(tmp_path: Path) -> None:
    net = network().train()
    about = packaging.write(Model(net, PX, CLASSES, 0.5), tmp_path, {"labels": 60})
    assert net.training
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(packaging.FILES)
    assert json.loads((tmp_path / "model.json").read_text("utf-8")) == about
    assert (about["classes"], about["image_px"], about["temperature"], about["labels"]) == (CLASSES, PX, 0.5, 60)


def test_class_names_must_fit_the_outputs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 class names for 10 outputs"):
        packaging.write(Model(network(), PX, ["cat", "dog"], None), tmp_path, {})


def test_the_script_is_about_ten_lines() -> None:
    code = [line for line in packaging.PREDICT.splitlines() if line and not line.startswith('"""')]
    assert len(code) <= 12


def run_script(folder: Path, *images: Path) -> list[list[str]]:
    # A folder of its own and no environment: nothing of this repository is within reach.
    done = subprocess.run(
        [sys.executable, folder / "predict.py", *images],
        cwd=folder,
        env={"PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_the_script_reads_images_as_the_worker_does(tmp_path: Path) -> None:
    net = network(image_px=20)
    packaging.write(Model(net, 20, CLASSES, 0.1), tmp_path, {})
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 255, (6, 9, 4), np.uint8)).resize((90, 60))
    turned = Image.Exif()
    turned[0x0112] = 6
    made = {"plain.png": {}, "grey.png": {}, "clear.png": {}, "turned.jpg": {"exif": turned, "quality": 95}}
    for name, how in made.items():
        mode = {"grey.png": "L", "clear.png": "RGBA"}.get(name, "RGB")
        smooth.convert(mode).save(tmp_path / name, **how)
    fine = np.linspace(0, 65535, 60 * 90, dtype=np.uint16).reshape(60, 90)
    for name, levels in (("fine.png", fine), ("dark.png", fine // 512)):  # 16 bits; the other fills 7 of them
        made[name] = {}
        Image.fromarray(levels).save(tmp_path / name)
    for (path, _, prob), name in zip(run_script(tmp_path, *(tmp_path / name for name in made)), made, strict=True):
        assert path == str(tmp_path / name)
        with torch.no_grad():
            logits = net(squares(decode((tmp_path / name).read_bytes(), 20)[None])).numpy()
        # A JPEG may be decoded at half its size by the worker, which is not the same to the last digit.
        assert float(prob) == pytest.approx(softmax(logits, 0.1).max(), abs=0.02 if name.endswith("jpg") else 1e-4)


def test_softening_keeps_the_order_and_flattens() -> None:
    # (0.8, 0.2) at tau 2: square roots 0.894 and 0.447, which is 2/3 and 1/3 of their sum.
    soft = soften(torch.tensor([[0.8, 0.2], [1.0, 0.0]]), 2.0)
    np.testing.assert_allclose(soft[0], [2 / 3, 1 / 3], atol=1e-6)
    assert 0 < soft[1, 1] < 0.01
    np.testing.assert_allclose(soften(soft, 1.0), soft, atol=1e-6)


def test_a_student_needs_a_teacher_and_an_end() -> None:
    images, rows = digits()[0], np.arange(8)
    teacher, policy = np.full((8, 10), 0.1, np.float32), Policy.for_images(images[:8])
    with pytest.raises(ValueError, match="8 predictions for 7 images"):
        distil(teacher, images, rows[:7], policy, steps=1)
    with pytest.raises(ValueError, match="for ever"):
        distil(teacher, images, rows, policy)


def test_the_same_seed_gives_the_same_student() -> None:
    images, rows = digits()[0], np.arange(64)
    teacher = np.random.default_rng(0).dirichlet(np.ones(10), 64).astype(np.float32)
    policy, before = Policy.for_images(images[:8]), torch.get_rng_state()
    students = [distil(teacher, images, rows, policy, steps=2, batch=8, seed=seed).net for seed in (1, 1, 2)]
    logits = [net(squares(images[:4])) for net in students]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_a_student_follows_its_teacher_and_names_digits_by_itself(tmp_path: Path) -> None:
    images, targets = digits()
    policy = Policy.for_images(images)
    recipe = loop.Recipe("supervised", net="quick", steps=150, batch=64, ratio=1, ema=0.95, learning_rate=0.1)
    taught = loop.train(labelled(images[:600], targets[:600]), recipe, policy, folder=None, report=lambda _: None).net
    said = predict(taught, images, np.arange(len(images)), device="cpu", batch=512).probs
    pool, held_out = np.arange(N_LEARNT), np.arange(N_LEARNT, len(images))
    told: list[float] = []
    learnt = distil(said[pool], images, pool, policy, steps=200, progress=lambda share, _: told.append(share))
    student = predict(learnt.net, images, held_out, device="cpu", batch=512).probs
    assert (student.argmax(axis=1) == said[held_out].argmax(axis=1)).mean() >= 0.9
    assert learnt.agreement is not None and learnt.agreement >= 0.9
    assert (learnt.held_out, learnt.steps, told[-1]) == (N_LEARNT // 10, 200, 1.0)
    # Home with it: files in, names out.
    packaging.write(Model(learnt.net, PX, CLASSES, 0.9), tmp_path, {})
    sure = held_out[np.argsort(-student.max(axis=1))[:5]]
    for row in sure:
        Image.fromarray(images[row]).save(tmp_path / f"{row}.png")
    lines = run_script(tmp_path, *(tmp_path / f"{row}.png" for row in sure))
    assert [name for _, name, _ in lines] == [CLASSES[targets[row]] for row in sure]
    assert all(float(prob) > 0.5 for *_, prob in lines)
