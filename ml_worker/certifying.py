"""After each new model: hold the certificates against the random checks, look at them anew when a look is due, and
have accepted unseen what a certificate allows. The arithmetic is gate.py's; what follows is annotator's certifying.

An audit answer counts when it was given blind: to a random check from the queue, by a person, without a suggestion.
One that a person gave out of turn may have been picked, or came so late that the queue had let the image go: it counts
where the model is wrong, never for it. Skipped, disputed, or none of the classes, an answer is one with which every
prediction is wrong: left out, the hard images would be missing from the sample.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from django.db.models import Count, Exists, OuterRef, Q
from numpy.typing import NDArray

from annotator import queries, task_types
from annotator.actions import certifying, round_checks
from annotator.models import (
    Annotation,
    Certificate,
    Item,
    Job,
    Look,
    ModelVersion,
    Project,
    Proposal,
    QueueEntry,
    Round,
    Split,
)
from ml_worker import certifying_rounds, gate, snapshot
from ml_worker.calibrate import softmax
from ml_worker.fast_loop import Learned
from ml_worker.pool import Floats, Rows
from ml_worker.snapshot import Snapshot
from ml_worker.whole_files import whole_file

NO_CLASS = 0


@dataclass(frozen=True, eq=False)
class BlindAnswers:
    """Random checks as people answered them, oldest first. class_ids: NO_CLASS where none is right; strata: the import
    each came with, 0 without; in_turn: whether the queue had asked, and nothing was suggested."""

    item_ids: Rows
    class_ids: Rows
    strata: Rows
    in_turn: NDArray[np.bool_]

    def only(self, kept: NDArray[np.bool_]) -> "BlindAnswers":
        return BlindAnswers(self.item_ids[kept], self.class_ids[kept], self.strata[kept], self.in_turn[kept])

    def fairly(self, sizes: dict[int, int]) -> "BlindAnswers":
        """Of strata of these sizes: those in turn as far as they represent them all, and all others."""
        here = self.only(np.isin(self.strata, list(sizes)))
        kept = ~here.in_turn
        kept[here.in_turn] = gate.representative(_strata(sizes), here.strata[here.in_turn])
        return here.only(kept)


def take_stock(project: Project, taken: Snapshot, learned: Learned, model: ModelVersion) -> None:
    """Everything there is to do about the gate once a model is in place."""
    answers = blind_answers(project)
    for certificate in certifying.standing_certificates(project).filter(look__isnull=False):
        if len(_spoken_of(certificate)):
            _hold(certificate, answers)
        else:
            certifying.end(certificate=certificate, why=certifying_rounds.LOST)
    certifying_rounds.follow(project)
    for certificate in certifying.standing_certificates(project):
        _hold_labels(certificate)
    answers = answers.only(taken.embedded.rows(answers.item_ids)[1])
    sizes, n_open = _stratum_sizes(project)
    names, _ = gate.spoken_for(_strata(sizes), answers.strata[answers.in_turn])
    sizes = {name: sizes[name] for name in names}
    counted = answers.fairly(sizes)
    # How many, by those in turn alone: when a look is due must not depend on what was said.
    n_answers = int(counted.in_turn.sum())
    # What a round speaks of is no look's any more.
    claimed = certifying_rounds.claimed(project)
    left = sum(n_open[name] for name in names) - certifying_rounds.still_open(project, claimed)
    share_answered = 1.0 - max(0, left) / max(1, sum(sizes.values()))
    look, is_due = _next_look(project, n_answers, share_answered)
    if look is not None and is_due:
        _look(project, taken, learned, model, look, counted, sizes, claimed)
        look, _ = _next_look(project, n_answers, share_answered)
    _accept(project)
    outlook = _outlook(project, taken, learned, counted, look, share_answered)
    rows = taken.embedded.rows(answers.item_ids)[0]
    is_right = certifying_rounds.rights(taken, learned, rows, answers.class_ids)
    kept = answers.in_turn | ~is_right
    outlook["round"] = certifying_rounds.propose(
        project, taken, learned, model, (rows[kept], answers.class_ids[kept]), _certified(project)
    )
    chosen = project.settings
    outlook["asked"] = [chosen.target_precision, chosen.certificate_confidence, chosen.threshold_per_class]
    model.metrics["gate"] = outlook
    model.save(update_fields=["metrics"])


def blind_answers(project: Project) -> BlindAnswers:
    """The audit answers that a certificate may rest on. One query.

    A decision is not blind. Where it says what the blind answers say, these count as if it were not there; where it
    does not, the check counts as of no class: it may speak against the model and takes back nothing that does.
    """
    asked = Annotation.objects.filter(item=OuterRef("item"), reason_code=QueueEntry.Reason.AUDIT)
    current = Annotation.objects.filter(
        project=project,
        item__split=Split.AUDIT,
        superseded_by__isnull=True,
        source=Annotation.Source.PERSON,
        kind__in=[Annotation.Kind.LABEL, Annotation.Kind.NONE_OF_THESE, Annotation.Kind.SKIP],
    )
    by_item: dict[int, list[Annotation]] = defaultdict(list)
    in_turn: dict[int, bool] = defaultdict(lambda: True)
    for annotation in current.select_related("item").annotate(is_asked=Exists(asked)).order_by("created_at", "id"):
        by_item[annotation.item_id].append(annotation)
        if annotation.reason_code != Annotation.DECISION:
            in_turn[annotation.item_id] &= annotation.is_asked and not annotation.suggestion_shown
    task_type = task_types.get(project.task_type)
    named = []
    for item_id, given in by_item.items():
        blind = [each for each in given if each.reason_code != Annotation.DECISION]
        in_turn[item_id] &= bool(blind)
        value = queries.settled_value(task_type, given)
        is_agreed = len(blind) == len(given) or value == queries.settled_value(task_type, blind)
        named.append((given[0].item, value if is_agreed else None))
    return BlindAnswers(
        np.array([item.pk for item, _ in named], np.int64),
        np.array([task_type.class_ids(value)[0] if value else NO_CLASS for _, value in named], np.int64),
        np.array([item.import_job_id or 0 for item, _ in named], np.int64),
        np.array([in_turn[item.pk] for item, _ in named], bool),
    )


def _seen(project: Project) -> Any:
    """Of pool items: whether a person ever answered. The others are what may be accepted unseen."""
    return Exists(Annotation.objects.filter(item=OuterRef("pk"), source=Annotation.Source.PERSON))


def _stratum_sizes(project: Project) -> tuple[dict[int, int], dict[int, int]]:
    """By import: its pool items, without those whose label came along, and how many of them are open; for imports with
    any. One query."""
    pool = Item.objects.filter(project=project, split=Split.POOL).annotate(is_seen=_seen(project))
    counts = pool.filter(Q(state=Item.State.OPEN) | Q(is_seen=True)).order_by().values_list("import_job")
    unseen = Count("pk", filter=Q(state=Item.State.OPEN, is_seen=False))
    rows = [(name or 0, n, n_open) for name, n, n_open in counts.annotate(n=Count("pk"), n_open=unseen) if n_open]
    return {name: n for name, n, _ in rows}, {name: n_open for name, _, n_open in rows}


def _strata(sizes: dict[int, int]) -> Rows:
    """The stratum of each item, where only their number is known."""
    return np.repeat(np.fromiter(sizes, np.int64), np.fromiter(sizes.values(), np.int64))


def _past(project: Project) -> list[gate.Taken]:
    looks = Look.objects.filter(project=project).order_by("number")
    return [gate.Taken(each.planned, each.answers, each.target, each.confidence, each.spent) for each in looks]


def _leaks(project: Project) -> int:
    """How often the audit answers decided which of two models there is: once for every network that was trained."""
    return Job.objects.filter(project=project, kind=Job.Kind.TRAIN, result__has_key="promoted").count()


def _next_look(project: Project, n_answers: int, share_answered: float) -> tuple[gate.Look | None, bool]:
    chosen = project.settings
    return gate.next_look(
        n_answers,
        _past(project),
        chosen.target_precision,
        chosen.certificate_confidence,
        leaks=_leaks(project),
        share_answered=share_answered,
    )


def _hold(certificate: Certificate, answers: BlindAnswers) -> None:
    """Against the answers of now, within the region and by the predictions of the certificate's own model."""
    assert certificate.look is not None
    answers = answers.fairly({int(name): size for name, size in certificate.look.strata.items()})
    said = {int(item_id): class_id for item_id, class_id in certificate.checks.items()}
    guesses = np.array([said.get(item_id, -1) for item_id in answers.item_ids.tolist()], np.int64)
    is_right = guesses == answers.class_ids
    counts = (guesses != -1) & (answers.in_turn | ~is_right)
    right = is_right[counts].tolist()
    # Images of its rest that became random checks are out of it once they are answered, and not before.
    rest = max(0, certificate.rest - int(np.isin(answers.item_ids[counts], _spoken_of(certificate)).sum()))
    bound = gate.open_bound(sum(right), len(right), rest, certificate.answered, certificate.delta)
    certifying.hold_against(certificate=certificate, n=len(right), k=sum(right), bound=bound)


