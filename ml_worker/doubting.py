"""How far a model's doubt can be trusted, what it makes of short lists, and what the doubt comes from."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from annotator import queries
from annotator.models import Annotation, Project, Split
from ml_worker import calibrate, conformal, heads, snapshot
from ml_worker.conformal import ShortLists
from ml_worker.evaluate import calibration_report, wilson
from ml_worker.fast_loop import Learned
from ml_worker.pool import Floats, Rows
from ml_worker.snapshot import Snapshot

# Open images that stand for all of them, and how many of each kind of doubt are shown.
SAMPLE, SHOWN = 5_000, 5
# Nearer than this, of the median distance of two open images, one shows what the other does.
APART = 0.5
# Heads that look at the answers alone; the others go over the whole pool for each member of an ensemble.
QUICK_HEADS, ROWS_AT_MOST = ("logistic_regression", "prototype"), 50_000


def report(project: Project, taken: Snapshot, learned: Learned) -> dict[str, Any]:
    """``calibration`` and ``short_list`` for the metrics of a model; both None before it is calibrated. One query.

    calibration: `evaluate.calibration_report` over the audit answers by cross-fitted temperatures, and
    ``class_temperatures``, [[class id, temperature], ...]. short_list: see `_kept`.
    """
    if learned.temperature is None:
        return {"calibration": None, "short_list": None}
    audit = taken.audit
    logits = learned.logits[audit.rows]
    # A network says nothing of a class that came after it.
    known = np.isfinite(logits[np.arange(len(audit.rows)), audit.targets])
    probs = learned.probs[audit.rows]
    by_class = learned.class_temperatures is not None
    probs[known] = calibrate.cross_fitted(logits[known], audit.targets[known], by_class=by_class)
    own = [[taken.class_ids[column], degrees] for column, degrees in (learned.class_temperatures or {}).items()]
    return {
        "calibration": calibration_report(probs, audit.targets) | {"class_temperatures": own},
        "short_list": _kept(project, taken, learned),
    }


def short_lists(taken: Snapshot, learned: Learned) -> ShortLists | None:
    """What may be promised of short lists by this model; None before it is calibrated: too few audit answers."""
    if learned.temperature is None:
        return None
    return conformal.fit(learned.logits[taken.audit.rows], taken.audit.targets)


def _kept(project: Project, taken: Snapshot, learned: Learned) -> dict[str, Any] | None:
    """How the promise of the short lists was kept.

    n: audit answers; own, classes: how many classes have a threshold of their own, of how many. inside of judged, with
    low and high: how often the right class was listed, each answer against those before it (`conformal.in_turn`).
    sizes: shares of the open images with no class listed, one, two or three, more; mean_size. test: inside of n test
    labels, None without any. by_class: for those with a threshold of their own [class id, answers, inside, judged,
    low, high], the last two `conformal.coverage_law`.
    """
    lists = short_lists(taken, learned)
    if lists is None:
        return None
    oldest_first = _oldest_first(project, taken)
    told = conformal.in_turn(learned.logits[taken.audit.rows[oldest_first]], taken.audit.targets[oldest_first])
    inside, judged = int(told.inside.sum()), len(told.inside)
    low, high = wilson(inside, judged)
    sizes = lists.of(learned.logits[_some(taken.open_rows)]).sum(axis=1)
    shares = np.histogram(sizes, [0, 1, 2, 4, np.inf])[0] / max(1, len(sizes))
    own = [[taken.class_ids[column], *_of_class(lists, told, column)] for column in np.flatnonzero(lists.own).tolist()]
    return {
        "promise": lists.promise,
        "n": len(taken.audit.rows),
        "own": int(lists.own.sum()),
        "classes": len(lists.own),
        "inside": inside,
        "judged": judged,
        "low": low,
        "high": high,
        "mean_size": float(sizes.mean()) if len(sizes) else None,
        "sizes": shares.tolist(),
        "test": _on_test(taken, learned, lists),
        "by_class": own,
    }


def _of_class(lists: ShortLists, told: conformal.InTurn, column: int) -> list[float]:
    answers, mine = int(lists.answers[column]), told.targets == column
    low, high = conformal.coverage_law(answers, lists.promise)
    return [answers, int(told.inside[mine].sum()), int(mine.sum()), low, high]


def _on_test(taken: Snapshot, learned: Learned, lists: ShortLists) -> dict[str, Any] | None:
    n = len(taken.test.rows)
    if not n:
        return None
    inside = int(lists.of(learned.logits[taken.test.rows])[np.arange(n), taken.test.targets].sum())
    low, high = wilson(inside, n)
    return {"inside": inside, "n": n, "low": low, "high": high}


def _oldest_first(project: Project, taken: Snapshot) -> Rows:
    """Places of the audit answers in the order people gave them. One query."""
    given = Annotation.objects.filter(
        project=project, item__split=Split.AUDIT, kind=Annotation.Kind.LABEL, superseded_by__isnull=True
    )
    item_ids = given.order_by("created_at", "id").values_list("item_id", flat=True)
    turn = {item_id: number for number, item_id in enumerate(item_ids)}
    audited = taken.embedded.item_ids[taken.audit.rows].tolist()
    return np.argsort([turn.get(item_id, -1) for item_id in audited], kind="stable").astype(np.int64)


def _some(rows: Rows) -> Rows:
    """A random sample where there are many; always the same one of the same rows."""
    if len(rows) <= SAMPLE:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, SAMPLE, replace=False))


# --- the two kinds of doubt, for the study job ----------------------------------------------------------------------


def study(project: Project, taken: Snapshot) -> dict[str, Any]:
    """What the doubt about the open images comes from, by an ensemble of the project's head; see `calibrate.doubt`.

    aleatoric, epistemic: means over n of the open images, as shares of the greatest possible doubt. hardest, newest:
    the images with most of either, none in both and no near copies (`_apart`), as [item id, that share, [[class id,
    probability], two likeliest]]. Only ``left_out``, in words, where there is nothing to say or it would take too
    long.
    """
    chosen, pool = project.settings, taken.embedded.pool
    rows = _some(taken.open_rows)
    if len(np.unique(taken.train.targets)) < 2 or not len(rows):
        return {"left_out": "it takes answers of two classes and an open image"}
    if len(pool) > ROWS_AT_MOST and chosen.head not in QUICK_HEADS:
        return {"left_out": f"with this head it takes too long for more than {ROWS_AT_MOST:,} images"}
    probs = _members(project, taken, rows)
    aleatoric, epistemic = (each / np.log(probs.shape[2]) for each in calibrate.doubt(probs))
    embeddings = pool.embeddings[rows]
    newest = _apart(embeddings, np.argsort(-epistemic, kind="stable"))
    hardest = np.argsort(-aleatoric, kind="stable")
    hardest = _apart(embeddings, hardest[~np.isin(hardest, newest)])
    mean = probs.mean(axis=0)
    return {
        "n": len(rows),
        "members": len(probs),
        "aleatoric": float(aleatoric.mean()),
        "epistemic": float(epistemic.mean()),
        "newest": [_told(taken, int(rows[at]), float(epistemic[at]), mean[at]) for at in newest],
        "hardest": [_told(taken, int(rows[at]), float(aleatoric[at]), mean[at]) for at in hardest],
    }


def _apart(embeddings: Floats, order: Rows) -> Rows:
    """The first `SHOWN` of an order of places in embeddings (n, D) that lie `APART`; where there are fewer, the next
    of the order with them."""
    some = embeddings[np.random.default_rng(0).integers(len(embeddings), size=(500, 2))]
    least = APART * float(np.median(np.linalg.norm(some[:, 0] - some[:, 1], axis=1)))
    is_far, picked = np.ones(len(embeddings), bool), list[int]()
    for place in order.tolist():
        if len(picked) == SHOWN:
            break
        if is_far[place]:
            picked.append(place)
            is_far &= np.linalg.norm(embeddings - embeddings[place], axis=1) >= least
    rest = order[~np.isin(order, picked)][: SHOWN - len(picked)]
    return order[np.isin(order, [*picked, *rest.tolist()])]


def _members(project: Project, taken: Snapshot, rows: Rows) -> Floats:
    """Probabilities float32 (E, n, C) of these rows: the head fitted for each redrawing of the answers' weights.

    At the temperature of the current model, where that is one of this head.
    """
    chosen, model = project.settings, queries.current_model(project)
    degrees = model.temperature if model is not None and model.algorithm == chosen.head else None
    settings = snapshot.loop_settings(project, seed=0)
    pool, train = taken.embedded.pool, taken.train
    said = []
    for member in range(heads.MEMBERS):
        head = heads.load(settings.head)(len(taken.class_ids), **settings.head_parameters)
        head.fit(pool, train.rows, train.targets, heads.resampled(np.ones(len(train.rows), np.float32), seed=member))
        said.append(calibrate.softmax(head.logits(pool)[rows], degrees))
    return np.stack(said)


def _told(taken: Snapshot, row: int, share: float, probs: NDArray[np.float32]) -> list[Any]:
    two = np.argsort(-probs, kind="stable")[:2]
    likeliest = [[taken.class_ids[column], round(float(probs[column]), 4)] for column in two]
    return [int(taken.embedded.item_ids[row]), round(share, 4), likeliest]
