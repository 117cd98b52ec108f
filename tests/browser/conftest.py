"""The system's own Chromium, signed in as somebody of the cast, on a live server; no page may complain."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page
from pytest_django.live_server_helper import LiveServer

from tests.running_site import wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome")
MAC = ("Google Chrome", "Chromium")


def chromium() -> str:
    """The browser of this machine. Fails, rather than skips, when there is none."""
    found = [shutil.which(name) for name in NAMES]
    found += [f"/Applications/{name}.app/Contents/MacOS/{name}" for name in MAC]
    for path in found:
        if path and Path(path).exists():
            return path
    raise RuntimeError("the browser tests need Chromium: install it (Debian: apt-get install chromium)")


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium refuses its sandbox to root
    return {
        **browser_type_launch_args,
        "executable_path": chromium(),
        "args": ["--no-sandbox"] if as_root else [],
    }


@pytest.fixture
def complaints() -> list[str]:
    """What pages said to the console, broken content policy included. Empty at the end of every test of `visit`."""
    return []


@pytest.fixture
def visit(browser: Browser, live_server: LiveServer, complaints: list[str]) -> Iterator[Callable[..., Page]]:
    """Open an address as somebody, in a browser profile of its own: ``visit(bob, "/projects/1/label/")``."""
    contexts: list[BrowserContext] = []

    def open_as(who: User, path: str, **options: Any) -> Page:
        context = browser.new_context(base_url=live_server.url, **options)
        contexts.append(context)
        sign_in(context, live_server.url, who)
        page = context.new_page()
        listen(page, complaints)
        page.goto(path)
        return page

    yield open_as
    for context in contexts:
        context.close()
    wait_until(database_is_quiet, 10, "the server had finished its last request")
    assert complaints == []


def database_is_quiet() -> bool:
    """Whether nobody else asks anything: emptying the tables in the middle of a request would lock both up."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND (state <> 'idle' OR state_change > clock_timestamp() - interval '50 ms')"
        )
        return bool(cursor.fetchone()[0] == 0)


def sign_in(context: BrowserContext, address: str, who: User) -> None:
    client = Client()
    client.force_login(who)
    value = client.cookies[settings.SESSION_COOKIE_NAME].value
    context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": value, "url": address}])


def listen(page: Page, complaints: list[str]) -> None:
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
