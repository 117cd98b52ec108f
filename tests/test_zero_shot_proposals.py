"""Class names alone put up the first proposals, and step back once answers teach a head."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.test import Client
from PIL import Image

from annotator import jobs, queries
from annotator.actions import queueing, training
from annotator.models import Annotation, Item, Job, LabelClass, ModelVersion, Project, Proposal, QueueEntry, Split
from ml_worker import refitting, zero_shot
from tests.tiny_models import save_reading, save_tiny

pytestmark = pytest.mark.slow

N_CATS, N_DOGS, N_CHECKS = 45, 15, 20


def pictures(n: int, is_dog: bool, seed: int) -> np.ndarray:
    """Cats are red, dogs are blue, with noise over both: uint8 (n, 16, 16, 3)."""
    images = np.random.default_rng([seed, is_dog]).integers(0, 60, (n, 16, 16, 3), dtype=np.uint8)
    images[..., 2 if is_dog else 0] += np.uint8(190)
    return images


def add_pictures(project: Project, images: np.ndarray, name: str, split: str = Split.POOL) -> None:
    for number, pixels in enumerate(images):
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        key = default_storage.save(f"items/{name}-{split}-{number}.png", ContentFile(out.getvalue()))
        Item.objects.create(
            project=project, sha256=f"{name}-{split}-{number}", storage_key=key, thumbnail_key=key, width=16,
            height=16, size_bytes=1, mime="image/png", source_name=name, split=split,
        )  # fmt: skip


@pytest.fixture(scope="session")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows what a cat and a dog are."""
    shown = {"cat": pictures(8, False, seed=1), "dog": pictures(8, True, seed=1)}
    return save_reading(tmp_path_factory.mktemp("reading"), shown)


@pytest.fixture
def pool(project: Project, settings: object) -> Project:
    """Three cats for each dog, and random checks; every job runs at once."""
    settings.JOBS_INLINE = True  # type: ignore[attr-defined]
    add_pictures(project, pictures(N_CATS, False, seed=2), "cat")
    add_pictures(project, pictures(N_DOGS, True, seed=2), "dog")
    add_pictures(project, pictures(N_CHECKS, True, seed=3), "dog", Split.AUDIT)
    return project


Capture = Callable[..., object]


def embed(project: Project, model: Path, capture: Capture) -> None:
    """By a published model; the refit that follows it runs too."""
    project.settings_json = {"encoder": "pretrained", "parameters": {"encoder.pretrained.model": str(model)}}
    project.save()
    with capture(execute=True):  # type: ignore[attr-defined]
        training.request_embedding(project=project)
    failed = Job.objects.filter(project=project).exclude(state=Job.State.DONE).first()
    assert failed is None, failed.error


def refit(project: Project, capture: Capture) -> ModelVersion:
    with capture(execute=True):  # type: ignore[attr-defined]
        jobs.enqueue(project, Job.Kind.REFIT)
    model = queries.current_model(project)
    assert model is not None
    return model


@pytest.fixture
def read(pool: Project, reading: Path, django_capture_on_commit_callbacks: Capture) -> Project:
    embed(pool, reading, django_capture_on_commit_callbacks)
    return pool


def pending(project: Project) -> list[Proposal]:
    return list(Proposal.objects.filter(project=project, state="pending").select_related("item", "label_class"))


def test_names_alone_put_up_proposals_by_how_common_each_class_is(read: Project) -> None:
    model = queries.current_model(read)
    assert model is not None
    assert (model.algorithm, model.encoder, model.temperature, model.label_count) == (
        "zero_shot",
        "pretrained",
        None,
        0,
    )
    waiting = pending(read)
    assert {each.item.source_name == each.label_class.name for each in waiting if each.label_class} == {True}
    named = [each.item.source_name for each in waiting]
    # The whole pool is a screenful, less the dog that is expected by 14.99 of 15.
    assert (named.count("cat"), named.count("dog")) == (N_CATS, N_DOGS - 1)
    assert not any(each.is_calibrated for each in waiting)
    assert {each.item.split for each in waiting} == {Split.POOL}
    # Nobody is taught yet, so nothing changes about whom to ask.
    reasons = set(QueueEntry.objects.filter(project=read).values_list("reason_code", flat=True))
    assert reasons == {"typical"}


def test_less_than_the_pool_is_shared_out_by_the_estimated_prior(
    read: Project, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Capture
) -> None:
    monkeypatch.setattr(refitting, "UNCALIBRATED_AT_MOST", 20)
    refit(read, django_capture_on_commit_callbacks)
    named = [each.item.source_name for each in pending(read)]
    assert (named.count("cat"), named.count("dog")) == (15, 5)
    read.settings_json["proposals_at_most"] = 4
    read.save()
    refit(read, django_capture_on_commit_callbacks)
    assert len(pending(read)) == 4
    read.settings_json["propose_above"] = 1.0
    read.save()
    refit(read, django_capture_on_commit_callbacks)
    assert pending(read) == []


