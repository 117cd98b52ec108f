"""The learning curve and what it is expected to do, as SVG text. Numbers in, markup out, as in charts.py."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _

from annotator.charts import nice_step
from annotator.wording import percent, thousands

_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 18, 38


def forecast_chart(forecast: Mapping[str, Any], *, width: int = 680, height: int = 260) -> SafeString:
    """Measured points, the curve through them, and beyond today's answers the band; empty without a curve.

    forecast: as ml_worker/forecast.py has it: ``answers``, ``points`` [[n, accuracy]], ``curve`` [[n, accuracy, low,
    high]] and ``ahead``. The band begins at today's answers: what lies before is measured.
    """
    curve: Sequence[Sequence[float]] = forecast.get("curve") or []
    if len(curve) < 2:
        return mark_safe("")
    now, points = forecast["answers"], forecast["points"]
    lowest = min([each[2] for each in curve if each[0] >= now] + [each[1] for each in curve] + [y for _, y in points])
    y_min = max(0.0, min(0.9, math.floor(lowest * 10 - 1e-9) / 10))
    x_max = float(curve[-1][0])

    def x(n: float) -> float:
        return round(_LEFT + (width - _LEFT - _RIGHT) * n / x_max, 1)

    def y(rate: float) -> float:
        share = (min(1.0, max(y_min, rate)) - y_min) / (1 - y_min)
        return round(height - _BOTTOM - (height - _TOP - _BOTTOM) * share, 1)

    today = [now, forecast.get("now", forecast["accuracy"]), forecast["low"], forecast["high"]]
    past = [each for each in curve if each[0] <= now]
    future = [each for each in curve if each[0] > now]
    middle = _at(curve, now)
    edge = [(now, today[3]), *((n, high) for n, _, _, high in future)]
    edge += [(n, low) for n, _, low, _ in reversed(future)] + [(now, today[2])]
    last = forecast["ahead"][-1] if forecast["ahead"] else None
    said = _("Learning curve: %(rate)s after %(n)s answers") % {"rate": percent(today[1]), "n": thousands(now)}
    if last:
        expected = {"rate": percent(last["accuracy"]), "n": thousands(last["more"])}
        said += "; " + _("%(rate)s expected after %(n)s more") % expected
    return format_html(
        '<svg class="chart" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}'
        '<polygon class="band" points="{}"/><polyline class="line audit" points="{}"/>'
        '<polyline class="line audit ahead" points="{}"/>'
        '<line class="today" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" text-anchor="{}">{}</text>{}</svg>',
        *(width, height, width, height, said),
        _axes(width, height, x_max, y_min, x, y),
        _polyline((x(n), y(rate)) for n, rate in edge),
        _polyline((x(n), y(rate)) for n, rate, *_ in [*past, (now, middle)]),
        _polyline((x(n), y(rate)) for n, rate, *_ in [(now, middle), *future]),
        *(x(now), x(now), _TOP, height - _BOTTOM),
        *(x(now), _TOP - 6, "middle" if _LEFT + 20 < x(now) < width - 30 else "start", _("now")),
        _marks((x(n), y(rate), n, rate) for n, rate in points),
    )


def _at(curve: Sequence[Sequence[float]], now: float) -> float:
    """The curve's accuracy after so many answers, between the two nearest."""
    before = max((each for each in curve if each[0] <= now), default=curve[0], key=lambda each: each[0])
    after = min((each for each in curve if each[0] >= now), default=curve[-1], key=lambda each: each[0])
    share = 0.0 if after[0] == before[0] else (now - before[0]) / (after[0] - before[0])
    return before[1] + share * (after[1] - before[1])


def _axes(width: int, height: int, x_max: float, y_min: float, x: Any, y: Any) -> SafeString:
    y_step = 0.1 if 1 - y_min <= 0.5 else 0.2
    rows = [1 - y_step * index for index in range(int((1 - y_min) / y_step + 1.001))]
    x_step = nice_step(x_max, max(2, width // 90))
    columns = [x_step * index for index in range(int(x_max / x_step + 1e-9) + 1)]
    grid = format_html_join(
        "",
        '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" text-anchor="end">{}</text>',
        ((_LEFT, width - _RIGHT, y(at), y(at), _LEFT - 7, y(at) + 4, percent(at)) for at in rows),
    )
    ticks = format_html_join(
        "",
        '<text x="{}" y="{}" text-anchor="middle">{}</text>',
        ((x(at), height - _BOTTOM + 17, thousands(at)) for at in columns),
    )
    title = format_html(
        '<text x="{}" y="{}" text-anchor="end">{}</text>', width - _RIGHT, height - 4, _("answers learnt from")
    )
    return grid + ticks + title


def _marks(at: Any) -> SafeString:
    return format_html_join(
        "",
        '<circle class="mark audit" cx="{}" cy="{}" r="3"><title>{}</title></circle>',
        (
            (cx, cy, _("%(rate)s from the first %(n)s answers") % {"rate": percent(rate, 1), "n": thousands(n)})
            for cx, cy, n, rate in at
        ),
    )


def _polyline(at: Any) -> str:
    return " ".join(f"{x},{y}" for x, y in at)
