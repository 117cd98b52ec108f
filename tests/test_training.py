"""The worker's half of the loop, from stored images to a ranked queue and proposals, on pictures it can tell apart."""

import hashlib
import io
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from PIL import Image

from annotator import jobs, queries
from annotator.actions import classes, labeling, projects, queueing, training
from annotator.models import Annotation, Item, Job, LabelClass, ModelVersion, Project, Proposal, QueueEntry, Split
from ml_worker import embedding, fast_loop, refitting, snapshot, tasks
from ml_worker import training as network_training
from ml_worker.images import DecodedPool
from tests.tiny_models import save_tiny

pytestmark = pytest.mark.slow


def picture(seed: int, is_dog: bool) -> bytes:
    """Cats are bright on the left, dogs on the right, with noise over both."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 90, (8, 8, 3), dtype=np.uint8)
    pixels[:, 4:] += np.uint8(130 * is_dog)
    pixels[:, :4] += np.uint8(130 * (not is_dog))
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def add_pictures(project: Project, seeds: range, split: str = Split.POOL) -> list[Item]:
    """Items; odd seeds are dogs."""
    made = []
    for seed in seeds:
        data = picture(seed, seed % 2 == 1)
        sha256 = hashlib.sha256(data).hexdigest()
        key = default_storage.save(f"items/{sha256}.png", ContentFile(data))
        made.append(
            Item(
                project=project,
                sha256=sha256,
                storage_key=key,
                thumbnail_key=key,
                width=8,
                height=8,
                size_bytes=len(data),
                mime="image/png",
                source_name=str(seed),
                split=split,
            )
        )
    return Item.objects.bulk_create(made)


@pytest.fixture
def pool(project: Project) -> list[Item]:
    """100 pool pictures and 20 audit pictures, embedded."""
    add_pictures(project, range(1000, 1020), Split.AUDIT)
    made = add_pictures(project, range(100))
    run_now(training.request_embedding(project=project))
    return made


@pytest.fixture
def label(
    project: Project, cat: LabelClass, dog: LabelClass, alice: User, answer: Callable[..., Annotation]
) -> Callable[[list[Item]], None]:
    """Alice answers these items, rightly."""

    def give(items: list[Item]) -> None:
        queueing.fill_queue(project=project, entries=[queueing.Ranked(item.pk, 0.0, "random") for item in items])
        for item in items:
            answer(alice, item, dog if int(item.source_name) % 2 else cat)

    return give


def run_now(job: Job) -> Job:
    """Run the job as the worker would; it ends in any way but failing."""
    tasks.run_job(job.pk)
    job.refresh_from_db()
    assert job.state != Job.State.FAILED, job.error
    return job


def refit(project: Project) -> ModelVersion | None:
    run_now(jobs.enqueue(project, Job.Kind.REFIT))
    return queries.current_model(project)


def audit_items(project: Project) -> list[Item]:
    return list(Item.objects.filter(project=project, split=Split.AUDIT))


# --- embedding ---------------------------------------------------------------------------------------------


def test_embedding_leaves_arrays_and_asks_for_a_refit(project: Project, pool: list[Item]) -> None:
    job = queries.current_embedding(project)
    assert job is not None
    embedded = snapshot.load_embedded(job.result["folder"])
    assert len(embedded.item_ids) == 120
    assert embedded.pool.embeddings.shape[0] == 120
    assert Job.objects.filter(project=project, kind=Job.Kind.REFIT, state=Job.State.QUEUED).count() == 1
    assert Job.objects.filter(project=project, kind=Job.Kind.MAP, state=Job.State.QUEUED).count() == 1


def test_a_second_embedding_decodes_only_what_is_new(
    project: Project, pool: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_pictures(project, range(200, 203))
    decoded = []
    decode = embedding.decode

    def counting(data: bytes, image_px: int) -> Any:
        decoded.append(1)
        return decode(data, image_px)

    monkeypatch.setattr(embedding, "decode", counting)
    job = run_now(training.request_embedding(project=project))
    assert (len(decoded), job.result["n"]) == (3, 123)


def test_a_file_lost_from_storage_is_named_and_does_not_stop_the_rest(project: Project) -> None:
    items = add_pictures(project, range(6))
    default_storage.delete(items[2].storage_key)
    job = run_now(training.request_embedding(project=project))
    assert job.state == Job.State.DONE
    assert items[2].storage_key in job.log_tail
    assert job.result["unreadable"] == 1


def test_a_file_that_is_back_takes_the_place_of_the_grey(project: Project) -> None:
    items = add_pictures(project, range(6))
    with default_storage.open(items[2].storage_key) as file:
        content = file.read()
    default_storage.delete(items[2].storage_key)
    run_now(training.request_embedding(project=project))
    default_storage.save(items[2].storage_key, ContentFile(content))
    job = run_now(training.request_embedding(project=project))
    assert job.result["unreadable"] == 0
    image_px = job.result["image_px"]
    decoded = DecodedPool(snapshot.embedding_folder(f"{project.pk}/decoded-{image_px}"), image_px)
    (row,) = decoded.rows(np.array([items[2].pk]))
    np.testing.assert_array_equal(decoded.images()[row], embedding.decode(content, image_px))


def test_storage_that_is_away_fails_the_embedding_and_changes_nothing(project: Project, pool: list[Item]) -> None:
    before = queries.current_embedding(project)
    items = add_pictures(project, range(200, 225))
    for item in items:
        default_storage.delete(item.storage_key)
    job = training.request_embedding(project=project)
    tasks.run_job(job.pk)
    job.refresh_from_db()
    assert job.state == Job.State.FAILED
    assert "25 of 145 images cannot be read from where they are stored" in job.error
    assert queries.current_embedding(project) == before


def test_nothing_to_embed_is_one_sentence(project: Project) -> None:
    job = training.request_embedding(project=project)
    tasks.run_job(job.pk)
    job.refresh_from_db()
    assert (job.state, job.error) == (
        Job.State.FAILED,
        "there are no images in this project yet; import some first",
    )


class Brightness:
    """An encoder of one number. Told to, it stops in the middle; folders and sentences it got are kept here."""

    fits: ClassVar[list[Path]] = []
    stops: ClassVar[list[Callable[[], None]]] = []

    def __init__(self, *, seed: int, **parameters: Any) -> None:
        self.image_px = 0

    def fit(self, images: Any, *, progress: Callable[[float, str], None], folder: Path) -> None:
        self.fits.append(folder)
        progress(0.5, "half way")

    def embed(self, images: Any) -> Any:
        if len(images) > 1 and self.stops:
            self.stops.pop()()
        return np.asarray(images, np.float32).mean(axis=(1, 2))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "encoder.json").write_text("{}")

    @classmethod
    def load(cls, folder: Path) -> "Brightness":
        return cls(seed=0)


@pytest.fixture
def brightness(monkeypatch: pytest.MonkeyPatch) -> type[Brightness]:
    monkeypatch.setattr(embedding.encoders, "load", lambda name: Brightness)
    monkeypatch.setattr(jobs.Run, "REPORT_EVERY_S", 0.0)
    Brightness.fits, Brightness.stops = [], []
    return Brightness


def decoded_sizes(project: Project) -> list[str]:
    return sorted(folder.name for folder in snapshot.embedding_folder(str(project.pk)).glob("decoded-*"))


def test_an_embedding_that_was_killed_does_not_learn_again(project: Project, brightness: type[Brightness]) -> None:
    add_pictures(project, range(6))
    job = training.request_embedding(project=project)

    def kill() -> None:
        raise RuntimeError("killed")

    brightness.stops.append(kill)
    with pytest.raises(RuntimeError):
        tasks.run_job(job.pk)
    Job.objects.filter(pk=job.pk).update(state=Job.State.QUEUED)
    done = run_now(job)
    assert (done.attempt, done.state) == (2, Job.State.DONE)
    assert brightness.fits == [snapshot.embedding_folder(f"{project.pk}/encoding-{job.pk}")]
    assert not brightness.fits[0].exists()
    assert (snapshot.embedding_folder(done.result["folder"]) / "encoder").is_dir()


@pytest.mark.parametrize("spoilt", ["embed", "shards", "views"])
def test_numbers_that_are_not_finite_replace_no_embedding(
    project: Project, brightness: type[Brightness], monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    if spoilt == "views":
        project.settings_json = {"head": "mlp"}
        project.save()
    add_pictures(project, range(6))
    run_now(training.request_embedding(project=project))
    before = queries.current_embedding(project)
    made: list[np.ndarray] = []

    def not_finite(*given: Any, **named: Any) -> np.ndarray:
        made.append(np.full((6, 3), 0.5, np.float32))
        made[-1][2, 1] = np.nan
        return made[-1][None] if spoilt == "views" else made[-1]

    where = {
        "embed": (brightness, "embed"),
        "shards": (embedding.sharding, "embed"),
        "views": (embedding.looks, "look"),
    }
    monkeypatch.setattr(*where[spoilt], not_finite)
    job = training.request_embedding(project=project)
    tasks.run_job(job.pk)
    job.refresh_from_db()
    assert made
    assert job.state == Job.State.FAILED
    assert "numbers that are not finite for 1 of 6 images" in job.error
    assert queries.current_embedding(project) == before


def test_settings_that_changed_since_the_kill_are_gone_by(project: Project, brightness: type[Brightness]) -> None:
    add_pictures(project, range(6))
    job = training.request_embedding(project=project)

    def kill() -> None:
        project.settings_json = {"parameters": {"encoder.pca_pixels.components": 8}}
        project.save()
        raise RuntimeError("killed")

    brightness.stops.append(kill)
    with pytest.raises(RuntimeError):
        tasks.run_job(job.pk)
    Job.objects.filter(pk=job.pk).update(state=Job.State.QUEUED)
    run_now(job)
    assert len(brightness.fits) == 2


def test_an_embedding_is_cancelled_while_the_encoder_learns(
    project: Project, brightness: type[Brightness], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_pictures(project, range(6))
    job = training.request_embedding(project=project)
    fit = Brightness.fit

    def cancelled_meanwhile(self: Brightness, images: Any, *, progress: Any, folder: Path) -> None:
        jobs.cancel(Job.objects.get(pk=job.pk))
        fit(self, images, progress=progress, folder=folder)

    monkeypatch.setattr(Brightness, "fit", cancelled_meanwhile)
    cancelled = run_now(job)
    assert cancelled.state == Job.State.CANCELLED
    assert queries.current_embedding(project) is None


def test_the_image_size_of_the_settings_is_the_size_of_everything(project: Project, pool: list[Item]) -> None:
    assert decoded_sizes(project) == ["decoded-8"]
    project.settings_json = {"image_px": 12}
    project.save()
    job = run_now(training.request_embedding(project=project))
    assert job.result["image_px"] == 12
    assert decoded_sizes(project) == ["decoded-12"]


def test_images_of_a_size_that_a_training_may_read_are_kept(project: Project, pool: list[Item]) -> None:
    jobs.enqueue(project, Job.Kind.TRAIN)
    project.settings_json = {"image_px": 12}
    project.save()
    run_now(training.request_embedding(project=project))
    assert decoded_sizes(project) == ["decoded-12", "decoded-8"]


def test_a_published_model_sees_the_size_it_wishes_and_trainings_keep_theirs(project: Project, tmp_path: Path) -> None:
    model = str(save_tiny("vit", tmp_path / "vit"))
    project.settings_json = {"encoder": "pretrained", "parameters": {"encoder.pretrained.model": model}}
    project.save()
    add_pictures(project, range(6))
    job = run_now(training.request_embedding(project=project))
    assert "embedded 6 images of 16 px to 16 numbers each" in job.log_tail
    assert job.result["image_px"] == 8
    assert decoded_sizes(project) == ["decoded-16", "decoded-8"]


@pytest.mark.parametrize("image_px", [0, 16])
def test_a_model_that_is_not_there_is_one_sentence(project: Project, tmp_path: Path, image_px: int) -> None:
    model = {"encoder.pretrained.model": str(tmp_path / "nowhere")}
    project.settings_json = {"encoder": "pretrained", "image_px": image_px, "parameters": model}
    project.save()
    add_pictures(project, range(3))
    job = training.request_embedding(project=project)
    tasks.run_job(job.pk)
    job.refresh_from_db()
    assert (job.state, "there is no folder" in job.error) == (Job.State.FAILED, True)


def test_the_owners_parameters_reach_the_algorithms(
    project: Project, pool: list[Item], label: Callable[[list[Item]], None], alice: User
) -> None:
    chosen = {
        "encoder.pca_pixels.components": 3,
        "head.label_spreading.neighbours": 4,
        "trainer.fixmatch.threshold": 0.7,
    }
    projects.save_settings(project=project, actor=alice, raw={"trainer": "fixmatch", "parameters": chosen})
    waiting = Job.objects.get(project=project, kind=Job.Kind.EMBED, state=Job.State.QUEUED)
    job = run_now(waiting)
    assert snapshot.load_embedded(job.result["folder"]).pool.embeddings.shape[1] == 3
    assert snapshot.loop_settings(project, 0).head_parameters == {"neighbours": 4, "alpha": 0.95}
    label(pool[:8])
    run = jobs.Run(jobs.enqueue(project, Job.Kind.TRAIN))
    recipe, _ = network_training._recipe(run, snapshot.take(project, job.result["folder"]), 8, "cpu")
    assert recipe.trainer_parameters == {"threshold": 0.7, "weight": 1.0}


# --- learning ----------------------------------------------------------------------------------------------


def test_before_any_answer_the_queue_is_typical_items_and_random_checks_are_handed_out_between(
    project: Project, pool: list[Item], alice: User
) -> None:
    assert refit(project) is None
    reasons = set(QueueEntry.objects.filter(project=project).values_list("reason_code", flat=True))
    assert reasons == {QueueEntry.Reason.TYPICAL}
    held = queueing.reserve_items(project=project, annotator=alice, count=10)
    assert {entry.reason_code for entry in held} >= {QueueEntry.Reason.TYPICAL, QueueEntry.Reason.AUDIT}


def test_after_answers_there_is_a_model_a_queue_and_proposals(
    project: Project, pool: list[Item], label: Callable[[list[Item]], None], cat: LabelClass, dog: LabelClass
) -> None:
    label(pool[:24])
    label(audit_items(project))
    model = refit(project)
    assert model is not None
    assert (model.number, model.label_count, model.class_ids) == (1, 24, [cat.pk, dog.pk])
    assert model.metrics["audit"]["n"] == 20
    assert model.metrics["audit"]["accuracy"] >= 0.9
    entries = QueueEntry.objects.filter(project=project)
    assert entries.filter(reason_code=QueueEntry.Reason.CLOSE_CALL).exists()
    assert not entries.filter(item__in=pool[:24]).exists()
    pending = Proposal.objects.filter(project=project, state=Proposal.State.PENDING)
    assert pending.exists()
    assert set(pending.values_list("item__split", flat=True)) == {Split.POOL}
    right = [int(each.item.source_name) % 2 == (each.label_class_id == dog.pk) for each in pending]
    assert np.mean(right) >= 0.9


def test_the_queue_looks_for_more_of_the_class_with_the_fewest_answers(
    project: Project, pool: list[Item], label: Callable[[list[Item]], None], dog: LabelClass
) -> None:
    project.settings_json |= {"acquisition": "rare_class"}
    project.save()
    label([*pool[:36:2], *pool[1:12:2]])
    label(audit_items(project))  # which show that the model knows more than the clusters
    refit(project)
    asked = QueueEntry.objects.filter(project=project).exclude(reason_code=QueueEntry.Reason.AUDIT).order_by("rank")
    assert {entry.reason_code for entry in asked} == {QueueEntry.Reason.SCARCE}
    assert {entry.reason_data["class"] for entry in asked} == {dog.pk}
    assert all(int(entry.item.source_name) % 2 for entry in asked[:10])


def test_what_belongs_to_no_class_is_known_to_the_queue(
    project: Project,
    pool: list[Item],
    label: Callable[[list[Item]], None],
    alice: User,
    answer: Callable[..., Annotation],
) -> None:
    label(pool[:24])
    foreign = pool[30:33]
    queueing.fill_queue(project=project, entries=[queueing.Ranked(item.pk, 0.0, "random") for item in foreign])
    for item in foreign:
        answer(alice, item, kind="none_of_these")
    job = queries.current_embedding(project)
    assert job is not None
    taken = snapshot.take(project, job.result["folder"])
    assert taken.embedded.item_ids[taken.train.strangers].tolist() == [item.pk for item in foreign]
    assert len(taken.train.rows) == 24
    project.settings_json |= {"acquisition": "inlier_margin"}
    project.save()
    assert refit(project) is not None


def test_uncalibrated_proposals_are_a_screenful_shared_between_the_classes(
    project: Project, pool: list[Item], label: Callable[[list[Item]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refitting, "UNCALIBRATED_AT_MOST", 10)
    label(pool[:12])
    refit(project)
    assert not Proposal.objects.exists(), "twelve answers are too few to propose from"
    label(pool[12:24])
    model = refit(project)
    assert model is not None and not model.is_calibrated
    pending = Proposal.objects.filter(project=project, state=Proposal.State.PENDING)
    assert sorted(Counter(pending.values_list("label_class_id", flat=True)).values()) == [5, 5]
    assert model.metrics["proposals"]["above"] == pytest.approx(min(pending.values_list("confidence", flat=True)))


def test_an_answer_taken_back_does_not_count_towards_the_next_model(
    project: Project, pool: list[Item], label: Callable[[list[Item]], None], alice: User
) -> None:
    refit(project)
    for _ in range(12):
        label(pool[:1])
        labeling.undo_last(project=project, annotator=alice, uuid=uuid.uuid4())
    assert not Job.objects.filter(project=project, kind=Job.Kind.REFIT, state=Job.State.QUEUED).exists()
    assert queries.label_progress(project, alice).until_refit == project.settings.answers_per_refit


def test_audit_and_test_answers_are_never_learnt_from(
    project: Project,
    pool: list[Item],
    label: Callable[[list[Item]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    label(pool[:12])
    label(audit_items(project)[:10])
    seen: dict[str, Any] = {}
    learn = fast_loop.learn

    def spying(arrays: Any, train: Any, audit: Any, *rest: Any) -> Any:
        seen.update(train=train, audit=audit)
        return learn(arrays, train, audit, *rest)

    monkeypatch.setattr(refitting.fast_loop, "learn", spying)
    refit(project)
    job = queries.current_embedding(project)
    assert job is not None
    item_ids = snapshot.load_embedded(job.result["folder"]).item_ids
    assert set(item_ids[seen["train"].rows]) == {item.pk for item in pool[:12]}
    assert set(item_ids[seen["audit"].rows]) <= {item.pk for item in audit_items(project)}
    assert len(seen["audit"].rows) == 10


def test_one_class_alone_makes_no_model_and_says_why(
    project: Project, pool: list[Item], label: Callable[[list[Item]], None]
) -> None:
    label(pool[0:10:2])
    job = run_now(jobs.enqueue(project, Job.Kind.REFIT))
    assert queries.current_model(project) is None
    assert "label at least 2" in job.log_tail
    assert QueueEntry.objects.filter(project=project).exists()


def test_an_archived_class_is_left_out(
    project: Project, pool: list[Item], label: Callable[[list[Item]], None], alice: User, cat: LabelClass
) -> None:
    bird = classes.add_class(project=project, actor=alice, name="bird")
    label(pool[:12])
    classes.archive_class(label_class=bird, actor=alice, archived=True)
    model = refit(project)
    assert model is not None
    assert bird.pk not in model.class_ids


def test_same_answers_in_another_order_teach_the_same(
    project: Project, pool: list[Item], label: Callable[[list[Item]], None]
) -> None:
    label(pool[:12][::-1])
    embedded = queries.current_embedding(project)
    assert embedded is not None
    taken = snapshot.take(project, embedded.result["folder"])
    assert list(taken.train.rows) == sorted(taken.train.rows)


def test_images_imported_since_the_embedding_wait_for_the_next_one(
    project: Project, pool: list[Item], label: Callable[[list[Item]], None]
) -> None:
    late = add_pictures(project, range(300, 304))
    label([*pool[:12], *late])
    model = refit(project)
    assert model is not None
    assert model.label_count == 12
    run_now(training.request_embedding(project=project))
    model = refit(project)
    assert model is not None
    assert model.label_count == 16


def test_a_refit_without_an_embedding_asks_for_one(project: Project) -> None:
    add_pictures(project, range(4))
    assert refit(project) is None
    assert Job.objects.filter(project=project, kind=Job.Kind.EMBED, state=Job.State.QUEUED).exists()


def test_a_refit_that_comes_before_the_embedding_is_done_asks_for_no_second_one(project: Project) -> None:
    add_pictures(project, range(4))
    assert jobs.claim(training.request_embedding(project=project).pk)
    assert refit(project) is None
    assert Job.objects.filter(project=project, kind=Job.Kind.EMBED).count() == 1
    assert queries.is_learning(project)


def test_only_the_newest_models_keep_their_arrays(
    project: Project, pool: list[Item], label: Callable[[list[Item]], None]
) -> None:
    label(pool[:12])
    for _ in range(refitting.KEEP_MODELS + 2):
        refit(project)
    kept = ModelVersion.objects.filter(project=project).exclude(artifact_folder="")
    assert kept.count() == refitting.KEEP_MODELS
    assert all(snapshot.embedding_folder(model.artifact_folder).is_dir() for model in kept)


def test_an_item_answered_while_the_refit_ran_is_not_asked_again(
    project: Project,
    pool: list[Item],
    label: Callable[[list[Item]], None],
    answer: Callable[..., Annotation],
    alice: User,
    cat: LabelClass,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    label(pool[:12])
    late = pool[40]
    learn = fast_loop.learn

    def slow(*arguments: Any) -> Any:
        label([late])
        return learn(*arguments)

    monkeypatch.setattr(refitting.fast_loop, "learn", slow)
    refit(project)
    assert not QueueEntry.objects.filter(item=late).exists()
    assert not Proposal.objects.filter(item=late, state=Proposal.State.PENDING).exists()
