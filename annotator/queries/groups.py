"""Groups of look-alikes: where the worker leaves them, and which of their images still are what was grouped."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from django.conf import settings
from django.db.models import Exists, OuterRef, QuerySet
from django.utils.translation import gettext as _
from numpy.typing import NDArray

from annotator import task_types
from annotator.errors import InvalidSettings, NotFound
from annotator.models import Annotation, Item, Job, LabelClass, Project, Proposal, Round, RoundCheck, Split
from annotator.queries.reasons import asked_blind

# What can be grouped: open images; what fits no class; the images of a class, "class:<id>".
OPEN_IMAGES, NONE_OF_THESE, CLASS = "open", "none_of_these", "class"


@dataclass(frozen=True)
class GroupedImages:
    """One group as it is now. number: its place among those of its job, from 1. item_ids: int64, the most typical
    first, those alone that still are what was grouped. size: how many belonged to it, shown or not. coherence: 0..1;
    0 for the leftovers."""

    number: int
    item_ids: NDArray[np.int64]
    size: int
    coherence: float


def grouped_class(project: Project, of: str) -> LabelClass | None:
    """The class whose images these words ask for; None for open ones and none-of-these. Raises InvalidSettings."""
    if of in (OPEN_IMAGES, NONE_OF_THESE):
        return None
    kind, _colon, raw = of.partition(":")
    is_id = raw.isascii() and raw.isdigit() and len(raw) <= 18
    found = project.classes.filter(pk=int(raw)).first() if kind == CLASS and is_id else None
    if found is None:
        raise InvalidSettings(
            _("%(of)s is nothing to group; wanted %(open_images)s, %(none_of_these)s or 'class:' with an id")
            % {"of": repr(of[:40]), "open_images": repr(OPEN_IMAGES), "none_of_these": repr(NONE_OF_THESE)}
        )
    return found


def groupable_items(project: Project, of: str) -> QuerySet[Item]:
    """The images that are grouped by these words. Never random checks nor test images: a group is seen with its
    neighbours. Open ones that are accepted unseen or checked by a running round are left out too, and so are answered
    ones that are asked about again blind: their group tells the answer. Raises InvalidSettings."""
    pool = Item.objects.filter(project=project, split=Split.POOL)
    label_class = grouped_class(project, of)
    if label_class is not None:
        value = task_types.get(project.task_type).clean(label_class.pk, [label_class.pk])
        current = Annotation.objects.filter(
            item=OuterRef("pk"), kind=Annotation.Kind.LABEL, superseded_by__isnull=True
        )
        decided_otherwise = current.filter(reason_code=Annotation.DECISION).exclude(value=value)
        pool = pool.filter(Exists(current.filter(value=value)), ~Exists(decided_otherwise), state=Item.State.LABELLED)
        return pool.exclude(pk__in=asked_blind(project))
    if of == NONE_OF_THESE:
        return pool.filter(state=Item.State.NONE_OF_THESE).exclude(pk__in=asked_blind(project))
    unseen = Proposal.objects.filter(item=OuterRef("pk"), state=Proposal.State.AUTO_ACCEPTED)
    checked = RoundCheck.objects.filter(item=OuterRef("pk"), round__state=Round.State.RUNNING)
    return pool.filter(~Exists(unseen), ~Exists(checked), state=Item.State.OPEN)


def groups_file(project: Project, job_id: int) -> Path:
    """Where a grouping lies: item_ids int64 (M,), starts int64 (G + 1,), sizes int64 (G,), coherence float32 (G,)."""
    return Path(settings.ARTIFACT_ROOT) / str(project.pk) / f"groups-{job_id}.npz"


def newest_grouping(project: Project, of: str) -> Job | None:
    """The grouping of these images that runs, waits or ended last, cancelled ones left out. One query."""
    groupings = Job.objects.filter(project=project, kind=Job.Kind.GROUP, parameters__of=of)
    return groupings.exclude(state=Job.State.CANCELLED).order_by("-id").first()


def group_items(project: Project, job_id: int, number: int) -> NDArray[np.int64]:
    """The images of a group that still are what was grouped, the most typical first, int64. Raises NotFound.

    number: from 1. Two queries.
    """
    job = _grouping(project, job_id)
    arrays = _arrays(project, job)
    if not 1 <= number < len(arrays["starts"]):
        raise NotFound(
            _("grouping %(job_id)s has no group %(number)s; it has %(n)s")
            % {"job_id": job_id, "number": number, "n": len(arrays["starts"]) - 1}
        )
    start, end = arrays["starts"][number - 1 : number + 1]
    return _still(project, job, arrays["item_ids"][start:end])


def groups_of(project: Project, job_id: int) -> list[GroupedImages]:
    """Every group of a grouping that still has an image, the most coherent first. Raises NotFound. Two queries."""
    job = _grouping(project, job_id)
    arrays = _arrays(project, job)
    still = set(_still(project, job, arrays["item_ids"]).tolist())
    found = []
    for at, (start, end) in enumerate(zip(arrays["starts"], arrays["starts"][1:], strict=False)):
        ids = np.array([pk for pk in arrays["item_ids"][start:end].tolist() if pk in still], np.int64)
        if len(ids):
            found.append(GroupedImages(at + 1, ids, int(arrays["sizes"][at]), float(arrays["coherence"][at])))
    return found


def _grouping(project: Project, job_id: int) -> Job:
    job = Job.objects.filter(project=project, pk=job_id, kind=Job.Kind.GROUP).first()
    if job is None:
        raise NotFound(_("there is no grouping %(job_id)s in this project") % {"job_id": job_id})
    return job


def _arrays(project: Project, job: Job) -> dict[str, NDArray[np.generic]]:
    try:
        with np.load(groups_file(project, job.pk), allow_pickle=False) as kept:
            return {name: kept[name] for name in ("item_ids", "starts", "sizes", "coherence")}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error):
        why = _("grouping %(job)s is not there yet")
        if job.is_over:
            why = _("grouping %(job)s is gone; group the images again")
        raise NotFound(why % {"job": job.pk}) from None


def _still(project: Project, job: Job, item_ids: NDArray[np.generic]) -> NDArray[np.int64]:
    try:
        wanted = groupable_items(project, str(job.parameters.get("of", "")))
    except InvalidSettings:
        raise NotFound(_("what grouping %(job)s was about is not there any more") % {"job": job.pk}) from None
    there = np.fromiter(wanted.filter(pk__in=item_ids.tolist()).values_list("pk", flat=True), np.int64)
    ids = np.asarray(item_ids, np.int64)
    return ids[np.isin(ids, there)]
