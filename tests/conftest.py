"""A data folder and a PostgreSQL server of the tests' own, thrown away at the end; and the cast (tests/cast.py)."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before any Django setting is read: nothing of the developer's own installation reaches the tests.
for _name in ("PORT", "HOST", "DEBUG", "ADMIN_USERNAME", "ADMIN_PASSWORD", "ADMIN_EMAIL", "CELERY_BROKER_URL"):
    os.environ.pop(_name, None)
DATA = Path(tempfile.mkdtemp(prefix="winnow-tests-"))
os.environ["WINNOW_DATA"] = str(DATA)
os.environ["SECRET_KEY"] = "for the tests alone"
os.environ["DJANGO_SETTINGS_MODULE"] = "annotator.settings"
# Threads that wait for each other on a busy machine made training on tiny pictures a hundred times slower.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"  # Playwright keeps an event loop on the thread the tests run on

import django  # noqa: E402

django.setup()

import pytest  # noqa: E402
from django.conf import settings  # noqa: E402

from annotator.embedded import Postgres, make_folders  # noqa: E402

pytest_plugins = ["tests.cast"]


def pytest_sessionfinish() -> None:
    """Remove the data folder; the server is stopped before, by its own fixture."""
    shutil.rmtree(DATA, ignore_errors=True)


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> Iterator[None]:
    """Start PostgreSQL when the first test asks for the database; DATABASE_URL names another server."""
    if settings.DATABASE_URL:
        yield
        return
    make_folders(settings.WINNOW_DATA)
    server = Postgres.from_settings()
    server.start(fsync="off", synchronous_commit="off", full_page_writes="off")
    server.create_database("winnow")
    yield
    server.stop(at_once=True)


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, settings: object) -> None:
    """Files that a test stores are its own; a password is hashed in no time."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # type: ignore[attr-defined]
    settings.MEDIA_ROOT = tmp_path / "media"  # type: ignore[attr-defined]
    settings.ARTIFACT_ROOT = tmp_path / "artifacts"  # type: ignore[attr-defined]


def pytest_report_header() -> str:
    return f"winnow: Python {sys.version.split()[0]}, Django {django.get_version()}"
