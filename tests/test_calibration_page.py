"""What the pages say of confidence and of short lists: nothing too early, nothing that is not so."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from annotator.actions import proposing
from annotator.models import Item, Job, LabelClass, ModelVersion, Project, Proposal, Split
from annotator.views.calibration import CALIBRATED_FROM, cases
from annotator.views.review_tiles import is_promised
from tests.cast import make_item

Login = Callable[[User], Client]


def panel(client: Client, project: Project) -> str:
    response = client.get(reverse("dashboard", args=[project.pk]) + "?about=doubt")
    assert response.status_code == 200
    section = response.text.split('id="confidence-title"', 1)[1].split("</section>", 1)[0]
    return " ".join(section.split())


def measured(model: ModelVersion, cat: LabelClass, dog: LabelClass, **calibration: Any) -> ModelVersion:
    """As a refit leaves it after forty random checks."""
    report = {
        "n": 40, "ece": 0.062, "ece_low": 0.011, "ece_high": 0.12, "chance": 0.05, "chance_high": 0.1, "brier": 0.15,
        "confidence": 0.91, "accuracy": 0.9, "class_temperatures": [],
        "bins": [[20, 0.85, 16, 0.58, 0.92], [20, 0.97, 20, 0.84, 1.0]],
    }  # fmt: skip
    model.metrics["calibration"] = report | calibration
    model.metrics["short_list"] = {
        "promise": 0.9, "n": 40, "own": 2, "classes": 2, "inside": 28, "judged": 31, "low": 0.75, "high": 0.97,
        "mean_size": 1.1, "sizes": [0.05, 0.8, 0.15, 0.0], "test": None,
        "by_class": [[cat.pk, 25, 16, 18, 0.76, 0.99], [dog.pk, 15, 12, 13, 0.72, 0.99]],
    }  # fmt: skip
    model.save()
    return model


def studied(project: Project, newest: list[Any], hardest: list[Any]) -> Job:
    now = timezone.now()
    result = {
        "label_count": 20,
        "doubt": {
            "n": 10, "members": 5, "aleatoric": 0.03, "epistemic": 0.01, "newest": newest, "hardest": hardest
        },
    }  # fmt: skip
    return Job.objects.create(project=project, kind="study", state="done", result=result, finished_at=now)


# --- the panel


def test_before_there_is_anything_to_say_the_panel_says_when(login: Login, alice: User, project: Project) -> None:
    make_item(project)
    said = panel(login(alice), project)
    assert f"once {CALIBRATED_FROM} random checks are answered: <strong>0</strong> so far" in said
    assert "%" not in said and "<svg" not in said


def test_enough_checks_wait_for_the_next_model(
    login: Login, alice: User, project: Project, model: ModelVersion
) -> None:
    for seed in range(CALIBRATED_FROM):
        make_item(project, 100 + seed, Split.AUDIT)
    Item.objects.filter(split=Split.AUDIT).update(state=Item.State.LABELLED)
    said = panel(login(alice), project)
    assert "Enough random checks are answered for that (30)" in said and "%" not in said


def test_the_error_stands_with_its_interval_and_what_chance_would_show(
    login: Login, alice: User, project: Project, items: list[Item], model: ModelVersion, cat: LabelClass,
    dog: LabelClass,
) -> None:  # fmt: skip
    measured(model, cat, dog)
    said = panel(login(alice), project)
    assert "On 40 random checks model 1 was <strong>91 %</strong> sure on average, and right on <strong>90 %" in said
    assert "no more than chance alone explains" in said
    assert "<strong>6.2 %</strong> (95 % interval 1.1 % to 12.0 %)" in said
    assert "would show about 5.0 % on so many checks" in said
    assert said.count('<circle class="mark audit"') == 2 and 'class="ideal"' in said
    # The same as a table.
    assert (
        '<td class="number">16</td><td class="number">80.0 %</td><td class="number keeps">58.0 %–92.0 %</td>' in said
    )
    assert "Brier score 0.15: 0 would be perfect, 0.50 knows nothing" in said  # two classes: 1 - 1 / 2
    assert "Calibrated by temperature 1.10. Every check" in said


@pytest.mark.parametrize(
    ("confidence", "verdict"),
    [(0.97, "<strong>too sure</strong>"), (0.8, "<strong>not sure enough</strong>"), (0.9, "too sure of some")],
)
def test_a_model_that_is_off_by_more_than_chance_is_called_so(
    login: Login, alice: User, project: Project, items: list[Item], model: ModelVersion, cat: LabelClass,
    dog: LabelClass, confidence: float, verdict: str,
) -> None:  # fmt: skip
    measured(model, cat, dog, ece=0.11, confidence=confidence, class_temperatures=[[dog.pk, 2.344]])
    said = panel(login(alice), project)
    assert verdict in said and "no more than chance" not in said
    assert "of its own where that predicts better: dog 2.34" in said


def test_the_promise_of_the_short_lists_and_how_it_was_kept(
    login: Login, alice: User, project: Project, items: list[Item], model: ModelVersion, cat: LabelClass,
    dog: LabelClass,
) -> None:  # fmt: skip
    client = login(alice)
    measured(model, cat, dog)
    said = panel(client, project)
    assert (
        "<strong>9 of 10 cases</strong>. Kept so far: in 28 of 31 random checks" in said and "(75 % to 97 %)" in said
    )
    assert "no class 5 %, one class 80 %, two or three 15 %." in said  # what nobody has is not mentioned
    assert "belong to one of the classes, and for each class." in said
    assert (
        '<th scope="row" class="breaks">cat</th><td class="number">25</td><td class="number keeps">16 of 18</td>'
        in said
    )
    assert "too few" not in said
    model.metrics["short_list"] |= {"inside": 20, "high": 0.8, "own": 0, "by_class": []}
    model.save()
    said = panel(client, project)
    assert "That is too few:" in said and "not yet for each class alone" in said and "By class" not in said


def test_both_kinds_of_doubt_show_their_images_while_they_are_open(
    login: Login, vera: User, bob: User, project: Project, items: list[Item], model: ModelVersion, cat: LabelClass,
    dog: LabelClass, answer: Callable[..., Any],
) -> None:  # fmt: skip
    measured(model, cat, dog)
    likeliest = [[cat.pk, 0.6], [dog.pk, 0.4]]
    audit = make_item(project, 77, Split.AUDIT)
    studied(
        project,
        [[items[0].pk, 0.2, likeliest], [items[1].pk, 0.1, likeliest], [audit.pk, 0.1, likeliest]],
        [[items[2].pk, 0.3, likeliest]],
    )
    answer(bob, items[1], cat)
    said = panel(login(vera), project)
    assert "<strong>25 %</strong> is that they contradict each other" in said and "<strong>75 %</strong>" in said
    assert "because the images" not in said  # that was not measured
    help_here, hard = said.split("Each is unsure by itself")
    assert f'{reverse("item-thumbnail", args=[project.pk, items[0].pk])}"' in help_here
    assert f'{reverse("item-thumbnail", args=[project.pk, items[2].pk])}"' in hard
    assert 'alt="image-0.png: cat 60 %, dog 40 %"' in help_here
    assert "image-1.png" not in said  # answered since
    assert "image-77.png" not in said  # a random check is shown to nobody, least of all with a guess


def test_what_was_left_out_is_not_shown(
    login: Login, alice: User, project: Project, items: list[Item], model: ModelVersion
) -> None:
    measured(model, *project.classes.order_by("pk"))
    job = studied(project, [], [])
    assert "doubt comes from" in panel(login(alice), project)
    job.result["doubt"] = {"left_out": "it takes answers of two classes and an open image"}
    job.save()
    assert "doubt comes from" not in panel(login(alice), project)


def test_before_it_is_calibrated_its_doubt_is_not_taken_apart(
    login: Login, alice: User, project: Project, items: list[Item], model: ModelVersion
) -> None:
    assert "calibration" not in model.metrics
    studied(project, [[items[0].pk, 0.2, []]], [[items[2].pk, 0.3, []]])
    assert "doubt comes from" not in panel(login(alice), project)


def test_an_outsider_sees_nothing_of_it(login: Login, charlie: User, project: Project, model: ModelVersion) -> None:
    assert login(charlie).get(reverse("dashboard", args=[project.pk])).status_code == 404


@pytest.mark.parametrize(
    ("promise", "said"), [(0.9, "9 of 10 cases"), (0.95, "19 of 20 cases"), (0.99, "99 of 100 cases")]
)
def test_a_promise_in_words(promise: float, said: str) -> None:
    assert cases(promise) == said


# --- the review grid


@pytest.fixture
def put_up(project: Project, items: list[Item], model: ModelVersion, cat: LabelClass) -> Callable[..., str]:
    """Propose the first item as a cat with this list, and the grid's tile as carol sees it."""

    def put(client: Client, listed: list[tuple[int, float]]) -> str:
        predicted = proposing.Predicted(items[0].pk, cat.pk, 0.9, listed)
        proposing.store_proposals(project=project, model_version=model, predictions=[predicted])
        return " ".join(client.get(reverse("review", args=[project.pk])).text.split())

    return put


