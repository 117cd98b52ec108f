"""What a back-test comes to: mean curves, the area under them, labels saved, and whether the gate kept its word.

Intervals are over the seeds, by Student's t: what another draw of test images, random checks and first questions could
have given. They need two seeds, and from two they are wide. Differences are paired: seed by seed, on the same pool.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import t

from ml_worker.backtest_plan import AS_IT_HAPPENED, RANDOM_CHECKS
from ml_worker.evaluate import wilson

BASELINE = "random_sampling"
BETTER, WORSE, NO_BETTER = "better", "worse", "no better"
# Seeds agree by chance at one number of answers, and share what they are measured on: below these no verdict.
POINTS_AT_LEAST, MEASURED_AT_LEAST = 3, 30

Run = Mapping[str, Any]
# What tells configurations apart: acquisition function, head, trainer.
Key = tuple[str, str, str]


def summary(runs: Sequence[Run], *, sampled: bool, n_measured: int) -> dict[str, Any]:
    """Everything of it as JSON: `curves`, one for each configuration in the order they were run, and `gates`, one for
    each configuration and gate. Of a curve `lack` says why its differences have no verdict. runs: as `simulate --json`
    writes them, every configuration with the same seeds. n_measured: images that each seed measures accuracy on.
    sampled: of what passes a gate the truth is known of a sample alone, and all seeds draw it from the same images."""
    by_key: dict[Key, list[Run]] = {}
    for run in runs:
        by_key.setdefault((run["acquisition"], run["head"], run["trainer"]), []).append(run)
    return {
        "seeds": len({run["seed"] for run in runs}),
        "curves": [_configuration(key, by_key, n_measured) for key in by_key],
        "gates": [
            # Random checks as all there is have next to none of them left to certify anything by.
            each
            for key, same in by_key.items()
            if key[0] != RANDOM_CHECKS
            for each in _gates(key, same, sampled)
        ],
    }


def baseline(key: Key, keys: Sequence[Key]) -> Key:
    """What a configuration is held against: a network against the fast loop, which had the same answers; the fast loop
    against images at random with the first head, or, where nobody asked at random, against the first configuration.

    Of past answers, what happened is held against the random checks: both chose from the whole pool.
    """
    if key[2] != "none":
        return key[0], key[1], "none"
    rivals = [each for each in keys if _group(each) == _group(key)]
    return next((each for each in rivals if each[0] in (BASELINE, RANDOM_CHECKS)), rivals[0])


def _group(key: Key) -> tuple[bool, str]:
    """What is compared with each other, over one span of answers: of the fast loop, those that chose from the same."""
    return key[0] in (AS_IT_HAPPENED, RANDOM_CHECKS), key[2]


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float | None, float | None]:
    """The mean and its interval by Student's t; without an interval (None) for fewer than two values."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None, None
    half = float(t.ppf(0.5 + level / 2, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def _configuration(key: Key, by_key: Mapping[Key, Sequence[Run]], n_measured: int) -> dict[str, Any]:
    same, against = by_key[key], baseline(key, list(by_key))
    found: dict[str, Any] = {
        "acquisition": key[0],
        "head": key[1],
        "trainer": key[2],
        "baseline": None if key == against else dict(zip(("acquisition", "head", "trainer"), against, strict=True)),
        "curve": _mean_curve(same),
        "area": None,
        "area_difference": None,
        "labels": None,
        "lack": "",
    }
    # Networks are compared at the numbers of answers at which there are any, the others over one span for all rivals.
    rivals = [each for k, each in by_key.items() if _group(k) == _group(key)]
    group = [by_key[against], same] if key[2] != "none" else rivals
    at = _common_labels(group)
    if not at:
        return found
    areas, theirs = ([_area(run, at) for run in each] for each in (same, by_key[against]))
    found["area"] = _interval(areas) | {"from": at[0], "to": at[-1]}
    if key != against:
        found["lack"] = _lack(at, n_measured)
        found["area_difference"] = _verdict(_interval([a - b for a, b in zip(areas, theirs, strict=True)]))
    if key[2] == "none":
        found["labels"] = _labels_saved(same, by_key[against], at)
    if found["lack"]:
        for difference in (found["area_difference"], (found["labels"] or {}).get("saved")):
            if difference:
                difference["verdict"] = None
    return found


def _lack(at: Sequence[int], n_measured: int) -> str:
    """Why these numbers of answers, or so few images to measure on, bear no verdict; empty where they do."""
    if n_measured < MEASURED_AT_LEAST:
        return f"measured on {n_measured} images, {MEASURED_AT_LEAST} bear a verdict"
    if len(at) < POINTS_AT_LEAST:
        shared = "one number of answers" if len(at) == 1 else f"{len(at)} numbers of answers"
        return f"compared at {shared}, {POINTS_AT_LEAST} bear a verdict"
    return ""


def _interval(values: Sequence[float]) -> dict[str, Any]:
    return dict(zip(("mean", "low", "high"), mean_interval(values), strict=True))


def _verdict(found: dict[str, Any]) -> dict[str, Any]:
    """A difference with what its interval says; None of one seed, which says nothing."""
    if found["low"] is None:
        return found | {"verdict": None}
    return found | {"verdict": BETTER if found["low"] > 0 else WORSE if found["high"] < 0 else NO_BETTER}


def _mean_curve(same: Sequence[Run]) -> list[dict[str, Any]]:
    """At each number of answers that all seeds came to: mean accuracy, its interval (within 0..1), smallest and
    largest; None where a seed had no model yet."""
    points = []
    for labels in _labels(same):
        accuracies = [_accuracies(run).get(labels) for run in same]
        known = [each for each in accuracies if each is not None]
        point: dict[str, Any] = {
            "labels": labels,
            "mean": None,
            "low": None,
            "high": None,
            "least": None,
            "most": None,
        }
        if len(known) == len(accuracies):
            mean, low, high = mean_interval(known)
            point |= {"mean": mean, "least": min(known), "most": max(known)}
            if low is not None and high is not None:
                point |= {"low": max(0.0, low), "high": min(1.0, high)}
        points.append(point)
    return points


def _labels(same: Sequence[Run]) -> list[int]:
    shared = set.intersection(*({point["labels"] for point in run["curve"]} for run in same))
    return sorted(shared)


def _accuracies(run: Run) -> dict[int, float | None]:
    return {point["labels"]: point["test_accuracy"] for point in run["curve"]}


def _common_labels(group: Sequence[Sequence[Run]]) -> list[int]:
    """The numbers of answers at which every run of all these configurations has a model."""
    runs = [run for same in group for run in same]
    known = ({labels for labels, accuracy in _accuracies(run).items() if accuracy is not None} for run in runs)
    return sorted(set.intersection(*known))


def _area(run: Run, at: Sequence[int]) -> float:
    """The mean height of a curve between the first and the last of these numbers of answers, straight lines between;
    with one of them, its height there."""
    accuracies = _accuracies(run)
    heights = np.array([accuracies[labels] for labels in at], np.float64)
    if len(at) == 1:
        return float(heights[0])
    return float(np.trapezoid(heights, at) / (at[-1] - at[0]))


# --- labels saved


def _labels_saved(same: Sequence[Run], theirs: Sequence[Run], at: Sequence[int]) -> dict[str, Any]:
    """Answers it takes to the accuracy that the baseline has in the end, in the mean over the seeds.

    A curve that does not come so far in a seed counts with all its answers there, for either side: that hides a
    difference rather than making one. `reached` says in how many seeds it did come so far. saved: fewer answers than
    the baseline takes by the same rule, seed by seed.
    """
    accuracy = float(np.mean([_accuracies(run)[at[-1]] for run in theirs]))
    mine = [answers_until(run, accuracy, at) for run in same]
    others = [answers_until(run, accuracy, at) for run in theirs]
    counted, against = ([at[-1] if each is None else each for each in taken] for taken in (mine, others))
    saved = [b - a for a, b in zip(counted, against, strict=True)]
    found = {"accuracy": accuracy, "answers": _interval(counted), "reached": sum(each is not None for each in mine)}
    is_baseline = [run["seed"] for run in same] == [run["seed"] for run in theirs] and same is theirs
    return found | {"saved": None if is_baseline else _verdict(_interval(saved))}


def answers_until(run: Run, accuracy: float, at: Sequence[int]) -> float | None:
    """The number of answers at which a curve first comes to this accuracy, on the straight lines between its points;
    None where it never does."""
    accuracies = _accuracies(run)
    heights = [float(accuracies[labels] or 0.0) for labels in at]
    for place, height in enumerate(heights):
        if height < accuracy:
            continue
        if place == 0:
            return float(at[0])
        share = (accuracy - heights[place - 1]) / (height - heights[place - 1])
        return at[place - 1] + share * (at[place] - at[place - 1])
    return None


# --- the gate


def _gates(key: Key, same: Sequence[Run], sampled: bool) -> list[dict[str, Any]]:
    """For each gate what it promised and what was true, over the seeds.

    opened: seeds in which anything passed at any time; broken: those in which less of it was right than promised, at
    any time. The promise allows a share of 1 - confidence of all seeds to be broken; broken_low and broken_high say
    how sure `broken` is of that share (Wilson). accepted: mean share of the pool that stands in the end, seeds without
    a certificate counted as 0. precision: right among what stood in the end, all seeds together; checked: how many
    images of a seed that was told from.

    Where only a sample tells, a seed's sample below the target does not mean that the target was missed: broken is
    None then, and precision_low and precision_high (Wilson) go by as many images as one seed has: all share them.
    """
    return [_gate(key, same, sampled, place) for place in range(len(same[0]["gates"]))]


def _gate(key: Key, same: Sequence[Run], sampled: bool, place: int) -> dict[str, Any]:
    gate, n = same[0]["gates"][place], len(same)
    curves = [run["gates"][place]["curve"] for run in same]
    ends = [curve[-1] for curve in curves if curve]
    right, checked = (sum(end[name] for end in ends) for name in ("right", "checked"))
    found: dict[str, Any] = dict(zip(("acquisition", "head", "trainer"), key, strict=True))
    found |= {name: gate[name] for name in ("target_precision", "confidence", "threshold_per_class")}
    found |= {
        "runs": n,
        "opened": sum(any(point["auto_accepted"] > 0 for point in curve) for curve in curves),
        "accepted": float(np.mean([end["auto_accepted"] for end in ends])) if ends else 0.0,
        "precision": right / checked if checked else None,
        "checked": checked / n,
        **dict.fromkeys(("broken", "broken_low", "broken_high", "precision_low", "precision_high")),
    }
    if sampled and checked:
        found["precision_low"], found["precision_high"] = wilson(round(right / n), max(1, round(checked / n)))
    if not sampled:
        found["broken"] = sum(_is_broken(curve, gate["target_precision"]) for curve in curves)
        found["broken_low"], found["broken_high"] = wilson(found["broken"], n)
    return found


def _is_broken(curve: Sequence[Mapping[str, Any]], target: float) -> bool:
    return any(point["auto_accepted"] > 0 and point["auto_accepted_precision"] < target for point in curve)
