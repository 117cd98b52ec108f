"""After each new model: judge the certification round that is running, hold what earlier ones promised against the
answers of now, and propose the region of the next. The arithmetic is rounds.py's; what follows is annotator's rounds.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from django.db.models import Q
from numpy.typing import NDArray

from annotator.actions import certifying, round_checks
from annotator.actions import rounds as actions
from annotator.models import Annotation, Certificate, Item, Look, ModelVersion, Project, Proposal, Round, RoundCheck
from annotator.models import Split as Splits
from annotator.wording import percent, promised
from ml_worker import gate, rounds, snapshot
from ml_worker.calibrate import softmax
from ml_worker.fast_loop import Learned
from ml_worker.pool import Floats, Rows
from ml_worker.snapshot import Snapshot
from ml_worker.whole_files import whole_file

# The answers of so many rounds before help to choose the next region.
ROUNDS_REMEMBERED = 5
# Without it nobody can say which images a promise is about.
LOST = "what its model had predicted is gone from the disk"


def follow(project: Project) -> None:
    """Judge the running round, and hold the certificates of earlier ones against the answers of now."""
    going = round_checks.running(project)
    if going is not None:
        _judge(project, going)
    for certificate in certifying.standing_certificates(project).filter(round__isnull=False):
        if certificate.round and round_checks.frozen(certificate.round):
            _hold(certificate)
        else:
            certifying.end(certificate=certificate, why=LOST)


def _judge(project: Project, going: Round) -> None:
    target, confidence = project.settings.target_precision, project.settings.certificate_confidence
    if confidence > going.confidence:
        why = f"the settings ask for {promised(confidence)} certainty now, and it was drawn for less"
        actions.fail_round(drawn=going, why=why)
        return
    if not round_checks.frozen(going):
        actions.fail_round(drawn=going, why=LOST)
        return
    checks = list(going.checks.values_list("item_id", "predicted_id"))
    region = region_of(going)
    is_drawn = np.isin(region, np.array([item_id for item_id, _ in checks], np.int64))
    said = np.array(round_checks.said_in_order(going), np.int8)
    others = region[~is_drawn]
    n_open = int((_are_open(project, others) | np.isin(others, _random_checks(project))).sum())
    stages = [rounds.Stage(at, errors, delta) for at, errors, delta in going.stages]
    now = rounds.standing(stages, said, going.size, n_open, target)
    if now.is_met and now.stage is not None:
        certificate = Certificate(
            label_class_id=going.label_class_id,
            threshold=going.threshold,
            n=now.stage.at,
            k=now.stage.at - now.wrong,
            rest=now.rest,
            answered=now.others,
            bound=now.bound,
            target=target,
            confidence=going.confidence,
            delta=now.stage.delta,
            checks={str(item_id): class_id for item_id, class_id in checks[: now.stage.at]},
        )
        actions.certify_round(drawn=going, certificate=certificate)
    elif now.is_lost:
        actions.fail_round(drawn=going, why=_why_lost(now, target))


def _why_lost(now: rounds.Standing, target: float) -> str:
    wrong = f"{now.errors:,} of {now.answered:,} checks {'is' if now.errors == 1 else 'are'} wrong"
    if not now.errors:
        wrong = f"{now.others:,} images of its region were answered otherwise"
    shown = f"; at least {percent(now.bound, 1)} right is what they show" if now.bound >= 0.5 else ""
    return f"{wrong}: {promised(target)} is out of its reach{shown}"


def _hold(certificate: Certificate) -> None:
    """Against the answers of now. A check that was taken back counts as the worst that was said of it, until it is
    answered again.

    Images of its region may have become random checks of the whole pool (`certifying.draw_checks`). They stay among
    the `rest` it speaks of, whose errors its own checks bound however many were drawn; the answers to them are more
    checks of the same region, which can break the promise and never make it a better one: no error is spent on that.
    """
    assert certificate.round is not None
    predicted = {int(item_id): class_id for item_id, class_id in certificate.checks.items()}
    answers = list(round_checks.said_at_worst(certificate.project, predicted).values())
    n = len(answers) - answers.count(round_checks.UNANSWERED)
    k = n - answers.count(round_checks.WRONG)
    bound = gate.open_bound(k, n, certificate.rest, certificate.answered, certificate.delta)
    more = round_checks.said_at_worst(certificate.project, _drawn_later(certificate.round, predicted))
    right = [each == round_checks.RIGHT for each in more.values() if each != round_checks.UNANSWERED]
    if right:
        n, k, rest = n + len(right), k + sum(right), max(0, certificate.rest - len(right))
        bound = min(bound, gate.open_bound(k, n, rest, certificate.answered, certificate.delta))
    certifying.hold_against(certificate=certificate, n=n, k=k, bound=bound)


# --- the images of rounds --------------------------------------------------------------------------------------------


def region_of(drawn: Round) -> Rows:
    """The item ids of a round; empty where its file is gone or damaged."""
    return np.asarray(round_checks.frozen(drawn).get("item_ids", ()), np.int64)


def _random_checks(project: Project) -> Rows:
    return np.fromiter(Item.objects.filter(project=project, split=Splits.AUDIT).values_list("pk", flat=True), np.int64)


def _drawn_later(drawn: Round, checks: dict[int, int]) -> dict[int, int]:
    """Those of a round, but for these checks of it, that became random checks of the pool: item id -> class id."""
    kept = round_checks.frozen(drawn)
    random_checks = set(_random_checks(drawn.project).tolist()) - checks.keys()
    said = dict(zip(kept["item_ids"].tolist(), kept["class_ids"].tolist(), strict=True)) if kept else {}
    return {item_id: said[item_id] for item_id in random_checks & said.keys()}


def claimed(project: Project) -> Rows:
    """The items that belong to a running round or to one whose certificate stands: no look counts them again."""
    held = Q(state=Round.State.RUNNING) | Q(certificate__isnull=False, certificate__ended_at__isnull=True)
    ids = [region_of(each) for each in Round.objects.filter(held, project=project)]
    return np.unique(np.concatenate(ids)) if ids else np.zeros(0, np.int64)


def still_open(project: Project, item_ids: Rows) -> int:
    """How many of these nobody ever answered."""
    return int(_are_open(project, item_ids).sum())


def _are_open(project: Project, item_ids: Rows) -> NDArray[np.bool_]:
    """Of each item: whether it is an open one of the pool that nobody ever answered, nor accepted unseen elsewhere."""
    pool = Item.objects.filter(project=project)
    settled = pool.exclude(state=Item.State.OPEN, split=Splits.POOL).values_list("pk", flat=True)
    answered = Annotation.objects.filter(project=project).order_by().values_list("item_id", flat=True).distinct()
    accepted = Proposal.objects.filter(project=project, state=Proposal.State.AUTO_ACCEPTED, certificate__round=None)
    gone = [np.fromiter(each, np.int64) for each in (settled, answered, accepted.values_list("item_id", flat=True))]
    return ~np.isin(item_ids, np.concatenate(gone))


def without_round(project: Project, taken: Snapshot) -> Snapshot:
    """What may be asked for what it teaches, and proposed, while a round runs: nothing of its region, as long as there
    is something else; then the others of its region, which counts against it, and never one of its checks."""
    going = round_checks.running(project)
    if going is None:
        return taken
    item_ids = taken.embedded.item_ids[taken.open_rows]
    is_apart = np.isin(item_ids, region_of(going))
    if is_apart.all():  # its checks are asked by the round alone: without a hint, in the order drawn
        is_apart = np.isin(item_ids, np.fromiter(going.checks.values_list("item_id", flat=True), np.int64))
    return replace(taken, open_rows=taken.open_rows[~is_apart])


def forget(project: Project) -> None:
    """Remove the files of rounds that are over and promise nothing."""
    over = Round.objects.filter(project=project).exclude(state=Round.State.RUNNING)
    for each in over.exclude(certificate__isnull=False, certificate__ended_at__isnull=True):
        actions.round_file(each).unlink(missing_ok=True)


# --- the next region -------------------------------------------------------------------------------------------------


def propose(
    project: Project,
    taken: Snapshot,
    learned: Learned,
    model: ModelVersion,
    audited: tuple[Rows, Rows],
    certified: Rows,
) -> dict[str, Any] | None:
    """The region of the next round as the page tells of it, its predictions written down; {"why"} where there is none,
    None while a round runs.

    audited: rows and class ids of the random checks that count. certified: items a standing certificate speaks of.
    """
    if round_checks.running(project):
        return None
    chosen = project.settings
    spent = list(Round.objects.filter(project=project).values_list("spent", flat=True))
    part = rounds.error_for(spent, chosen.certificate_confidence)
    if not part:
        return {"why": "no certainty is left: every round spends some; lower the certainty in the settings to go on"}
    probs = softmax(learned.logits)
    pool = np.flatnonzero(taken.embedded.splits == snapshot.SPLIT_CODES[Splits.POOL])
    item_ids = taken.embedded.item_ids
    free = _are_open(project, item_ids[pool]) & ~np.isin(item_ids[pool], certified)
    region, why = _widest_gain(project, taken, probs, pool, free, audited, part)
    if region is None:
        return {"why": why}
    rows = pool[region.rows]
    confidence = probs[rows].max(axis=1)
    class_ids = np.asarray(taken.class_ids, np.int64)[probs[rows].argmax(axis=1)]
    with whole_file(actions.offer_file(project), str(model.number)) as file:
        np.savez(
            file,
            item_ids=item_ids[rows],
            class_ids=class_ids,
            confidences=confidence,
            places=_places(probs, pool, rows, region.column),
            model=np.int64(model.number),
        )
    return _as_offered(project, taken, region, part)


def _widest_gain(
    project: Project,
    taken: Snapshot,
    probs: Floats,
    pool: Rows,
    free: NDArray[np.bool_],
    audited: tuple[Rows, Rows],
    part: float,
) -> tuple[rounds.Region | None, str]:
    """The best region over all classes, or of one class where each has its own threshold; rows are places in pool."""
    chosen = project.settings
    found = None
    # Whether there are images enough, and whether there would be a region had every check been right.
    is_possible = would_do = False
    guesses = probs.argmax(axis=1)
    for column in range(len(taken.class_ids)) if chosen.threshold_per_class else [None]:
        mine = np.ones(len(pool), bool) if column is None else guesses[pool] == column
        checks, class_ids = audited
        inside = checks if column is None else checks[guesses[checks] == column]
        right = np.asarray(taken.class_ids, np.int64)[guesses[checks]] == class_ids
        places = _places(probs, pool, inside, column)
        known = [rounds.Evidence(places, right if column is None else right[guesses[checks] == column])]
        known += _remembered(project, None if column is None else taken.class_ids[column])
        top = probs[pool[mine]].max(axis=1, initial=0.0)
        widest = int(rounds.WIDEST * (mine & free).sum())
        is_possible |= bool(rounds.plan(widest, chosen.target_precision, part))
        region = rounds.propose(top, free[mine], known, chosen.target_precision, part)
        if region is None and not would_do:
            unharmed = [replace(each, right=np.ones_like(each.right)) for each in known]
            would_do = rounds.propose(top, free[mine], unharmed, chosen.target_precision, part) is not None
        if region is not None and (found is None or region.gain > found.gain):
            found = replace(region, rows=np.flatnonzero(mine)[region.rows], column=column)
    if found is not None:
        return found, ""
    if not is_possible:
        return None, "too few images are open: checking enough of them would leave hardly any to let through"
    if would_do:
        return None, "too many of the random checks so far are wrong even where the model is surest; more answers help"
    n = len(audited[0])
    so_far = f"{n:,} random check{' is' if n == 1 else 's are'} answered"
    return None, f"too few checks so far to tell how often the model is right where it is surest: {so_far}"


def rights(taken: Snapshot, learned: Learned, rows: Rows, class_ids: Rows) -> NDArray[np.bool_]:
    """Whether the model's guess for each of these rows is the class that was answered."""
    return np.asarray(np.asarray(taken.class_ids, np.int64)[learned.logits[rows].argmax(axis=1)] == class_ids)


