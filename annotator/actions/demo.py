"""The demo project: real handwritten digits, so that there is something to label a minute after the first start."""

import hashlib
import io
import uuid

import numpy as np
from django.contrib.auth.models import User
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.db import transaction
from PIL import Image

from annotator.actions import projects, queueing, training
from annotator.actions.classes import add_class
from annotator.actions.importing import audit_size
from annotator.actions.item_files import item_key
from annotator.models import Annotation, AuditEvent, Item, LabelClass, Project, Split

NAME = "Handwritten digits"
INSTRUCTIONS = """Which digit did the writer mean? Press its key.

Some are hard: choose what most people would read, and press s when you cannot tell.

These are 1,797 real digits that people wrote on forms, shrunk to 8 x 8 pixels. The labels of 200 of them were kept \
aside as a test set; everything else is yours to label."""
TEST_SIZE = 200
SEED = 20
CREATED = "created the demo project"


def create_demo_project(owner: User) -> Project | None:
    """The demo project, made on the first call. None when it was made once and deleted since: that stays so.

    1,797 images (the test part of the UCI optical digits, Alpaydin and Kaynak 1998, as scikit-learn bundles them),
    TEST_SIZE of them with their known labels as the test split, the others without any. One transaction; a run that
    was killed leaves files only, which the next one overwrites.
    """
    existing = Project.objects.filter(is_demo=True).first()
    if existing is not None or AuditEvent.objects.filter(project=None, verb=CREATED).exists():
        return existing
    images, targets = _digits()
    pngs = [_png(image) for image in images]
    with transaction.atomic():
        project = projects.create_project(
            owner=owner, name=_free_name(), class_names=[], instructions=INSTRUCTIONS, is_demo=True
        )
        projects.save_settings(project=project, actor=owner, raw={"augment_mirror": False})  # a mirrored 3 is none
        digits = [add_class(project=project, actor=owner, name=str(digit), shortcut=str(digit)) for digit in range(10)]
        items = _create_items(project, owner, pngs)
        _label_test_items(project, owner, items, [digits[target] for target in targets])
        # Without a project, so that it outlives it: a demo that was deleted does not come back.
        AuditEvent.objects.create(actor_id=owner.pk, verb=CREATED, detail={"project": project.pk})
        queueing.start_queue(project=project)
        training.request_embedding(project=project)
    return project


def _digits() -> tuple[np.ndarray, list[int]]:
    """Images (1797, 8, 8) with values 0..16, and the digit that each shows."""
    from sklearn.datasets import load_digits  # takes a second, and is needed once in the life of an installation

    digits = load_digits()
    return digits.images, [int(target) for target in digits.target]


def _png(image: np.ndarray) -> bytes:
    """Values 0..16 as an 8-bit grey PNG, ink dark on white paper."""
    out = io.BytesIO()
    Image.fromarray(np.round(255 - image * (255 / 16)).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def _free_name() -> str:
    taken = {name.casefold() for name in Project.objects.values_list("name", flat=True)}
    names = (NAME if number == 1 else f"{NAME} {number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name.casefold() not in taken)


def _create_items(project: Project, owner: User, pngs: list[bytes]) -> list[Item]:
    """All items, in the order given. Which are for testing and which for the audit is drawn here, by a fixed seed."""
    order = np.random.default_rng(SEED).permutation(len(pngs))
    audit_until = TEST_SIZE + audit_size(project.settings, new=len(pngs) - TEST_SIZE)
    splits = np.full(len(pngs), Split.POOL.value, dtype=object)
    splits[order[:TEST_SIZE]] = Split.TEST.value
    splits[order[TEST_SIZE:audit_until]] = Split.AUDIT.value
    items = [_item(project, owner, number, png, splits[number]) for number, png in enumerate(pngs)]
    return Item.objects.bulk_create(items, batch_size=500)


def _item(project: Project, owner: User, number: int, png: bytes, split: str) -> Item:
    sha256 = hashlib.sha256(png).hexdigest()
    key = item_key(project, sha256, ".png")
    default_storage.save(key, ContentFile(png))
    return Item(
        project=project,
        sha256=sha256,
        storage_key=key,
        thumbnail_key=key,
        width=8,
        height=8,
        size_bytes=len(png),
        mime="image/png",
        source_name=f"digit-{number:04}.png",
        uploader=owner,
        split=split,
        state=Item.State.LABELLED if split == Split.TEST else Item.State.OPEN,
    )


def _label_test_items(project: Project, owner: User, items: list[Item], truth: list[LabelClass]) -> None:
    Annotation.objects.bulk_create(
        Annotation(
            uuid=uuid.uuid4(),
            project=project,
            item=item,
            annotator=owner,
            kind=Annotation.Kind.LABEL,
            value={"class": label_class.pk},
            source=Annotation.Source.IMPORTED,
        )
        for item, label_class in zip(items, truth, strict=True)
        if item.split == Split.TEST
    )
