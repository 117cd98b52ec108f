"""The forecast of a project: what the study finds in its answers, and what page and API tell of it."""

import re
import uuid
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from annotator import queries
from annotator.actions import forecasting, queueing, reviewing
from annotator.forecast_charts import forecast_chart
from annotator.models import (
    Annotation,
    AuditEvent,
    Item,
    Job,
    LabelClass,
    ModelVersion,
    Project,
    Proposal,
    Split,
)
from annotator.views.forecasting import error_rows, gain_sentence
from ml_worker import forecasting as worker
from ml_worker import snapshot
from ml_worker.snapshot import Embedded, Snapshot
from tests.cast import bare_items, make_item
from tests.pools import pool_of
from tests.test_api import Caller, error
from tests.test_dashboard import Login

POOL, CHECKS = 120, 40


class Blobs:
    """A project whose items lie in two clouds, cats left and dogs right, that overlap a little."""

    def __init__(self, project: Project, cat: LabelClass, dog: LabelClass, alice: User) -> None:
        self.project, self.alice, self.classes = project, alice, [cat, dog]
        self.items = made = bare_items(project, [Split.AUDIT] * CHECKS + [Split.POOL] * POOL)
        rng = np.random.default_rng(0)
        at = 1.1 * np.array([2.0 * (number % 2) - 1 for number in range(len(made))])
        self.pool = pool_of(np.stack([at + rng.normal(size=len(made)), rng.normal(size=len(made))], axis=1))

    @property
    def checks(self) -> list[Item]:
        return self.items[:CHECKS]

    @property
    def rest(self) -> list[Item]:
        return self.items[CHECKS:]

    def label_of(self, item: Item) -> LabelClass:
        return self.classes[int(item.source_name) % 2]

    def answer(self, items: list[Item], reason: str, **more: Any) -> list[Annotation]:
        """Alice answers these, in this order, as the queue asks for this reason."""
        made = [
            Annotation(
                uuid=uuid.uuid4(),
                project=self.project,
                item=item,
                annotator=self.alice,
                kind="label",
                value={"class": self.label_of(item).pk},
                reason_code=reason,
                **more,
            )
            for item in items
        ]
        Item.objects.filter(pk__in=[item.pk for item in items]).update(state=Item.State.LABELLED)
        return Annotation.objects.bulk_create(made)

    def taken(self) -> Snapshot:
        ids = np.array([item.pk for item in self.items], np.int64)
        codes = np.array([snapshot.SPLIT_CODES[Split(item.split)] for item in self.items], np.uint8)
        return snapshot.against(self.project, Embedded(self.pool, ids, codes))

    def study(self) -> Job:
        """What the study job leaves."""
        taken = self.taken()
        job = Job.objects.create(
            project=self.project,
            kind=Job.Kind.STUDY,
            state=Job.State.DONE,
            finished_at=timezone.now(),
            result={
                "label_count": len(taken.train.rows),
                "forecast": worker.study_forecast(self.project, taken),
                "errors_left": worker.study_errors(self.project, taken),
                "gain": worker.study_gain(self.project, taken),
            },
        )
        job.refresh_from_db()  # as JSON has it
        return job


@pytest.fixture
def blobs(project: Project, cat: LabelClass, dog: LabelClass, alice: User) -> Blobs:
    return Blobs(project, cat, dog, alice)


def says(
    blobs: Blobs, model: ModelVersion, sure: set[int], wrong: set[int] | None = None, n_rows: int = POOL + CHECKS
) -> None:
    """The model's word on disk: 0.95 for those it is sure of and 0.6 for the others, for the right class but where it
    is wrong."""
    columns = [model.class_ids.index(label_class.pk) for label_class in blobs.classes]
    probs = np.zeros((n_rows, 2), np.float16)
    for row in range(n_rows):
        named = columns[(row + (row in (wrong or set()))) % 2]
        probs[row, named], probs[row, 1 - named] = (0.95, 0.05) if row in sure else (0.6, 0.4)
    model.artifact_folder = f"{blobs.project.pk}/model-{model.number}"
    folder = snapshot.embedding_folder(model.artifact_folder)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "probs.npy", probs)
    model.save()