def _places(probs: Floats, pool: Rows, rows: Rows, column: int | None) -> NDArray[np.float64]:
    """Of each row the share of the pool, or of what is predicted as one class in it, that is at least as sure."""
    among = pool if column is None else pool[probs[pool].argmax(axis=1) == column]
    top = probs[rows].max(axis=1, initial=0.0)
    return rounds.places_of(top, probs[among].max(axis=1, initial=0.0))


def _remembered(project: Project, class_id: int | None) -> list[rounds.Evidence]:
    """What the checks of earlier rounds say of how right such predictions are."""
    known = []
    for each in Round.objects.filter(project=project, label_class_id=class_id)[:ROUNDS_REMEMBERED]:
        places = list(RoundCheck.objects.filter(round=each).order_by("position").values_list("place", flat=True))
        said = np.array(round_checks.said_in_order(each), np.int8)
        is_known = said != round_checks.UNANSWERED
        known.append(rounds.Evidence(np.array(places)[is_known], said[is_known] == round_checks.RIGHT, each.share))
    return known


def _as_offered(project: Project, taken: Snapshot, region: rounds.Region, part: float) -> dict[str, Any]:
    chosen = project.settings
    size = len(region.rows)
    plans = [rounds.plan(size, chosen.target_precision, part, most) for most in range(len(region.stages))]
    lower = max(0.5, 1.0 - 2.0 * (1.0 - chosen.target_precision))
    cheaper = rounds.plan(size, lower, part)
    return {
        "class_id": None if region.column is None else taken.class_ids[region.column],
        "by_class": chosen.threshold_per_class,
        "threshold": region.threshold,
        "share": region.share,
        "size": size,
        "target": chosen.target_precision,
        "confidence": chosen.certificate_confidence,
        "spent": part,
        "plans": [[[stage.at, stage.errors, stage.delta] for stage in plan] for plan in plans],
        "chance": round(region.chance, 3),
        "expected": round(region.checks),
        "lower": {"target": lower, "at": cheaper[0].at} if cheaper else {},
        "looks": Look.objects.filter(project=project).count(),
        "rounds": Round.objects.filter(project=project).count(),
    }


def file_of(certificate: Certificate) -> Path:
    """Where the predictions of a round's certificate lie."""
    assert certificate.round is not None
    return actions.round_file(certificate.round)