@pytest.mark.parametrize(
    ("listed", "shown", "tooltip"),
    [
        (["cat"], None, "cat 50 %"),
        (["cat", "dog"], "or dog", "cat 50 %, dog 40 %"),
        (["dog"], "rather dog", "dog 50 %"),
        ([], "unlike", "unlike anything labelled"),
    ],
)
def test_a_tile_names_what_else_is_listed(
    login: Login, carol: User, model: ModelVersion, cat: LabelClass, dog: LabelClass, put_up: Callable[..., str],
    listed: list[str], shown: str | None, tooltip: str,
) -> None:  # fmt: skip
    measured(model, cat, dog)
    ids = {"cat": cat.pk, "dog": dog.pk}
    page = put_up(login(carol), [(ids[name], 0.5 - index / 10) for index, name in enumerate(listed)])
    assert f'title="image-0.png: {tooltip}"' in page
    assert ('<span class="others"' in page) == (shown is not None)
    assert shown is None or f'<span class="others" aria-hidden="true">{shown}</span>' in page
    assert f'data-listed="{" ".join(str(ids[name]) for name in listed)}"' in page
    assert "in <strong>9 of 10 cases</strong> over the whole pool, checked on 31 random checks: 28 were" in page


def test_without_a_promise_the_likeliest_are_named_and_nothing_is_claimed(
    login: Login, carol: User, cat: LabelClass, dog: LabelClass, put_up: Callable[..., str]
) -> None:
    page = put_up(login(carol), [(cat.pk, 0.5), (dog.pk, 0.4)])
    assert 'title="image-0.png: cat 50 %, dog 40 %"' in page
    assert '<span class="others"' not in page and "cases" not in page
    assert "unlike" not in put_up(login(carol), [])


