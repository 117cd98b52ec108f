"""What a filter of the review grid chooses, read from an address. Which rows that are: queries/screens.py."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from django.utils.translation import gettext as _

from annotator.errors import InvalidFilter
from annotator.models import Project

# What the grid shows: proposals that wait, labels accepted unseen, labels that people gave.
PROPOSALS, UNSEEN, LABELS = "proposals", "unseen", "labels"
SHOWN = (PROPOSALS, UNSEEN, LABELS)
# Most doubtful first, surest first; and, of either, a screen with look-alikes side by side. For labels: newest first.
DOUBT, CONFIDENCE, SIMILAR = "doubt", "confidence", "similar"
SORTS = (DOUBT, CONFIDENCE, SIMILAR)
# Who says otherwise than the proposal: most labelled images like it, or its own list; than a label: the study.
NEIGHBOURS, LISTED, STUDY = "neighbours", "list", "study"
DISAGREEMENTS = (NEIGHBOURS, LISTED, STUDY)
EVERY_CLASS = "all"
TILES, TILES_AT_LEAST, TILES_AT_MOST = 60, 20, 200
TEXT_AT_MOST = 9000
# Names in the address, in the order they are written there. Places on the way through it come last.
NARROWING = ("pair", "low", "high", "disagree", "source", "import", "folder", "by", "near", "flagged", "like", "group",
             "inside")  # fmt: skip
PLACE = ("after", "before")
NAMES = ("show", "class", "sort", *NARROWING, "tiles", *PLACE)


@dataclass(frozen=True)
class Selection:
    """A filter. Empty, None and False: that part of it is not asked for. low, high: confidence, 0..1.

    sent: the address's own words for it, those alone that say something, in the order of NAMES.
    """

    show: str = PROPOSALS
    class_id: int | None = None
    every: bool = False
    pair: tuple[int, int] | None = None
    sort: str = DOUBT
    low: float | None = None
    high: float | None = None
    disagree: str = ""
    source: str = ""
    import_id: int | None = None
    folder: str = ""
    by: int | None = None
    near: bool = False
    flagged: bool = False
    like: int | None = None
    group: str = ""
    inside: str = ""
    tiles: int = TILES
    after: str = ""
    before: str = ""
    sent: tuple[tuple[str, str], ...] = ()

    @property
    def is_narrowed(self) -> bool:
        """Whether more is asked for than one class, in some order."""
        return any(name in NARROWING for name, _value in self.sent)

    def query(self, **other: str) -> str:
        """The address of this filter with these words instead; an empty one leaves its part out."""
        words = {name: value for name, value in self.sent if name not in other}
        words |= {name: value for name, value in other.items() if value}
        return urlencode(sorted(words.items(), key=lambda word: NAMES.index(word[0])))

    def first_screen(self, **other: str) -> str:
        """The same from its beginning."""
        return self.query(**({"after": "", "before": ""} | other))

    def at(self, **place: str) -> "Selection":
        """The same at another place: ``after`` or ``before`` a cursor."""
        gone = tuple((name, value) for name, value in self.sent if name not in PLACE)
        came = tuple((name, value) for name, value in place.items() if value)
        both: dict[str, Any] = {"after": "", "before": ""} | place
        return replace(self, **both, sent=gone + came)


def read_selection(project: Project, raw: Mapping[str, str], *, tiles: int = TILES) -> Selection:
    """The filter these words of an address ask for. tiles: how many to a screen where they do not say.

    Raises InvalidFilter, whose ``fields`` name each word that does not fit and why. One query where a class is named.
    """
    reader = _Reader({name: raw.get(name, "").strip() for name in NAMES})
    show = reader.one_of("show", SHOWN) or PROPOSALS
    word = reader.raw["class"]
    # A class that is not there is no fault of who asks: it was emptied or merged meanwhile; see views/reviewing.py.
    class_id = int(word) if word.isascii() and word.isdigit() and len(word) <= 18 else None
    chosen = Selection(
        show=show,
        class_id=class_id,
        every=word == EVERY_CLASS,
        pair=_pair(reader, project),
        sort=reader.one_of("sort", SORTS) or DOUBT,
        low=reader.percent("low"),
        high=reader.percent("high"),
        disagree=reader.one_of("disagree", DISAGREEMENTS),
        source=reader.text("source", 40),
        import_id=reader.number("import"),
        folder=reader.text("folder", 500),
        by=reader.number("by"),
        near=reader.yes("near"),
        flagged=reader.yes("flagged"),
        like=reader.number("like"),
        group=reader.text("group", 40),
        inside=reader.text("inside", TEXT_AT_MOST),
        tiles=reader.number("tiles") or tiles,
        after=reader.text("after", 80),
        before=reader.text("before", 80),
        sent=tuple((name, value) for name, value in reader.raw.items() if value),
    )
    _fits_together(reader, chosen)
    reader.refuse()
    return chosen


def _pair(reader: "_Reader", project: Project) -> tuple[int, int] | None:
    word = reader.raw["pair"]
    if not word:
        return None
    one, _dash, other = word.partition("-")
    known = {str(pk) for pk in project.classes.values_list("pk", flat=True)}
    if one not in known or other not in known or one == other:
        reader.faults["pair"] = _("%(word)s are not two classes of this project, such as 3-8.") % {"word": word[:40]}
        return None
    return int(one), int(other)


def _fits_together(reader: "_Reader", chosen: Selection) -> None:
    """Parts that cannot be asked for at once, or that what is shown does not have."""
    faults = reader.faults
    if chosen.low is not None and chosen.high is not None and chosen.low > chosen.high:
        faults["low"] = _("The lowest confidence is above the highest.")
    if not TILES_AT_LEAST <= chosen.tiles <= TILES_AT_MOST:
        limits = {"n": chosen.tiles, "least": TILES_AT_LEAST, "most": TILES_AT_MOST}
        faults["tiles"] = _("A screen holds %(least)s to %(most)s images, not %(n)s.") % limits
    if chosen.after and chosen.before:
        faults["after"] = _("A screen is after a place or before one, not both.")
    if sum(map(bool, (chosen.like, chosen.group, chosen.inside))) > 1:
        faults["like"] = _("Images like one, a group and a part of the map: choose one of them.")
    if chosen.show == LABELS:
        _without_confidence(faults, chosen)
        return
    if chosen.by is not None:
        faults["by"] = _("Nobody has labelled what waits for review; choose labels instead of proposals.")
    if chosen.disagree == STUDY:
        faults["disagree"] = _("The study doubts labels; choose labels instead of proposals.")


def _without_confidence(faults: dict[str, str], chosen: Selection) -> None:
    """A label that somebody gave has no confidence, no list and no model."""
    for name, value in (("low", chosen.low), ("high", chosen.high)):
        if value is not None:
            faults[name] = _("Labels that people gave have no confidence; choose proposals instead.")
    if chosen.source:
        faults["source"] = _("No model gave these labels; choose proposals instead.")
    if chosen.pair:
        faults["pair"] = _("Two classes are what a model hesitates between; choose proposals instead.")
    if chosen.disagree == LISTED:
        faults["disagree"] = _("Labels that people gave have no list of classes; choose proposals instead.")
    if chosen.sort == CONFIDENCE:
        faults["sort"] = _("Labels that people gave have no confidence; the newest come first.")


class _Reader:
    """The words of an address, and what was wrong with each."""

    def __init__(self, raw: dict[str, str]) -> None:
        self.raw = raw
        self.faults: dict[str, str] = {}

    def refuse(self) -> None:
        if self.faults:
            raise InvalidFilter(" ".join(self.faults.values()), fields=self.faults)

    def one_of(self, name: str, words: tuple[str, ...]) -> str:
        word = self.raw[name]
        if word and word not in words:
            self.faults[name] = _("%(name)s is “%(word)s”; it can be %(words)s.") % {
                "name": name, "word": word[:40], "words": ", ".join(words),
            }  # fmt: skip
            return ""
        return word

    def text(self, name: str, at_most: int) -> str:
        if len(self.raw[name]) > at_most:
            said = {"name": name, "n": len(self.raw[name]), "most": at_most}
            self.faults[name] = _("%(name)s has %(n)s characters; at most %(most)s fit.") % said
            return ""
        return self.raw[name]

    def yes(self, name: str) -> bool:
        return self.one_of(name, ("1",)) == "1"

    def number(self, name: str) -> int | None:
        word = self.raw[name]
        if not word:
            return None
        if not (word.isascii() and word.isdigit() and len(word) <= 18):
            self.faults[name] = _("%(name)s is “%(word)s”, which is no number.") % {"name": name, "word": word[:40]}
            return None
        return int(word)

    def percent(self, name: str) -> float | None:
        """A confidence in percent, as a rate."""
        word = self.raw[name]
        if not word:
            return None
        try:
            value = float(word)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 100:
            self.faults[name] = _("The confidence “%(word)s” is not between 0 and 100 per cent.") % {"word": word[:40]}
            return None
        return value / 100
