"""The training loop: one for every trainer, every device and every network."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ml_worker import augment, checkpoints, distributed, nets, trainers
from ml_worker.batches import Draws, Examples, seed_of
from ml_worker.hardness import Hardness
from ml_worker.precision import autocast, precision
from ml_worker.predict import predict
from ml_worker.trainers import Batch, Logs, Setting, Step

REPORT_S = 2.0
CHECKPOINT_S = 60.0
MIN_AUDIT = 30  # with fewer audited answers one lucky item would decide when to stop


class NotFinite(ArithmeticError):
    """The loss became infinite or not a number; the message names trainer and step."""


@dataclass(frozen=True)
class Recipe:
    """How to learn. The published setting is in the comments; the catalogue holds the defaults of trainers.

    trainer, trainer_parameters: a name of the catalogue and all of its parameters. net: a name of `nets`. steps,
    seconds: whichever ends first; where the seconds do, the learning rate follows the clock, so that it has come down
    by then. batch: labelled images a step; ratio: unlabelled ones for each of them. ema: of the weights, 0..1. clip:
    largest norm of all gradients together. evaluate_every: steps; patience: evaluations without a better audit
    accuracy before it stops, 0 = never. alignment: see `trainers.alignment`. adaptive: harder views of easy items.
    start: weights of a body, .safetensors or .pt, or None. amp: see `precision`.
    """

    trainer: str
    trainer_parameters: Mapping[str, Any] = field(default_factory=dict)
    net: str = "small"
    steps: int = 1000  # 2**20
    seconds: float = math.inf
    batch: int = 64
    ratio: int = 7
    learning_rate: float = 0.03
    weight_decay: float = 5e-4
    momentum: float = 0.9
    ema: float = 0.999
    clip: float = 5.0
    seed: int = 0
    evaluate_every: int = 100
    patience: int = 0
    alignment: Literal["none", "uniform", "estimated"] = "none"
    adaptive: bool = False
    start: str | None = None
    device: str = "cpu"
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"
    channels_last: bool = True


@dataclass(frozen=True)
class Progress:
    """Where a run stands. share: 0..1 of the budget; seconds: learning so far, earlier sittings included; logs:
    averages since the last report; audit_accuracy: at the last evaluation, None before it or without an audit."""

    step: int
    steps: int
    share: float
    seconds: float
    seconds_left: float
    logs: dict[str, float]
    audit_accuracy: float | None


@dataclass(frozen=True, eq=False)
class Trained:
    """What came of it. net: the running mean of the weights, in eval mode. history: one entry per evaluation, with
    step, seconds, audit_accuracy (where there is an audit) and the averages of the logs since the one before.
    stopped: why it ended, resumed: what became of an earlier sitting; sentences."""

    net: nets.Network
    history: list[dict[str, float]]
    step: int
    best_step: int
    stopped: str
    resumed: str


@torch.random.fork_rng(devices=[])
def train(
    examples: Examples,
    recipe: Recipe,
    policy: augment.Policy,
    *,
    folder: Path | None,
    report: Callable[[Progress], None],
) -> Trained:
    """A network that learnt from the examples as the recipe says.

    report is called every two seconds and at each evaluation; what it raises ends the run, after a checkpoint. With a
    folder, a run that was cut short goes on from its last checkpoint to the very state it would have reached (on one
    CPU thread to the bit, unless the clock ends it). Raises NotFinite, ValueError for what does not fit.

    Called in each process of a group it trains one network in all of them, which but for rounding becomes the same as
    in one: see `distributed`. The first process keeps the clock, reports and writes checkpoints; what report raises
    there, ends the others with `distributed.Ended`.

    Source: the common ground of Sohn et al. 2020, section 2.4: SGD with Nesterov momentum, cosine decay to 7/16 of a
    half turn, weight decay on weights alone, evaluation with a running mean of the weights.
    """
    # 1. What learns.
    device = torch.device(recipe.device)
    torch.manual_seed(seed_of(recipe.seed))
    net = _network(examples, recipe).to(device)
    distributed.normalise_together(net, device)
    setting = _setting(examples, recipe, net)
    trainer = trainers.load(recipe.trainer)(setting, **recipe.trainer_parameters).to(device)
    teacher = copy.deepcopy(net).eval().requires_grad_(False)
    hardness = Hardness(len(examples.images), len(examples.unlabeled)).to(device)
    optimizer = _optimizer(net, trainer, recipe)
    dtype = precision(device, recipe.amp)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    learning = [p for group in optimizer.param_groups for p in group["params"]]
    draws = Draws(examples, policy, sizes=(recipe.batch, recipe.batch * recipe.ratio), seed=recipe.seed, device=device)

    # 2. Where it stands.
    parts = {"net": net, "teacher": teacher, "trainer": trainer, "hardness": hardness}
    state = checkpoints.State(parts | {"optimizer": optimizer, "scaler": scaler})
    path, identity = (folder / "checkpoint.pt" if folder else None), _identity(examples, recipe, policy)
    resumed = _resume(path, state, identity, examples)
    if distributed.decided(state.step) != (state.step,):
        raise ValueError("the processes do not read the same checkpoint; the folder must be the same on each host")
    clock, since_report, since_evaluation = _Clock(state.seconds), _Averages(), _Averages()
    seconds = state.seconds
    accuracy = state.history[-1].get("audit_accuracy") if state.history else None

    def checkpoint() -> None:
        state.seconds = clock.seconds
        clock.saved = time.monotonic()
        if path and distributed.rank() == 0:
            checkpoints.save(path, state, identity, examples)

    net.train()
    trainer.train()
    lesson = distributed.shared(_Lesson(net, trainer), uses_all=draws.has_unlabeled)
    while not state.stopped:
        number, share = state.step, max(state.step / recipe.steps, seconds / recipe.seconds)
        # Whatever is drawn in a step depends on the seed and its number alone: there is no generator to save.
        torch.manual_seed(seed_of(recipe.seed, 3, number))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * math.cos(7 * math.pi / 16 * min(1.0, share))

        # 3. Learn.
        labeled, unlabeled = draws.of(number, hardness.is_easy if recipe.adaptive else None)
        steps = max(number + 1, round(number / share) if share else recipe.steps)
        step = Step(number, steps, teacher, partial(_note, hardness, unlabeled))
        with autocast(device, dtype):
            loss, logs = lesson(labeled, unlabeled, step)
        since_report.add({"loss": loss.detach(), **logs})
        since_evaluation.add({"loss": loss.detach(), **logs})
        # On a GPU reading the loss would wait for it, and other processes must end with this one: the reports look.
        if device.type == "cpu" and distributed.world() == 1:
            since_report.check(f"{recipe.trainer}, step {number}")
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(learning, recipe.clip)
        scaler.step(optimizer)
        scaler.update()
        _follow(teacher, net, min(recipe.ema, (1 + number) / (10 + number)))
        if recipe.adaptive and len(unlabeled):
            hardness.split(number, len(unlabeled.all_items), share)
        state.step += 1

        # 4. Look, tell, save.
        seconds, report_due, saving = distributed.decided(clock.seconds, clock.report_due, clock.checkpoint_due)
        over = "all steps are done" if state.step >= recipe.steps else ""
        over = over or ("the time is over" if seconds >= recipe.seconds else "")
        evaluating = bool(over) or state.step % recipe.evaluate_every == 0
        telling = evaluating or report_due
        if telling or saving:
            since_report.check(f"{recipe.trainer}, a step up to {number}")
        if evaluating:
            accuracy = _audit_accuracy(teacher, examples, recipe)
            state.stopped = _judge(state, accuracy, teacher, examples, recipe) or over
            entry = {"step": state.step, "seconds": seconds, **since_evaluation.take()}
            state.history.append(entry if accuracy is None else {**entry, "audit_accuracy": accuracy})
        if state.stopped or saving:
            checkpoint()
        if telling:
            clock.reported = time.monotonic()
            refusal = _told(report, _progress(state, recipe, seconds, since_report.take(), accuracy))
            if any(distributed.decided(refusal is not None)):
                checkpoint()
                raise refusal or distributed.Ended(f"the run was ended after step {state.step}")

    # Choosing the best of many evaluations of a small audit would flatter the model on the very answers that decide
    # about its promotion; so the last weights count, unless the run was ended for no longer getting better.
    if state.stopped == _NO_GAIN:
        teacher.load_state_dict(state.best_weights)
    return Trained(teacher, state.history, state.step, state.best_step, state.stopped, resumed)


class _Lesson(nn.Module):
    """Network and trainer as one module, whose forward pass is the loss: what processes share the gradients of."""

    def __init__(self, net: nn.Module, trainer: nn.Module) -> None:
        super().__init__()
        self.net, self.trainer = net, trainer

    def forward(self, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
        return self.trainer.loss(self.net, labeled, unlabeled, step)  # type: ignore[operator]


def _note(hardness: Hardness, unlabeled: Batch, items: Tensor, losses: Tensor) -> None:
    """Every process remembers how hard the items of all were."""
    hardness.note(unlabeled.gather(items), unlabeled.gather(losses))


def _told(report: Callable[[Progress], None], progress: Progress) -> BaseException | None:
    """What the report raised, where there is one: in the first process."""
    if distributed.rank() == 0:
        try:
            report(progress)
        except BaseException as refusal:
            return refusal
    return None


_NO_GAIN = "it was no longer getting better on the audit"


def _network(examples: Examples, recipe: Recipe) -> nets.Network:
    """A fresh network with the mean and deviation of what is learnt from, or the body and those of the start."""
    images, learnt = examples.images, np.union1d(examples.labeled, examples.unlabeled)
    some = np.sort(np.random.default_rng(recipe.seed).permutation(learnt)[:2000])
    colours = torch.from_numpy(np.array(images[some])).reshape(-1, 3).float() / 255.0
    net = nets.build(
        recipe.net, examples.n_classes, images.shape[1], mean=colours.mean(dim=0), std=colours.std(dim=0, correction=0)
    )
    if recipe.start is not None:
        _begin_from(net, Path(recipe.start))
    order = torch.channels_last if recipe.channels_last else torch.contiguous_format
    return net.to(memory_format=order)  # type: ignore[call-overload]


def _begin_from(net: nets.Network, path: Path) -> None:
    """Load a body: its own state, or that of a whole Network, whose transform then comes along."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        found = load_file(path)
    else:
        found = torch.load(path, map_location="cpu", weights_only=True)
    body = {name.removeprefix("body."): value for name, value in found.items() if name.startswith("body.")}
    try:
        net.body.load_state_dict(body or found)
    except RuntimeError as error:
        raise ValueError(f"{path.name} does not fit this network: {error}") from error
    for name in ("mean", "std"):
        if body and name in found:
            getattr(net, name).copy_(found[name].reshape(1, 3, 1, 1))


