"""What a back-test found, as text and as rows: for a terminal, a page and a spreadsheet alike. Pure functions of what
`simulate --json` writes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Line = Mapping[str, Any]

OF_A_REPLAY = (
    "accuracy is on the random checks that were held back, which stand for the whole pool;",
    "the images that people were asked about are harder: hold the functions against each other only",
    "random_checks: nothing was learnt but the random checks that were not held back",
)

# The first row of a spreadsheet of a back-test's points.
COLUMNS = (
    "acquisition",
    "head",
    "trainer",
    "seed",
    "labels",
    "test_accuracy",
    "test_accuracy_low",
    "test_accuracy_high",
    "pseudo_label_accuracy",
    "target_precision",
    "confidence",
    "threshold_per_class",
    "auto_accepted",
    "auto_accepted_precision",
    "checked",
)


def rows(result: Mapping[str, Any]) -> Iterator[list[Any]]:
    """A row for each point of each run and gate, in the order of COLUMNS."""
    for run in result["runs"]:
        for gate in run["gates"]:
            for point, passed in zip(run["curve"], gate["curve"], strict=True):
                both = {**run, **gate, **point, **passed}
                yield [both[name] for name in COLUMNS]


def name_of(line: Line, lines: Sequence[Line]) -> str:
    """What a configuration is called beside others: as much of it as tells them apart."""
    parts = [str(line["acquisition"])]
    if len({each["head"] for each in lines}) > 1:
        parts.append(str(line["head"]))
    if line["trainer"] != "none":
        parts.append(f"network trained by {line['trainer']}")
    return ", ".join(parts)


def tables(result: Mapping[str, Any]) -> list[str]:
    """For a terminal: a block per configuration, one line per number of answers, then what it comes to."""
    summary = result["summary"]
    what = "test" if result["measured_on"] == "test" else "held out random checks"
    sizes = f"pool {result['n_pool']}, {what} {result['n_test']}, {len(result['classes'])} classes"
    lines = [f"{result['source']}: {sizes}", *(() if result["measured_on"] == "test" else OF_A_REPLAY)]
    for curve in summary["curves"]:
        same = [run for run in result["runs"] if all(run[name] == curve[name] for name in _KEY)]
        lines += ["", name_of(curve, summary["curves"])]
        lines.append("answers  test accuracy  pseudo-labels  auto-accepted  its precision  seconds")
        lines += _points(same)
    lines += ["", *_comparison(summary)]
    return [*lines, "", *_gates(summary, result["measured_on"])]


_KEY = ("acquisition", "head", "trainer")


def _points(same: Sequence[Line]) -> Iterator[str]:
    for points in zip(*(run["curve"] for run in same), strict=False):
        yield (
            f"{points[0]['labels']:7d}"
            f"{_mean(points, 'test_accuracy', deviation=True):>15}"
            f"{_mean(points, 'pseudo_label_accuracy'):>15}"
            f"{_mean(points, 'auto_accepted'):>15}"
            f"{_mean(points, 'auto_accepted_precision'):>15}"
            f"{_mean(points, 'seconds'):>9}"
        )


def _mean(points: Sequence[Line], key: str, deviation: bool = False) -> str:
    values = [point[key] for point in points if point[key] is not None]
    if not values:
        return "-"
    mean = sum(values) / len(values)
    if not deviation:
        return f"{mean:.3f}"
    return f"{mean:.3f} ± {(sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5:.3f}"


def _comparison(summary: Line) -> Iterator[str]:
    curves = summary["curves"]
    is_compared = any(curve["baseline"] for curve in curves)
    seeds = f"{summary['seeds']} seed{'' if summary['seeds'] == 1 else 's'}"
    width = max(len(name_of(curve, curves)) for curve in curves)
    against = ", and against a baseline" if is_compared else ""
    yield f"accuracy averaged over the answers{against} (95 % intervals over {seeds})"
    for curve in curves:
        name = f"{name_of(curve, curves):{width}}"
        if not curve["area"]:
            yield f"{name}  no model, or not at the same numbers of answers as the others"
            continue
        span = f"{curve['area']['from']} to {curve['area']['to']} answers: "
        yield f"{name}  {span}{_interval(curve['area'])}  {_against(curve, curves)}".rstrip()
    if not is_compared:
        return
    yield ""
    yield "answers until the accuracy the baseline has in the end"
    for curve in curves:
        if curve["labels"] and (curve["baseline"] or _is_baseline(curve, curves)):
            yield f"{name_of(curve, curves):{width}}  {_saved(curve['labels'], summary['seeds'])}"


def _is_baseline(curve: Line, curves: Sequence[Line]) -> bool:
    """Whether another is held against this one: what runs alone is nobody's baseline."""
    held = (each["baseline"] for each in curves if each["baseline"])
    return any(all(against[name] == curve[name] for name in _KEY) for against in held)


def _against(curve: Line, curves: Sequence[Line]) -> str:
    found = curve["area_difference"]
    if not found:
        return "baseline" if _is_baseline(curve, curves) else ""
    why = curve.get("lack") or "one seed says little"
    said = f"{found['verdict']} than" if found["verdict"] else f"({why}) against"
    return f"{_interval(found, '+.3f')} {said} {name_of(curve['baseline'], curves)}"


def _interval(found: Line, how: str = ".3f") -> str:
    if found["low"] is None:
        return format(found["mean"], how)
    return f"{found['mean']:{how}} ({found['low']:{how}} to {found['high']:{how}})"


def _saved(labels: Line, seeds: int) -> str:
    reached = "" if labels["reached"] == seeds else f", reached in {labels['reached']} of {seeds} seeds"
    taken = f"{labels['answers']['mean']:5.0f} to {labels['accuracy']:.3f}{reached}"
    saved = labels["saved"]
    if saved is None:
        return f"{taken}  baseline"
    if saved["verdict"] is None:
        return f"{taken}  saves {saved['mean']:.0f}"
    said = "" if saved["verdict"] != "no better" else ": no better"
    return f"{taken}  saves {_interval(saved, '.0f')}{said}"


def _gates(summary: Line, measured_on: str) -> Iterator[str]:
    """Promised and true, a line for each gate."""
    yield "what would be accepted unseen, promised and true"
    for gate in summary["gates"]:
        per_class = ", per class" if gate["threshold_per_class"] else ""
        promise = f"{gate['target_precision']:.1%} at {gate['confidence']:.0%}{per_class}"
        name = name_of(gate, summary["gates"])
        if not gate["opened"]:
            yield f"{name}  {promise}: nothing passed in {gate['runs']} runs; it takes more random checks"
            continue
        truth = "-" if gate["precision"] is None else f"{gate['precision']:.4f}"
        if gate["broken"] is None:
            sure = f" ({gate['precision_low']:.3f} to {gate['precision_high']:.3f})" if gate["precision_low"] else ""
            judged = f"right among {gate['checked']:.0f} held out checks a run: {truth}{sure}"
        else:
            judged = f"right {truth}, below the promise in {gate['broken']} of {gate['runs']} runs"
            judged += f" ({gate['broken_low']:.0%} to {gate['broken_high']:.0%}; {1 - gate['confidence']:.0%} allowed)"
        opened = f"opened in {gate['opened']} of {gate['runs']} runs"
        yield f"{name}  {promise}: {opened}, {gate['accepted']:.1%} of the pool in the end, {judged}"
