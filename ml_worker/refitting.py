"""The refit job: learn from the answers, score the pool, re-rank the queue, put up proposals. The fast loop."""

import shutil
import time
from dataclasses import replace
from typing import Any

import numpy as np

from annotator import jobs, queries
from annotator.actions import proposing, queueing
from annotator.models import Job, LabelClass, ModelVersion, Project
from ml_worker import certifying, certifying_rounds, doubting, fast_loop, previews, snapshot, studying, zero_shot
from ml_worker.encoders import Mismatch
from ml_worker.evaluate import accuracy_report, confusions, wilson
from ml_worker.fast_loop import Entry, Learned, LoopSettings, NotEnoughLabels
from ml_worker.gate import lower_bound
from ml_worker.handover import Phase
from ml_worker.pool import Rows
from ml_worker.snapshot import Snapshot
from ml_worker.vision_models import ModelUnavailable

# The likeliest classes of a proposal while nothing can be promised of them, and the longest list with a promise.
SHORT_LIST, LISTED_AT_MOST = 4, 12
KEEP_MODELS = 2
# Proposals without a calibrated confidence: as many as a person looks through at once.
UNCALIBRATED_AT_MOST = 60


def run(run: jobs.Run) -> None:
    """One turn of the fast loop. The queue is written before the proposals: somebody is waiting for it."""
    project = run.job.project
    # In this order: an embedding that ends between the two questions is found by the second.
    is_coming = Job.objects.filter(
        project=project, kind=Job.Kind.EMBED, state__in=[Job.State.QUEUED, Job.State.RUNNING]
    ).exists()
    embedding = queries.current_embedding(project)
    if embedding is None:
        if not is_coming:
            jobs.enqueue(project, Job.Kind.EMBED)  # it asks for a refit when it is done
        run.remember(watermark=snapshot.label_watermark(project))
        run.report(1.0, "waiting for the images to be embedded", force=True)
        return
    started = time.perf_counter()
    taken = snapshot.take(project, embedding.result["folder"])
    run.remember(watermark=taken.watermark)
    seconds = {"snapshot": time.perf_counter() - started}
    model, learned = _learn(run, taken, embedding, seconds)
    put_up(project, taken, learned, model, seconds)
    if learned is None:
        _put_up_by_names(run, taken, embedding, seconds)
    previews.write(run, taken, embedding)
    if model is not None:
        studying.follow(project, model.label_count)
    run.log(", ".join(f"{step} {spent:.2f} s" for step, spent in seconds.items()))


def put_up(
    project: Project,
    taken: Snapshot,
    learned: Learned | None,
    model: ModelVersion | None,
    seconds: dict[str, float],
) -> None:
    """The queue, then the proposals, as this model has them; without one the order of the cold start.

    Last, because nobody waits for it, what the random checks allow to accept unseen.
    """
    asked = certifying_rounds.without_round(project, taken)
    _rank(project, asked, learned, model, seconds)
    if model is not None and learned is not None:
        _propose(project, asked, learned, model, seconds)
        certifying.take_stock(project, taken, learned, model)


def _put_up_by_names(run: jobs.Run, taken: Snapshot, embedding: Job, seconds: dict[str, float]) -> None:
    """Proposals from the names of the classes, where a model that reads made the embedding; the queue stays as it is.

    Once a head can be learnt, its models follow.
    """
    started = time.perf_counter()
    learned = _read(run, taken, embedding)
    if learned is None:
        return
    seconds["read"] = time.perf_counter() - started
    model = store_model(
        run,
        taken,
        learned,
        embedding=embedding.result["folder"],
        encoder=embedding.result["encoder"],
        algorithm=ModelVersion.ZERO_SHOT,
    )
    _propose(run.job.project, taken, learned, model, seconds)
    run.log(f"compared the images with the names of {len(taken.class_ids):,} classes")


