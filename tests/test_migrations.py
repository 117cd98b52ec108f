"""What migrations do to rows that are stored already."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from annotator.models import Project

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


def migrated(name: str) -> Any:
    """Models as they are once the database stands at this migration."""
    executor = MigrationExecutor(connection)
    executor.migrate([("annotator", name)])
    return MigrationExecutor(connection).loader.project_state([("annotator", name)]).apps


@pytest.fixture
def newest_afterwards() -> Iterator[None]:
    yield
    executor = MigrationExecutor(connection)
    executor.migrate([leaf for leaf in executor.loader.graph.leaf_nodes() if leaf[0] == "annotator"])


STORED = {
    "Old name": {"acquisition": "disagreement", "queue_length": 50},
    "Old name twice": {"acquisition": "disagreement", "cold_start": "disagreement"},
    "Opens with doubt": {"acquisition": "margin", "cold_start": "margin"},
    "Opens as it may": {"acquisition": "entropy", "cold_start": "probcover"},
    "Nothing chosen": {},
}


def stored(apps: Any) -> dict[str, Any]:
    return dict(apps.get_model("annotator", "Project").objects.values_list("name", "settings_json"))


def test_projects_that_said_disagreement_say_bald_and_open_with_what_needs_no_model(newest_afterwards: None) -> None:
    before = migrated("0006_certificates").get_model("annotator", "Project")
    for name, chosen in STORED.items():
        before.objects.create(name=name, settings_json=chosen)
    assert stored(migrated("0007_say_bald")) == {
        "Old name": {"acquisition": "bald", "queue_length": 50},
        "Old name twice": {"acquisition": "bald", "cold_start": "typiclust"},
        "Opens with doubt": {"acquisition": "margin", "cold_start": "typiclust"},
        "Opens as it may": {"acquisition": "entropy", "cold_start": "probcover"},
        "Nothing chosen": {},
    }
    # The name is told back; what a project opened with is not known any more.
    assert stored(migrated("0006_certificates"))["Old name"] == STORED["Old name"]


def test_projects_of_before_are_read_by_the_application_of_now(newest_afterwards: None) -> None:
    before = migrated("0006_certificates").get_model("annotator", "Project")
    made = before.objects.create(name="Old name", settings_json=STORED["Old name twice"])
    executor = MigrationExecutor(connection)
    executor.migrate([leaf for leaf in executor.loader.graph.leaf_nodes() if leaf[0] == "annotator"])
    settings = Project.objects.get(pk=made.pk).settings
    assert (settings.acquisition, settings.cold_start) == ("bald", "typiclust")
