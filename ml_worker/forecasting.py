"""Parts of the study: what the next answers are worth, how many errors are left, and what choosing the questions
gained.

The arithmetic is forecast.py's, errors_left.py's and gain.py's. At most eight fits of the head for the curve and
ten for the gain; in pools of more than `REFIT_AT_MOST` images a fit scores them all and takes long, so the curve
goes through what was measured of the models as they came, and the gain is not asked about.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from annotator import queries, task_types
from annotator.models import Annotation, Certificate, Item, ModelVersion, Project, Proposal, QueueEntry, Split
from ml_worker import errors_left, forecast, gain, snapshot
from ml_worker.errors_left import Origin
from ml_worker.fast_loop import Answers
from ml_worker.snapshot import Snapshot

REFIT_AT_MOST = 50_000
# Random checks that tell an error rate.
CHECKS_AT_LEAST = 10
# Questions that somebody chose: what is compared with as many drawn at random.
CHOSEN = {
    QueueEntry.Reason.TYPICAL,
    QueueEntry.Reason.CLOSE_CALL,
    QueueEntry.Reason.UNSURE,
    QueueEntry.Reason.DISPUTED,
    QueueEntry.Reason.UNLIKE,
    QueueEntry.Reason.SCARCE,
}


@dataclass(frozen=True, eq=False)
class Course:
    """The training answers in the order they came. asked: bool (L,), given to a question of the queue or the API, and
    not by accepting a proposal nor with the import; reasons: why the queue asked, "" where it did not."""

    given: Answers
    asked: NDArray[np.bool_]
    reasons: NDArray[np.str_]

    def of_reasons(self, wanted: set[str]) -> Answers:
        kept = np.isin(self.reasons, list(wanted)) & self.asked
        return Answers(self.given.rows[kept], self.given.targets[kept])


def course(project: Project, taken: Snapshot) -> Course:
    """One query. An image that several people labelled came when the first of them did."""
    labels = Annotation.objects.filter(project=project, kind=Annotation.Kind.LABEL, superseded_by__isnull=True)
    rows_of = labels.order_by("created_at", "id").values_list("item_id", "source", "settles_id", "reason_code")
    first: dict[int, tuple[int, bool, str]] = {}
    for place, (item_id, source, settles_id, reason) in enumerate(rows_of.iterator(chunk_size=5000)):
        is_asked = source == Annotation.Source.PERSON and settles_id is None and reason != Annotation.DECISION
        first.setdefault(item_id, (place, is_asked, reason))
    known = [first.get(item_id) for item_id in taken.embedded.item_ids[taken.train.rows].tolist()]
    # An answer taken back since the snapshot was taken has no place in the order.
    kept = np.array([each is not None for each in known], bool)
    found = [each for each in known if each is not None]
    order = np.argsort([place for place, _, _ in found], kind="stable")
    return Course(
        Answers(taken.train.rows[kept][order], taken.train.targets[kept][order]),
        np.array([is_asked for _, is_asked, _ in found], bool)[order],
        np.array([reason for _, _, reason in found], np.str_)[order],
    )


# --- the curve ------------------------------------------------------------------------------------------------------


def study_forecast(project: Project, taken: Snapshot) -> dict[str, Any]:
    """The learning curve and what follows from it, as `forecast.Forecast` has it; or why there is none: ``lack``.

    is_trained: the embedding comes of a network that learnt from all answers, so that the early points are too good
    and the curve is too flat.
    """
    is_small = len(taken.embedded.item_ids) <= REFIT_AT_MOST
    points = _measured(project, taken) if is_small else _remembered(project, taken)
    told = {
        "lack": forecast.lack(points),
        "checks": len(taken.audit.rows),
        "points": [[int(n), float(right.mean())] for n, right in zip(points.sizes, points.right, strict=True)],
        "from_history": not is_small,
        "is_trained": queries.network_in_use(project) is not None,
    }
    said = forecast.forecast(
        points, left=len(taken.open_rows), target=project.settings.target_precision, seed=project.pk
    )
    return told if said is None else told | asdict(said) | {"advice": said.advice, "level": forecast.LEVEL}


def _right_of(project: Project, taken: Snapshot) -> Callable[..., NDArray[np.bool_]]:
    chosen = project.settings
    parameters = chosen.parameters_of("head", chosen.head)
    return forecast.scorer(taken.embedded.pool, taken.audit, len(taken.class_ids), chosen.head, parameters)


def _measured(project: Project, taken: Snapshot) -> forecast.Points:
    n_checks = len(taken.audit.rows)
    if n_checks < forecast.CHECKS_AT_LEAST:  # nothing would be said of the points
        return forecast.of_history(np.zeros(0, np.int64), np.zeros(0, np.int64), n_checks)
    answers = course(project, taken)
    return forecast.measure(answers.given, n_checks, _right_of(project, taken), answers.asked)


def _remembered(project: Project, taken: Snapshot) -> forecast.Points:
    """At most eight of the models learnt on this embedding, spread evenly over the answers. One query."""
    n_checks = len(taken.audit.rows)
    heads_alone = ModelVersion.objects.filter(project=project, algorithm=project.settings.head).order_by("number")
    kept: dict[int, float] = {}
    embedding = None
    for n_labels, metrics in heads_alone.values_list("label_count", "metrics"):
        if metrics.get("embedding") != embedding:
            kept, embedding = {}, metrics.get("embedding")
        report = metrics.get("audit") or {}
        if report.get("n", 0) >= forecast.CHECKS_AT_LEAST:
            kept[n_labels] = report["accuracy"]
    sizes = np.array(sorted(kept), np.int64)
    wanted = np.array(forecast.PREFIXES) * (sizes[-1] if len(sizes) else 0)
    nearest = sorted({int(np.abs(sizes - size).argmin()) for size in wanted}) if len(sizes) else []
    correct = np.array([round(kept[int(sizes[place])] * n_checks) for place in nearest], np.int64)
    return forecast.of_history(sizes[nearest] if nearest else sizes, correct, n_checks)


# --- chosen against random ------------------------------------------------------------------------------------------


def study_gain(project: Project, taken: Snapshot) -> dict[str, Any]:
    """What choosing the questions gained, as `gain.Gain` has it; or why that is not known: ``lack``."""
    answers = course(project, taken)
    baseline, chosen = answers.of_reasons({QueueEntry.Reason.BASELINE}), answers.of_reasons(set(CHOSEN))
    n_checks = len(taken.audit.rows)
    told: dict[str, Any] = {"lack": gain.lack(len(baseline.rows), len(chosen.rows), n_checks)}
    told |= {"baseline_answers": len(baseline.rows), "wanted": gain.BASELINE_AT_LEAST}
    if len(taken.embedded.item_ids) > REFIT_AT_MOST:
        return told | {"lack": f"a pool of more than {REFIT_AT_MOST:,} images is not learnt anew for it"}
    if told["lack"]:
        return told
    found = gain.compare(baseline, chosen, n_checks, _right_of(project, taken), seed=project.pk)
    if found is None:
        return told | {"lack": "the answers to compare are of one class only"}
    by: list[str] = answers.reasons[np.isin(answers.reasons, list(CHOSEN))].tolist()
    return told | asdict(found) | {"difference": found.difference, "by": max(set(by), key=by.count)}


# --- errors left ----------------------------------------------------------------------------------------------------


def study_errors(project: Project, taken: Snapshot) -> dict[str, Any]:
    """Wrong labels by origin, each as `errors_left.Left` has it, and their sums: of the labels there are, and with
    what the model says of the open images taken for true."""
    there, to_come = _settled(project), _open(project, taken)
    # A sum without one of the strata would pass for the sum of all open images.
    is_whole = bool(to_come) and all(_is_told(origin) for origin in to_come)
    return {
        "level": errors_left.LEVEL,
        "there": [_told(origin) for origin in there],
        "open": [_told(origin) for origin in to_come],
        "sum": _told_sum(there),
        "sum_with_open": _told_sum([*there, *to_come]) if is_whole else None,
        "unmeasured": sum(origin.count for origin in there if not _is_told(origin)),
    }


def _is_told(origin: Origin) -> bool:
    """Whether its checks say something: a few without an error would say "likely 0". A ceiling is as wide as it must
    be."""
    return origin.is_measured and (origin.is_ceiling or origin.checked >= CHECKS_AT_LEAST)


def _told(origin: Origin) -> dict[str, Any]:
    found = errors_left.left(origin) if _is_told(origin) else None
    return asdict(origin) | (asdict(found) if found else {"low": None, "expected": None, "high": None})


def _told_sum(origins: list[Origin]) -> dict[str, Any] | None:
    found = errors_left.total([origin for origin in origins if _is_told(origin)])
    return asdict(found) if found else None


def _settled(project: Project) -> list[Origin]:
    """The labels that count now, by the strongest word behind each. Five queries."""
    counts = _label_counts(project)
    model = queries.current_model(project)
    proposed = (model.metrics.get("proposals") if model else None) or {}
    checked, right = proposed.get("checked") or 0, proposed.get("right") or 0
    found = [
        Origin("answered", counts["answered"], *_asked_again(project), is_ceiling=True),
        # A person looked at them: they cannot be worse than what was put up.
        Origin("reviewed", counts["reviewed"], checked, checked - right, is_ceiling=True),
        Origin("imported", counts["imported"]),
    ]
    standing = Certificate.objects.filter(project=project, ended_at__isnull=True, accepted_at__isnull=False)
    for certificate in standing.order_by("pk"):
        labels = Proposal.objects.filter(certificate=certificate, state=Proposal.State.AUTO_ACCEPTED).count()
        found.append(Origin("unseen", labels, certificate.n, certificate.n - certificate.k))
    return [origin for origin in found if origin.count]


def _label_counts(project: Project) -> dict[str, int]:
    """Labelled images of pool and random checks: answered by a person, only accepted in review, only imported."""
    labels = Annotation.objects.filter(project=project, kind=Annotation.Kind.LABEL, superseded_by__isnull=True)
    strength = {"answered": 2, "reviewed": 1, "imported": 0}
    best: dict[int, str] = {}
    rows = labels.filter(item__state=Item.State.LABELLED).exclude(item__split=Split.TEST)
    for item_id, source, settles_id, said, proposed in rows.values_list(
        "item_id", "source", "settles_id", "value", "settles__value"
    ).iterator(chunk_size=5000):
        if source == Annotation.Source.IMPORTED:
            origin = "imported"
        else:
            origin = "reviewed" if settles_id is not None and said == proposed else "answered"
        if strength[origin] >= strength[best.get(item_id, "imported")]:
            best[item_id] = origin
    return {origin: sum(1 for each in best.values() if each == origin) for origin in strength}


def _asked_again(project: Project) -> tuple[int, int]:
    """Images asked for a second opinion, and how many of those answers named another class. Two queries.

    A ceiling: of two answers that differ one at least is wrong, not always the first. Second looks at suspects do not
    count: they are wrong far more often than the rest, and would only say "fewer than nearly all".
    """
    task_type = task_types.get(project.task_type)
    opinion = QueueEntry.Reason.SECOND_OPINION
    asked_again = Annotation.objects.filter(project=project, reason_code=opinion).values("item_id")
    given = Annotation.objects.filter(
        project=project, item__in=asked_again, kind=Annotation.Kind.LABEL, source=Annotation.Source.PERSON
    )
    answers = queries.once_each(given.exclude(reason_code=Annotation.DECISION))
    checked = wrong = 0
    before: dict[int, dict[str, Any]] = {}
    for answer in answers.order_by("created_at", "id"):
        value = answer.value or {}
        if answer.reason_code == opinion and answer.item_id in before and not answer.suggestion_shown:
            checked += 1
            wrong += task_type.agreement(before[answer.item_id], value) < 1
        before[answer.item_id] = value
    return checked, wrong


def _open(project: Project, taken: Snapshot) -> list[Origin]:
    """Open images of the pool, as the newest model would label them, in two strata: as sure as the least sure of its
    proposals, and less sure. One query.

    Images and random checks are told apart by one threshold in one array: proposals are capped, so that what is not
    proposed is not what the model is unsure of. Empty where the model's word is not on disk or is of other rows.
    """
    model = queries.current_model(project)
    said = _said(model, len(taken.embedded.item_ids)) if model else None
    if model is None or said is None:
        return []
    above = (model.metrics.get("proposals") or {}).get("above", 1.0)
    is_sure = said.max(axis=1) >= above
    checks = taken.audit.rows
    # The columns of the model and those of the snapshot differ once a class was added.
    named = np.array(model.class_ids)[said[checks].argmax(axis=1)]
    is_wrong = named != np.array(taken.class_ids)[taken.audit.targets]
    found = [
        Origin(
            name,
            int(mine[taken.open_rows].sum()),
            int(mine[checks].sum()),
            int((mine[checks] & is_wrong).sum()),
        )
        for name, mine in (("sure", is_sure), ("less_sure", ~is_sure))
    ]
    return [origin for origin in found if origin.count]


def _said(model: ModelVersion, n_rows: int) -> NDArray[np.float16] | None:
    """The model's probabilities float16 (N, C); None where they were pruned or the embedding has other rows."""
    if not model.artifact_folder:
        return None
    try:
        said: NDArray[np.float16] = np.load(snapshot.embedding_folder(model.artifact_folder) / "probs.npy")
    except FileNotFoundError:  # a refit meanwhile
        return None
    return said if len(said) == n_rows else None