def _read(run: jobs.Run, taken: Snapshot, embedding: Job) -> Learned | None:
    """What the names say of every row, with the prior of the open ones; None where no model reads them."""
    if embedding.result["encoder"] != "pretrained" or len(taken.class_ids) < 2 or not len(taken.open_rows):
        return None
    names = dict(LabelClass.objects.filter(pk__in=taken.class_ids).values_list("pk", "name"))
    run.report(0.6, "comparing the images with the names of the classes", force=True)
    try:
        directions, temperature = zero_shot.read_for(
            snapshot.embedding_folder(embedding.result["folder"]) / "encoder",
            tuple(names[class_id] for class_id in taken.class_ids),
        )
    except (ModelUnavailable, Mismatch) as error:
        run.log(f"no proposals from the names of the classes: {error}")
        return None
    probs = zero_shot.class_probs(taken.embedded.pool.embeddings, directions, temperature)
    probs = zero_shot.with_prior(probs, zero_shot.estimated_prior(probs[taken.open_rows]))
    audit = accuracy_report(probs[taken.audit.rows], taken.audit.targets) if len(taken.audit.rows) else None
    return Learned(probs, np.log(np.maximum(probs, 1e-30)), None, audit, {})


def _learn(
    run: jobs.Run, taken: Snapshot, embedding: Job, seconds: dict[str, float]
) -> tuple[ModelVersion | None, Learned | None]:
    """A new model version and what it says of every row, or (None, None) while one class or none is labelled."""
    project = run.job.project
    settings = snapshot.loop_settings(project, seed=run.job.seed)
    run.report(0.2, f"learning from {len(taken.train.rows):,} answers", force=True)
    try:
        learned = fast_loop.learn(taken.embedded.pool, taken.train, taken.audit, len(taken.class_ids), settings)
    except NotEnoughLabels as error:
        run.log(str(error))
        return None, None
    seconds |= learned.seconds
    folder, encoder = embedding.result["folder"], embedding.result["encoder"]
    return store_model(run, taken, learned, embedding=folder, encoder=encoder, algorithm=settings.head), learned


def store_model(
    run: jobs.Run, taken: Snapshot, learned: Learned, *, embedding: str, encoder: str, algorithm: str
) -> ModelVersion:
    """The next model version of the project, its probabilities beside it. embedding: the folder it speaks of."""
    project = run.job.project
    newest = queries.current_model(project)
    number = newest.number + 1 if newest else 1
    folder = f"{project.pk}/model-{number}"
    model = ModelVersion.objects.create(
        project=project,
        job=run.job,
        number=number,
        encoder=encoder,
        algorithm=algorithm,
        class_ids=taken.class_ids,
        label_watermark=taken.watermark,
        label_count=0 if algorithm == ModelVersion.ZERO_SHOT else len(taken.train.rows),
        answer_count=taken.answer_count,
        temperature=learned.temperature,
        metrics=_metrics(project, taken, learned, embedding, algorithm),
        artifact_folder=folder,
    )
    path = snapshot.embedding_folder(folder)
    path.mkdir(parents=True, exist_ok=True)
    np.save(path / "probs.npy", learned.probs.astype(np.float16))
    return model


def _metrics(project: Project, taken: Snapshot, learned: Learned, embedding: str, algorithm: str) -> dict[str, Any]:
    """Accuracy on the audit sample (and on held-out test labels where there are any), never on chosen items."""
    test = accuracy_report(learned.probs[taken.test.rows], taken.test.targets) if len(taken.test.rows) else None
    doubt, audit = doubting.report(project, taken, learned), learned.audit
    if audit and doubt["calibration"]:
        audit = audit | {"ece": doubt["calibration"]["ece"]}  # by temperatures these answers had no part in
    return {
        "embedding": embedding,
        "audit": audit,
        "test": test,
        "proposals": _proposal_precision(project, taken, learned, algorithm),
        # Of labels it has learnt from: where it says otherwise all the same. Nothing to measure a model by.
        "labels": {
            "n": len(taken.train.rows),
            "confused": confusions(learned.probs[taken.train.rows], taken.train.targets),
        },
        # Settled labels of the pool and the random checks, by class.
        "by_class": np.bincount(
            np.concatenate([taken.train.targets, taken.audit.targets]), minlength=len(taken.class_ids)
        ).tolist(),
        # Open images by their confidence, in tenths from 0 to 1.
        "sure": _tenths(learned.probs[taken.open_rows]),
        **doubt,
    }