def _setting(examples: Examples, recipe: Recipe, net: nets.Network) -> Setting:
    return Setting(
        n_classes=examples.n_classes,
        n_features=net.n_features,
        n_items=len(examples.images),
        steps=recipe.steps,
        labeled_items=torch.from_numpy(np.array(examples.labeled, np.int64)),
        labeled_targets=torch.from_numpy(np.array(examples.targets, np.int64)),
        prior=torch.from_numpy(np.array(examples.prior, np.float32)),
        alignment=recipe.alignment,
    )


def _optimizer(net: nn.Module, trainer: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD; weight decay on matrices and kernels only: a bias or a scale drawn to zero learns less, not simpler."""
    parameters = [p for p in [*net.parameters(), *trainer.parameters()] if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=True, fused=True)


@torch.no_grad()
def _follow(teacher: nn.Module, net: nn.Module, decay: float) -> None:
    """Move the teacher towards the network: teacher = decay teacher + (1 - decay) network.

    Running statistics of normalisation are averaged like the weights: copied, they would be those of a network that
    is many steps ahead of the averaged one. Counters are copied.
    """
    old, new = list(teacher.state_dict().values()), list(net.state_dict().values())
    floats = [index for index, value in enumerate(old) if value.is_floating_point()]
    torch._foreach_lerp_([old[index] for index in floats], [new[index] for index in floats], 1.0 - decay)
    for mean, value in zip(old, new, strict=True):
        if not mean.is_floating_point():
            mean.copy_(value)


def _audit_accuracy(teacher: nets.Network, examples: Examples, recipe: Recipe) -> float | None:
    if len(examples.audit) == 0:
        return None
    part = distributed.span(len(examples.audit))
    said = predict(teacher, examples.images, examples.audit[part], device=recipe.device, batch=512, amp=recipe.amp)
    right = np.count_nonzero(said.probs.argmax(axis=1) == examples.audit_targets[part])
    return int(distributed.total(torch.tensor(right))) / len(examples.audit)


def _judge(
    state: checkpoints.State, accuracy: float | None, teacher: nn.Module, examples: Examples, recipe: Recipe
) -> str:
    """Remember the best evaluation; why to stop, where it has not been bettered for too long."""
    if accuracy is None or accuracy > state.best_accuracy:
        state.best_step, state.best_accuracy = state.step, -1.0 if accuracy is None else accuracy
        if recipe.patience and accuracy is not None:
            state.best_weights = {name: value.detach().cpu().clone() for name, value in teacher.state_dict().items()}
    waited = (state.step - state.best_step) / recipe.evaluate_every
    patient = not recipe.patience or len(examples.audit) < MIN_AUDIT or waited < recipe.patience
    return "" if patient else _NO_GAIN


def _identity(examples: Examples, recipe: Recipe, policy: augment.Policy) -> dict[str, Any]:
    """What makes it the same run. Another device or precision may finish it, another start may not."""
    same = {name: value for name, value in asdict(recipe).items() if name not in ("device", "amp", "start")}
    same["trainer_parameters"] = dict(recipe.trainer_parameters)
    same["start"] = hashlib.sha256(Path(recipe.start).read_bytes()).hexdigest() if recipe.start else None
    return same | {"classes": examples.n_classes, "image_px": examples.images.shape[1], "policy": repr(policy)}


def _resume(path: Path | None, state: checkpoints.State, identity: Mapping[str, Any], examples: Examples) -> str:
    try:
        return checkpoints.resume(path, state, identity, examples) if path else ""
    except checkpoints.Unusable as error:
        return f"started over: {error}"


def _progress(
    state: checkpoints.State, recipe: Recipe, seconds: float, logs: dict[str, float], accuracy: float | None
) -> Progress:
    share = 1.0 if state.stopped else min(1.0, max(state.step / recipe.steps, seconds / recipe.seconds))
    left = 0.0 if state.stopped else seconds * (1.0 - share) / share
    return Progress(state.step, recipe.steps, share, seconds, left, logs, accuracy)


class _Averages:
    """Running means of what a trainer logs, kept as tensors until they are asked for."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, logs: Mapping[str, Tensor]) -> None:
        for name, value in logs.items():
            value = value.detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def check(self, where: str) -> None:
        """Raises NotFinite naming where, if any loss since the last take was."""
        if "loss" not in self.sums:
            return
        (loss,) = distributed.averaged([float(self.sums["loss"])])
        if not math.isfinite(loss):
            raise NotFinite(f"{where}: the loss is {loss}; try a lower learning rate")

    def take(self) -> dict[str, float]:
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        means = dict(zip(means, distributed.averaged(list(means.values())), strict=True))
        self.sums, self.counts = {}, {}
        return means


class _Clock:
    """Seconds of learning over all sittings, and what is due."""

    def __init__(self, earlier: float) -> None:
        self.start = self.reported = self.saved = time.monotonic()
        self.earlier = earlier

    @property
    def seconds(self) -> float:
        return self.earlier + time.monotonic() - self.start

    @property
    def report_due(self) -> bool:
        return time.monotonic() - self.reported >= REPORT_S

    @property
    def checkpoint_due(self) -> bool:
        return time.monotonic() - self.saved >= CHECKPOINT_S
