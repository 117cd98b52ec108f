"""One screen of the review grid: the rows a filter chooses, by their keys and never by counting off those before.

A place is written as the key of a row: class, confidence and id of a proposal, the id of an answer, or, where the
order is by likeness to one image, the id of an item.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from django.db.models import BigIntegerField, Exists, F, Func, IntegerField, OuterRef, Q, QuerySet
from django.db.models.expressions import RawSQL
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.db.models.fields.tuple_lookups import TupleGreaterThan, TupleLessThan
from django.db.models.functions import Cast
from django.utils import timezone
from django.utils.translation import gettext as _
from numpy.typing import NDArray

from annotator import task_types
from annotator.errors import InvalidFilter
from annotator.models import (
    Annotation,
    Item,
    ModelVersion,
    Project,
    Proposal,
    QueueEntry,
    Round,
    RoundCheck,
    Split,
    Suspect,
)
from annotator.queries.flags import flagged_items
from annotator.queries.item_sets import embedded, wanted_items
from annotator.queries.likeness import neighbour_votes, side_by_side
from annotator.queries.progress import pending
from annotator.queries.reasons import asked_blind
from annotator.queries.selecting import CONFIDENCE, LABELS, LISTED, NEIGHBOURS, SIMILAR, STUDY, UNSEEN, Selection
from annotator.queries.vectors import vectors

# Where a question must be put to each row (whether its neighbours disagree), so many are asked at once, and for one
# screen no more than so many blocks; the screen then ends early and the next one goes on.
BLOCK, BLOCKS_AT_MOST = 500, 20
# How many of the nearest are looked up before all that fit are ranked.
NEAREST = 1_000
COUNTED_AT_MOST, PAIRS_AMONG = 1_000, 2_000
CURSOR_COLUMNS = {"proposals": ("label_class_id", "confidence", "id"), "labels": ("id",)}


@dataclass(frozen=True)
class Key:
    """What a place on the way is known by: the columns of the order, the row and its item, the class it names."""

    columns: tuple[Any, ...]
    pk: int
    item_id: int
    class_id: int


@dataclass(frozen=True)
class Found:
    """The keys of a screen, and the places to go on from; is_cut: see Screen."""

    keys: list[Key]
    after: Key | None
    before: Key | None
    is_cut: bool = False


@dataclass(frozen=True)
class Screen:
    """rows: proposals, or annotations where labels are shown. after, before: the places to go on from; empty: there
    is nothing. places: of each row, for a window that holds fewer; none where rows are laid out by likeness. is_cut:
    nothing more was found within what one screen may look through, and there is more."""

    rows: list[Any] = field(default_factory=list)
    after: str = ""
    before: str = ""
    is_cut: bool = False
    places: list[str] = field(default_factory=list)


def chosen_rows(project: Project, chosen: Selection) -> QuerySet[Any]:
    """What the filter chooses, all but what must be asked of each row. Raises InvalidFilter. No random check, nothing
    that a running round checks, nothing that somebody is answering."""
    rows = _labels(project, chosen) if chosen.show == LABELS else _proposals(project, chosen)
    rows = rows.exclude(item_id__in=_in_rounds())
    if chosen.flagged:
        rows = rows.filter(item_id__in=flagged_items(project).values("pk"))
    if chosen.import_id is not None:
        rows = rows.filter(item__import_job_id=chosen.import_id)
    if chosen.folder:
        rows = rows.filter(item__source_name__startswith=chosen.folder)
    ids = wanted_items(project, chosen)
    return rows if ids is None else rows.filter(item_id__in=_among(ids))


def bounded_count(rows: QuerySet[Any], at_most: int = COUNTED_AT_MOST) -> tuple[int, bool]:
    """How many there are, counted up to ``at_most``; and whether there are more."""
    found = rows.order_by()[: at_most + 1].count()
    return min(found, at_most), found > at_most


def hesitant_pairs(project: Project, at_most: int = 12) -> list[tuple[int, int]]:
    """Pairs of classes the newest proposals name first and second, the most frequent first, by class id.

    Counted over PAIRS_AMONG proposals at most. One query.
    """
    first, second = (
        Cast(KeyTextTransform(0, KeyTransform(place, "short_list")), BigIntegerField()) for place in (0, 1)
    )
    some = pending(project).filter(short_list__1__isnull=False).order_by("-id")[:PAIRS_AMONG]
    named = some.annotate(first=first, second=second).values_list("first", "second")
    counts = Counter((min(pair), max(pair)) for pair in named)
    return [pair for pair, _times in counts.most_common(at_most)]


def screen(project: Project, chosen: Selection, base: QuerySet[Any] | None = None) -> Screen:
    """The screen at the place the filter names. base: its `chosen_rows`, where they are known already. Two queries and
    those of its sets; a few more where look-alikes or neighbours are asked for."""
    base = chosen_rows(project, chosen) if base is None else base
    keep = _sieve(project, chosen)
    look = _nearest(project, chosen, base, keep) if chosen.like is not None else _in_order(chosen, base, keep)
    rows, places = _whole(chosen, [key.pk for key in look.keys]), {key.pk: _place(chosen, key) for key in look.keys}
    found = Screen(
        rows=rows,
        after=_place(chosen, look.after) if look.after else "",
        before=_place(chosen, look.before) if look.before else "",
        is_cut=look.is_cut,
        places=[places[row.pk] for row in rows],
    )
    return _alike(project, found) if chosen.sort == SIMILAR and chosen.like is None else found


# --- what is chosen ------------------------------------------------------------------------------------------------


def _proposals(project: Project, chosen: Selection) -> QuerySet[Proposal]:
    rows = pending(project, Proposal.State.AUTO_ACCEPTED if chosen.show == UNSEEN else Proposal.State.PENDING)
    if chosen.class_id is not None and not chosen.every:
        rows = rows.filter(label_class_id=chosen.class_id)
    if chosen.pair:
        first_two = {"short_list__0__0__in": chosen.pair, "short_list__1__0__in": chosen.pair}
        rows = rows.filter(label_class_id__in=chosen.pair, **first_two)
    if chosen.low is not None:
        rows = rows.filter(confidence__gte=chosen.low)
    if chosen.high is not None:
        rows = rows.filter(confidence__lte=chosen.high)
    if chosen.source:
        models = ModelVersion.objects.filter(project=project, algorithm=chosen.source)
        rows = rows.filter(model_version_id__in=models.values("pk"))
    return _listed_otherwise(project, rows) if chosen.disagree == LISTED else rows


def _listed_otherwise(project: Project, rows: QuerySet[Proposal]) -> QuerySet[Proposal]:
    """Those whose list with a promise names several classes, none, or another one alone."""
    promised = ModelVersion.objects.filter(project=project, metrics__short_list__promise__isnull=False)
    length = Func(F("short_list"), function="jsonb_array_length", output_field=IntegerField())
    first = Cast(KeyTextTransform(0, KeyTransform(0, "short_list")), BigIntegerField())
    rows = rows.filter(model_version_id__in=promised.values("pk"), certificate__isnull=True)
    return rows.annotate(listed=length, first=first).filter(~Q(listed=1) | ~Q(first=F("label_class_id")))


def _labels(project: Project, chosen: Selection) -> QuerySet[Annotation]:
    """The newest answer to each image of the pool, or the answer of one person, where it is a label. Random checks
    stay out: whoever sees their labels answers the others with other eyes. So does what somebody is answering, and
    what is asked again blind: that may be asked of the reviewer too."""
    naming = [Annotation.Kind.LABEL, Annotation.Kind.NONE_OF_THESE]
    current = Annotation.objects.filter(superseded_by__isnull=True, kind__in=naming)
    rows = current.filter(project=project, kind=Annotation.Kind.LABEL, item__split=Split.POOL)
    rows = rows.filter(item__state=Item.State.LABELLED)
    held = QueueEntry.objects.filter(project=project, leased_until__gt=timezone.now())
    rows = rows.exclude(item_id__in=held.values("item_id")).exclude(item_id__in=asked_blind(project))
    if chosen.by is not None:
        rows = rows.filter(annotator_id=chosen.by, source=Annotation.Source.PERSON)
    else:
        rows = rows.exclude(Exists(current.filter(item=OuterRef("item"), pk__gt=OuterRef("pk"))))
    if chosen.class_id is not None and not chosen.every:
        rows = rows.filter(value=task_types.get(project.task_type).clean(chosen.class_id, [chosen.class_id]))
    if chosen.disagree == STUDY:
        rows = rows.filter(suspect__state=Suspect.State.OPEN)
    return rows


def _in_rounds() -> QuerySet[Any, Any]:
    return RoundCheck.objects.filter(round__state=Round.State.RUNNING).values("item_id")


def _among(ids: NDArray[np.int64]) -> RawSQL:
    return RawSQL("SELECT unnest(%s::bigint[])", [ids.tolist()])


# --- in which order ------------------------------------------------------------------------------------------------


def _in_order(chosen: Selection, base: QuerySet[Any], keep: "Sieve | None") -> Found:
    is_back = bool(chosen.before)
    found: list[Key] = []
    at, is_cut = _read_place(chosen, chosen.before or chosen.after), False
    step = chosen.tiles + 1 if keep is None else max(BLOCK, chosen.tiles + 1)
    for blocks in range(1, BLOCKS_AT_MOST + 1):
        block = list(_block(chosen, base, at, is_back=is_back, count=step))
        found += block if keep is None else keep(block)
        if len(block) < step or len(found) > chosen.tiles:
            break
        at, is_cut = block[-1].columns, blocks == BLOCKS_AT_MOST
    keys = found[: chosen.tiles]
    # Where the search was cut short the next screen goes on from there.
    last = block[-1] if is_cut else keys[-1] if len(found) > chosen.tiles else None
    first = keys[0] if keys and (chosen.after or chosen.before) else None
    if not is_back:
        return Found(keys, last, first, is_cut)
    return Found(keys[::-1], first, last, is_cut)


def _block(
    chosen: Selection, base: QuerySet[Any], at: tuple[Any, ...] | None, *, is_back: bool, count: int
) -> Iterator[Key]:
    columns = CURSOR_COLUMNS["labels" if chosen.show == LABELS else "proposals"]
    # The newest label, or the surest proposal, comes first; backwards, what comes first is last.
    is_falling = (chosen.sort == CONFIDENCE or chosen.show == LABELS) != is_back
    if at is not None:
        beyond = TupleLessThan if is_falling else TupleGreaterThan
        base = base.filter(beyond(tuple(F(name) for name in columns), at))
    rows = base.order_by(*(f"-{name}" if is_falling else name for name in columns))
    names = ("value",) if chosen.show == LABELS else ("label_class_id",)
    for row in rows.values_list(*columns, "pk", "item_id", *names)[:count]:
        yield _key(row[: len(columns)], *row[len(columns) :])


def _key(columns: tuple[Any, ...], pk: int, item_id: int, named: Any) -> Key:
    class_id = named.get("class", 0) if isinstance(named, dict) else named
    return Key(columns, pk, item_id, class_id or 0)


def _nearest(project: Project, chosen: Selection, base: QuerySet[Any], keep: "Sieve | None") -> Found:
    """The keys of those most like one image. Looked for among its nearest, and among all where those do not do."""
    known = embedded(project, "like")
    assert chosen.like is not None
    # What lies near a random check, a test image or what is asked blind is a hint at what it is.
    in_pool = Item.objects.filter(project=project, pk=chosen.like, split=Split.POOL)
    if not in_pool.exclude(pk__in=asked_blind(project)).exists():
        raise _refusal("like", _("There is no image %(id)s in this project.") % {"id": chosen.like})
    if not len(known.rows([chosen.like])):
        raise _refusal("like", _("This image came after the others were embedded; try again in a while."))
    name = "value" if chosen.show == LABELS else "label_class_id"
    nearest = known.nearest(chosen.like, NEAREST)
    near = base.filter(item_id__in=_among(np.array([item_id for item_id, _far in nearest], np.int64)))
    keys = _ranked(nearest, near.order_by().values_list("pk", "item_id", name), keep)
    start, end = _around(chosen, keys)
    if end > len(keys) and len(nearest) < len(known.item_ids) - 1:  # not enough of the nearest: of all that fit, then
        rows = list(base.order_by().values_list("pk", "item_id", name))
        among = np.array([row[1] for row in rows], np.int64)
        keys = _ranked(known.nearest(chosen.like, len(rows), among), rows, keep)
        start, end = _around(chosen, keys)
    shown = keys[max(start, 0) : end]
    return Found(shown, shown[-1] if end < len(keys) and shown else None, shown[0] if start > 0 and shown else None)


def _ranked(nearest: list[tuple[int, float]], rows: Iterable[tuple[int, int, Any]], keep: "Sieve | None") -> list[Key]:
    """The keys of these rows (its own id, its item's, the class it names), the nearest first."""
    rank = {item_id: place for place, (item_id, _far) in enumerate(nearest)}
    there = sorted((row for row in rows if row[1] in rank), key=lambda row: rank[row[1]])
    keys = [_key((row[1],), *row) for row in there]
    return keys if keep is None else keep(keys[: BLOCK * BLOCKS_AT_MOST])


def _around(chosen: Selection, keys: list[Key]) -> tuple[int, int]:
    """Where in an order by likeness the screen begins and ends."""
    at = _read_place(chosen, chosen.before or chosen.after)
    place = next((index for index, key in enumerate(keys) if at is not None and key.columns == at), None)
    if place is None:  # decided meanwhile, or nothing was asked for: from the beginning
        return 0, chosen.tiles
    return (place - chosen.tiles, place) if chosen.before else (place + 1, place + 1 + chosen.tiles)


def _place(chosen: Selection, key: Key) -> str:
    return "~".join(repr(column) for column in ((key.item_id,) if chosen.like is not None else key.columns))


def _read_place(chosen: Selection, word: str) -> tuple[Any, ...] | None:
    if not word:
        return None
    kinds: tuple[type, ...] = (int,) if chosen.like is not None or chosen.show == LABELS else (int, float, int)
    try:
        parts = tuple(kind(part) for kind, part in zip(kinds, word.split("~"), strict=True))
    except ValueError:
        parts = ()
    if not parts or any(not 0 <= part < 2**63 for part in parts):
        raise _refusal("after", _("“%(word)s” is no place to go on from; begin again.") % {"word": word[:40]})
    return parts


def _refusal(name: str, why: str) -> InvalidFilter:
    return InvalidFilter(why, fields={name: why})


# --- what must be asked of each row --------------------------------------------------------------------------------

Sieve = Callable[[list[Key]], list[Key]]


def _sieve(project: Project, chosen: Selection) -> Sieve | None:
    """Keeps those whose labelled neighbours are mostly of another class than the row names."""
    if chosen.disagree != NEIGHBOURS:
        return None
    known = embedded(project, "disagree")

    def keep(keys: list[Key]) -> list[Key]:
        said = neighbour_votes(project, known, np.array([key.item_id for key in keys], np.int64))
        return [key for key, vote in zip(keys, said.tolist(), strict=True) if vote and vote != key.class_id]

    return keep


def _whole(chosen: Selection, pks: list[int]) -> list[Any]:
    rows: QuerySet[Any]
    if chosen.show == LABELS:
        rows = Annotation.objects.select_related("item", "annotator", "suspect")
    else:
        rows = Proposal.objects.select_related("item", "model_version")
    # A random check has no proposal; were there one by mistake, it would not be shown.
    found = {row.pk: row for row in rows.filter(pk__in=pks, item__split=Split.POOL)}
    return [found[pk] for pk in pks if pk in found]


def _alike(project: Project, found: Screen) -> Screen:
    known = vectors(project)
    if known is None:
        return found
    order = side_by_side(known, np.array([row.item_id for row in found.rows], np.int64))
    return Screen([found.rows[place] for place in order], found.after, found.before, found.is_cut)
