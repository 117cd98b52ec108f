"""Pictures of numbers as SVG text. Pure functions: numbers in, markup out; colours and strokes are in winnow.css.

Positions are attributes and never styles, because the content policy refuses inline styles.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _

from annotator.wording import decimal, percent, thousands, within, written

MARKS_AT_MOST = 40
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 10, 38
# Room below where the axis needs no title.
_AXIS = 24


@dataclass(frozen=True)
class Estimate:
    """An accuracy and its interval (all 0..1) when ``answers`` had been given, measured on ``n`` items."""

    answers: int
    accuracy: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Bin:
    """``n`` answers of like confidence (their mean, 0..1), how many were right, and the interval of that rate."""

    n: int
    confidence: float
    right: int
    low: float
    high: float

    @property
    def accuracy(self) -> float:
        return self.right / self.n


@dataclass(frozen=True)
class Part:
    """A piece of a whole. ``look`` is the CSS class that colours it."""

    title: str
    count: int
    look: str


@dataclass(frozen=True)
class Column:
    """A bar of parts that stand on each other."""

    title: str
    parts: Sequence[Part]

    @property
    def count(self) -> int:
        return sum(part.count for part in self.parts)


@dataclass(frozen=True)
class _Frame:
    """Where values land: x 0..x_max and y y_min..1 inside the margins of a width x height picture."""

    width: int
    height: int
    x_max: float
    y_min: float

    def x(self, value: float) -> float:
        return round(_LEFT + (self.width - _LEFT - _RIGHT) * value / self.x_max, 1)

    def y(self, value: float) -> float:
        share = (min(1.0, max(self.y_min, value)) - self.y_min) / (1 - self.y_min)
        return round(self.height - _BOTTOM - (self.height - _TOP - _BOTTOM) * share, 1)


def nice_step(span: float, steps_at_most: int) -> float:
    """The smallest of 1, 2, 5, 10, 20, 50... that covers ``span`` in at most so many steps."""
    exponent = 0
    while True:
        for digit in (1, 2, 5):
            step = digit * 10.0**exponent
            if span / step <= steps_at_most:
                return step
        exponent += 1


def accuracy_chart(
    audit: Sequence[Estimate], test: Sequence[Estimate], *, width: int = 680, height: int = 260
) -> SafeString:
    """The estimate with its band, and beside it the accuracy on known test labels; empty without any point.

    Both oldest first. The accuracy axis ends at 1 and begins at the tenth below everything drawn, so a small
    difference is visible; its ticks say so.
    """
    drawn = [*audit, *test]
    if not drawn:
        return mark_safe("")
    lowest = min([each.low for each in audit] + [each.accuracy for each in test])
    y_min = max(0.0, min(0.9, math.floor(lowest * 10 - 1e-9) / 10))
    frame = _Frame(width, height, max(1, *(each.answers for each in drawn)) * 1.0, y_min)
    newest = audit[-1] if audit else test[-1]
    newest_at = {"accuracy": percent(newest.accuracy, 1), "n": thousands(newest.answers)}
    said = (
        _("Accuracy over the answers given; newest on random checks: %(accuracy)s at %(n)s answers")
        if audit
        else _("Accuracy over the answers given; newest on known test labels: %(accuracy)s at %(n)s answers")
    )
    return format_html(
        '<svg class="chart" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}{}{}{}</svg>',
        width,
        height,
        width,
        height,
        said % newest_at,
        _axes(frame),
        _band(frame, audit),
        _line(frame, test, "test"),
        _line(frame, audit, "audit"),
    )


def training_chart(
    history: Sequence[Mapping[str, float]], *, budget_s: float, width: int = 680, height: int = 220
) -> SafeString:
    """Accuracy on the random checks over the minutes of a training; empty before the first evaluation.

    history: entries with ``seconds`` and, once evaluated, ``audit_accuracy`` (0..1). The axis is as long as the
    training may take, so that the empty part is what is left of it.
    """
    at = [(each["seconds"] / 60, each["audit_accuracy"]) for each in history if "audit_accuracy" in each]
    if not at:
        return mark_safe("")
    y_min = max(0.0, min(0.8, math.floor(min(value for _, value in at) * 10 - 1e-9) / 10))
    frame = _Frame(width, height, max(budget_s / 60, at[-1][0], 1 / 60), y_min)
    places = [(frame.x(minutes), frame.y(value)) for minutes, value in at]
    minutes, newest = at[-1]
    return format_html(
        '<svg class="chart" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}'
        '<polyline class="line audit" points="{}"/>'
        '<circle class="mark audit" cx="{}" cy="{}" r="3"><title>{}</title></circle></svg>',
        width,
        height,
        width,
        height,
        _("Accuracy on the random checks while it trains: %(accuracy)s after %(minutes)s minutes")
        % {"accuracy": percent(newest), "minutes": decimal(minutes)},
        _axes(frame, _("minutes of training")),
        _points(places),
        *places[-1],
        _("%(accuracy)s after %(minutes)s minutes") % {"accuracy": percent(newest, 1), "minutes": decimal(minutes)},
    )


def reliability_chart(bins: Sequence[Bin], *, width: int = 350, height: int = 290) -> SafeString:
    """Accuracy over confidence with the line on which both agree; empty without any bin.

    The confidence axis begins at the tenth below the least, the accuracy axis at the tenth below everything drawn.
    """
    if not bins:
        return mark_safe("")
    x_min = _tenth_below(min(each.confidence for each in bins))
    frame = _Frame(width, height, 1 - x_min, min(x_min, _tenth_below(min(each.low for each in bins))))
    marks = format_html_join(
        "",
        '<line class="whisker" x1="{}" x2="{}" y1="{}" y2="{}"/>'
        '<circle class="mark audit" cx="{}" cy="{}" r="4"><title>{}</title></circle>',
        (
            (
                *(frame.x(each.confidence - x_min),) * 2,
                frame.y(each.low),
                frame.y(each.high),
                frame.x(each.confidence - x_min),
                frame.y(each.accuracy),
                _("%(sure)s sure, right on %(right)s of %(n)s (%(low)s to %(high)s)")
                % {
                    "sure": percent(each.confidence, 1),
                    "right": each.right,
                    "n": each.n,
                    "low": percent(each.low, 1),
                    "high": percent(each.high, 1),
                },
            )
            for each in bins
        ),
    )
    return format_html(
        '<svg class="chart" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}{}'
        '<line class="ideal" x1="{}" x2="{}" y1="{}" y2="{}"/>{}</svg>',
        width,
        height,
        width,
        height,
        _("Accuracy over confidence on random checks:")
        + " "
        + ", ".join(
            _("%(sure)s sure and %(right)s right")
            % {"sure": percent(each.confidence), "right": percent(each.accuracy)}
            for each in bins
        ),
        _rows(frame),
        _shares(frame, x_min),
        frame.x(0),
        frame.x(1 - x_min),
        frame.y(x_min),
        frame.y(1),
        marks,
    )


def columns_chart(columns: Sequence[Column], said: str, *, width: int = 680, height: int = 180) -> SafeString:
    """Bars side by side, each from 0 and cut into its parts; empty where nothing is counted.

    said: for screen readers what is counted; the largest bar is named after it. Every bar says its own numbers.
    """
    most = max((column.count for column in columns), default=0)
    if not most:
        return mark_safe("")
    step = max(1.0, nice_step(most, 4))
    top = step * math.ceil(most / step)
    wide = (width - _LEFT - _RIGHT) / len(columns)
    floor, tall = height - _AXIS, height - _AXIS - _TOP
    grid = format_html_join(
        "",
        '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" text-anchor="end">{}</text>',
        (
            (_LEFT, width - _RIGHT, y, y, _LEFT - 7, y + 4, thousands(at))
            for at in (step * index for index in range(round(top / step) + 1))
            for y in (round(floor - tall * at / top, 1),)
        ),
    )
    # As many titles as have room: letters are some 7 pixels wide.
    room = 12 + 7 * max(len(column.title) for column in columns)
    every = max(1, math.ceil(len(columns) * room / (width - _LEFT - _RIGHT)))
    ticks = format_html_join(
        "",
        '<text x="{}" y="{}" text-anchor="middle">{}</text>',
        (
            (round(_LEFT + wide * (place + 0.5), 1), floor + 17, column.title)
            for place, column in enumerate(columns)
            if (len(columns) - 1 - place) % every == 0
        ),
    )
    bars = format_html_join(
        "",
        "{}",
        ((_column(column, _LEFT + wide * place, wide, floor, tall / top),) for place, column in enumerate(columns)),
    )
    largest = max(columns, key=lambda column: column.count)
    return format_html(
        '<svg class="chart columns-chart" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">'
        "{}{}{}</svg>",
        *(width, height, width, height, f"{said}: {largest.title} {thousands(largest.count)}", grid, ticks, bars),
    )


def _column(column: Column, x: float, wide: float, floor: float, scale: float) -> SafeString:
    """One bar; scale: pixels for each that is counted."""
    pieces: list[tuple[Any, ...]] = []
    y = float(floor)
    for part in column.parts:
        if part.count:
            tall = part.count * scale
            y -= tall
            said = f"{column.title}: {thousands(part.count)} {within(part.title)}"
            place = (round(x + wide * 0.12, 1), round(wide * 0.76, 1), round(y, 1), round(tall, 1))
            pieces.append((part.look, *place, said))
    return format_html_join(
        "", '<rect class="key {}" x="{}" width="{}" y="{}" height="{}"><title>{}</title></rect>', pieces
    )


def _tenth_below(rate: float) -> float:
    return max(0.0, min(0.9, math.floor(rate * 10 - 1e-9) / 10))


def _shares(frame: _Frame, x_min: float) -> SafeString:
    """The ticks of an axis of rates that begins at x_min, and its title."""
    step = 0.1 if x_min >= 0.5 else 0.2
    at = [1 - step * index for index in range(int((1 - x_min) / step + 1.001))]
    ticks = format_html_join(
        "",
        '<text x="{}" y="{}" text-anchor="{}">{}</text>',
        (
            (frame.x(each - x_min), frame.height - _BOTTOM + 17, "middle" if each < 1 else "end", percent(each))
            for each in at
        ),
    )
    return ticks + format_html(
        '<text x="{}" y="{}" text-anchor="end">{}</text>', frame.width - _RIGHT, frame.height - 4, _("confidence")
    )


def trend(
    history: Sequence[Mapping[str, float]], name: str, *, budget_s: float, width: int = 300, height: int = 48
) -> SafeString:
    """A small line of one number of a training's history over its time, from 0 to its largest; empty without it.

    Silent for screen readers: the newest value stands beside it.
    """
    at = [(each["seconds"], each[name]) for each in history if math.isfinite(each.get(name, math.nan))]
    if not at:
        return mark_safe("")
    most_s, most = max(budget_s, at[-1][0], 1.0), max(1e-9, *(value for _, value in at))
    places = [(round(width * x / most_s, 1), round(height - 2 - (height - 4) * max(0.0, y) / most, 1)) for x, y in at]
    return format_html(
        '<svg class="trend" viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true">'
        '<polyline class="line audit" points="{}"/></svg>',
        width,
        height,
        _points(places),
    )


def _axes(frame: _Frame, x_title: str = "") -> SafeString:
    # Less than two minutes are counted in tenths and hundredths.
    shrunk = 1.0 if frame.x_max >= 2 else 100.0
    x_step = nice_step(frame.x_max * shrunk, max(2, frame.width // 90)) / shrunk
    columns = [x_step * index for index in range(int(frame.x_max / x_step + 1e-9) + 1)]
    ticks = format_html_join(
        "",
        '<text x="{}" y="{}" text-anchor="middle">{}</text>',
        (
            (frame.x(at), frame.height - _BOTTOM + 17, thousands(at) if x_step >= 1 else written(f"{at:g}"))
            for at in columns
        ),
    )
    title = format_html(
        '<text x="{}" y="{}" text-anchor="end">{}</text>',
        frame.width - _RIGHT,
        frame.height - 4,
        x_title or _("answers given"),
    )
    return _rows(frame) + ticks + title


def _rows(frame: _Frame) -> SafeString:
    """The lines of the axis of rates, and what each stands for."""
    y_step = 0.1 if 1 - frame.y_min <= 0.5 else 0.2
    rows = [1 - y_step * index for index in range(int((1 - frame.y_min) / y_step + 1.001))]
    return format_html_join(
        "",
        '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" text-anchor="end">{}</text>',
        (
            (_LEFT, frame.width - _RIGHT, frame.y(at), frame.y(at), _LEFT - 7, frame.y(at) + 4, percent(at))
            for at in rows
        ),
    )


def _band(frame: _Frame, audit: Sequence[Estimate]) -> SafeString:
    if len(audit) == 1:
        x = frame.x(audit[0].answers)
        return format_html(
            '<line class="whisker" x1="{}" x2="{}" y1="{}" y2="{}"/>',
            x,
            x,
            frame.y(audit[0].low),
            frame.y(audit[0].high),
        )
    edge = [(frame.x(each.answers), frame.y(each.high)) for each in audit]
    edge += [(frame.x(each.answers), frame.y(each.low)) for each in reversed(audit)]
    return format_html('<polygon class="band" points="{}"/>', _points(edge)) if edge else mark_safe("")


def _line(frame: _Frame, estimates: Sequence[Estimate], look: str) -> SafeString:
    at = [(frame.x(each.answers), frame.y(each.accuracy)) for each in estimates]
    line = format_html('<polyline class="line {}" points="{}"/>', look, _points(at)) if len(at) > 1 else mark_safe("")
    every = max(1, math.ceil(len(at) / MARKS_AT_MOST))
    marked = list(zip(at, estimates, strict=True))[::-1][::every][::-1]
    what = (
        _("%(rate)s (%(low)s to %(high)s) on %(n)s random checks, after %(answers)s answers")
        if look == "audit"
        else _("%(rate)s (%(low)s to %(high)s) on %(n)s test images, after %(answers)s answers")
    )
    marks = format_html_join(
        "",
        '<circle class="mark {}" cx="{}" cy="{}" r="3"><title>{}</title></circle>',
        (
            (
                look,
                *place,
                what
                % {
                    "rate": percent(each.accuracy, 1),
                    "low": percent(each.low, 1),
                    "high": percent(each.high, 1),
                    "n": each.n,
                    "answers": each.answers,
                },
            )
            for place, each in marked
        ),
    )
    return line + marks


def _points(at: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in at)


def share_bar(parts: Sequence[Part], label: str) -> SafeString:
    """One bar cut into parts by their counts, full width; an empty whole is an empty bar."""
    whole = sum(part.count for part in parts)
    pieces, before = [], 0
    for part in parts:
        if part.count:
            pieces.append((part.look, _percent(before, whole), _percent(part.count, whole), part.title, part.count))
            before += part.count
    rects = format_html_join(
        "",
        '<rect class="{}" x="{}%" width="{}%" height="100%"><title>{}: {}</title></rect>',
        pieces,
    )
    said = ", ".join(f"{part.count} {within(part.title)}" for part in parts)
    return format_html('<svg class="bar" role="img" aria-label="{}: {}">{}</svg>', label, said, rects)


def amount_bar(count: int, most: int, colour: str) -> SafeString:
    """A bar as long as ``count`` is of ``most``; silent for screen readers, because the number stands beside it."""
    return format_html(
        '<svg class="bar" aria-hidden="true"><rect width="{}%" height="100%" fill="{}"/></svg>',
        _percent(count, most),
        colour,
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3f}" if whole else "0"
