"""A network that learns from a project's answers: what it becomes, and when it takes over."""

import dataclasses
import io
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.core.files.storage import default_storage
from django.utils import timezone
from PIL import Image
from sklearn.datasets import load_digits

from annotator import jobs, queries
from annotator.actions import classes, demo, projects, training
from annotator.errors import Conflict, InvalidSettings
from annotator.models import Annotation, Item, Job, ModelVersion, Project, Proposal, QueueEntry, Split
from ml_worker import choosing, loop, neighbours, previews, snapshot, tasks
from ml_worker import training as worker_training
from ml_worker.augment import Policy
from ml_worker.choosing import Choice, choose, is_better
from ml_worker.distributed_training import ProcessDied
from ml_worker.images import DecodedPool
from ml_worker.pool import Pool
from ml_worker.quality.early import Early
from ml_worker.tasks import run_job
from tests.cast import make_item
from tests.pictures import tiny_network


def report(*recall: tuple[int, int]) -> dict[str, Any]:
    """An accuracy report of classes given as (right, answered)."""
    return {"n": sum(n for _, n in recall), "correct": sum(right for right, _ in recall), "recall": recall}


def test_a_model_that_is_right_less_often_does_not_take_over() -> None:
    assert is_better(report((9, 10), (8, 10)), report((9, 10), (9, 10))) == (
        False,
        "it is right on 17 of 20 random checks, the model before on 18",
    )


def test_a_model_that_lowers_the_worst_class_does_not_take_over() -> None:
    promoted, why = is_better(report((10, 10), (8, 10)), report((9, 10), (9, 10)))
    assert not promoted
    assert "worst class is right in 80%" in why


def test_a_class_with_few_answers_decides_nothing() -> None:
    assert is_better(report((20, 20), (2, 4)), report((18, 20), (3, 4)))[0]


def test_nothing_is_promoted_unmeasured() -> None:
    assert not is_better(None, report((1, 2)))[0]
    assert is_better(report((1, 2)), None)[0]


@pytest.mark.parametrize(
    ("n_labels", "device", "minutes", "trainer"),
    [
        (30, "cpu", 5, "freematch"),
        (400, "cpu", 5, "supervised"),
        (400, "cpu", 60, "freematch"),
        (40, "cuda", 5, "freematch"),
    ],
)
def test_the_choice_says_why(n_labels: int, device: str, minutes: float, trainer: str) -> None:
    chosen = choose(n_labels=n_labels, n_classes=10, image_px=32, device=device, minutes=minutes)
    assert chosen.trainer == trainer
    assert f"{n_labels} answers for 10 classes" in chosen.why


def give(project: Project, actor: User, items: list[Item], class_ids: list[int]) -> None:
    """Labels as people would have given them, without their queue."""
    Annotation.objects.bulk_create(
        Annotation(
            project=project,
            item=item,
            annotator=actor,
            kind=Annotation.Kind.LABEL,
            source=Annotation.Source.PERSON,
            value={"class": class_id},
            uuid=uuid.uuid4(),
        )
        for item, class_id in zip(items, class_ids, strict=True)
    )
    Item.objects.filter(pk__in=[item.pk for item in items]).update(state=Item.State.LABELLED)


