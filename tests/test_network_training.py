"""A network that learns from a project's answers: what it becomes, and when it takes over."""

import uuid
from typing import Any

import pytest
from django.contrib.auth.models import User
from sklearn.datasets import load_digits

from annotator import queries
from annotator.actions import demo, labeling, training
from annotator.errors import InvalidSettings
from annotator.models import Item, Job, ModelVersion, Project, QueueEntry, Split
from ml_worker.choosing import choose, is_better
from ml_worker.tasks import run_job


def report(*recall: tuple[int, int]) -> dict[str, Any]:
    """An accuracy report of classes given as (right, answered)."""
    return {"n": sum(n for _, n in recall), "correct": sum(right for right, _ in recall), "recall": recall}


def test_a_model_that_is_right_less_often_does_not_take_over() -> None:
    assert is_better(report((9, 10), (8, 10)), report((9, 10), (9, 10))) == (
        False,
        "it is right on 17 of 20 random checks, the model before on 18",
    )


def test_a_model_that_lowers_the_worst_class_does_not_take_over() -> None:
    promoted, why = is_better(report((10, 10), (8, 10)), report((9, 10), (9, 10)))
    assert not promoted
    assert "worst class is right in 80%" in why


def test_a_class_with_few_answers_decides_nothing() -> None:
    assert is_better(report((20, 20), (2, 4)), report((18, 20), (3, 4)))[0]


def test_nothing_is_promoted_unmeasured() -> None:
    assert not is_better(None, report((1, 2)))[0]
    assert is_better(report((1, 2)), None)[0]


@pytest.mark.parametrize(
    ("n_labels", "device", "minutes", "trainer"),
    [
        (30, "cpu", 5, "freematch"),
        (400, "cpu", 5, "supervised"),
        (400, "cpu", 60, "freematch"),
        (40, "cuda", 5, "freematch"),
    ],
)
def test_the_choice_says_why(n_labels: int, device: str, minutes: float, trainer: str) -> None:
    chosen = choose(n_labels=n_labels, n_classes=10, image_px=32, device=device, minutes=minutes)
    assert chosen.trainer == trainer
    assert f"{n_labels} answers for 10 classes" in chosen.why


@pytest.fixture
def digits(alice: User) -> Project:
    """The demo, embedded; its random checks and 60 other digits answered rightly, and no refit waiting."""
    project = demo.create_demo_project(alice)
    assert project is not None
    embed = Job.objects.get(project=project, kind=Job.Kind.EMBED)
    run_job(embed.pk)
    truth = load_digits().target
    classes = {label_class.name: label_class.pk for label_class in project.classes.all()}
    checks = list(Item.objects.filter(project=project, split=Split.AUDIT))
    for item in [*checks, *Item.objects.filter(project=project, split=Split.POOL)[:60]]:
        digit = truth[int("".join(filter(str.isdigit, item.source_name)))]
        labeling.record_annotation(
            project=project,
            annotator=alice,
            item_id=item.pk,
            uuid=uuid.uuid4(),
            kind="label",
            raw_value=classes[str(digit)],
        )
    Job.objects.filter(project=project, state=Job.State.QUEUED).delete()
    return project


def train(project: Project, actor: User, **asked: Any) -> Job:
    job = training.request_training(project=project, actor=actor, **asked)
    run_job(job.pk)
    job.refresh_from_db()
    return job


@pytest.mark.slow
@pytest.mark.django_db
def test_a_better_network_becomes_the_model_and_the_encoder(
    digits: Project, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_worker.training.is_better", lambda new, old: (True, "it is the test's wish"))
    job = train(digits, alice, trainer="supervised", minutes=0.1)
    assert (job.state, job.error) == (Job.State.DONE, "")
    model = queries.current_model(digits)
    assert model is not None and (model.algorithm, model.encoder, model.job) == ("supervised", "trained", job)
    assert model.metrics["test"]["accuracy"] > 0.5
    assert queries.current_embedding(digits) == job
    assert QueueEntry.objects.filter(project=digits, model_version=model).exists()
    # The fast loop goes on with what the network sees.
    training.request_refit(project=digits, actor=alice)
    run_job(Job.objects.get(project=digits, kind=Job.Kind.REFIT, state=Job.State.QUEUED).pk)
    refitted = queries.current_model(digits)
    assert refitted is not None and (refitted.algorithm, refitted.encoder) == ("label_spreading", "trained")
    # And so does an embedding of images that come later, until somebody asks for the encoder of the settings.
    for actor, encoder in ((None, "trained"), (alice, "pca_pixels")):
        embed = training.request_embedding(project=digits, actor=actor)
        run_job(embed.pk)
        assert queries.current_embedding(digits) == embed
        embed.refresh_from_db()
        assert embed.result["encoder"] == encoder


@pytest.mark.slow
@pytest.mark.django_db
def test_a_worse_network_changes_nothing_and_the_job_says_why(digits: Project, alice: User) -> None:
    before = queries.current_embedding(digits)
    job = train(digits, alice, trainer="fixmatch", minutes=0.02)
    assert job.state == Job.State.DONE
    assert job.result["promoted"] is False
    assert "random checks, the model before on" in job.result["why"]
    assert set(job.result["beside"]) == {"label_spreading", "logistic_regression"}
    assert queries.current_embedding(digits) == before
    assert not ModelVersion.objects.filter(project=digits).exists()
    assert "not promoted" in job.log_tail


@pytest.mark.django_db
def test_what_is_missing_before_training_is_one_sentence(project: Project, alice: User) -> None:
    job = train(project, alice)
    assert (job.state, job.error) == (Job.State.FAILED, "the images are not embedded yet; train once they are")


@pytest.mark.django_db
def test_an_unknown_trainer_or_no_time_is_refused(project: Project, alice: User) -> None:
    with pytest.raises(InvalidSettings, match="freematch"):
        training.request_training(project=project, actor=alice, trainer="magic")
    for minutes in (0, -1, 10_000, float("nan")):
        with pytest.raises(InvalidSettings, match="minutes is not between"):
            training.request_training(project=project, actor=alice, minutes=minutes)
    assert not Job.objects.filter(project=project).exists()
