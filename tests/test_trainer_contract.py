"""What every trainer of the catalogue keeps to, tested as soon as its file is there."""

import inspect
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from annotator.algorithms import catalogue, clean_parameters, get
from ml_worker import loop, nets, trainers
from ml_worker.batches import Examples
from ml_worker.loop import Progress, Recipe, Trained
from ml_worker.trainers import Batch, Setting, Step
from tests.pictures import N_CLASSES, POLICY, examples, plain_network, relabeled, tiny_network, weights_of

NAMES = [algorithm.name for algorithm in catalogue("trainer")]
FROM_LABELS_ALONE = {"supervised", "elr"}
STEPS = 20


class Interrupted(Exception):
    pass


@pytest.fixture(autouse=True, scope="module")
def _small_and_plain() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nets, "build", tiny_network)
        yield


def recipe(name: str, steps: int = STEPS, **parameters: Any) -> Recipe:
    given = clean_parameters("trainer", name, parameters)
    return Recipe(name, given, steps=steps, batch=8, ratio=2, learning_rate=0.1, evaluate_every=1, amp="off")


def trained(
    name: str, given: Examples, folder: Path | None = None, until: int = STEPS, steps: int = STEPS, **parameters: Any
) -> Trained:
    def report(progress: Progress) -> None:
        if progress.step == until < steps:
            raise Interrupted

    return loop.train(given, recipe(name, steps, **parameters), POLICY, folder=folder, report=report)


@cache
def run(name: str) -> Trained:
    return trained(name, examples())


def losses(result: Trained, name: str = "loss") -> list[float]:
    return [entry[name] for entry in result.history]