def _hold_labels(certificate: Certificate) -> None:
    """Against people's blind checks of the labels accepted under it, drawn at random from them.

    These can break a promise and never make one. Asked after every refit anew, the bound falls below a target that is
    met more often than the confidence says: it errs towards giving labels back. A skipped check is one in which the
    label was not found right, as among the random checks.
    """
    if certificate.accepted_at is None:
        return
    given = Annotation.objects.filter(
        # A decision replaces what its author said, and is no check: the check stays what it was.
        Q(superseded_by__isnull=True) | Q(superseded_by__reason_code=Annotation.DECISION),
        project_id=certificate.project_id,
        reason_code=QueueEntry.Reason.AUTOMATIC,
        reason_data__certificate=certificate.pk,
        suggestion_shown=False,
    ).exclude(kind=Annotation.Kind.RETRACTION)
    said = dict(given.values_list("reason_data__proposal", "value"))
    accepted = dict(Proposal.objects.filter(pk__in=list(said)).values_list("pk", "value"))
    task_type = task_types.get(certificate.project.task_type)
    right = [bool(said[pk]) and task_type.agreement(said[pk], accepted[pk]) >= 0.5 for pk in accepted]
    if right:
        # At most so much is right where at least the rest is wrong.
        at_most = 1.0 - gate.lower_bound(len(right) - sum(right), len(right), 1.0 - certificate.confidence)
        certifying.hold_against_labels(certificate=certificate, n=len(right), k=sum(right), at_most=at_most)


