"""Views of the images beside their embeddings: the same after a crash, and there when a head goes by them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import User

from annotator import jobs, queries
from annotator.actions import projects
from annotator.models import Annotation, Item, Job, LabelClass, Project
from ml_worker import backtest, looks, snapshot
from ml_worker.augment import Policy
from ml_worker.encoders.pca_pixels import Encoder
from ml_worker.images import Images
from ml_worker.pool import Floats
from ml_worker.tasks import run_job
from tests.cast import make_item
from tests.test_export_model import promote

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 255, (1100, 4, 4, 3), np.uint8)
POLICY = Policy(flip=True, shift=0.25, rotate_deg=0, shear=0, translate=0, tone=False, colour=False, cutout=0)


def pixels(images: Images) -> Floats:
    return images.reshape(len(images), -1).astype(np.float32)


def test_a_view_is_the_image_mirrored_or_shifted_as_the_policy_allows() -> None:
    mirrored = Policy(flip=True, shift=0, rotate_deg=0, shear=0, translate=0, tone=False, colour=False, cutout=0)
    views = looks.look(pixels, IMAGES[:50], mirrored)
    plain, flipped = pixels(IMAGES[:50]), pixels(IMAGES[:50, :, ::-1])
    is_plain, is_flipped = (views == plain).all(axis=2), (views == flipped).all(axis=2)
    assert (is_plain | is_flipped).all() and is_plain.any() and is_flipped.any()
    still = Policy(**{**mirrored.to_json(), "flip": False})  # type: ignore[arg-type]
    assert (looks.look(pixels, IMAGES[:50], still) == plain).all()


class Killed(Exception):
    pass


def test_a_run_that_was_killed_goes_on_to_the_same_views(tmp_path: Path) -> None:
    whole, asked = looks.look(pixels, IMAGES, POLICY), [0]

    def counted(images: Images) -> Floats:
        asked[0] += len(images)
        return pixels(images)

    def kill(share: float, said: str) -> None:
        raise Killed

    with pytest.raises(Killed):
        looks.look(pixels, IMAGES, POLICY, folder=tmp_path, of="a", progress=kill)
    again = looks.look(counted, IMAGES, POLICY, folder=tmp_path, of="a")
    np.testing.assert_array_equal(again, whole)
    assert asked[0] == 1 + looks.VIEWS * (1100 - 512)
    looks.look(counted, IMAGES, POLICY, folder=tmp_path, of="another encoder")
    assert asked[0] == 2 + looks.VIEWS * (2 * 1100 - 512)


@pytest.fixture
def embedded(
    project: Project, items: list[Item], answer: Callable[..., Annotation], bob: User, cat: LabelClass, dog: LabelClass
) -> Project:
    for number, item in enumerate(items[:4]):
        answer(bob, item, (cat, dog)[number % 2])
    run_job(jobs.enqueue(project, Job.Kind.EMBED).pk)
    return project


def views_of(project: Project) -> Any:
    current = queries.current_embedding(project)
    assert current is not None
    return snapshot.load_embedded(current.result["folder"]).pool.views


def waiting(project: Project) -> list[Job]:
    return list(Job.objects.filter(project=project, kind=Job.Kind.EMBED, state=Job.State.QUEUED))


@pytest.mark.django_db
def test_a_head_that_goes_by_views_has_them_embedded_by_the_encoder_there_is(
    embedded: Project, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert views_of(embedded) is None
    projects.save_settings(project=embedded, actor=alice, raw={"head": "mlp"})
    (job,) = waiting(embedded)
    assert job.parameters == {} and queries.lacks_views(embedded)
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "fit", lambda *given, **how: pytest.fail("learnt again"))
        run_job(job.pk)
    job.refresh_from_db()
    assert job.state == "done", job.error
    views = views_of(embedded)
    assert isinstance(views, np.memmap) and views.shape[:2] == (looks.VIEWS, 12)
    assert not queries.lacks_views(embedded)
    projects.save_settings(project=embedded, actor=alice, raw={"head": "mlp", "answers_per_refit": 20})
    assert not waiting(embedded)
    projects.save_settings(project=embedded, actor=alice, raw={"augment_mirror": False})  # views show mirrored images
    run_job(waiting(embedded)[0].pk)
    assert not queries.lacks_views(embedded)
    run_job(Job.objects.get(project=embedded, kind=Job.Kind.REFIT, state=Job.State.QUEUED).pk)
    model = queries.current_model(embedded)
    assert model is not None and model.algorithm == "mlp"


@pytest.mark.django_db
def test_other_heads_want_no_views(embedded: Project, alice: User) -> None:
    projects.save_settings(project=embedded, actor=alice, raw={"head": "prototype"})
    assert not waiting(embedded)


@pytest.mark.django_db
def test_a_pool_too_large_goes_by_noise_and_is_not_embedded_for_ever(
    embedded: Project, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "ITEMS_AT_MOST", 11)
    projects.save_settings(project=embedded, actor=alice, raw={"head": "mlp"})
    run_job(waiting(embedded)[0].pk)
    assert views_of(embedded) is None and not queries.lacks_views(embedded)


@pytest.mark.django_db
def test_images_that_come_later_get_views_by_an_encoder_that_knows_them(embedded: Project, alice: User) -> None:
    projects.save_settings(project=embedded, actor=alice, raw={"head": "mlp"})
    make_item(embedded, 77)
    run_job(waiting(embedded)[0].pk)
    assert views_of(embedded).shape[:2] == (looks.VIEWS, 13)


@pytest.mark.django_db
def test_a_trained_network_embeds_views_as_well(embedded: Project, alice: User) -> None:
    run_job(Job.objects.get(project=embedded, kind=Job.Kind.REFIT, state=Job.State.QUEUED).pk)
    promote(embedded)
    projects.save_settings(project=embedded, actor=alice, raw={"head": "mlp"})
    (job,) = waiting(embedded)
    run_job(job.pk)
    job.refresh_from_db()
    assert (job.state, job.result["encoder"], job.result["views"]) == ("done", "trained", looks.VIEWS), job.error
    assert views_of(embedded).shape[1] == 12


def test_a_back_test_looks_at_views_where_its_head_does(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    look = looks.look
    monkeypatch.setattr(looks, "look", lambda *given, **how: seen.append(1) or look(*given, **how))
    plan = {"encoder": "pca_pixels", "encoder_parameters": {"components": 8, "whitening": 0.5}, "head": ["mlp"]}
    head = {"mlp": {"hidden": 8, "consistency": 1.0, "noise": 0.1, "steps": 3}}
    for views in (False, True):
        backtest.run("digits", **plan, head_parameters=head, views=views, acquisition=["margin"], budget=20, seeds=1)
        assert len(seen) == views
