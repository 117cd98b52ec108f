"""Groups of look-alikes: how they are found, what the job leaves, and which images still belong to them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import User
from sklearn.datasets import load_digits

from annotator import jobs, queries
from annotator.actions import grouping
from annotator.errors import Conflict, InvalidSettings, JobCancelled, NotFound
from annotator.models import Item, Job, LabelClass, Project, QueueEntry, Split
from ml_worker import look_alikes
from ml_worker.tasks import run_job
from tests.cast import bare_items
from tests.pools import pool_of

RNG = np.random.default_rng


# --- the groups ---------------------------------------------------------------------------------------------


def test_images_that_look_alike_are_in_one_group() -> None:
    # Three clouds of 20, far apart: of 60 images some eight belong together, so each cloud is two or three groups.
    kinds = np.arange(60) % 3
    points = 50.0 * kinds[:, None] + RNG(0).normal(size=(60, 2)).astype(np.float32)
    found = look_alikes.groups(points.astype(np.float32), np.arange(60), RNG(0))
    assert sorted(np.concatenate([each.rows for each in found]).tolist()) == list(range(60))
    assert all(len(set(kinds[each.rows])) == 1 for each in found if each.coherence)


def test_the_most_alike_come_first_and_the_most_typical_leads_its_group() -> None:
    tight, loose = RNG(1).normal(size=(6, 2)) * 0.1, 100 + RNG(2).normal(size=(6, 2)) * 5
    points = np.concatenate([loose, tight]).astype(np.float32)
    first = look_alikes.groups(points, np.arange(12), RNG(0))[0]
    assert set(first.rows) == set(range(6, 12))
    away = np.linalg.norm(points[first.rows] - points[6:].mean(axis=0), axis=1)
    assert np.all(np.diff(away) >= 0)


def test_what_is_like_nothing_is_left_over_for_the_last_group() -> None:
    points = np.concatenate([RNG(0).normal(size=(10, 2)), [[1000.0, 0.0]]]).astype(np.float32)
    *_, last = look_alikes.groups(points, np.arange(11), RNG(0))
    assert (last.rows.tolist(), last.coherence) == ([10], 0.0)


def test_groups_of_digits_are_five_times_as_pure_as_groups_at_random() -> None:
    digits = load_digits()
    found = look_alikes.groups(digits.data.astype(np.float32), np.arange(1797), RNG(0))
    right = sum(int(np.bincount(digits.target[each.rows]).max()) for each in found if each.coherence)
    assert right / 1797 > 0.95  # at random 0.19: benchmarks/look_alikes.py


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 300])
def test_copies_and_few_images_are_grouped_too(n: int) -> None:
    points = np.ones((n, 3), np.float32)
    found = look_alikes.groups(points, np.arange(n), RNG(0))
    assert sorted(row for each in found for row in each.rows.tolist()) == list(range(n))
    assert all(len(each.rows) <= look_alikes.AT_MOST for each in found)


def test_of_a_large_pool_each_group_shows_its_most_typical(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look_alikes, "SAMPLE", 200)
    points = (100.0 * (np.arange(5000) % 4)[:, None] + RNG(0).normal(size=(5000, 2))).astype(np.float32)
    done: list[float] = []
    found = look_alikes.groups(points, np.arange(5000), RNG(0), done.append)
    assert sum(each.size for each in found) == 5000
    assert max(len(each.rows) for each in found) == look_alikes.AT_MOST < max(each.size for each in found)
    assert done == sorted(done)
    assert done[-1] == 1.0


# --- the job ------------------------------------------------------------------------------------------------


@pytest.fixture
def pool(project: Project, settings: Any, tmp_path: Path) -> list[Item]:
    """Two clouds of 20 pool images, ten random checks and five test images among them, embedded."""
    made = bare_items(project, [Split.POOL] * 40 + [Split.AUDIT] * 10 + [Split.TEST] * 5)
    embed(project, made, settings, tmp_path)
    return made


def embed(project: Project, items: list[Item], settings: Any, folder: Path) -> None:
    """An embedding in which items of even number lie at 0, those of odd number at 100."""
    settings.ARTIFACT_ROOT = folder
    places = np.array([[100.0 * (at % 2), 0.0] for at in range(len(items))]) + RNG(0).normal(size=(len(items), 2))
    name = f"embedding-of-{items[0].pk}"  # read ones are kept by their name
    pool_of(places).save(folder / name)
    np.save(folder / name / "item_ids.npy", np.array([item.pk for item in items], np.int64))
    np.save(folder / name / "splits.npy", np.zeros(len(items), np.uint8))
    result = {"folder": name, "n": len(items), "image_px": 8, "encoder": "pca_pixels"}
    Job.objects.create(project=project, kind=Job.Kind.EMBED, state=Job.State.DONE, result=result)


def grouped(project: Project, actor: User, of: str) -> Job:
    job = grouping.request_grouping(project=project, actor=actor, of=of)
    run_job(job.pk)
    job.refresh_from_db()
    assert (job.state, job.error) == (Job.State.DONE, "")
    return job


@pytest.mark.django_db
def test_open_images_are_grouped_and_never_random_checks_or_test_images(
    project: Project, alice: User, pool: list[Item]
) -> None:
    job = grouped(project, alice, "open")
    found = queries.groups_of(project, job.pk)
    ids = [pk for each in found for pk in each.item_ids.tolist()]
    assert sorted(ids) == [item.pk for item in pool[:40]]
    assert job.result | {"images": 40, "groups": len(found)} == job.result
    places = {item.pk: at for at, item in enumerate(pool)}
    assert all(len({places[pk] % 2 for pk in each.item_ids.tolist()}) == 1 for each in found if each.coherence)
    assert queries.group_items(project, job.pk, found[0].number).tolist() == found[0].item_ids.tolist()


@pytest.mark.django_db
def test_what_was_answered_or_became_a_random_check_since_is_no_part_of_a_group(
    project: Project, alice: User, bob: User, pool: list[Item], cat: LabelClass, answer: Any
) -> None:
    job = grouped(project, alice, "open")
    before = queries.group_items(project, job.pk, 1).tolist()
    answer(bob, Item.objects.get(pk=before[0]), cat)
    Item.objects.filter(pk=before[1]).update(split=Split.AUDIT)
    assert queries.group_items(project, job.pk, 1).tolist() == before[2:]


@pytest.mark.django_db
def test_images_of_no_class_and_of_one_class_are_grouped(
    project: Project, alice: User, bob: User, pool: list[Item], cat: LabelClass, dog: LabelClass, answer: Any
) -> None:
    for item in pool[:8]:
        answer(bob, item, cat)
    answer(bob, pool[8], dog)
    for item in pool[10:16]:
        answer(bob, item, kind="none_of_these")

    def of(what: str) -> set[int]:
        found = queries.groups_of(project, grouped(project, alice, what).pk)
        return {pk for each in found for pk in each.item_ids.tolist()}

    assert of(f"class:{cat.pk}") == {item.pk for item in pool[:8]}
    assert of("none_of_these") == {item.pk for item in pool[10:16]}


@pytest.mark.django_db
def test_what_is_asked_again_blind_is_in_no_group_that_tells_its_answer(
    project: Project, bob: User, pool: list[Item], cat: LabelClass, answer: Any
) -> None:
    for item in pool[:3]:
        answer(bob, item, cat)
        QueueEntry.objects.create(project=project, item=item, rank=0, reason_code="second_opinion")
    for item in pool[3:5]:
        answer(bob, item, kind="none_of_these")
    QueueEntry.objects.filter(item=pool[0]).update(reason_code="returned")
    QueueEntry.objects.create(project=project, item=pool[4], rank=0, reason_code="suspect")
    assert list(queries.groupable_items(project, f"class:{cat.pk}")) == [pool[0]]
    assert list(queries.groupable_items(project, "none_of_these")) == [pool[3]]


@pytest.mark.django_db
@pytest.mark.parametrize("of", ["", "everything", "class:", "class:x", "class:999999999", "class:²"])
def test_what_cannot_be_grouped_is_refused_by_name(project: Project, alice: User, pool: list[Item], of: str) -> None:
    with pytest.raises(InvalidSettings, match="nothing to group"):
        grouping.request_grouping(project=project, actor=alice, of=of)


@pytest.mark.django_db
def test_nothing_is_grouped_before_there_is_something(
    project: Project, alice: User, settings: Any, tmp_path: Path
) -> None:
    made = bare_items(project, [Split.POOL] * 3)
    with pytest.raises(Conflict, match="not embedded yet"):
        grouping.request_grouping(project=project, actor=alice, of="open")
    embed(project, made, settings, tmp_path)
    with pytest.raises(Conflict, match="no image of this kind"):
        grouping.request_grouping(project=project, actor=alice, of="none_of_these")


@pytest.mark.django_db
def test_the_same_wish_twice_is_one_job(project: Project, alice: User, pool: list[Item]) -> None:
    first, again = (grouping.request_grouping(project=project, actor=alice, of="open") for _ in range(2))
    assert first == again


@pytest.mark.django_db
def test_a_grouping_is_cancelled_and_taken_up_again_like_every_job(
    project: Project, alice: User, pool: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = grouping.request_grouping(project=project, actor=alice, of="open")

    def stop(*args: Any) -> None:
        jobs.cancel(Job.objects.get(pk=job.pk))
        raise JobCancelled("cancelled")

    monkeypatch.setattr(look_alikes, "groups", stop)
    run_job(job.pk)
    job.refresh_from_db()
    assert job.state == Job.State.CANCELLED
    assert not queries.groups_file(project, job.pk).exists()
    monkeypatch.undo()
    assert grouped(project, alice, "open").pk != job.pk


@pytest.mark.django_db
def test_a_group_that_is_not_there_says_so(project: Project, alice: User, pool: list[Item]) -> None:
    job = grouped(project, alice, "open")
    for number in (0, -1, 999):
        with pytest.raises(NotFound, match=f"no group {number}"):
            queries.group_items(project, job.pk, number)
    with pytest.raises(NotFound, match="no grouping 999999"):
        queries.group_items(project, 999999, 1)
    queries.groups_file(project, job.pk).write_bytes(b"half a file")
    with pytest.raises(NotFound, match="group the images again"):
        queries.group_items(project, job.pk, 1)


@pytest.mark.django_db
def test_old_groupings_leave_no_files(project: Project, alice: User, pool: list[Item]) -> None:
    made = [grouped(project, alice, "open") for _ in range(4)]
    assert [queries.groups_file(project, job.pk).exists() for job in made] == [False, False, True, True]