def test_a_list_of_too_many_says_so_and_the_dialog_begins_with_the_likeliest(
    login: Login, carol: User, project: Project, model: ModelVersion, cat: LabelClass, dog: LabelClass,
    put_up: Callable[..., str],
) -> None:  # fmt: skip
    measured(model, cat, dog)
    more = LabelClass.objects.bulk_create(
        LabelClass(project=project, name=f"kind {n}", colour="#112233", position=10 + n) for n in range(11)
    )
    ids = [cat.pk, dog.pk, *(each.pk for each in more)]
    twelve = put_up(login(carol), [(class_id, 0.05) for class_id in ids[:12]])
    assert '<span class="others" aria-hidden="true">or dog, kind 0 +9</span>' in twelve
    page = put_up(login(carol), [(class_id, 0.05) for class_id in ids])
    assert '<span class="others" aria-hidden="true">or 12+</span>' in page
    assert f'data-listed="{" ".join(map(str, ids[:12]))}"' in page


def test_a_label_that_was_given_back_has_no_list(model: ModelVersion, cat: LabelClass, dog: LabelClass) -> None:
    measured(model, cat, dog)
    plain = Proposal(model_version=model, label_class=cat, short_list=[[cat.pk, 0.9]])
    given_back = Proposal(model_version=model, label_class=cat, short_list=[[cat.pk, 0.9]], certificate_id=1)
    assert is_promised(plain) and not is_promised(given_back)