@pytest.fixture
def shades(alice: User) -> Project:
    """90 embedded images of 8 px in three colours with noise; 30 random checks and 24 others are answered."""
    project = projects.create_project(owner=alice, name="Shades", class_names=["red", "green", "blue"])
    colours = np.arange(90) % 3
    items = Item.objects.bulk_create(
        Item(
            project=project,
            sha256=f"{number:064d}",
            storage_key=f"{number}.png",
            thumbnail_key=f"{number}.png",
            width=8,
            height=8,
            size_bytes=1,
            mime="image/png",
            source_name=f"{number}.png",
            split=Split.AUDIT if number < 30 else Split.POOL,
        )
        for number in range(90)
    )
    rng = np.random.default_rng(0)
    images = 100 + 60 * np.eye(3)[colours][:, None, None, :] + rng.normal(0, 25, (90, 8, 8, 3))
    ids = np.array([item.pk for item in items], np.int64)
    decoded = DecodedPool(snapshot.embedding_folder(f"{project.pk}/decoded-8"), 8)
    decoded.append(ids, images.clip(0, 255).astype(np.uint8))
    folder = snapshot.embedding_folder(f"{project.pk}/embedding-0-1")
    features = (images.mean(axis=(1, 2)) / 255).astype(np.float32)
    indexed = np.ones(90, bool)
    Pool(features, *neighbours.nearest(features, indexed), indexed).save(folder)
    np.save(folder / "item_ids.npy", ids)
    np.save(folder / "splits.npy", (np.arange(90) < 30).astype(np.uint8))
    result = {"folder": f"{project.pk}/embedding-0-1", "n": 90, "image_px": 8, "encoder": "pca_pixels"}
    now = timezone.now()
    Job.objects.create(project=project, kind=Job.Kind.EMBED, state=Job.State.DONE, result=result, finished_at=now)
    class_ids = [each.pk for each in queries.open_classes(project)]
    give(project, alice, items[:54], [class_ids[colour] for colour in colours[:54]])
    return project


@pytest.fixture
def digits(alice: User) -> Project:
    """The demo, embedded; its random checks and 60 other digits answered rightly, and no refit waiting."""
    project = demo.create_demo_project(alice)
    assert project is not None
    run_job(Job.objects.get(project=project, kind=Job.Kind.EMBED).pk)
    truth = load_digits().target
    classes = {label_class.name: label_class.pk for label_class in project.classes.all()}
    answered = list(Item.objects.filter(project=project, split=Split.AUDIT))
    answered += Item.objects.filter(project=project, split=Split.POOL)[:60]
    named = [str(truth[int("".join(filter(str.isdigit, item.source_name)))]) for item in answered]
    give(project, alice, answered, [classes[name] for name in named])
    Job.objects.filter(project=project, state=Job.State.QUEUED).delete()
    return project


def run_next(project: Project, kind: str) -> Job:
    job = Job.objects.get(project=project, kind=kind, state=Job.State.QUEUED)
    run_job(job.pk)
    job.refresh_from_db()
    return job


def train(project: Project, actor: User, **asked: Any) -> Job:
    job = training.request_training(project=project, actor=actor, **asked)
    run_job(job.pk)
    job.refresh_from_db()
    return job


class Power(Exception):
    """It was cut."""


def at_step(monkeypatch: pytest.MonkeyPatch, n: int, happens: Callable[[], None]) -> None:
    """Evaluate at each step, so that there is a report, and let something happen at this one."""
    reporter = worker_training._reporter

    def watched(run: jobs.Run) -> Callable[[loop.Progress], None]:
        report = reporter(run)

        def then(progress: loop.Progress) -> None:
            if progress.step == n:
                happens()
            report(progress)

        return then

    monkeypatch.setattr(worker_training, "_reporter", watched)
    recipe = choosing.recipe
    monkeypatch.setattr(
        choosing, "recipe", lambda *given, **named: dataclasses.replace(recipe(*given, **named), evaluate_every=1)
    )


