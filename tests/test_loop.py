"""The training loop: what it averages, when it stops, and that a run cut short is the run it would have been."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ml_worker import checkpoints, loop, nets, trainers
from ml_worker.augment import Policy
from ml_worker.batches import Draws, Examples, estimated_prior, places
from ml_worker.hardness import Hardness, otsu
from ml_worker.loop import NotFinite, Progress, Recipe, Trained
from ml_worker.precision import precision
from ml_worker.trainers import Batch, Logs, Setting, Step, supervised_loss
from tests.pictures import N_CLASSES, POLICY, examples, relabeled, tiny_network, weights_of


class Interrupted(Exception):
    pass


class Plain(nn.Module):
    """Cross-entropy on weak views, and memory of every kind a trainer may have."""

    per_item = ("visits",)
    per_labeled = ("answered",)
    visits: Tensor
    answered: Tensor

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting
        self.register_buffer("visits", torch.zeros(setting.n_items))
        self.register_buffer("answered", torch.zeros(len(setting.labeled_items)))

    def loss(self, net: nn.Module, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
        self.visits.index_add_(0, labeled.items, torch.ones(len(labeled)))
        for item in labeled.items:
            self.answered[self.setting.labeled_items == item] += 1
        step.note(unlabeled.items, unlabeled.items.float())
        loss = supervised_loss(net(labeled.weak()), labeled)
        return loss, {"labelled_loss": loss, "chance": torch.rand(())}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nets, "build", tiny_network)
    monkeypatch.setattr(trainers, "load", lambda name: Plain)


def recipe(**others: Any) -> Recipe:
    given: dict[str, Any] = {"steps": 8, "batch": 8, "ratio": 1, "evaluate_every": 1, "amp": "off"}
    return Recipe("plain", **(given | others))


def run(
    given: Examples | None = None,
    how: Recipe | None = None,
    folder: Path | None = None,
    until: int = -1,
    **others: Any,
) -> Trained:
    def report(progress: Progress) -> None:
        if progress.step == until:
            raise Interrupted

    return loop.train(given or examples(), how or recipe(**others), POLICY, folder=folder, report=report)


def interrupted(folder: Path, until: int, given: Examples | None = None, **others: Any) -> None:
    with pytest.raises(Interrupted):
        run(given, folder=folder, until=until, **others)


def steps_of(result: Trained, name: str) -> list[float]:
    return [entry[name] for entry in result.history]


# --- batches


def test_every_item_comes_up_equally_often_whatever_the_size_of_the_batch() -> None:
    for n, size in ((5, 2), (5, 12), (3, 3), (7, 64)):
        drawn = np.concatenate([places(n, size, step, seed=4) for step in range(n)])
        assert np.bincount(drawn, minlength=n).tolist() == [size] * n
    assert places(0, 8, 3, seed=4).tolist() == []
    assert places(9, 4, 2, seed=4).tolist() == places(9, 4, 2, seed=4).tolist()
    assert places(99, 50, 0, seed=4).tolist() != places(99, 50, 0, seed=5).tolist()


def test_a_batch_is_the_items_it_names() -> None:
    given = examples(weights=np.linspace(0.1, 1.2, 12, dtype=np.float32))
    still = Policy(flip=False, shift=0, rotate_deg=0, shear=0, translate=0, tone=False, colour=False, cutout=0)
    labeled, unlabeled = Draws(given, still, sizes=(5, 7), seed=0, device=torch.device("cpu")).of(3)
    for batch in (labeled, unlabeled):
        shown = (batch.weak() * 255).round().numpy().transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(shown, given.images[batch.items.numpy()])
    assert labeled.targets.tolist() == given.targets[labeled.items.numpy()].tolist()
    assert labeled.weights.tolist() == given.weights[labeled.items.numpy()].tolist()
    assert (len(labeled), len(unlabeled), len(unlabeled.targets)) == (5, 7, 0)


def test_each_call_for_views_draws_anew_and_each_step_draws_its_own_again() -> None:
    # One answer alone, so that every step shows the same picture.
    draws = Draws(examples(n_labeled=1), POLICY, sizes=(6, 6), seed=0, device=torch.device("cpu"))
    labeled, _ = draws.of(2)
    first, second = labeled.strong(), labeled.strong()
    assert not torch.equal(first, second)
    assert torch.equal(draws.of(2)[0].strong(), first)
    assert not torch.equal(draws.of(3)[0].strong(), first)


def test_a_class_without_an_answer_keeps_a_share() -> None:
    # (3 + 1) / (4 + 3), (1 + 1) / 7, (0 + 1) / 7
    np.testing.assert_allclose(estimated_prior([3, 1, 0]), [4 / 7, 2 / 7, 1 / 7], rtol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"n_labeled": 0}, "no answer to learn from"),
        ({"audit": np.array([3]), "audit_targets": np.array([0])}, "audited item is among those learnt from"),
        ({"targets": np.full(12, 3)}, "targets 3 to 3; wanted 0 to 2"),
        ({"labeled": np.zeros(12, np.int64)}, "labelled twice"),
        ({"weights": np.ones(3, np.float32)}, "3 weights for 12 labelled items"),
    ],
)
def test_examples_that_do_not_fit_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        examples(**wrong)


# --- a step


def test_images_that_are_not_learnt_from_do_not_colour_the_network() -> None:
    given = examples()
    white = np.full((50, *given.images.shape[1:]), 255, np.uint8)
    audited = replace(given, images=np.concatenate([given.images, white]))
    plain, beside = (loop._network(each, recipe()) for each in (given, audited))
    assert torch.equal(plain.mean, beside.mean)
    assert torch.equal(plain.std, beside.std)


def test_the_teacher_is_the_running_mean_of_the_weights_and_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    students, teachers = [], []

    class Watching(Plain):
        def loss(self, net: nn.Module, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
            students.append(weights_of(net))
            teachers.append(weights_of(step.teacher))
            assert not any(p.requires_grad for p in step.teacher.parameters())
            assert not step.teacher.training
            return super().loss(net, labeled, unlabeled, step)

    monkeypatch.setattr(trainers, "load", lambda name: Watching)
    run(ema=0.3, steps=6)
    counter = list(nets.build("", 3, 8, mean=torch.zeros(3), std=torch.ones(3)).state_dict())
    mean = students[0]
    is_mean = torch.ones(len(mean), dtype=torch.bool)
    is_mean[_offset_of_counter(counter)] = False
    for number, (student, teacher) in enumerate(zip(students[1:], teachers[1:], strict=True)):
        decay = min(0.3, (1 + number) / (10 + number))  # 0.1, 0.18, 0.25, 0.3, 0.3
        mean = decay * mean + (1 - decay) * student
        np.testing.assert_allclose(teacher[is_mean], mean[is_mean], atol=1e-5)
        assert teacher[~is_mean].tolist() == [number + 1]  # batches seen: counted, not averaged


def _offset_of_counter(names: list[str]) -> int:
    state = nets.build("", 3, 8, mean=torch.zeros(3), std=torch.ones(3)).state_dict()
    before = names[: next(index for index, name in enumerate(names) if name.endswith("num_batches_tracked"))]
    return sum(state[name].numel() for name in before)


def test_the_rate_falls_along_a_cosine_and_only_kernels_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    rates, groups = [], []

    def optimizer(net: nn.Module, trainer: nn.Module, how: Recipe) -> torch.optim.Optimizer:
        made = real(net, trainer, how)
        groups.extend(made.param_groups)
        made.register_step_pre_hook(lambda made, *_: rates.append(made.param_groups[0]["lr"]))
        return made

    real = loop._optimizer
    monkeypatch.setattr(loop, "_optimizer", optimizer)
    run(steps=4, learning_rate=0.1)
    # cos(7 pi / 16 * k / 4) for k = 0..3
    np.testing.assert_allclose(rates, [0.1, 0.0941544, 0.0773010, 0.0514103], rtol=1e-5)
    assert [group["weight_decay"] for group in groups] == [5e-4, 0.0]
    assert all(p.ndim > 1 for p in groups[0]["params"])
    assert sorted(p.numel() for p in groups[1]["params"]) == [3, 16, 16]  # the classifier's bias, two of the norm


def test_gradients_are_clipped_together(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    for clip in (1e-3, 1e9):
        result = run(steps=1, clip=clip, momentum=0.5, weight_decay=0.0, learning_rate=1.0, ema=0.0)
        learnt = torch.cat([p.detach().flatten() for p in result.net.parameters()])
        start = torch.cat([p.detach().flatten() for p in _start().parameters()])
        moved.append(float((learnt - start).norm()))
    # Nesterov's first step is (1 + momentum) times the gradient.
    assert moved[0] == pytest.approx(1.5e-3, rel=1e-3)
    assert moved[1] > 10 * moved[0]


def _start() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(loop.seed_of(0))
        return loop._network(examples(), recipe())


def test_a_loss_that_is_not_a_number_ends_the_run_by_name_and_leaves_no_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Breaking(Plain):
        def loss(self, net: nn.Module, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
            loss, logs = super().loss(net, labeled, unlabeled, step)
            return loss * (math.inf if step.number == 3 else 1.0), logs

    monkeypatch.setattr(trainers, "load", lambda name: Breaking)
    with pytest.raises(NotFinite, match="plain, step 3: the loss is inf"):
        run(folder=tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_head_of_the_trainer_learns_with_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Plain] = []

    class Headed(Plain):
        def __init__(self, setting: Setting) -> None:
            super().__init__(setting)
            self.head = nn.Linear(setting.n_features, 2)
            self.before = self.head.weight.detach().clone()
            made.append(self)

        def loss(self, net: Any, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
            loss, logs = super().loss(net, labeled, unlabeled, step)
            return loss + self.head(net.features(labeled.weak())).square().mean(), logs

    monkeypatch.setattr(trainers, "load", lambda name: Headed)
    run(steps=2)
    assert not torch.equal(made[0].head.weight, made[0].before)


# --- going on


def test_a_run_killed_in_the_middle_of_a_step_goes_on_from_its_last_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = run(examples(n_audit=6))
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0.0)

    class Dying(Plain):
        def loss(self, net: nn.Module, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
            logs = super().loss(net, labeled, unlabeled, step)
            if step.number == 5:
                raise MemoryError
            return logs

    monkeypatch.setattr(trainers, "load", lambda name: Dying)
    with pytest.raises(MemoryError):
        run(examples(n_audit=6), folder=tmp_path)
    monkeypatch.setattr(trainers, "load", lambda name: Plain)
    resumed = run(examples(n_audit=6), folder=tmp_path)
    assert resumed.resumed == "resumed at step 5"
    assert torch.equal(weights_of(resumed.net), weights_of(whole.net))
    for name in ("loss", "chance", "audit_accuracy"):
        assert steps_of(resumed, name) == steps_of(whole, name)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first, told = run(folder=tmp_path), []
    again = loop.train(examples(), recipe(), POLICY, folder=tmp_path, report=told.append)
    assert torch.equal(weights_of(again.net), weights_of(first.net))
    assert (again.step, again.stopped, told) == (8, "all steps are done", [])


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ({"learning_rate": 0.5}, "other settings: learning_rate"),
        ({"seed": 1, "batch": 4}, "other settings: batch, seed"),
        ({"trainer_parameters": {"weight": 1.0}}, "other settings: trainer_parameters"),
    ],
)
def test_another_recipe_starts_over_and_says_why(
    others: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(trainers, "load", lambda name: lambda setting, **parameters: Plain(setting))
    interrupted(tmp_path, 4)
    again = run(folder=tmp_path, **others)
    assert again.resumed.startswith("started over: ")
    assert sentence in again.resumed
    assert len(again.history) == 8


def test_other_classes_a_changed_policy_or_many_new_answers_start_over(tmp_path: Path) -> None:
    interrupted(tmp_path, 4)
    more = examples(n_classes=4, prior=estimated_prior([4, 4, 4, 0]))
    assert "classes" in run(more, folder=tmp_path).resumed
    interrupted(tmp_path, 4)
    unlike = loop.train(examples(), recipe(), replace(POLICY, flip=False), folder=tmp_path, report=lambda p: None)
    assert "policy" in unlike.resumed
    interrupted(tmp_path, 4)
    fewer = run(examples(n_labeled=10), folder=tmp_path)
    assert fewer.resumed == "started over: 2 of 10 answers changed since the checkpoint"


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_a_checkpoint_that_cannot_be_read_starts_over(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(content)
    again = run(folder=tmp_path)
    assert again.resumed.startswith("started over: the checkpoint cannot be read")
    assert again.step == 8


def test_memory_is_kept_by_item_and_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found: dict[int, tuple[list[float], list[float]]] = {}

    class Remembering(Plain):
        def loss(self, net: nn.Module, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
            found[step.number] = self.visits.tolist(), self.answered.tolist()
            return super().loss(net, labeled, unlabeled, step)

    monkeypatch.setattr(trainers, "load", lambda name: Remembering)
    interrupted(tmp_path, 3)
    # Three steps of 8: each of the 12 answers twice. Then item 5 is corrected, the pool grows by 8 images, and the
    # answers come in another order.
    corrected, order = relabeled(examples(), 5, 0), np.arange(12)[::-1].copy()
    later = replace(
        corrected,
        images=np.concatenate([corrected.images, corrected.images[:8]]),
        labeled=corrected.labeled[order],
        targets=corrected.targets[order],
        label_versions=corrected.label_versions[order],
    )
    found.clear()
    resumed = run(later, folder=tmp_path)
    assert resumed.resumed == "resumed at step 3; 1 answer changed since, its item starts afresh"
    assert min(found) == 3
    assert found[3][0] == [2.0] * 5 + [0.0] + [2.0] * 6 + [0.0] * 28
    assert found[3][1] == [2.0] * 6 + [0.0] + [2.0] * 5  # 11, 10, ... 0: item 5 stands seventh


def test_a_network_starts_from_a_body_and_its_transform(tmp_path: Path) -> None:
    whole = tiny_network("", 5, 8, mean=torch.full((3,), 0.25), std=torch.full((3,), 0.75))
    torch.save(whole.state_dict(), tmp_path / "whole.pt")
    torch.save(whole.body.state_dict(), tmp_path / "body.pt")
    torch.save({"elsewhere.weight": torch.zeros(3)}, tmp_path / "other.pt")
    for name, mean in (("whole.pt", 0.25), ("body.pt", examples().images.mean() / 255)):
        net = loop._network(examples(), recipe(start=str(tmp_path / name)))
        assert torch.equal(weights_of(net.body), weights_of(whole.body))
        assert float(net.mean.mean()) == pytest.approx(mean, abs=1e-3)
        assert net.classifier.out_features == N_CLASSES
    with pytest.raises(ValueError, match=r"other.pt does not fit this network"):
        loop._network(examples(), recipe(start=str(tmp_path / "other.pt")))


# --- stopping and telling


def test_it_stops_when_the_audit_no_longer_gets_better_and_gives_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    marks = iter([0.5, 0.7, 0.6, 0.7, 0.65])
    seen: list[Tensor] = []

    def accuracy(teacher: nn.Module, given: Examples, how: Recipe) -> float:
        seen.append(weights_of(teacher))
        return next(marks)

    monkeypatch.setattr(loop, "_audit_accuracy", accuracy)
    result = run(examples(n=64, n_audit=30), steps=99, patience=3, ema=0.5)
    assert (result.step, result.best_step) == (5, 2)
    assert result.stopped == "it was no longer getting better on the audit"
    assert torch.equal(weights_of(result.net), seen[1])


def test_a_small_audit_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_audit_accuracy", lambda *_: 0.5)
    result = run(examples(n=64, n_audit=29), patience=2)
    assert (result.step, result.stopped) == (8, "all steps are done")


def test_the_audit_is_only_looked_at() -> None:
    given = examples(n_audit=8)
    blind = replace(given, audit=np.zeros(0, np.int64), audit_targets=np.zeros(0, np.int64))
    judged, unjudged = run(given), run(blind)
    assert torch.equal(weights_of(judged.net), weights_of(unjudged.net))
    assert "audit_accuracy" not in unjudged.history[0]
    assert all(0 <= entry["audit_accuracy"] <= 1 for entry in judged.history)


def test_time_ends_a_run_with_the_rate_come_down(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(np.arange(0.0, 1e5, 0.25))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(now)))
    told: list[Progress] = []
    how = recipe(steps=10**6, seconds=60.0, evaluate_every=10**6)
    result = loop.train(examples(), how, POLICY, folder=None, report=told.append)
    assert result.stopped == "the time is over"
    assert 10 < result.step < 240
    assert told[-1].share == 1.0
    assert told[-1].seconds_left == 0.0
    assert all(earlier.share <= later.share for earlier, later in itertools.pairwise(told))


def test_progress_tells_averages_since_the_last_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "REPORT_S", math.inf)
    told: list[Progress] = []
    every = run()
    loop.train(examples(), recipe(evaluate_every=4), POLICY, folder=None, report=told.append)
    assert [(p.step, p.steps, p.share) for p in told] == [(4, 8, 0.5), (8, 8, 1.0)]
    for part, progress in enumerate(told):
        alone = steps_of(every, "loss")[4 * part : 4 * part + 4]
        assert progress.logs["loss"] == pytest.approx(np.mean(alone), rel=1e-5)
    assert told[0].audit_accuracy is None


# --- harder views for easy items


def test_otsu_parts_two_groups_where_the_gap_is() -> None:
    # Means 0.2 and 5: any border but the one after 0.3 mixes them.
    assert otsu(np.array([5.0, 0.1, 0.3, 5.2, 0.2, 4.8], np.float32)) == pytest.approx(0.3)
    assert otsu(np.array([2.0, 2.0], np.float32)) == -math.inf


def test_easy_items_are_known_after_the_warm_up_once_per_passage() -> None:
    hardness = Hardness(6, n_unlabeled=4)
    hardness.note(torch.arange(4), torch.tensor([0.1, 4.0, 0.2, 5.0]))
    hardness.split(1, batch=2, share=0.3)  # the passage is over, the warm-up is not
    hardness.split(2, batch=2, share=0.9)  # the warm-up is over, the passage is not
    assert not hardness.easy.any()
    hardness.split(3, batch=2, share=0.9)
    assert hardness.easy.tolist() == [True, False, True, False, False, False]
    hardness.note(torch.tensor([1]), torch.tensor([2.0]))
    assert float(hardness.losses[1]) == pytest.approx(0.9 * 4.0 + 0.1 * 2.0)


def test_adaptive_runs_show_easy_items_harder_and_resume(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown: list[int] = []
    monkeypatch.setattr(loop.augment, "harder", lambda images, *_: shown.append(len(images)) or images / 255)

    class Looking(Plain):
        def loss(self, net: nn.Module, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
            net(unlabeled.strong())
            return super().loss(net, labeled, unlabeled, step)

    monkeypatch.setattr(trainers, "load", lambda name: Looking)
    run(adaptive=False, steps=16)
    assert shown == []
    whole = run(adaptive=True, steps=16)
    assert sum(shown) > 0
    interrupted(tmp_path, 10, adaptive=True, steps=16)
    assert torch.equal(weights_of(run(folder=tmp_path, adaptive=True, steps=16).net), weights_of(whole.net))


def test_precision_follows_the_processor_unless_told() -> None:
    cpu = torch.device("cpu")
    assert precision(cpu, "off") is None
    assert precision(cpu, "bf16") is torch.bfloat16
    assert precision(cpu, "auto") in (None, torch.bfloat16)
    with pytest.raises(ValueError, match="wanted auto, off, bf16, fp16"):
        precision(cpu, "fast")


def test_a_checkpoint_is_the_old_one_until_the_new_one_is_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    interrupted(tmp_path, 4)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full_disk(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(checkpoints.torch, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        run(folder=tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