def _tenths(probs: np.ndarray) -> list[int]:
    if not len(probs):
        return [0] * 10
    return np.bincount(np.minimum(probs.max(axis=1) * 10, 9).astype(np.int64), minlength=10).tolist()


def _proposal_precision(project: Project, taken: Snapshot, learned: Learned, algorithm: str) -> dict[str, Any]:
    """Of the audit items this model would have proposed, how many it names rightly; none while it proposes nothing.

    ``low`` is the one-sided 95 % Clopper-Pearson bound: "at least this much is right"; None without any.
    """
    above = project.settings.propose_above
    if learned.temperature is None:
        put_up = learned.probs[taken.open_rows][_proposed(project, taken, learned, algorithm)].max(axis=1, initial=0.0)
        above = float(put_up.min(initial=np.inf))
    probs = learned.probs[taken.audit.rows]
    proposed = probs.max(axis=1, initial=0.0) >= above
    right = int((probs.argmax(axis=1) == taken.audit.targets)[proposed].sum()) if len(probs) else 0
    checked = int(proposed.sum())
    return {
        "above": min(above, 1.0),
        "right": right,
        "checked": checked,
        "low": lower_bound(right, checked, 0.05) if checked else None,
        "high": wilson(right, checked)[1] if checked else None,
    }


def _rank(
    project: Project,
    taken: Snapshot,
    learned: Learned | None,
    model: ModelVersion | None,
    seconds: dict[str, float],
) -> None:
    started = time.perf_counter()
    settings: LoopSettings = replace(
        snapshot.loop_settings(project, seed=model.number if model else 0), n_classes=len(taken.class_ids)
    )
    phase = _phase(project, taken, learned, model)
    entries = fast_loop.order(
        taken.embedded.pool,
        learned,
        taken.open_rows,
        taken.open_audit_rows[:0],  # random checks are drawn when they are due, not ranked
        taken.asked_rows,
        settings,
        np.random.default_rng([project.pk, settings.seed]),
        taken.train,
        phase,
    )
    seconds["rank"] = time.perf_counter() - started
    started = time.perf_counter()
    queueing.fill_queue(project=project, entries=[_ranked(entry, taken) for entry in entries], model_version=model)
    seconds["write"] = time.perf_counter() - started


def _phase(project: Project, taken: Snapshot, learned: Learned | None, model: ModelVersion | None) -> Phase:
    """Who leads the queue now. It is kept with the model, whose metrics are saved with the proposals."""
    before = ModelVersion.objects.filter(project=project, metrics__has_key="phase").order_by("-number").first()
    phase = fast_loop.phase(
        taken.embedded.pool,
        learned,
        taken.train,
        taken.audit,
        len(taken.class_ids),
        Phase.from_json(before.metrics["phase"]) if before else None,
    )
    if model is not None:
        model.metrics["phase"] = phase.to_json()
    return phase


def _ranked(entry: Entry, taken: Snapshot) -> queueing.Ranked:
    """A queue line in the database's terms: item ids for rows, class ids for columns."""
    reason_data = dict(entry.reason_data)
    if "class" in reason_data:
        reason_data["class"] = taken.class_ids[reason_data["class"]]
    if "classes" in reason_data:
        columns, probs = reason_data.pop("classes"), reason_data.pop("probs")
        reason_data["classes"] = [
            [taken.class_ids[column], round(float(prob), 4)] for column, prob in zip(columns, probs, strict=True)
        ]
    return queueing.Ranked(
        item_id=int(taken.embedded.item_ids[entry.row]),
        utility=float(entry.utility),
        reason_code=entry.reason_code,
        reason_data=reason_data,
    )