# --- a look ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Scene:
    """What a look sees, as the model has it before any temperature. targets: columns, -1 for no class."""

    rows: Rows
    probs: Floats
    probs_answered: Floats
    probs_audit: Floats
    targets: Rows

    def certify(self, target: float, delta: float, *, by_class: bool) -> list[gate.Certificate]:
        if by_class:
            each = gate.certify_classes(self.probs, self.probs_audit, self.targets, target, delta, self.probs_answered)
            return [given for given in each if given]
        given = gate.certify(
            _top(self.probs),
            _top(self.probs_audit),
            self.probs_audit.argmax(axis=1) == self.targets,
            target,
            delta,
            _top(self.probs_answered),
        )
        return [given] if given else []


def _top(probs: Floats) -> Floats:
    return np.asarray(probs.max(axis=1, initial=0.0))


def _look(
    project: Project,
    taken: Snapshot,
    learned: Learned,
    model: ModelVersion,
    planned: gate.Look,
    answers: BlindAnswers,
    sizes: dict[int, int],
    claimed: Rows,
) -> None:
    """Take the look: keep it, what it certifies, and the predictions that this is about."""
    chosen, leaks = project.settings, _leaks(project)
    n_rounds = Round.objects.filter(project=project).count()
    scene = _scene(project, taken, learned, answers, list(sizes), claimed)
    given = scene.certify(chosen.target_precision, planned.delta, by_class=chosen.threshold_per_class)
    lower = max(0.5, 1.0 - 2.0 * (1.0 - chosen.target_precision))
    freed = scene.certify(lower, planned.delta, by_class=chosen.threshold_per_class)
    look = Look(
        project=project,
        planned=planned.number,
        model_version=model,
        answers=int(answers.in_turn.sum()),
        target=chosen.target_precision,
        confidence=chosen.certificate_confidence,
        spent=planned.delta * 2**leaks,
        delta=planned.delta,
        strata=sizes,
        preview={"target": lower, "count": sum(each.rest for each in freed)},
    )
    certificates = [_certificate(look, taken, learned, each) for each in given]
    before = Look.objects.filter(project=project).count()
    if certifying.record_look(look=look, certificates=certificates, after=before, rounds=n_rounds) is None:
        return  # another job took it at this moment, of the same answers, or a round has just claimed its images
    for certificate, each in zip(certificates, given, strict=True):
        _keep(certificate, taken, scene, each)