def leftovers(project: Project) -> list[str]:
    return [path.name for path in snapshot.embedding_folder(str(project.pk)).glob("training-*")]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six steps of a tiny network are a training; whatever comes of it is better."""
    monkeypatch.setattr(choosing, "STEPS_AT_MOST", 6)
    monkeypatch.setattr("ml_worker.nets.build", tiny_network)
    monkeypatch.setattr("ml_worker.nets.save_network", lambda *all: None)
    monkeypatch.setattr(worker_training, "is_better", lambda new, old: (True, "it is the test's wish"))


# --- what a network believed of the labels ---------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.usefixtures("short")
def test_a_training_that_remembers_leaves_what_it_believed_of_each_label(shades: Project, alice: User) -> None:
    train(shades, alice, trainer="elr")
    second = train(shades, alice, trainer="elr")
    (kept,) = snapshot.embedding_folder(str(shades.pk)).glob("early-*.npz")
    assert second.result["early"] == f"{shades.pk}/{kept.name}"  # the first one's is gone
    told = Early.load(kept)
    labels = Annotation.objects.filter(project=shades, item__split=Split.POOL)
    known = dict(zip(told.item_ids.tolist(), told.versions.tolist(), strict=True))
    assert known == dict(labels.values_list("item_id", "pk"))
    assert ((told.doubt > 0) & (told.doubt < 1)).all()
    assert kept.stat().st_size < 5000
    assert "early" not in train(shades, alice, trainer="supervised").result


# --- in the middle of it ------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.usefixtures("short")
def test_a_training_cancelled_in_the_middle_leaves_nothing(
    shades: Project, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = queries.current_embedding(shades)
    at_step(monkeypatch, 3, lambda: jobs.cancel(Job.objects.get(project=shades, kind=Job.Kind.TRAIN)))
    job = train(shades, alice, trainer="supervised")
    assert (job.state, job.error) == (Job.State.CANCELLED, "")
    assert job.result["history"][0]["step"] == 1
    assert not ModelVersion.objects.filter(project=shades).exists()
    assert queries.current_embedding(shades) == before
    assert leftovers(shades) == []


@pytest.mark.django_db
@pytest.mark.usefixtures("short")
def test_a_training_that_was_cut_short_goes_on_where_it_was(
    shades: Project, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def power_cut() -> None:
        if Job.objects.get(project=shades, kind=Job.Kind.TRAIN).attempt == 1:
            raise Power

    at_step(monkeypatch, 4, power_cut)
    job = training.request_training(project=shades, actor=alice, trainer="auto")
    with pytest.raises(Power):
        run_job(job.pk)
    assert leftovers(shades) == [f"training-{job.pk}"]
    # What a worker that is killed leaves: the row says running, until its silence is noticed.
    Job.objects.filter(pk=job.pk).update(state=Job.State.QUEUED, error="", finished_at=None)
    chosen = Job.objects.get(pk=job.pk).result["trainer"]
    other = Choice("mean_teacher", "small", "The device changed.")
    monkeypatch.setattr(worker_training, "choose", lambda **all: other)
    run_job(job.pk)
    job.refresh_from_db()
    assert (job.state, job.attempt, job.result["steps"], job.result["trainer"]) == (Job.State.DONE, 2, 6, chosen)
    assert "resumed at step 4" in job.log_tail
    assert [entry["step"] for entry in job.result["history"]][-1] == 6
    assert leftovers(shades) == []


@pytest.mark.slow
@pytest.mark.django_db
def test_two_processes_train_when_the_installation_says_so(
    shades: Project, alice: User, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.TRAINING_PROCESSES = 2
    monkeypatch.setattr(choosing, "STEPS_AT_MOST", 6)
    at_step(monkeypatch, 6, lambda: None)
    monkeypatch.setattr(worker_training, "is_better", lambda new, old: (True, "it is the test's wish"))
    monkeypatch.setattr(loop, "train", lambda *all, **others: pytest.fail("it trains elsewhere"))
    job = train(shades, alice, trainer="freematch")
    assert (job.state, job.error, job.result["steps"]) == (Job.State.DONE, "", 6)
    assert [entry["step"] for entry in job.result["history"]] == [1, 2, 3, 4, 5, 6]
    assert 0 <= job.result["history"][-1]["audit_accuracy"] <= 1
    assert queries.current_embedding(shades) == job
    assert leftovers(shades) == []


@pytest.mark.django_db
def test_processes_that_only_begin_do_not_undo_what_was_told(shades: Project, alice: User) -> None:
    job = training.request_training(project=shades, actor=alice)
    told = [{"step": 40, "seconds": 9.0, "loss": 1.0}]
    Job.objects.filter(pk=job.pk).update(progress=0.3, result={"history": told})
    claimed = jobs.claim(job.pk)
    assert claimed is not None
    worker_training._reporter(jobs.Run(claimed))(loop.Progress(0, 100, 0.0, 0.0, 0.0, {}, None))
    job.refresh_from_db()
    assert (job.progress, job.message, job.result["history"]) == (0.3, "starting the processes", told)


@pytest.mark.django_db
@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("error", [ProcessDied, loop.NotFinite])
def test_a_training_that_fails_says_why_in_a_sentence_and_leaves_nothing(
    error: type[Exception], shades: Project, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise error("torchrun was ended by SIGKILL")

    at_step(monkeypatch, 3, fails)
    job = train(shades, alice, trainer="supervised")
    assert (job.state, job.error) == (Job.State.FAILED, "torchrun was ended by SIGKILL")
    assert leftovers(shades) == []


@pytest.mark.django_db
@pytest.mark.usefixtures("short")
def test_answers_classes_and_images_that_come_while_it_trains_are_respected(
    shades: Project, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    green = shades.classes.get(name="green")
    answered = Item.objects.filter(project=shades, state=Item.State.OPEN)[0]

    def meanwhile() -> None:
        classes.archive_class(label_class=green, actor=alice, archived=True)
        classes.add_class(project=shades, actor=alice, name="neither")
        give(shades, alice, [answered], [trained_on[0]])
        make_item(shades, seed=1)

    trained_on = [each.pk for each in queries.open_classes(shades)]
    at_step(monkeypatch, 3, meanwhile)
    job = train(shades, alice, trainer="supervised")
    assert (job.state, job.error) == (Job.State.DONE, "")
    assert job.result["class_ids"] == trained_on, "the columns of the network itself"
    model = queries.current_model(shades)
    assert model is not None
    assert model.class_ids == [each.pk for each in queries.open_classes(shades)]
    assert green.pk not in model.class_ids
    probs = np.load(snapshot.embedding_folder(model.artifact_folder) / "probs.npy")
    assert probs.shape[1] == len(model.class_ids)
    assert probs[:, -1].max() == 0, "it has never heard of this class"
    of_green = Annotation.objects.filter(
        project=shades, item__split=Split.AUDIT, kind="label", value={"class": green.pk}
    ).count()
    assert model.metrics["audit"]["n"] == Item.objects.filter(project=shades, split=Split.AUDIT).count() - of_green
    assert not QueueEntry.objects.filter(project=shades, item=answered).exists()
    assert not Proposal.objects.filter(project=shades, label_class=green).exists()
    # The image that nobody has embedded yet is asked for, to be looked at by the new network.
    assert Job.objects.filter(project=shades, kind=Job.Kind.EMBED, state=Job.State.QUEUED).exists()


@pytest.mark.django_db
@pytest.mark.usefixtures("short")
def test_answers_given_while_it_trained_are_learnt_right_after(
    shades: Project, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = Item.objects.filter(project=shades, state=Item.State.OPEN)[0]
    red = shades.classes.get(name="red").pk
    at_step(monkeypatch, 3, lambda: give(shades, alice, [answered], [red]))
    assert train(shades, alice, trainer="supervised").result["promoted"]
    refit = Job.objects.get(project=shades, kind=Job.Kind.REFIT, state=Job.State.QUEUED)
    assert refit.created_by is None


@pytest.mark.django_db
@pytest.mark.usefixtures("short")
def test_the_checkpoints_of_trainings_that_failed_are_swept_away(shades: Project, alice: User) -> None:
    failed = Job.objects.create(project=shades, kind=Job.Kind.TRAIN, state=Job.State.FAILED)
    folder = snapshot.embedding_folder(f"{shades.pk}/training-{failed.pk}")
    folder.mkdir(parents=True)
    train(shades, alice, trainer="supervised")
    assert not folder.exists()


@pytest.mark.django_db
def test_a_network_trains_alone_in_its_process_while_refits_go_on(shades: Project, alice: User) -> None:
    waiting = training.request_training(project=shades, actor=alice)
    refit = training.request_refit(project=shades, actor=alice)
    with tasks._training:
        run_job(waiting.pk)
        run_job(refit.pk)
    waiting.refresh_from_db()
    refit.refresh_from_db()
    assert (waiting.state, refit.state) == (Job.State.QUEUED, Job.State.DONE)


# --- asking for it ------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_same_wish_twice_is_one_job_and_another_wish_is_told(shades: Project, alice: User) -> None:
    first = training.request_training(project=shades, actor=alice, trainer="fixmatch", minutes=3)
    assert training.request_training(project=shades, actor=alice, trainer="fixmatch", minutes=3) == first
    with pytest.raises(Conflict, match=f"another training waits already, as job {first.pk}"):
        training.request_training(project=shades, actor=alice, trainer="fixmatch", minutes=4)


@pytest.mark.django_db
def test_automatic_is_automatic_whatever_the_settings_say(shades: Project, alice: User) -> None:
    projects.save_settings(project=shades, actor=alice, raw={"trainer": "fixmatch", "training_minutes": 7})
    assert training.request_training(project=shades, actor=alice).parameters == {"trainer": "fixmatch", "minutes": 7}
    Job.objects.filter(kind=Job.Kind.TRAIN).delete()
    asked = training.request_training(project=shades, actor=alice, trainer="auto", minutes=2)
    assert asked.parameters == {"trainer": "auto", "minutes": 2}


@pytest.mark.django_db
def test_with_few_random_checks_training_is_refused_before_and_in_the_job(shades: Project, alice: User) -> None:
    job = training.request_training(project=shades, actor=alice)
    checks = Item.objects.filter(project=shades, split=Split.AUDIT).order_by("pk")
    for item in checks[queries.CHECKS_AT_LEAST - 1 :]:
        Annotation.objects.filter(item=item).delete()
        Item.objects.filter(pk=item.pk).update(state=Item.State.OPEN)
    why = "9 of 10 random checks are answered, too few to tell whether the network would be better; go on labelling"
    with pytest.raises(Conflict, match=why):
        training.request_training(project=shades, actor=alice)
    run_job(job.pk)
    job.refresh_from_db()
    assert (job.state, job.error) == (Job.State.FAILED, why)


# --- what it shows ------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_refit_draws_what_a_network_would_be_shown_and_saving_a_switch_asks_for_it_anew(
    shades: Project, alice: User
) -> None:
    training.request_refit(project=shades, actor=alice)
    first = run_next(shades, Job.Kind.REFIT).result["preview"]
    assert first["switches"]["augment_rotate"] is True
    with default_storage.open(first["key"]) as file, Image.open(file) as sheet:
        assert sheet.size == (6 * 96 + 5 * 6, 5 * 96 + 4 * 6 + 18)
    projects.save_settings(project=shades, actor=alice, raw={"augment_rotate": False})
    second = run_next(shades, Job.Kind.REFIT).result["preview"]
    assert second["switches"]["augment_rotate"] is False
    assert second["sha256"] != first["sha256"]
    assert not default_storage.exists(first["key"])
    projects.save_settings(project=shades, actor=alice, raw={"proposals_at_most": 100})
    assert not Job.objects.filter(project=shades, kind=Job.Kind.REFIT, state=Job.State.QUEUED).exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("switch", "what"),
    [
        ("augment_mirror", {"flip": False}),
        ("augment_rotate", {"rotate_deg": 0.0, "shear": 0.0}),
        ("augment_tone", {"tone": False}),
        ("augment_colour", {"colour": False}),
    ],
)
def test_a_switch_takes_away_what_it_names_and_nothing_else(
    project: Project, alice: User, switch: str, what: dict[str, Any]
) -> None:
    photographs = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    everything = previews.augmentation(project, photographs)
    assert all(getattr(everything, name) for name in what)
    projects.save_settings(project=project, actor=alice, raw={switch: False})
    project.refresh_from_db()
    assert previews.augmentation(project, photographs) == dataclasses.replace(everything, **what)


def test_a_sheet_shows_plain_images_above_their_views() -> None:
    images = np.zeros((6, 8, 8, 3), np.uint8)
    images[:, 2:6, 2:6] = np.arange(40, 240, 35)[:6, None, None, None]
    off = Policy(flip=False, shift=0.0, rotate_deg=0.0, shear=0.0, translate=0.0, tone=False, colour=False, cutout=0.0)
    with Image.open(io.BytesIO(previews.sheet(images, off))) as drawn:
        pixels = np.asarray(drawn)
    for column in range(6):
        middles = [pixels[48 + row * 102 + (18 if row else 0), 48 + column * 102, 0] for row in range(5)]
        assert middles == [40 + 35 * column] * 5


def test_the_history_is_thinned_from_its_newest_entry() -> None:
    entries = [{"step": step} for step in range(1, 200)]
    thin = worker_training._thinned(entries)
    assert 40 < len(thin) <= 60
    assert thin[-1] == {"step": 199}


# --- whole trainings ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.django_db
def test_a_better_network_becomes_the_model_and_the_encoder(
    digits: Project, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_worker.training.is_better", lambda new, old: (True, "it is the test's wish"))
    job = train(digits, alice, trainer="supervised", minutes=0.1)
    assert (job.state, job.error) == (Job.State.DONE, "")
    model = queries.current_model(digits)
    assert model is not None and (model.algorithm, model.encoder, model.job) == ("supervised", "trained", job)
    assert model.metrics["test"]["accuracy"] > 0.5
    assert queries.current_embedding(digits) == job
    assert QueueEntry.objects.filter(project=digits, model_version=model).exists()
    # The fast loop goes on with what the network sees.
    training.request_refit(project=digits, actor=alice)
    run_job(Job.objects.get(project=digits, kind=Job.Kind.REFIT, state=Job.State.QUEUED).pk)
    refitted = queries.current_model(digits)
    assert refitted is not None and (refitted.algorithm, refitted.encoder) == ("label_spreading", "trained")
    # And so does an embedding of images that come later, until somebody asks for the encoder of the settings.
    for actor, encoder in ((None, "trained"), (alice, "pca_pixels")):
        embed = training.request_embedding(project=digits, actor=actor)
        run_job(embed.pk)
        assert queries.current_embedding(digits) == embed
        embed.refresh_from_db()
        assert embed.result["encoder"] == encoder


@pytest.mark.slow
@pytest.mark.django_db
def test_a_worse_network_changes_nothing_and_the_job_says_why(digits: Project, alice: User) -> None:
    before = queries.current_embedding(digits)
    job = train(digits, alice, trainer="fixmatch", minutes=0.02)
    assert job.state == Job.State.DONE
    assert job.result["promoted"] is False
    assert "random checks, the model before on" in job.result["why"]
    assert set(job.result["beside"]) == {"label_spreading", "logistic_regression"}
    assert queries.current_embedding(digits) == before
    assert not ModelVersion.objects.filter(project=digits).exists()
    assert "not promoted" in job.log_tail


@pytest.mark.django_db
def test_what_is_missing_before_training_is_one_sentence(project: Project, alice: User) -> None:
    with pytest.raises(Conflict, match="there are no images yet; import some, then train"):
        training.request_training(project=project, actor=alice)
    make_item(project, 1)
    with pytest.raises(Conflict, match="the images are not embedded yet; train once they are"):
        training.request_training(project=project, actor=alice)


@pytest.mark.django_db
def test_an_unknown_trainer_or_no_time_is_refused(project: Project, alice: User) -> None:
    with pytest.raises(InvalidSettings, match="freematch"):
        training.request_training(project=project, actor=alice, trainer="magic")
    for minutes in (0, -1, 10_000, float("nan")):
        with pytest.raises(InvalidSettings, match="minutes is not between"):
            training.request_training(project=project, actor=alice, minutes=minutes)
    assert not Job.objects.filter(project=project).exists()


@pytest.mark.django_db
def test_an_embedding_that_ends_after_a_network_took_over_does_not_push_it_aside(
    digits: Project, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = queries.current_embedding(digits)
    embed = training.request_embedding(project=digits)
    monkeypatch.setattr("ml_worker.embedding._was_overtaken", lambda job, network: True)
    run_job(embed.pk)
    embed.refresh_from_db()
    assert (embed.state, embed.result.get("folder")) == (Job.State.DONE, None)
    assert queries.current_embedding(digits) == before
    assert Job.objects.filter(project=digits, kind=Job.Kind.EMBED, state=Job.State.QUEUED).exists()