def _propose(
    project: Project, taken: Snapshot, learned: Learned, model: ModelVersion, seconds: dict[str, float]
) -> None:
    """Put up the most confident predictions on open pool items; audit items are never proposed.

    What the class names proposed stands until a head knows enough to propose something itself.
    """
    started = time.perf_counter()
    probs = learned.probs[taken.open_rows]
    best = _proposed(project, taken, learned, model.algorithm)
    if not (_is_too_early(taken, learned) and _names_still_propose(project, model)):
        lists = doubting.short_lists(taken, learned) if model.is_calibrated else None
        listed = lists.of(learned.logits[taken.open_rows[best]]) if lists else [None] * len(best)
        predictions = [
            _predicted(taken, probs[index], int(taken.open_rows[index]), named)
            for index, named in zip(best, listed, strict=True)
        ]
        proposing.store_proposals(project=project, model_version=model, predictions=predictions)
    seconds["propose"] = time.perf_counter() - started
    model.metrics["seconds"] = {step: round(spent, 4) for step, spent in seconds.items()}
    model.save(update_fields=["metrics"])
    _prune(project)


def _is_too_early(taken: Snapshot, learned: Learned) -> bool:
    """Whether a head has seen no more than a first handful of answers."""
    return learned.temperature is None and len(taken.train.rows) < fast_loop.cold_start_answers(len(taken.class_ids))


def _names_still_propose(project: Project, model: ModelVersion) -> bool:
    if model.is_zero_shot or project.settings.propose_above >= 1.0:
        return False
    return queries.proposed_by_names(project)


def _proposed(project: Project, taken: Snapshot, learned: Learned, algorithm: str) -> Rows:
    """Which of the open rows to put up, as places in ``taken.open_rows``, the surest first.

    A calibrated confidence is held against the owner's threshold. Before that it only gives an order: a screenful, the
    surest of each class in turn, once there is more than a first handful of answers. Class names know how common each
    class is, so theirs go by that.
    """
    chosen = project.settings
    probs = learned.probs[taken.open_rows]
    if algorithm == ModelVersion.ZERO_SHOT:
        most = min(UNCALIBRATED_AT_MOST, chosen.proposals_at_most)
        return zero_shot.first_proposals(probs, most if chosen.propose_above < 1.0 else 0)
    confidence = probs.max(axis=1, initial=0.0)
    surest = np.argsort(-confidence, kind="stable")
    if learned.temperature is not None:
        return surest[confidence[surest] >= chosen.propose_above][: chosen.proposals_at_most]
    if _is_too_early(taken, learned) or chosen.propose_above >= 1.0:
        return surest[:0]
    guesses = probs[surest].argmax(axis=1)
    turn = np.zeros(len(surest), np.int64)  # how many of its class come before it
    for guess in range(probs.shape[1]):
        mine = guesses == guess
        turn[mine] = np.arange(mine.sum())
    return surest[np.argsort(turn, kind="stable")][: min(UNCALIBRATED_AT_MOST, chosen.proposals_at_most)]


def _predicted(taken: Snapshot, probs: np.ndarray, row: int, listed: np.ndarray | None) -> proposing.Predicted:
    """One proposal. listed: bool (C,), the classes the promise names, perhaps none; None where nothing is promised.

    A list of more than LISTED_AT_MOST is cut behind the next, which says that it was cut.
    """
    likely = np.argsort(-probs, kind="stable")
    short = likely[:SHORT_LIST] if listed is None else likely[listed[likely]][: LISTED_AT_MOST + 1]
    return proposing.Predicted(
        item_id=int(taken.embedded.item_ids[row]),
        class_id=taken.class_ids[likely[0]],
        confidence=float(probs[likely[0]]),
        short_list=[(taken.class_ids[column], round(float(probs[column]), 4)) for column in short],
    )


def _prune(project: Project) -> None:
    """Keep the probabilities of the newest models only; the rows with their metrics stay for good."""
    old = ModelVersion.objects.filter(project=project).exclude(artifact_folder="").order_by("-number")[KEEP_MODELS:]
    for model in old:
        shutil.rmtree(snapshot.embedding_folder(model.artifact_folder), ignore_errors=True)
        model.artifact_folder = ""
        model.save(update_fields=["artifact_folder"])
