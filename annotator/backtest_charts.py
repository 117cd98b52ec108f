"""Curves of a back-test as SVG text, after the manner of charts.py: colours and strokes are in css/backtesting.css."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _

from annotator.charts import nice_step
from annotator.wording import percent, thousands, with_interval

# Looks there are of a line; a ninth one looks like the first.
LOOKS = 8
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 14, 10, 38


@dataclass(frozen=True)
class Series:
    """A mean curve: points of `labels`, `mean`, `low` and `high` (0..1, or None). look: 0 to LOOKS - 1."""

    title: str
    points: Sequence[Mapping[str, Any]]
    look: int

    @property
    def drawn(self) -> list[Mapping[str, Any]]:
        return [point for point in self.points if point["mean"] is not None]

    @property
    def banded(self) -> list[Mapping[str, Any]]:
        return [point for point in self.drawn if point["low"] is not None]


@dataclass(frozen=True)
class _Frame:
    """Where values land: x x_min..x_max and y y_min..1 inside the margins of a width x height picture."""

    width: int
    height: int
    x_min: float
    x_max: float
    y_min: float

    def x(self, value: float) -> float:
        share = (value - self.x_min) / max(1e-9, self.x_max - self.x_min)
        return round(_LEFT + (self.width - _LEFT - _RIGHT) * share, 1)

    def y(self, value: float) -> float:
        share = (min(1.0, max(self.y_min, value)) - self.y_min) / (1 - self.y_min)
        return round(self.height - _BOTTOM - (self.height - _TOP - _BOTTOM) * share, 1)


def curves_chart(series: Sequence[Series], *, width: int = 760, height: int = 320) -> SafeString:
    """Mean accuracies over the answers, a band round each; empty where no curve has a point.

    The accuracy axis ends at 1 and begins at the tenth below every mean; a band may be cut off there.
    """
    points = [point for each in series for point in each.drawn]
    if not points:
        return mark_safe("")
    lowest = min(point["mean"] for point in points)
    y_min = max(0.0, min(0.9, math.floor(lowest * 10 - 1e-9) / 10))
    labels = [point["labels"] for point in points]
    frame = _Frame(width, height, min(labels) if len(set(labels)) > 1 else 0, max(labels), y_min)
    best = max(series, key=lambda each: each.drawn[-1]["mean"] if each.drawn else -1.0)
    said = _(
        "Mean accuracy over the answers of %(n)s curves; highest at the end: %(best)s, %(rate)s at %(answers)s answers"
    ) % {
        "n": len(series),
        "best": best.title,
        "rate": percent(best.drawn[-1]["mean"], 1),
        "answers": best.drawn[-1]["labels"],
    }
    return format_html(
        '<svg class="chart curves" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}{}{}</svg>',
        width,
        height,
        width,
        height,
        said,
        _axes(frame),
        format_html_join("", "{}", ((_band(frame, each),) for each in series)),
        format_html_join("", "{}", ((_line(frame, each),) for each in series)),
    )


def key(look: int) -> SafeString:
    """A piece of a line, for a legend or a table."""
    return format_html(
        '<svg class="curves key-line" width="26" height="10" aria-hidden="true">'
        '<line class="curve look-{}" x1="1" x2="25" y1="5" y2="5"/></svg>',
        look,
    )


def _axes(frame: _Frame) -> SafeString:
    y_step = 0.1 if 1 - frame.y_min <= 0.5 else 0.2
    rows = [1 - y_step * index for index in range(int((1 - frame.y_min) / y_step + 1.001))]
    x_step = nice_step(frame.x_max - frame.x_min or 1.0, max(2, frame.width // 90))
    first = math.ceil(frame.x_min / x_step)
    columns = [x_step * index for index in range(first, int(frame.x_max / x_step + 1e-9) + 1)]
    grid = format_html_join(
        "",
        '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" text-anchor="end">{}</text>',
        (
            (_LEFT, frame.width - _RIGHT, frame.y(at), frame.y(at), _LEFT - 7, frame.y(at) + 4, percent(at))
            for at in rows
        ),
    )
    ticks = format_html_join(
        "",
        '<text x="{}" y="{}" text-anchor="middle">{}</text>',
        ((frame.x(at), frame.height - _BOTTOM + 17, thousands(at)) for at in columns),
    )
    title = format_html(
        '<text x="{}" y="{}" text-anchor="end">{}</text>', frame.width - _RIGHT, frame.height - 4, _("answers")
    )
    return grid + ticks + title


def _band(frame: _Frame, each: Series) -> SafeString:
    banded = each.banded
    edge = [(frame.x(point["labels"]), frame.y(point["high"])) for point in banded]
    edge += [(frame.x(point["labels"]), frame.y(point["low"])) for point in reversed(banded)]
    if len(banded) < 2:
        return mark_safe("")
    return format_html('<polygon class="curve-band look-{}" points="{}"/>', each.look, _points(edge))


def _line(frame: _Frame, each: Series) -> SafeString:
    at = [(frame.x(point["labels"]), frame.y(point["mean"])) for point in each.drawn]
    line = format_html('<polyline class="curve look-{}" points="{}"/>', each.look, _points(at))
    marks = format_html_join(
        "",
        '<circle class="curve-mark look-{}" cx="{}" cy="{}" r="3"><title>{}</title></circle>',
        ((each.look, *place, _said(each, point)) for place, point in zip(at, each.drawn, strict=True)),
    )
    return line + marks


def _said(each: Series, point: Mapping[str, Any]) -> str:
    rate = percent(point["mean"], 1)
    if point["low"] is not None:
        rate = with_interval(rate, percent(point["low"], 1), percent(point["high"], 1))
    return _("%(title)s: %(rate)s after %(answers)s answers") % {
        "title": each.title,
        "rate": rate,
        "answers": point["labels"],
    }


def _points(at: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in at)
