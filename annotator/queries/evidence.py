"""The labelled images that speak for the reason why an image is asked about."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
from django.utils.translation import gettext as _
from numpy.typing import NDArray

from annotator import task_types
from annotator.models import Annotation, Item, Project, QueueEntry, Split
from annotator.queries.reasons import is_blind
from annotator.queries.vectors import Vectors, vectors

Reason = QueueEntry.Reason
# The reasons that labelled images speak for. What is drawn at random, or is typical of unlabelled images, has none.
SPOKEN_FOR = (Reason.CLOSE_CALL, Reason.UNSURE, Reason.SCARCE, Reason.UNLIKE, Reason.DISPUTED)
SHOWN = 3
# Labelled images looked through for each question, and answers read to find the first of them. With more labels than
# that, the neighbours the embedding already knows are looked at too.
BANK, ANSWERS_READ = 5_000, 20_000
# Candidates whose label is read afresh, per class or altogether: some of them have changed since.
CANDIDATES = 5
# Of the neighbours that the embedding already knows.
KNOWN = 10
# Images that tell how far an image usually is from the nearest labelled one; looked at again when there are a tenth
# more labels.
USUAL, GROWN = 64, 1.1
NO_CLASS = 0


@dataclass(frozen=True)
class Example:
    """A labelled image near the one asked about. px: its longer side. distance: euclidean, in the embedding."""

    item_id: int
    px: int
    class_id: int
    distance: float


@dataclass(frozen=True)
class Evidence:
    """What speaks for a reason: examples, nearest first within their class, and a sentence about them or nothing."""

    examples: tuple[Example, ...] = ()
    sentence: str = ""


class _Bank:
    """The newest labelled pool images of a project with their places in one embedding, at most BANK of them.

    It only finds candidates, so it may lag: what is shown is read afresh. An answer that was committed after a newer
    one was seen is missed here until the next embedding, and costs no more than one example.
    """

    def __init__(self, project_id: int, read: Vectors) -> None:
        self.project_id, self.read, self.lock = project_id, read, Lock()
        self.watermark, self.used, self.usual_of = 0, 0, (0, 0.0)
        self.points = np.zeros((BANK, read.embeddings.shape[1]), np.float32)
        self.squares = np.full(BANK, np.inf, np.float32)
        self.item_ids = np.zeros(BANK, np.int64)
        self.class_ids = np.zeros(BANK, np.int64)
        self.slots: dict[int, int] = {}
        self.by_class: dict[int, dict[int, None]] = defaultdict(dict)  # item ids, the oldest answer first

    def update(self, task_type: Any) -> None:
        """Take in what was answered since the last look. One query where nothing was, else two."""
        newest = (
            Annotation.objects.filter(project=self.project_id).order_by("-id").values_list("id", flat=True).first()
        )
        if newest is None or newest <= self.watermark:
            return
        fresh = Annotation.objects.filter(project=self.project_id, id__gt=self.watermark, item__split=Split.POOL)
        rows = fresh.values_list("item_id", "kind", "value")[:ANSWERS_READ]
        last: dict[int, int] = {}
        for item_id, kind, value in rows:  # the newest answer to an item comes first
            named = task_type.class_ids(value) if kind == Annotation.Kind.LABEL else []
            last.setdefault(item_id, named[0] if named else NO_CLASS)
        for item_id in reversed(_fair(last)):
            self._put(item_id, last[item_id])
        self.watermark = newest

    def _put(self, item_id: int, class_id: int) -> None:
        slot = self.slots.get(item_id)
        if slot is None:
            row = self.read.rows([item_id])
            if class_id == NO_CLASS or not len(row):
                return
            slot = self._free_slot()
            self.slots[item_id], self.item_ids[slot] = slot, item_id
            self.points[slot] = self.read.embeddings[row[0]]
        self.by_class[int(self.class_ids[slot])].pop(item_id, None)
        self.by_class[class_id][item_id] = None
        self.class_ids[slot] = class_id
        # Nothing is near an image whose label was taken back; its slot is used again like any other.
        self.squares[slot] = np.inf if class_id == NO_CLASS else self.points[slot] @ self.points[slot]

    def _free_slot(self) -> int:
        """The next one; when all are taken the oldest of the class that has most, so that no class is crowded out."""
        if self.used < BANK:
            self.used += 1
            return self.used - 1
        crowded = max(self.by_class.values(), key=len)
        oldest = next(iter(crowded))
        del crowded[oldest]
        return self.slots.pop(oldest)

    def squared_distances(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 (R, used): from images to those of the bank; infinite to itself and where a label was taken back."""
        used, own = self.used, self.read.embeddings[rows]
        far: NDArray[np.float32] = self.squares[:used] - 2 * own @ self.points[:used].T + (own * own).sum(1)[:, None]
        far[self.read.item_ids[rows][:, None] == self.item_ids[:used]] = np.inf
        return far

    def candidates(self, rows: NDArray[np.int64], classes: list[list[int]]) -> list[list[int]]:
        """For each row ids of the CANDIDATES nearest images of each of its classes, or of any where none is named."""
        found = []
        for row, far, class_ids in zip(rows, self.squared_distances(rows), classes, strict=True):
            near: list[int] = []
            for wanted in class_ids or [NO_CLASS]:
                of_it = far if wanted == NO_CLASS else np.where(self.class_ids[: self.used] == wanted, far, np.inf)
                first = of_it.argpartition(CANDIDATES)[:CANDIDATES] if self.used > CANDIDATES else range(self.used)
                near += [int(self.item_ids[slot]) for slot in first if np.isfinite(of_it[slot])]
            if self.used == BANK:  # there may be nearer ones that it does not hold
                near += self.read.item_ids[self.read.neighbours[row, :KNOWN]].tolist()
            found.append(near)
        return found

    def usual(self) -> float:
        """The median distance from an image of the pool to the nearest labelled one; 0 where there is none."""
        at, known = self.usual_of
        if at and self.used < at * GROWN:
            return known
        n = len(self.read.item_ids)
        nearest = self.squared_distances(np.linspace(0, n - 1, min(USUAL, n)).astype(np.int64)).min(1, initial=np.inf)
        nearest = nearest[np.isfinite(nearest)]
        known = float(np.sqrt(max(0.0, float(np.median(nearest))))) if len(nearest) else 0.0
        self.usual_of = (self.used, known)
        return known


