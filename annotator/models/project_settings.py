"""What an owner can set in a project: one frozen dataclass, stored as JSON, checked on every write."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from django.utils.translation import gettext as _

from annotator import algorithms
from annotator.errors import InvalidSettings


def _setting(default: Any, title: str, help: str, **limits: Any) -> Any:
    """A field that knows how to present itself: forms, the API and ``clean`` are built from this metadata."""
    return field(default=default, metadata={"title": title, "help": help, **limits})


@dataclass(frozen=True)
class ProjectSettings:
    """Rates are 0..1. ``minimum`` and ``maximum`` are inclusive, ``automatic`` is taken although it is outside them;
    ``catalogue`` names a kind in algorithms, ``starts`` takes only those of it that need no model.

    ``parameters`` holds what differs from the catalogue's defaults alone, so that a better default reaches everybody
    who has not chosen. Its keys are flat, "encoder.pretrained.model": the form's names, the API's and those in errors.
    """

    encoder: str = _setting(
        "pca_pixels",
        "Encoder",
        "Turns each image into the numbers everything else works on.",
        catalogue="encoder",
    )
    image_px: int = _setting(
        0,
        "Image size",
        "Side in pixels of the squares that images are decoded to. 0: as large as the images, 64 at most, and what a "
        "published model wishes. 1,000,000 images take 3 GB of disk at 32, 12 GB at 64, 151 GB at 224; in memory are "
        "at most 0.5 GB of them.",
        minimum=8,
        maximum=512,
        automatic=0,
    )
    head: str = _setting(
        "label_spreading", "Head", "The fast model that learns while people answer.", catalogue="head"
    )
    acquisition: str = _setting(
        "margin",
        "Question order",
        "Which image is asked next, once there is a model.",
        catalogue="acquisition",
    )
    cold_start: str = _setting(
        "typiclust",
        "First questions",
        "Which image is asked next, until the model knows more than the clusters.",
        catalogue="acquisition",
        starts=True,
    )
    trainer: str = _setting(
        "auto",
        "Trainer",
        "How a network learns from the answers and the pool, when somebody asks for training.",
        catalogue="trainer",
        auto="Chosen from the answers, the time and the device; the job says why",
    )
    parameters: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "title": "Parameters",
            "help": "What algorithms are told, as `kind.algorithm.parameter`; left out: the default of each.",
        },
    )
    training_minutes: int = _setting(5, "Training time", "Minutes a training may take.", minimum=1, maximum=1440)
    augment_mirror: bool = _setting(
        True, "Mirror", "A mirrored image is still of its class. Off for text, digits and signs."
    )
    augment_rotate: bool = _setting(True, "Turn and slant", "An image a little turned is still of its class.")
    augment_tone: bool = _setting(
        True,
        "Change brightness",
        "A darker, flatter or softer image is still of its class. Off where brightness tells classes apart.",
    )
    augment_colour: bool = _setting(
        True,
        "Change colours",
        "An image in other colours is still of its class. Off where colours tell classes apart.",
    )
    answers_per_refit: int = _setting(
        10,
        "Answers between refits",
        "The model learns anew after this many answers.",
        minimum=1,
        maximum=1000,
    )
    queue_length: int = _setting(
        200, "Queue length", "How many images are ranked ahead of the people.", minimum=20, maximum=2000
    )
    audit_fraction: float = _setting(
        0.05, "Audit sample", "Share of every import set apart to measure accuracy.", minimum=0.0, maximum=0.5
    )
    audit_minimum: int = _setting(
        50,
        "Smallest audit sample",
        "Never fewer than this, up to half of the pool.",
        minimum=0,
        maximum=100000,
    )
    audit_share: float = _setting(
        0.2,
        "Random checks",
        "Share of the answers that go to random checks, until they are used up.",
        minimum=0.0,
        maximum=1.0,
        part_of_whole=True,
    )
    baseline_share: float = _setting(
        0.05,
        "Random images to compare with",
        "Share of the answers that go to images drawn at random, which the question order is compared with.",
        minimum=0.0,
        maximum=1.0,
        part_of_whole=True,
    )
    second_opinion_share: float = _setting(
        0.05,
        "Second opinions",
        "Share of the answers that go to images which somebody else has labelled, drawn at random. Where people "
        "disagree a third is asked.",
        minimum=0.0,
        maximum=1.0,
        part_of_whole=True,
    )
    suspect_share: float = _setting(
        0.05,
        "Suspected labels",
        "Share of the answers that go to images whose label the others speak against, the worst first.",
        minimum=0.0,
        maximum=1.0,
        part_of_whole=True,
    )
    automatic_share: float = _setting(
        0.05,
        "Checks of unseen labels",
        "Share of the answers that go to images whose label was accepted unseen, drawn at random; while a round of "
        "checks runs, half of them go to the round. Whatever the shares leave goes to the question order.",
        minimum=0.0,
        maximum=1.0,
        part_of_whole=True,
    )
    show_suggestions: bool = _setting(
        False, "Show suggestions", "Show the model's best guess while labelling. Random checks never show it."
    )
    propose_above: float = _setting(
        0.9,
        "Propose above",
        "Only predictions at least this confident are put up for review, once confidence is calibrated.",
        minimum=0.0,
        maximum=1.0,
    )
    proposals_at_most: int = _setting(
        2000,
        "Proposals at most",
        "How many proposals wait for review at one time.",
        minimum=0,
        maximum=100000,
    )
    auto_accept: bool = _setting(
        False,
        "Accept unseen",
        "Accept what the model is surest of without a look, as long as the random checks promise that it is right.",
    )
    target_precision: float = _setting(
        0.99,
        "Right among the unseen",
        "Share of what is accepted unseen that must be right. Another value is looked at once a quarter more random "
        "checks are answered.",
        minimum=0.5,
        maximum=0.999,
    )
    certificate_confidence: float = _setting(
        0.95,
        "Certainty of the promise",
        "How certain that promise is, over all looks at the random checks together.",
        minimum=0.5,
        maximum=0.999,
    )
    threshold_per_class: bool = _setting(
        False,
        "A threshold for each class",
        "Promise it for each class by itself: an easy class need not wait for a hard one, and all need more random "
        "checks.",
    )

    @classmethod
    def clean(cls, raw: dict[str, Any]) -> Self:
        """Settings from JSON or a form; absent keys take their default.

        Raises InvalidSettings with one sentence for each bad field, so that a form can show them all at once.
        """
        known = {each.name: each for each in fields(cls)}
        wrong = {name: _("there is no such setting") for name in raw if name not in known}
        values: dict[str, Any] = {}
        for name, each in known.items():
            if name not in raw:
                continue
            try:
                values[name] = _clean_value(each, raw[name])
            except InvalidSettings as error:
                wrong |= error.fields or {name: error.message}
        parts: dict[str, Any] = {
            name: each.default for name, each in known.items() if "part_of_whole" in each.metadata
        }
        if not set(parts) & set(wrong):
            values, wrong = values | _clean_parts(parts, values), wrong | _wrong_parts(parts, values)
        if wrong:
            sentence = "; ".join(f"{name}: {why}" for name, why in wrong.items())
            raise InvalidSettings(_("settings not saved: %(sentence)s") % {"sentence": sentence}, fields=wrong)
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """The JSON stored with the project."""
        return asdict(self)

    def parameters_of(self, kind: str, name: str) -> dict[str, Any]:
        """Every parameter of this algorithm, as chosen here or by default. Raises InvalidSettings for a wrong name."""
        prefix = f"{kind}.{name}."
        chosen = {key.removeprefix(prefix): value for key, value in self.parameters.items() if key.startswith(prefix)}
        return algorithms.clean_parameters(kind, name, chosen)

    def embeds_like(self, stored: dict[str, Any]) -> bool:
        """Whether images embedded under these settings can stand beside those embedded under stored JSON."""
        return self._agrees(
            stored, lambda each: (each.encoder, each.image_px, each.parameters_of("encoder", each.encoder))
        )

    def learns_like(self, stored: dict[str, Any]) -> bool:
        """Whether the head under these settings is the one under stored JSON."""
        return self._agrees(stored, lambda each: (each.head, each.parameters_of("head", each.head)))

    def _agrees(self, stored: dict[str, Any], of: Callable[[Self], Any]) -> bool:
        try:
            return bool(of(self) == of(self.clean(stored)))
        except InvalidSettings:  # an older version stored what is no setting any more
            return False


def _wrong_parts(parts: dict[str, float], given: dict[str, Any]) -> dict[str, str]:
    """A sentence, at the largest, when shares of one whole that were given come to more than it."""
    shares = {name: given[name] for name in parts if name in given}
    whole = sum(shares.values())
    if whole <= 1.0 + 1e-9:
        return {}
    largest = max(shares, key=lambda name: shares[name])
    return {
        largest: _("the shares of %(n)s kinds of questions come to %(whole)s; together they are at most 1")
        % {"n": len(shares), "whole": f"{whole:g}"}
    }


def _clean_parts(parts: dict[str, float], given: dict[str, Any]) -> dict[str, float]:
    """Shares that nobody chose, each by default or, where what was chosen leaves less, an equal part of its default:
    a project from before there were five goes on with what its owner chose."""
    left = max(0.0, 1.0 - sum(given[name] for name in parts if name in given))
    absent = {name: default for name, default in parts.items() if name not in given}
    scale = min(1.0, left / (sum(absent.values()) or 1.0))
    return {name: default * scale for name, default in absent.items()}


def _clean_parameters(raw: Any) -> dict[str, Any]:
    """Flat parameters that differ from their default, checked. Raises InvalidSettings with a sentence per key."""
    if not isinstance(raw, dict):
        raise InvalidSettings(
            _('%(found)s is no object of parameters; write {"head.mlp.hidden": 256}') % {"found": repr(raw)}
        )
    given: dict[tuple[str, str], dict[str, Any]] = defaultdict(dict)
    for key, value in raw.items():
        kind, name, parameter = (*key.split(".", 2), "", "")[:3]
        given[kind, name][parameter] = value
    clean: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for (kind, name), some in given.items():
        try:
            algorithm = algorithms.get(kind, name)
            values = algorithms.clean_parameters(kind, name, some)
        except InvalidSettings as error:
            named = {each: why for each, why in error.fields.items() if each in some}
            wrong |= {f"{kind}.{name}.{each}".rstrip("."): named.get(each, error.message) for each in named or some}
            continue
        clean |= {
            f"{kind}.{name}.{each.name}": values[each.name]
            for each in algorithm.parameters
            if values[each.name] != each.default
        }
    if wrong:
        raise InvalidSettings(_("parameters not saved"), fields=wrong)
    return clean


def _clean_value(each: Any, raw: Any) -> Any:
    limits = each.metadata
    if each.name == "parameters":
        return _clean_parameters(raw)
    if each.type is bool:
        if isinstance(raw, bool):
            return raw
        if str(raw).lower() in ("true", "on", "1", "yes"):
            return True
        if str(raw).lower() in ("false", "off", "0", "no", ""):
            return False
        raise InvalidSettings(_("%(found)s is neither true nor false") % {"found": repr(raw)})
    if "catalogue" in limits:
        names = ["auto"] if "auto" in limits else []
        names += [
            algorithm.name for algorithm in algorithms.catalogue(limits["catalogue"], limits.get("starts", False))
        ]
        if raw not in names:
            raise InvalidSettings(
                _("%(found)s is not one of %(known)s") % {"found": repr(raw), "known": ", ".join(names)}
            )
        return raw
    try:
        value = each.type(raw)
    except (TypeError, ValueError, OverflowError):
        raise InvalidSettings(_("%(found)s is not a number") % {"found": repr(raw)}) from None
    if value != limits.get("automatic") and not limits["minimum"] <= value <= limits["maximum"]:
        raise InvalidSettings(
            _("%(found)s is not between %(least)s and %(most)s")
            % {"found": value, "least": limits["minimum"], "most": limits["maximum"]}
        )
    return value
