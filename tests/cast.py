"""The cast and the props of every story the tests tell. Loaded by conftest.py.

alice owns, carol reviews, bob annotates, vera looks on, and charlie must see nothing.
"""

import hashlib
import io
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.test import Client
from PIL import Image

from annotator.actions import labeling, projects, proposing, queueing
from annotator.models import (
    Annotation,
    Item,
    LabelClass,
    Membership,
    ModelVersion,
    Project,
    Proposal,
    Role,
    Split,
)


def _person(name: str) -> User:
    return User.objects.create_user(name, f"{name}@example.org", "correct horse battery")


@pytest.fixture
def alice(db: None) -> User:
    return _person("alice")


@pytest.fixture
def bob(db: None) -> User:
    return _person("bob")


@pytest.fixture
def carol(db: None) -> User:
    return _person("carol")


@pytest.fixture
def vera(db: None) -> User:
    return _person("vera")


@pytest.fixture
def charlie(db: None) -> User:
    return _person("charlie")


@pytest.fixture
def project(alice: User, bob: User, carol: User, vera: User) -> Project:
    """Cats and dogs, with everybody in it but charlie."""
    project = projects.create_project(owner=alice, name="Pets", class_names=["cat", "dog"])
    for user, role in ((bob, Role.ANNOTATOR), (carol, Role.REVIEWER), (vera, Role.VIEWER)):
        Membership.objects.create(project=project, user=user, role=role)
    return project


@pytest.fixture
def cat(project: Project) -> LabelClass:
    return project.classes.get(name="cat")


@pytest.fixture
def dog(project: Project) -> LabelClass:
    return project.classes.get(name="dog")


def png(seed: int, px: int = 8) -> bytes:
    """A little picture; another seed gives another picture."""
    pixels = np.random.default_rng(seed).integers(0, 255, (px, px, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def make_item(project: Project, seed: int = 0, split: str = Split.POOL) -> Item:
    """An item with a real image behind it, without going through an import."""
    data = png(seed)
    sha256 = hashlib.sha256(data).hexdigest()
    key = f"items/{project.pk}/{sha256[:2]}/{sha256}.png"
    if not default_storage.exists(key):
        key = default_storage.save(key, ContentFile(data))
    return Item.objects.create(
        project=project,
        sha256=sha256,
        storage_key=key,
        thumbnail_key=key,
        width=8,
        height=8,
        size_bytes=len(data),
        mime="image/png",
        source_name=f"image-{seed}.png",
        split=split,
    )


def bare_items(project: Project, splits: list[str]) -> list[Item]:
    """Images without files, one for each of these splits; the name of each is its number, from 0."""
    return Item.objects.bulk_create(
        Item(
            project=project,
            sha256=f"{number:064}",
            storage_key="x",
            thumbnail_key="x",
            width=8,
            height=8,
            size_bytes=1,
            mime="image/png",
            source_name=str(number),
            split=split,
        )
        for number, split in enumerate(splits)
    )


@pytest.fixture
def items(project: Project) -> list[Item]:
    """Twelve pool items, queued in order of their ids."""
    made = [make_item(project, seed) for seed in range(12)]
    queueing.fill_queue(project=project, entries=[queueing.Ranked(item.pk, 0.0, "random") for item in made])
    return made


@pytest.fixture
def answer(project: Project) -> Callable[..., Annotation]:
    """Answer an item as somebody: ``answer(bob, item, cat)``; without a class, by kind: ``kind="skip"``."""

    def give(who: User, item: Item, label_class: LabelClass | None = None, **more: Any) -> Annotation:
        more.setdefault("kind", "label" if label_class else "skip")
        more.setdefault("uuid", uuid.uuid4())
        return labeling.record_annotation(
            project=project,
            annotator=who,
            item_id=item.pk,
            raw_value={"class": label_class.pk} if label_class else None,
            **more,
        )

    return give


@pytest.fixture
def model(project: Project, cat: LabelClass, dog: LabelClass) -> ModelVersion:
    """A model version with an accuracy on the audit sample, as a refit would have left it."""
    report = {"n": 40, "correct": 36, "accuracy": 0.9, "low": 0.77, "high": 0.96, "ece": 0.05}
    proposals = {"above": 0.9, "checked": 30, "right": 30, "low": 0.905, "high": 1.0}
    return ModelVersion.objects.create(
        project=project,
        number=1,
        encoder="pca_pixels",
        algorithm="label_spreading",
        class_ids=[cat.pk, dog.pk],
        label_watermark=0,
        label_count=20,
        answer_count=60,
        temperature=1.1,
        metrics={
            "audit": report,
            "test": None,
            "proposals": proposals,
            "seconds": {"fit": 0.1, "score": 0.1},
        },
        artifact_folder="",
    )


@pytest.fixture
def proposals(project: Project, items: list[Item], model: ModelVersion, cat: LabelClass) -> list[Proposal]:
    """Every item proposed as a cat, the first one the most doubtful."""
    predictions = [
        proposing.Predicted(item.pk, cat.pk, 0.9 + index / 200, [(cat.pk, 0.9 + index / 200)])
        for index, item in enumerate(items)
    ]
    proposing.store_proposals(project=project, model_version=model, predictions=predictions)
    return list(Proposal.objects.filter(project=project).order_by("confidence"))


@pytest.fixture
def login(client: Client) -> Callable[[User], Client]:
    """The test client, logged in as somebody."""

    def as_user(user: User) -> Client:
        client.force_login(user)
        return client

    return as_user