def _fair(last: dict[int, int]) -> list[int]:
    """Of these items, newest first, with their class, at most BANK: the newest of each class, as many of each."""
    if len(last) <= BANK:
        return list(last)
    before: Counter[int] = Counter()
    ranked = []
    for item_id, class_id in last.items():
        ranked.append((before[class_id], item_id))
        before[class_id] += 1
    ranked.sort(key=lambda each: each[0])
    kept = {item_id for _, item_id in ranked[:BANK]}
    return [item_id for item_id in last if item_id in kept]


def evidence(project: Project, entries: Iterable[QueueEntry]) -> dict[int, Evidence]:
    """What speaks for the reasons of these entries, by item id; nothing for those that are asked blind.

    At most four queries however many entries there are, and a look through BANK vectors for each. Never an image
    of the random checks or the test set, nor one that somebody is asked about again.
    """
    wanted = [entry for entry in entries if entry.reason_code in SPOKEN_FOR and not is_blind(entry)]
    bank = _bank(project) if wanted else None
    if bank is None:
        return {}
    placed = [entry for entry in wanted if len(bank.read.rows([entry.item_id]))]
    with bank.lock:
        bank.update(task_types.get(project.task_type))
        rows = bank.read.rows([entry.item_id for entry in placed])
        near = bank.candidates(rows, [_classes_of(entry) for entry in placed])
        usual = bank.usual() if any(entry.reason_code == Reason.UNLIKE for entry in placed) else 0.0
    candidates = {entry.item_id: found for entry, found in zip(placed, near, strict=True)}
    labels = _agreed(project, {each for found in candidates.values() for each in found})
    spoken = {}
    for entry in placed:
        if examples := _chosen(bank.read, entry, candidates[entry.item_id], labels):
            sentence = _how_far(examples[0].distance, usual) if entry.reason_code == Reason.UNLIKE else ""
            spoken[entry.item_id] = Evidence(tuple(examples), sentence)
    return spoken