def test_every_name_is_a_file_and_every_file_a_name() -> None:
    files = {path.stem for path in Path(str(trainers.__file__)).parent.glob("*.py")} - {"__init__"}
    assert files == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_of_the_class_and_have_no_second_default(name: str) -> None:
    first, *own = inspect.signature(trainers.load(name)).parameters.values()
    assert first.name == "setting"
    assert [parameter.name for parameter in own] == [parameter.name for parameter in get("trainer", name).parameters]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in own)


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_its_answers_and_moves_the_weights(name: str) -> None:
    labelled = losses(run(name), "labelled_loss")
    assert np.mean(labelled[-5:]) < 0.8 * np.mean(labelled[:5])
    untaught = loop._network(examples(), recipe(name))
    assert (weights_of(run(name).net) - weights_of(untaught)).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_losses_and_a_cut_short_run_reaches_the_same_state(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        trained(name, examples(), tmp_path, until=10)
    resumed = trained(name, examples(), tmp_path)
    assert resumed.resumed == "resumed at step 10"
    assert losses(resumed) == losses(run(name))
    assert torch.equal(weights_of(resumed.net), weights_of(run(name).net))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_without_unlabelled_images_it_learns_from_the_answers(name: str) -> None:
    alone = trained(name, examples(unlabeled=np.zeros(0, np.int64)), steps=8)
    labelled = losses(alone, "labelled_loss")
    assert labelled[-1] < labelled[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("targets", [[0, 1, 2], [0, 0, 0, 0, 0, 1, 1]], ids=["one-each", "one-class-without"])
def test_few_answers_are_no_special_case(name: str, targets: list[int]) -> None:
    few = trained(name, examples(n_labeled=len(targets), targets=np.array(targets)), steps=4)
    assert np.isfinite(losses(few)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_fewer_unlabelled_images_than_a_batch_takes_are_enough(name: str) -> None:
    assert np.isfinite(losses(trained(name, examples(n=5, n_labeled=5), steps=4))).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_gate_logs_its_share_and_turns_images_away(name: str) -> None:
    if name in FROM_LABELS_ALONE | {"mean_teacher"}:
        assert "kept" not in run(name).history[0]
        return
    known = {parameter.name: parameter for parameter in get("trainer", name).parameters}
    # Gates that follow a running mean are given one that can keep up with twenty steps.
    quick = {"momentum": 0.5} if "momentum" in known else {}
    kept = losses(trained(name, examples(), **quick), "kept")
    assert all(0.0 <= share <= 1.0 for share in kept)
    assert min(kept) < 0.95
    if "threshold" in known:
        assert losses(trained(name, examples(), steps=1, threshold=known["threshold"].minimum), "kept")[0] > 0.9


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FROM_LABELS_ALONE])
def test_the_unlabelled_loss_reaches_the_student(name: str) -> None:
    """Through the views themselves: whatever view the student judged has a gradient of the unlabelled loss."""
    given, net = examples(), plain_network("", N_CLASSES, 8, mean=torch.full((3,), 0.5), std=torch.full((3,), 0.2))
    easiest = {p.name: p.minimum for p in get("trainer", name).parameters if p.name == "threshold"}
    setting = loop._setting(given, recipe(name), net)
    trainer = trainers.load(name)(setting, **clean_parameters("trainer", name, easiest))
    images = torch.from_numpy(given.images).permute(0, 3, 1, 2).float() / 255.0
    drawn: list[torch.Tensor] = []

    def view() -> torch.Tensor:
        drawn.append((images[12:28] + 0.05 * torch.rand(16, 3, 8, 8)).requires_grad_())
        return drawn[-1]

    targets = torch.from_numpy(given.targets)
    labeled = Batch(torch.arange(12), lambda: images[:12], lambda: images[:12], targets, torch.ones(12))
    unlabeled = Batch(torch.arange(12, 28), view, view)
    teacher = plain_network("", N_CLASSES, 8, mean=torch.full((3,), 0.5), std=torch.full((3,), 0.2))
    teacher.eval().requires_grad_(False)
    for number in (10, 11):  # the first fills what a trainer remembers
        loss, _ = trainer.loss(net, labeled, unlabeled, Step(number, STEPS, teacher))
    loss.backward()
    assert max(float(v.grad.abs().max()) for v in drawn if v.grad is not None) > 0


@pytest.mark.parametrize("name", NAMES)
def test_declared_memory_is_there_in_the_declared_length(name: str) -> None:
    given = examples()
    net = tiny_network("", N_CLASSES, 8, mean=torch.full((3,), 0.5), std=torch.full((3,), 0.2))
    setting = loop._setting(given, recipe(name), net)
    trainer = trainers.load(name)(setting, **clean_parameters("trainer", name, {}))
    state = trainer.state_dict()
    assert all(len(state[buffer]) == len(given.images) for buffer in getattr(trainer, "per_item", ()))
    assert all(len(state[buffer]) == len(given.labeled) for buffer in getattr(trainer, "per_labeled", ()))
    # And nothing undeclared depends on how many there are: it could not be carried over to a pool that grew.
    more = replace(setting, n_items=50, labeled_items=torch.arange(13), labeled_targets=torch.arange(13) % N_CLASSES)
    grown = trainers.load(name)(more, **clean_parameters("trainer", name, {})).state_dict()
    changed = {key for key in state if state[key].shape != grown[key].shape}
    assert changed == {*getattr(trainer, "per_item", ()), *getattr(trainer, "per_labeled", ())}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_answer_corrected_in_between_does_not_end_the_run(name: str, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        trained(name, examples(), tmp_path, until=2, steps=4)
    resumed = trained(name, relabeled(examples(), 3, 1), tmp_path, steps=4)
    assert resumed.resumed == "resumed at step 2; 1 answer changed since, its item starts afresh"
    assert np.isfinite(losses(resumed)).all()


def test_a_setting_tells_what_there_is() -> None:
    net = tiny_network("", N_CLASSES, 8, mean=torch.full((3,), 0.5), std=torch.full((3,), 0.2))
    setting = loop._setting(examples(), recipe("supervised"), net)
    assert isinstance(setting, Setting)
    assert (setting.n_classes, setting.n_features, setting.n_items, setting.steps) == (3, 16, 32, STEPS)
    assert setting.labeled_targets.tolist() == [0, 1, 2] * 4