# --- the study ------------------------------------------------------------------------------------------------------


def test_the_course_keeps_the_order_of_the_answers_and_knows_who_asked(blobs: Blobs, model: ModelVersion) -> None:
    blobs.answer(blobs.rest[10:4:-1], "close_call")
    blobs.answer(blobs.rest[20:22], "", source=Annotation.Source.IMPORTED)
    item = blobs.rest[30]
    proposal = Proposal.objects.create(
        project=blobs.project, item=item, model_version=model, value={"class": blobs.label_of(item).pk},
        confidence=0.9, state=Proposal.State.ACCEPTED, decided_at=timezone.now(),
    )  # fmt: skip
    blobs.answer([item], "", settles=proposal)
    course = worker.course(blobs.project, blobs.taken())
    wanted = [*blobs.rest[10:4:-1], *blobs.rest[20:22], item]
    assert course.given.rows.tolist() == [int(each.source_name) for each in wanted]
    assert course.given.targets.tolist() == [int(each.source_name) % 2 for each in wanted]
    assert course.asked.tolist() == [True] * 6 + [False] * 3
    assert course.of_reasons({"close_call"}).rows.tolist() == course.given.rows[:6].tolist()


def test_the_curve_is_measured_on_all_checks_from_the_first_answers_on(blobs: Blobs) -> None:
    blobs.answer(blobs.checks, "audit")
    blobs.answer(blobs.rest[:80], "close_call")
    told = worker.study_forecast(blobs.project, blobs.taken())
    assert told["lack"] == ""
    assert [n for n, _ in told["points"]] == [10, 20, 30, 40, 50, 60, 70, 80]
    assert (told["answers"], told["checks"], told["advised"]) == (80, CHECKS, POOL - 80)
    assert told["points"][-1][1] == told["accuracy"] > 0.8
    assert [each["more"] for each in told["ahead"]] == [POOL - 80]
    assert told["advice"] in ("stop", "go_on", "open")
    assert not told["is_trained"] and not told["from_history"]