def test_what_they_come_from_is_said_wherever_they_are_met(
    read: Project, login: Callable[[User], Client], carol: User
) -> None:
    client = login(carol)
    pages = {name: client.get(f"/projects/{read.pk}/{name}").text for name in ("", "training/", "review/", "label/")}
    assert "Proposed from the class names alone" in pages[""]
    assert "Review proposals" in pages[""]
    assert "from the class names alone" in pages["training/"]
    assert "The class names alone, read by the encoder" in pages["training/"]
    assert "class names alone" in pages["review/"] and "uncalibrated" in pages["review/"]
    assert "from the class names" in pages["label/"]


def test_new_names_are_read_at_the_next_refit(
    read: Project, cat: LabelClass, dog: LabelClass, django_capture_on_commit_callbacks: Capture
) -> None:
    for label_class, name in ((cat, "tmp"), (dog, "cat"), (cat, "dog")):
        LabelClass.objects.filter(pk=label_class.pk).update(name=name)
    refit(read, django_capture_on_commit_callbacks)
    assert {each.item.source_name == each.label_class.name for each in pending(read) if each.label_class} == {True}


@pytest.fixture
def label(
    project: Project,
    cat: LabelClass,
    dog: LabelClass,
    alice: User,
    answer: Callable[..., Annotation],
    django_capture_on_commit_callbacks: Capture,
) -> Callable[..., None]:
    """Alice answers some of what is open, rightly: ``label(cat=2, dog=1)``. Refits that fall due run."""

    def give(split: str = Split.POOL, **wanted: int) -> None:
        for label_class in (cat, dog):
            is_open = Item.objects.filter(project=project, source_name=label_class.name, split=split, state="open")
            items = list(is_open[: wanted.get(label_class.name, 0)])
            queueing.fill_queue(project=project, entries=[queueing.Ranked(each.pk, 0.0, "random") for each in items])
            with django_capture_on_commit_callbacks(execute=True):  # type: ignore[attr-defined]
                for item in items:
                    answer(alice, item, label_class)

    return give


def test_a_head_takes_over_once_it_can_and_proposes_once_it_knows_enough(
    read: Project, label: Callable[..., None], django_capture_on_commit_callbacks: Capture
) -> None:
    label(cat=12)
    assert refit(read, django_capture_on_commit_callbacks).is_zero_shot, "one class teaches no head"
    label(dog=3)
    head = refit(read, django_capture_on_commit_callbacks)
    assert (head.algorithm, head.metrics["proposals"]["checked"]) == ("label_spreading", 0)
    waiting = pending(read)
    assert len(waiting) >= 40
    assert all(each.model_version.is_zero_shot for each in waiting), "the head proposes nothing from so few answers"
    label(cat=3, dog=3)
    refit(read, django_capture_on_commit_callbacks)
    assert {each.model_version.algorithm for each in pending(read)} == {"label_spreading"}


def test_names_are_measured_on_the_random_checks(
    read: Project, label: Callable[..., None], django_capture_on_commit_callbacks: Capture
) -> None:
    label(Split.AUDIT, dog=N_CHECKS)
    model = refit(read, django_capture_on_commit_callbacks)
    assert model.is_zero_shot
    assert (model.metrics["audit"]["n"], model.metrics["audit"]["accuracy"]) == (N_CHECKS, 1.0)
    assert model.temperature is None, "however many checks there are"


@pytest.mark.parametrize("kind", ["vit", "changed"])
def test_a_model_that_cannot_read_proposes_nothing_and_the_refit_says_why(
    kind: str, pool: Project, reading: Path, tmp_path: Path, django_capture_on_commit_callbacks: Capture
) -> None:
    embed(pool, save_tiny("clip" if kind == "changed" else kind, tmp_path), django_capture_on_commit_callbacks)
    if kind == "changed":  # its files were replaced since the images were embedded
        zero_shot.read_for.cache_clear()
        Proposal.objects.all().delete()
        ModelVersion.objects.all().delete()
        save_tiny("clip", tmp_path, seed=1)
        with django_capture_on_commit_callbacks(execute=True):  # type: ignore[attr-defined]
            jobs.enqueue(pool, Job.Kind.REFIT)
    job = Job.objects.filter(project=pool, kind=Job.Kind.REFIT).latest("id")
    assert job.state == Job.State.DONE
    assert "no proposals from the names of the classes" in job.log_tail
    assert pending(pool) == []
    assert queries.current_model(pool) is None
    assert Annotation.objects.count() == 0