def _scene(
    project: Project, taken: Snapshot, learned: Learned, answers: BlindAnswers, strata: list[int], claimed: Rows
) -> _Scene:
    """claimed: items that a round speaks of; like those that people answered, they may have been the right ones."""
    pool = Item.objects.filter(project=project, split=Split.POOL)
    seen = pool.filter(_seen(project)).values_list("pk", flat=True)
    rows_seen, has_row = taken.embedded.rows(np.fromiter(seen, np.int64))
    is_seen = np.zeros(len(taken.embedded.item_ids), bool)
    is_seen[rows_seen[has_row]] = True
    rows_claimed, has_row = taken.embedded.rows(claimed)
    is_seen[rows_claimed[has_row]] = True
    rows = np.sort(np.concatenate([taken.open_rows, taken.accepted_rows]))
    elsewhere = (
        pool.exclude(import_job__in=strata)
        if 0 not in strata
        else pool.exclude(Q(import_job__in=strata) | Q(import_job__isnull=True))
    )
    rows_elsewhere, has_row = taken.embedded.rows(np.fromiter(elsewhere.values_list("pk", flat=True), np.int64))
    is_elsewhere = np.zeros(len(is_seen), bool)
    is_elsewhere[rows_elsewhere[has_row]] = True
    rows = rows[~is_seen[rows] & ~is_elsewhere[rows]]
    columns = {class_id: column for column, class_id in enumerate(taken.class_ids)}
    targets = np.array([columns.get(class_id, -1) for class_id in answers.class_ids.tolist()], np.int64)
    probs_audit = softmax(learned.logits[taken.embedded.rows(answers.item_ids)[0]])
    counts = answers.in_turn | (probs_audit.argmax(axis=1) != targets)
    return _Scene(
        rows=rows,
        probs=softmax(learned.logits[rows]),
        probs_answered=softmax(learned.logits[np.flatnonzero(is_seen & ~is_elsewhere)]),
        probs_audit=probs_audit[counts],
        targets=targets[counts],
    )