def test_too_few_checks_are_counted_and_nothing_is_fitted(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs.answer(blobs.checks[:12], "audit")
    blobs.answer(blobs.rest[:40], "close_call")
    monkeypatch.setattr(worker.forecast, "measure", None)
    told = worker.study_forecast(blobs.project, blobs.taken())
    assert told["lack"] == "12 of 30 random checks are answered"
    assert "ahead" not in told


def test_a_large_pool_goes_by_what_its_models_scored(
    blobs: Blobs, model: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rates of then on the checks of now; models of another embedding, or on fewer than 30 checks, are left out."""
    blobs.answer(blobs.checks, "audit")
    blobs.answer(blobs.rest[:80], "close_call")
    model.delete()
    scores = [("old", 10, 40, 0.1), ("new", 20, 29, 0.2), ("new", 40, 40, 0.7), ("new", 50, 40, 0.75),
              ("new", 60, 40, 0.8), ("new", 70, 40, 0.8), ("new", 80, 40, 0.85)]  # fmt: skip
    for number, (embedding, labels, n, accuracy) in enumerate(scores):
        ModelVersion.objects.create(
            project=blobs.project, number=number + 1, encoder="pca_pixels", algorithm="label_spreading", class_ids=[],
            label_watermark=0, label_count=labels, answer_count=labels, artifact_folder="",
            metrics={"embedding": embedding, "audit": {"n": n, "accuracy": accuracy}},
        )  # fmt: skip
    monkeypatch.setattr(worker, "REFIT_AT_MOST", 100)
    told = worker.study_forecast(blobs.project, blobs.taken())
    assert told["from_history"]
    assert told["points"] == [[40, 0.7], [50, 0.75], [60, 0.8], [70, 0.8], [80, 0.85]]
    assert "not learnt anew" in worker.study_gain(blobs.project, blobs.taken())["lack"]


def test_chosen_answers_are_held_against_random_ones(blobs: Blobs) -> None:
    blobs.answer(blobs.checks, "audit")
    blobs.answer(blobs.rest[:24], "baseline")
    blobs.answer(blobs.rest[24:60], "close_call")
    blobs.answer(blobs.rest[60:66], "suspect")
    told = worker.study_gain(blobs.project, blobs.taken())
    assert (told["lack"], told["n"], told["checks"], told["by"]) == ("", 24, CHECKS, "close_call")
    assert told["low"] <= told["difference"] <= told["high"]
    assert told["difference"] == pytest.approx(told["chosen"] - told["baseline"])


def test_too_few_random_answers_are_counted(blobs: Blobs) -> None:
    blobs.answer(blobs.checks, "audit")
    blobs.answer(blobs.rest[:12], "baseline")
    blobs.answer(blobs.rest[24:60], "close_call")
    told = worker.study_gain(blobs.project, blobs.taken())
    assert (told["baseline_answers"], told["wanted"]) == (12, 20)
    assert told["lack"].startswith("12 of 20 answers")


def test_errors_are_counted_by_origin(blobs: Blobs, model: ModelVersion, bob: User) -> None:
    """The model proposes from 0.9 on. Of 40 checks it is so sure of 28 and right, of 12 it is not, and wrong in 4."""
    blobs.answer(blobs.checks, "audit")
    sure = {*range(28), *range(CHECKS + 40, CHECKS + 100)}  # of the pool 60, of which the cap lets 20 be proposed
    says(blobs, model, sure, wrong=set(range(28, 32)))
    first = blobs.answer(blobs.rest[:30], "close_call")
    blobs.answer(blobs.rest[30:35], "", source=Annotation.Source.IMPORTED)
    for given in first[:4]:
        Annotation.objects.create(
            uuid=uuid.uuid4(), project=blobs.project, item=given.item, annotator=bob, kind="label",
            value=given.value if given is not first[0] else {"class": blobs.classes[1 - int(given.item.source_name) %
            2].pk}, reason_code="second_opinion",
        )  # fmt: skip
    for item in blobs.rest[40:60]:
        Proposal.objects.create(
            project=blobs.project, item=item, model_version=model, value={"class": blobs.label_of(item).pk},
            confidence=0.95,
        )  # fmt: skip
    told = worker.study_errors(blobs.project, blobs.taken())
    there = {row["name"]: row for row in told["there"]}
    assert (there["answered"]["count"], there["answered"]["checked"], there["answered"]["wrong"]) == (
        30 + CHECKS,
        4,
        1,
    )
    assert there["answered"]["expected"] is None and there["answered"]["high"] >= 7
    assert there["imported"]["high"] is None
    assert told["unmeasured"] == 5
    still_open = {row["name"]: row for row in told["open"]}
    assert [still_open["sure"][key] for key in ("count", "checked", "wrong")] == [60, 28, 0]
    rest = still_open["less_sure"]
    assert [rest[key] for key in ("count", "checked", "wrong")] == [POOL - 35 - 60, 12, 4]
    assert rest["expected"] == pytest.approx(4 / 12 * rest["count"])
    assert told["sum"]["high"] == there["answered"]["high"]
    assert told["sum_with_open"]["high"] >= there["answered"]["high"] + rest["high"]


def test_a_handful_of_checks_measures_no_stratum(blobs: Blobs, model: ModelVersion) -> None:
    """Nine sure checks without an error would say "likely 0"; nor does the sum leave these images out silently."""
    blobs.answer(blobs.checks, "audit")
    for n_sure, is_told in ((9, False), (10, True)):
        says(blobs, model, {*range(n_sure), *range(CHECKS, CHECKS + 50)})
        told = worker.study_errors(blobs.project, blobs.taken())
        sure, less_sure = told["open"]
        assert (sure["count"], sure["checked"], less_sure["checked"]) == (50, n_sure, CHECKS - n_sure)
        assert (sure["high"] is not None, told["sum_with_open"] is not None) == (is_told, is_told)
        assert less_sure["high"] is not None
        shown = {row.title: row.wrong for row in error_rows(told)}
        assert (shown["Open, as sure as what is proposed"] == "not measured") is not is_told


def test_the_columns_of_the_model_are_its_own(blobs: Blobs, model: ModelVersion) -> None:
    blobs.answer(blobs.checks, "audit")
    model.class_ids = model.class_ids[::-1]
    says(blobs, model, set())
    assert worker.study_errors(blobs.project, blobs.taken())["open"][0]["wrong"] == 0


def test_open_images_are_not_told_without_the_models_word(blobs: Blobs, model: ModelVersion) -> None:
    blobs.answer(blobs.checks, "audit")
    told = worker.study_errors(blobs.project, blobs.taken())
    assert (told["open"], told["sum_with_open"]) == ([], None)
    says(blobs, model, set(), n_rows=POOL)  # of an embedding before the last import
    assert worker.study_errors(blobs.project, blobs.taken())["open"] == []


def test_a_suggestion_makes_a_second_answer_no_evidence(blobs: Blobs, bob: User) -> None:
    given = blobs.answer(blobs.rest[:1], "close_call")[0]
    Annotation.objects.create(
        uuid=uuid.uuid4(), project=blobs.project, item=given.item, annotator=bob, kind="label", value=given.value,
        reason_code="second_opinion", suggestion_shown=True,
    )  # fmt: skip
    told = worker.study_errors(blobs.project, blobs.taken())
    assert told["there"][0]["checked"] == 0


@pytest.mark.slow
def test_the_study_job_leaves_every_part(project: Project, cat: LabelClass, dog: LabelClass, alice: User) -> None:
    from annotator import jobs
    from annotator.actions import training
    from tests.test_training import add_pictures, run_now

    checks = add_pictures(project, range(1000, 1040), Split.AUDIT)
    items = add_pictures(project, range(60))
    run_now(training.request_embedding(project=project))
    made = [
        Annotation(
            uuid=uuid.uuid4(), project=project, item=item, annotator=alice, kind="label",
            value={"class": (dog if int(item.source_name) % 2 else cat).pk},
            reason_code="audit" if item.split == Split.AUDIT else "baseline" if int(item.source_name) % 3 else
            "typical",
        )
        for item in [*checks, *items[:50]]
    ]  # fmt: skip
    Annotation.objects.bulk_create(made)
    Item.objects.filter(pk__in=[each.item_id for each in made]).update(state=Item.State.LABELLED)
    run_now(jobs.enqueue(project, Job.Kind.STUDY))
    study = queries.newest_study(project)
    assert study is not None
    assert study.result["forecast"]["answers"] == 50
    assert study.result["gain"]["lack"] == "17 of 20 answers to chosen images are given"
    assert study.result["errors_left"]["there"][0]["count"] == 90


# --- pace and advice ------------------------------------------------------------------------------------------------


def test_the_pace_is_the_median_of_the_persons_own_last_answers(blobs: Blobs, bob: User) -> None:
    assert forecasting.pace_of(blobs.project, blobs.alice) is None
    for item, milliseconds in zip(blobs.rest, [1000, 2000, 3000, 4000, 100_000], strict=False):
        blobs.answer([item], "close_call", milliseconds=milliseconds)
    mine = forecasting.pace_of(blobs.project, blobs.alice)
    theirs = forecasting.pace_of(blobs.project, bob)
    assert mine == forecasting.Pace(3.0, 5, "your")
    assert theirs == forecasting.Pace(3.0, 5, "the team's")


def test_the_pace_of_reviewing_leaves_pauses_out(blobs: Blobs, carol: User) -> None:
    """Screenfuls of 60 at 0, 30, 60, 3600 and 3660 s: three gaps of 30, 30 and 60 s for 180 images."""
    start = timezone.now() - timedelta(hours=2)
    for at in (0, 30, 60, 3600, 3660):
        event = AuditEvent.objects.create(
            project=blobs.project, actor=carol, verb="reviewed proposals", detail={"accepted": 58, "rejected": 2}
        )
        AuditEvent.objects.filter(pk=event.pk).update(at=start + timedelta(seconds=at))
    assert forecasting.review_seconds(blobs.project, carol) == pytest.approx(120 / 180)
    assert forecasting.review_seconds(blobs.project, blobs.alice) is None


def told(advice: str, gain: float = 0.004, low: float = 0.0, high: float = 0.011) -> dict[str, Any]:
    step = {"more": 100, "accuracy": 0.95, "low": 0.9, "high": 0.99, "gain": gain, "gain_low": low, "gain_high": high}
    return {"lack": "", "advised": 100, "advice": advice, "ahead": [step]}


@pytest.mark.parametrize(
    ("forecast", "kind", "sentence"),
    [
        ({}, "early", "Too early to tell: nothing has been studied yet"),
        (
            {"lack": "12 of 30 random checks are answered"},
            "early",
            "Too early to tell: 12 of 30 random checks are answered",
        ),
        (
            told("stop"),
            "stop",
            "The next 100 answers are expected to raise accuracy by 0.4 points (0 to 1.1): going on pays little",
        ),
        (
            told("stop", 0.0003, -0.012, 0.012),
            "stop",
            "The next 100 answers are not expected to raise accuracy (−1.2 to 1.2 points): going on pays little",
        ),
        (
            told("go_on", 0.03, 0.012, 0.06),
            "go_on",
            "Go on: the next 100 answers are worth about 3 points (1.2 to 6)",
        ),
        (
            told("open", 0.01, -0.013, 0.04),
            "open",
            "Whether going on pays cannot be told yet: the next 100 answers are worth 1.0 point (−1.3 to 4)",
        ),
        ({"lack": "", "advised": 0, "ahead": [], "advice": "stop"}, "stop", "No image is left to ask about"),
    ],
)
def test_the_advice_follows_from_the_numbers(forecast: dict[str, Any], kind: str, sentence: str) -> None:
    assert forecasting.advise(forecast) == (kind, sentence)


@pytest.mark.parametrize(
    ("minutes", "said"),
    [(0.2, "less than a minute"), (1.0, "1 minute"), (9.4, "9 minutes"), (150, "2.5 hours"), (90_000, "1,500 hours")],
)
def test_times_are_said_as_people_plan(minutes: float, said: str) -> None:
    assert forecasting.lasting(minutes) == said


@pytest.mark.parametrize(
    ("likely", "few", "many", "note"),
    [
        (120, 40, None, "40 at least, perhaps never"),
        (120, 0, None, "perhaps reached already, perhaps never"),
        (120, 0, 500, "500 at most, perhaps reached already"),
        (None, 90, None, "most likely out of reach; at best after 90 answers"),
        (None, 0, None, "perhaps reached, most likely never"),
        (120, 40, 500, "40 to 500"),
        (None, None, None, "out of reach: the curve levels off at about 93\xa0%"),
    ],
)
def test_the_answers_to_the_target_have_a_range(
    blobs: Blobs, likely: int | None, few: int | None, many: int | None, note: str
) -> None:
    forecast = told("open") | {"reached": [likely, few, many], "target": 0.99, "floor": 0.93}
    Job.objects.create(project=blobs.project, kind="study", state="done", result={"forecast": forecast})
    work = {each.name: each for each in forecasting.outlook(blobs.project, blobs.alice).work}
    assert (work["target"].count, work["target"].note) == (likely, note)
    assert work["target"].title == "Until 99\xa0% accuracy is forecast"
    assert work["open"].count == POOL


def test_a_target_that_is_reached_is_no_work(blobs: Blobs) -> None:
    for reached, names in (([0, 0, 40], ["open"]), ([1, 0, 40], ["target", "open"])):
        forecast = told("open") | {"reached": reached, "target": 0.9, "floor": 0.93}
        Job.objects.create(project=blobs.project, kind="study", state="done", result={"forecast": forecast})
        assert [each.name for each in forecasting.outlook(blobs.project, blobs.alice).work] == names


def test_proposals_take_at_most_as_long_as_answers_until_some_were_reviewed(
    blobs: Blobs, model: ModelVersion, carol: User
) -> None:
    blobs.answer(blobs.rest[:10], "close_call", milliseconds=6000)
    for item in blobs.rest[20:50]:
        Proposal.objects.create(
            project=blobs.project, item=item, model_version=model, value={"class": blobs.label_of(item).pk},
            confidence=0.95,
        )  # fmt: skip
    Job.objects.create(project=blobs.project, kind="study", state="done", result={"forecast": told("stop")})
    found = forecasting.outlook(blobs.project, blobs.alice)
    assert found.advice.endswith("going on pays little; reviewing the 30 proposals takes at most 3 minutes.")
    for _ in range(4):
        waiting = Proposal.objects.filter(project=blobs.project, state="pending").values_list("pk", flat=True)[:2]
        reviewing.decide(project=blobs.project, reviewer=carol, accepted=list(waiting))
    reviewed = next(each for each in forecasting.outlook(blobs.project, carol).work if each.name == "review")
    assert reviewed.count == 22
    assert not reviewed.is_ceiling


# --- page and API ---------------------------------------------------------------------------------------------------


def test_the_dashboard_tells_what_was_studied(login: Login, blobs: Blobs, model: ModelVersion) -> None:
    blobs.answer(blobs.checks, "audit", milliseconds=2000)
    blobs.answer(blobs.rest[:24], "baseline", milliseconds=2000)
    blobs.answer(blobs.rest[24:70], "close_call", milliseconds=2000)
    says(blobs, model, set(range(30)))
    study = blobs.study()
    page = login(blobs.alice).get(f"/projects/{blobs.project.pk}/?about=worth").text
    forecast = study.result["forecast"]
    assert "What the next answers are worth" in page
    assert "as of 70 answers" in page
    assert f"Learning curve: {100 * forecast['now']:.0f}\xa0% after 70 answers" in page
    shown = re.findall(
        r'<td class="number">(\d+\.\d)\xa0%</td><td class="number">\d+\s%–', page.split('id="forecast"', 1)[1]
    )
    gains = re.findall(r'<td class="number">(−?\d+\.\d) <span', page.split('id="forecast"', 1)[1])
    assert len(shown) == len(gains) + 1 > 1
    for then, gain in zip(shown[1:], gains, strict=True):
        assert float(then) - float(shown[0]) == pytest.approx(float(gain.replace("−", "-")))
    assert f"Measured now: {100 * forecast['accuracy']:.1f}\xa0% of {CHECKS} random checks right" in page
    assert "24 answers chosen by close calls teach" in page
    assert "At your pace: 2.0 s an answer, the median of the last 100" in page
    assert "style=" not in page.split('id="forecast"', 1)[1].split("</section>", 1)[0]
    page = login(blobs.alice).get(f"/projects/{blobs.project.pk}/?about=accuracy").text
    assert "Open, less sure" in page
    assert re.search(r"Errors left</h2><span class=\"hint\">as of [^<]+</span>", page)
    assert "Intervals at 95\xa0%" in page


def test_before_the_first_study_the_panel_says_so(login: Login, blobs: Blobs) -> None:
    page = login(blobs.alice).get(f"/projects/{blobs.project.pk}/?about=worth").text
    assert "Too early to tell: nothing has been studied yet." in page
    assert "How long this takes is known once five answers were timed" in page


def test_only_an_owner_is_sent_to_the_settings(login: Login, blobs: Blobs, bob: User) -> None:
    blobs.answer(blobs.checks, "audit")
    blobs.answer(blobs.rest[:40], "close_call")
    blobs.study()
    address, settings = (
        f"/projects/{blobs.project.pk}/?about=worth",
        f'href="/projects/{blobs.project.pk}/settings/#baseline_share"',
    )
    for person, is_owner in ((blobs.alice, True), (bob, False)):
        panel = login(person).get(address).text.split('id="forecast"', 1)[1].split("</section>", 1)[0]
        assert "0 of 20 answers to images drawn at random are given" in panel
        assert (settings in panel) is is_owner


def test_the_api_tells_the_same(blobs: Blobs, charlie: User, vera: User) -> None:
    blobs.answer(blobs.checks, "audit", milliseconds=2000)
    blobs.answer(blobs.rest[:40], "close_call", milliseconds=4000)
    study = blobs.study()
    told = Caller(vera, blobs.project).get("forecast/").json()
    assert told["forecast"] == study.result["forecast"]
    assert told["errors_left"] == study.result["errors_left"]
    assert told["gain"]["lack"].startswith("0 of 20")
    assert told["kind"] == study.result["forecast"]["advice"]
    assert told["pace"] == {"seconds": 3.0, "answers": 80, "whose": "the team's"}
    assert {each["name"] for each in told["work"]} >= {"target", "open"}
    assert error(Caller(charlie, blobs.project).get("forecast/")) == (404, "not_found")
    assert error(Caller(vera, blobs.project).post("forecast/")) == (405, "method_not_allowed")


def test_the_api_before_the_first_study(blobs: Blobs) -> None:
    told = Caller(blobs.alice, blobs.project).get("forecast/").json()
    assert (told["kind"], told["forecast"], told["studied_at"]) == ("early", {}, None)


def test_a_project_without_anything_has_an_outlook(project: Project, alice: User) -> None:
    found = forecasting.outlook(project, alice)
    assert (found.kind, found.work, found.pace) == ("early", [], None)


# --- words and pictures ---------------------------------------------------------------------------------------------


def test_a_chart_begins_its_band_today() -> None:
    drawn = forecast_chart(
        {
            "answers": 100, "accuracy": 0.8, "low": 0.7, "high": 0.9,
            "points": [[50, 0.7], [100, 0.8]],
            "curve": [[50, 0.7, 0.6, 0.8], [100, 0.8, 0.7, 0.9], [200, 0.9, 0.75, 1.0]],
            "ahead": [{"more": 100, "accuracy": 0.9}],
        }
    )  # fmt: skip
    assert "Learning curve: 80\xa0% after 100 answers; 90\xa0% expected after 100 more" in drawn
    band = drawn.split('class="band" points="')[1].split('"')[0].split()
    assert len(band) == 4
    assert {point.split(",")[0] for point in band} == {"359.0", "668.0"}  # at 100 and at 200 answers
    assert drawn.count("<circle") == 2


def test_no_curve_is_no_chart() -> None:
    assert forecast_chart({}) == ""
    assert forecast_chart({"lack": "too early", "points": []}) == ""


def test_errors_are_said_as_ranges() -> None:
    measured = {"count": 1200, "checked": 100, "wrong": 4, "low": 12, "expected": 48.0, "high": 122}
    rows = error_rows(
        {
            "there": [
                {"name": "unseen"} | measured,
                {"name": "answered"} | measured | {"low": 0, "expected": None, "high": 36},
                {
                    "name": "imported",
                    "count": 9,
                    "checked": 0,
                    "wrong": 0,
                    "low": None,
                    "expected": None,
                    "high": None,
                },
            ],
            "open": [{"name": "sure"} | measured, {"name": "not_proposed"} | measured],
        }
    )
    measured_said = "12 to 122, likely 48"
    assert [row.wrong for row in rows] == [measured_said, "at most 36", "not measured", measured_said]
    assert rows[0].basis == "4 of 100 wrong: random checks of the certificate"
    assert [row.is_open for row in rows] == [False, False, False, True]


def test_the_gain_is_one_sentence() -> None:
    gain = {
        "lack": "", "n": 57, "by": "close_call", "chosen": 0.93, "baseline": 0.89, "difference": 0.04, "low": -0.01,
        "high": 0.09, "worth": 110,
    }  # fmt: skip
    found = forecasting.Outlook(None, {}, {}, gain, None, "", "early")
    assert gain_sentence(found) == (
        "57 answers chosen by close calls teach 93\xa0%, 57 at random 89\xa0%: +4 points (−1.0 to 9)."
        " They teach as much as 110 random ones would."
    )


def test_second_looks_at_suspects_say_nothing_of_the_other_labels(blobs: Blobs, bob: User) -> None:
    given = blobs.answer(blobs.rest[:3], "close_call")
    queueing.fill_queue(project=blobs.project, entries=[])
    make_item(blobs.project, 999)
    Annotation.objects.create(
        uuid=uuid.uuid4(), project=blobs.project, item=given[0].item, annotator=bob, kind="label",
        value={"class": blobs.classes[1 - int(given[0].item.source_name) % 2].pk}, reason_code="suspect",
    )  # fmt: skip
    there = worker.study_errors(blobs.project, blobs.taken())["there"][0]
    assert (there["count"], there["checked"], there["wrong"]) == (3, 0, 0)
