"""The demo project: made once, quickly, and never again."""

import io
import time

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.core.files.storage import default_storage
from PIL import Image
from sklearn.datasets import load_digits

from annotator.actions.demo import create_demo_project
from annotator.actions.projects import create_project
from annotator.models import Annotation, Item, Job, Membership, Project, QueueEntry, Role, Split


@pytest.fixture
def demo(alice: User) -> Project:
    project = create_demo_project(alice)
    assert project is not None
    return project


def test_the_demo_is_there_within_seconds_and_can_be_labelled_at_once(alice: User) -> None:
    began = time.monotonic()
    project = create_demo_project(alice)
    assert time.monotonic() - began < 10
    assert project is not None and project.is_demo
    assert Membership.objects.get(project=project).role == Role.OWNER
    assert QueueEntry.objects.filter(project=project).count() == project.settings.queue_length
    assert Job.objects.filter(project=project, kind=Job.Kind.EMBED, state=Job.State.QUEUED).count() == 1


def test_1797_images_with_200_of_them_for_testing_and_a_twentieth_of_the_rest_for_the_audit(demo: Project) -> None:
    by_split = {split: Item.objects.filter(project=demo, split=split).count() for split in Split.values}
    assert by_split == {"pool": 1797 - 200 - 80, "audit": 80, "test": 200}


def test_only_test_items_carry_labels_and_those_are_the_true_ones(demo: Project) -> None:
    labels = Annotation.objects.filter(project=demo).select_related("item")
    assert {each.source for each in labels} == {Annotation.Source.IMPORTED}
    assert {each.item.split for each in labels} == {Split.TEST}
    names = dict(demo.classes.values_list("pk", "name"))
    digits = load_digits()
    for each in labels:
        number = int(each.item.source_name[len("digit-") : -len(".png")])
        assert names[each.value["class"]] == str(digits.target[number])
        with default_storage.open(each.item.storage_key) as file:
            pixels = np.asarray(Image.open(io.BytesIO(file.read())))
        assert np.array_equal(np.round((255 - pixels) / (255 / 16)), digits.images[number])
    assert set(Item.objects.filter(project=demo, split=Split.TEST).values_list("state", flat=True)) == {"labelled"}
    assert not Item.objects.filter(project=demo).exclude(split=Split.TEST).exclude(state="open").exists()
    assert {names[each.value["class"]] for each in labels} == set("0123456789")


def test_each_digit_has_its_own_number_key(demo: Project) -> None:
    assert {each.name: each.shortcut for each in demo.classes.all()} == {digit: digit for digit in "0123456789"}


def test_a_second_start_makes_nothing_new(demo: Project, alice: User) -> None:
    assert create_demo_project(alice) == demo
    assert Item.objects.count() == 1797


def test_a_renamed_demo_is_not_made_again(demo: Project, alice: User) -> None:
    Project.objects.filter(pk=demo.pk).update(name="My digits")
    assert create_demo_project(alice) == demo
    assert Project.objects.count() == 1


def test_a_deleted_demo_stays_deleted(demo: Project, alice: User) -> None:
    Annotation.objects.filter(project=demo).delete()
    demo.delete()
    assert create_demo_project(alice) is None
    assert not Project.objects.exists()


def test_a_project_of_the_same_name_is_no_obstacle(alice: User) -> None:
    create_project(owner=alice, name="handwritten Digits", class_names=[])
    project = create_demo_project(alice)
    assert project is not None and project.name == "Handwritten digits 2"