def shows_examples(project: Project, entry: QueueEntry) -> bool:
    """Whether labelled images were shown beside this question. Four queries at most; none for most reasons."""
    return entry.item_id in evidence(project, [entry])


@lru_cache(maxsize=4)
def _made(project_id: int, read: Vectors) -> _Bank:
    return _Bank(project_id, read)


def _bank(project: Project) -> _Bank | None:
    read = vectors(project)
    return _made(project.pk, read) if read is not None and len(read.item_ids) else None


def _classes_of(entry: QueueEntry) -> list[int]:
    """The classes that the reason is about; none: any."""
    if entry.reason_code == Reason.SCARCE:
        return [entry.reason_data["class"]]
    if entry.reason_code in (Reason.CLOSE_CALL, Reason.UNSURE):
        return [class_id for class_id, _prob in entry.reason_data["classes"][:2]]
    return []


def _agreed(project: Project, item_ids: set[int]) -> dict[int, tuple[int, int]]:
    """The longer side and the class of those of these images that may be shown with it, by item id. One query.

    Only what everybody said the same of is an example. Rows without models: every answer comes by here.
    """
    current = Annotation.objects.filter(project=project, item__in=item_ids, superseded_by__isnull=True)
    naming = current.filter(kind__in=[Annotation.Kind.LABEL, Annotation.Kind.NONE_OF_THESE])
    naming = naming.filter(item__split=Split.POOL, item__state=Item.State.LABELLED, item__queue_entry__isnull=True)
    class_ids_of = task_types.get(project.task_type).class_ids
    said: dict[int, set[int]] = defaultdict(set)
    px = {}
    for item_id, value, width, height in naming.values_list("item_id", "value", "item__width", "item__height"):
        said[item_id].update(class_ids_of(value) if value else [NO_CLASS])
        px[item_id] = max(width, height)
    return {
        item_id: (px[item_id], class_id)
        for item_id, named in said.items()
        if len(named) == 1 and (class_id := next(iter(named))) != NO_CLASS
    }


def _chosen(
    read: Vectors, entry: QueueEntry, candidates: list[int], labels: dict[int, tuple[int, int]]
) -> list[Example]:
    """The nearest of each class that the reason is about, then the next nearest of them, SHOWN in all."""
    class_ids = _classes_of(entry)
    shown = {each for each in candidates if each in labels and (not class_ids or labels[each][1] in class_ids)}
    ordered = read.nearest(entry.item_id, len(shown), among=sorted(shown)) if shown else []
    examples = [Example(item_id, *labels[item_id], far) for item_id, far in ordered]
    firsts = [next((each for each in examples if each.class_id == wanted), None) for wanted in class_ids]
    chosen = [each for each in firsts if each is not None]
    chosen += [each for each in examples if each not in chosen]
    # Side by side those of one class, in the order in which the reason names the classes.
    place = {class_id: at for at, class_id in enumerate(class_ids)}
    return sorted(chosen[:SHOWN], key=lambda each: (place.get(each.class_id, 0), each.distance))


def _how_far(distance: float, usual: float) -> str:
    """How far the nearest labelled image is, held against half of the images, in words."""
    times = distance / usual if usual > 0 else 0.0
    if times < 1.25:
        return _("The nearest labelled images")
    if times < 1.75:
        return _("The nearest labelled images, half as far again as usual")
    if times < 2.5:
        return _("The nearest labelled images, twice as far as usual")
    if times < 3.5:
        return _("The nearest labelled images, three times as far as usual")
    return _("The nearest labelled images, more than three times as far as usual")