def _certificate(look: Look, taken: Snapshot, learned: Learned, given: gate.Certificate) -> Certificate:
    checks = np.flatnonzero(taken.embedded.splits == snapshot.SPLIT_CODES[Split.AUDIT])
    probs = softmax(learned.logits[checks])
    inside = _inside(probs, given)
    guesses = probs.argmax(axis=1)[inside].tolist()
    return Certificate(
        label_class_id=None if given.column is None else taken.class_ids[given.column],
        threshold=given.threshold,
        n=given.n,
        k=given.k,
        rest=given.rest,
        answered=given.answered,
        bound=given.bound,
        target=given.target,
        confidence=look.confidence,
        delta=given.delta,
        checks={
            str(item_id): taken.class_ids[guess]
            for item_id, guess in zip(taken.embedded.item_ids[checks[inside]].tolist(), guesses, strict=True)
        },
    )


def _inside(probs: Floats, given: gate.Certificate) -> NDArray[np.bool_]:
    above = _top(probs) >= given.threshold
    return above if given.column is None else above & (probs.argmax(axis=1) == given.column)


def _keep(certificate: Certificate, taken: Snapshot, scene: _Scene, given: gate.Certificate) -> None:
    """Write down the predictions it speaks of: the model's files are gone after a few refits."""
    inside = _inside(scene.probs, given)
    path = _file(certificate)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        np.savez(
            file,
            item_ids=taken.embedded.item_ids[scene.rows[inside]],
            class_ids=np.asarray(taken.class_ids, np.int64)[scene.probs[inside].argmax(axis=1)],
            confidences=_top(scene.probs[inside]),
        )


def _file(certificate: Certificate) -> Path:
    if certificate.round_id is not None:
        return certifying_rounds.file_of(certificate)
    return snapshot.embedding_folder(f"{certificate.project_id}/certificate-{certificate.pk}.npz")


def _spoken_of(certificate: Certificate) -> Rows:
    """The items it was given for; empty where its file is gone or damaged."""
    return np.asarray(round_checks.arrays_in(_file(certificate)).get("item_ids", ()), np.int64)


def _accept(project: Project) -> None:
    """Whatever a certificate allows and nobody accepted under it yet, while the owner wants it."""
    standing = {_file(each): each for each in certifying.standing_certificates(project)}
    for path in snapshot.embedding_folder(str(project.pk)).glob("certificate-*.npz"):
        if path not in standing:
            path.unlink(missing_ok=True)
    certifying_rounds.forget(project)
    if not project.settings.auto_accept:
        return
    for path, certificate in standing.items():
        if certificate.accepted_at is None and (kept := round_checks.arrays_in(path)):
            unseen = certifying.Unseen(*(kept[name].tolist() for name in ("item_ids", "class_ids", "confidences")))
            certifying.accept(certificate=certificate, predictions=unseen)


def _certified(project: Project) -> Rows:
    """The items that standing certificates speak of, those of looks and those of rounds."""
    ids = [np.zeros(0, np.int64), certifying_rounds.claimed(project)]
    for certificate in certifying.standing_certificates(project).filter(look__isnull=False):
        ids.append(_spoken_of(certificate))
    # np.unique goes by hashing: seventeen times as long, a second of a million.
    found = np.sort(np.concatenate(ids))
    return found[np.diff(found, prepend=-1) > 0]


def _outlook(
    project: Project,
    taken: Snapshot,
    learned: Learned,
    answers: BlindAnswers,
    look: gate.Look | None,
    share_answered: float,
) -> dict[str, Any]:
    """What the page says of the next look: the answers it waits for, and how many a certificate lacks at least."""
    n = int(answers.in_turn.sum())
    if look is None:
        return {"answers": n, "missing": None, "next_at": None}
    rows = taken.embedded.rows(answers.item_ids)[0]
    probs = softmax(learned.logits[rows])
    right = certifying_rounds.rights(taken, learned, rows, answers.class_ids)
    counts = answers.in_turn | ~right
    shown = gate.sample_target(project.settings.target_precision, share_answered)
    missing = gate.answers_missing(_top(probs)[counts], right[counts], shown, look.delta)
    return {"answers": n, "missing": max(missing, look.at - n), "next_at": look.at}
