"""Pages in the reader's language: every text is marked, every marked text is translated."""

import ast
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.template.base import DebugLexer, TokenType
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import override

from annotator import errors
from annotator.errors import WinnowError
from annotator.models import Job, Project
from annotator.templatetags.humanise import ago, duration
from annotator.templatetags.languages import STORED
from annotator.views import languages
from annotator.wording import decimal, in_english, percent, promised, thousands, within
from tests.test_access_matrix import PAGES, places

ANNOTATOR = settings.BASE_DIR / "annotator"
TEMPLATES = sorted((settings.BASE_DIR / "templates").rglob("*.html"))
SCRIPTS = sorted((settings.BASE_DIR / "static" / "js").glob("*.js"))
# Where people's requests are answered. What is pure, such as annotator/formats, and the API speak English.
SHOWN = [
    ANNOTATOR / "access.py",
    *(path for name in ("actions", "models", "queries", "views") for path in sorted((ANNOTATOR / name).glob("*.py"))),
]
REFUSALS = {name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, WinnowError)}
# Attributes that people read or hear.
SPOKEN = re.compile(r"""\s(?:title|alt|placeholder|aria-label|aria-description|content)="([^"]*)\"""")
# Said the same in every language.
NAMES = re.compile(
    r"\b(?:Winnow|API|UTC|Esc|CSV|JSON Lines|JSON|ONNX|PNG|JPEG|px|MB|GB|s|min|h|kB|F1|ECE"
    r"|width=device-width, initial-scale=1|light dark)\b|&\w+;"
)


def unmarked(source: str) -> list[str]:
    """Texts of a template that no translation reaches, a piece each."""
    found, inside, plain = [], "", ""
    for token in DebugLexer(source).tokenize():
        if token.token_type == TokenType.BLOCK:
            word = token.contents.split()[0]
            if word in ("blocktranslate", "comment", "verbatim"):
                inside = word
            elif word in ("endblocktranslate", "endcomment", "endverbatim"):
                inside = ""
        # What a tag or a variable gives is somebody else's business; it parts the text around it.
        plain += token.contents if token.token_type == TokenType.TEXT and not inside else "\x00"
    plain = re.sub(r"<(script|style|code|pre)\b.*?</\1>|<p class=.code\b.*?</p>|<!--.*?-->", "", plain, flags=re.S)
    for piece in [*SPOKEN.findall(plain), *re.split(r"<[^>]*>|\x00", plain)]:
        piece = " ".join(re.sub(r"\x00", " ", piece).split())
        if re.search(r"[A-Za-z]{2}", NAMES.sub("", piece)):
            found.append(piece)
    return found


@pytest.mark.parametrize("path", TEMPLATES, ids=[str(path.relative_to(settings.BASE_DIR)) for path in TEMPLATES])
def test_every_text_of_a_template_is_marked_for_translation(path: Path) -> None:
    assert unmarked(path.read_text()) == []


def test_a_text_nobody_marked_is_found() -> None:
    page = '{% if x %}<p title="Hello there">One {{ n }} two</p>{% endif %}{% translate "fine" %}'
    assert unmarked(page) == ["Hello there", "One", "two"]


# What a script puts before people: a text of its own that no gettext() wraps.
SAID_BY_SCRIPT = re.compile(
    r"""(?:\.(?:textContent|innerText|title|placeholder|ariaLabel|alt)\s*=|\b(?:say|notify|tell|toast|announce)\()"""
    r"""\s*(?:[`"'])([^`"']*)"""
    r"""|setAttribute\("(?:aria-label|title|alt|placeholder)",\s*[`"']([^`"']*)"""
)


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.name for path in SCRIPTS])
def test_no_script_says_what_is_not_marked(path: Path) -> None:
    said = [first or second for first, second in SAID_BY_SCRIPT.findall(path.read_text())]
    plain = [re.sub(r"\$\{.*?(?:\}|$)", "", text) for text in said]
    assert [text for text in plain if re.search(r"[A-Za-z]{2}", NAMES.sub("", text))] == []


def test_what_a_script_says_unmarked_is_found() -> None:
    script = """a.textContent = gettext("fine"); b.title = "Not fine"; say(`${n} left`); c.setAttribute("alt", 'So')"""
    assert [first or second for first, second in SAID_BY_SCRIPT.findall(script)] == ["Not fine", "${n} left", "So"]


def unmarked_refusals(source: str) -> list[str]:
    """What is raised with a sentence, written out or put together, that no gettext() wraps."""
    raised = [node.exc for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Raise)]
    calls = [
        call for call in raised if isinstance(call, ast.Call) and call.args and ast.unparse(call.func) in REFUSALS
    ]
    plain = [ast.unparse(call.args[0]) for call in calls if isinstance(call.args[0], ast.Constant | ast.JoinedStr)]
    return [text for text in plain if re.search(r"[a-z]{2,} [a-z]{2,}", text)]


@pytest.mark.parametrize("path", SHOWN, ids=[str(path.relative_to(settings.BASE_DIR)) for path in SHOWN])
def test_every_refusal_that_a_page_shows_is_marked(path: Path) -> None:
    assert unmarked_refusals(path.read_text()) == []


def test_a_refusal_nobody_marked_is_found() -> None:
    source = 'raise NotFound(f"there is no {x}")\nraise Conflict(_("fine so far"))\nraise ValueError("for us alone")'
    assert unmarked_refusals(source) == ["f'there is no {x}'"]


def test_what_is_translated_of_stored_sentences_is_what_is_stored() -> None:
    """A sentence that was changed where it is stored would be shown in English from then on, and nobody would know."""
    folders = (settings.BASE_DIR / "ml_worker", ANNOTATOR / "actions", ANNOTATOR / "jobs.py")
    files = [path for each in folders for path in (each.glob("*.py") if each.is_dir() else [each])]
    strings = {node.value for path in files for node in ast.walk(ast.parse(path.read_text())) if is_text(node)}
    assert [text for text in STORED if text not in strings] == []


def is_text(node: Any) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_every_marked_text_is_translated() -> None:
    call_command("translations", "--check", verbosity=0)


@pytest.mark.django_db
def test_a_page_speaks_the_language_the_browser_asks_for(client: Client) -> None:
    german = client.get("/login/", headers={"accept-language": "de-AT,de;q=0.9"}).content.decode()
    assert '<html lang="de">' in german and "Zum Inhalt springen" in german
    english = client.get("/login/", headers={"accept-language": "fr"}).content.decode()
    assert '<html lang="en">' in english and "Skip to the content" in english


@pytest.mark.django_db
def test_a_chosen_language_outweighs_the_browsers(client: Client) -> None:
    answer = client.post("/language/", {"language": "de"}, headers={"referer": "http://testserver/login/"})
    assert (answer.status_code, answer.url) == (303, "http://testserver/login/")  # type: ignore[attr-defined]
    assert '<html lang="de">' in client.get("/login/", headers={"accept-language": "en"}).content.decode()


POST_ALONE = [name for name, methods in PAGES.items() if set(methods) == {"POST"}]
ARGUMENTS = {"item_id": 1, "job_id": 2, "round_id": 3, "token_id": 4}


def test_each_address_that_answers_post_alone_has_its_page() -> None:
    assert set(languages.PAGE_OF) == set(POST_ALONE)
    assert all("GET" in PAGES[page] for page in languages.PAGE_OF.values())


@pytest.mark.django_db
@pytest.mark.parametrize("name", POST_ALONE)
def test_a_language_chosen_on_the_answer_to_a_post_leads_to_a_page(
    name: str, client: Client, project: Project, alice: User
) -> None:
    """What was refused is shown at an address that cannot be asked for again."""
    client.force_login(alice)
    arguments = ARGUMENTS | {"project_id": project.pk}
    address = reverse(name, kwargs={key: arguments[key] for key in places()[name].arguments})
    referer = f"http://testserver{address}?x=1"
    answer = client.post("/language/", {"language": "de"}, headers={"referer": referer})
    assert answer.status_code == 303
    inside = f"/projects/{project.pk}/"
    assert answer["Location"].startswith(inside) == address.startswith(inside)
    assert client.get(answer["Location"]).status_code == 200


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "back"),
    [("label-undo", "label"), ("review-undo", "review"), ("map-choose", "map"), ("class-undo", "project-classes")],
)
def test_it_is_the_page_that_the_post_came_from(name: str, back: str, client: Client) -> None:
    referer = f"http://testserver{reverse(name, args=[7])}"
    answer = client.post("/language/", {"language": "de"}, headers={"referer": referer})
    assert answer["Location"] == reverse(back, args=[7])


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("referer", "back"),
    [
        ("http://elsewhere.example/projects/7/label/", "/"),
        ("http://elsewhere.example/projects/7/label/undo/", "/"),
        ("http://testserver/projects/7/review/?page=2", "http://testserver/projects/7/review/?page=2"),
        ("http://testserver/nowhere/", "http://testserver/nowhere/"),
        ("http://testserver", "http://testserver"),
        ("http://[", "/"),
        ("", "/"),
    ],
)
def test_a_chosen_language_leads_back_within_this_site(referer: str, back: str, client: Client) -> None:
    answer = client.post("/language/", {"language": "de"}, headers={"referer": referer})
    assert (answer.status_code, answer["Location"]) == (303, back)


@pytest.mark.django_db
def test_a_language_that_is_not_spoken_is_refused_and_named(client: Client) -> None:
    answer = client.post("/language/", {"language": "tlh"})
    assert answer.status_code == 422
    assert "tlh" in answer.content.decode() and "en, de" in answer.content.decode()
    assert client.get("/language/").status_code == 405


@pytest.mark.django_db
def test_choosing_a_language_leads_nowhere_else(client: Client) -> None:
    answer = client.post("/language/", {"language": "de"}, headers={"referer": "https://elsewhere.example/"})
    assert answer.url == "/"  # type: ignore[attr-defined]


def test_numbers_are_written_as_the_language_writes_them() -> None:
    said = [thousands(1797), decimal(0.25, 2), percent(0.995, 1), promised(0.995), within("Random check")]
    assert said == ["1,797", "0.25", "99.5\xa0%", "99.5\xa0%", "random check"]
    with override("de"):
        said = [thousands(1797), decimal(0.25, 2), percent(0.995, 1), promised(0.995), within(_("Random check"))]
        assert said == ["1.797", "0,25", "99,5\xa0%", "99,5\xa0%", "Stichprobe"]
        with in_english():
            assert thousands(1797) == "1,797"


def test_times_are_told_in_the_language_of_the_page() -> None:
    now = timezone.now()
    at = [now - timedelta(minutes=3), now - timedelta(days=2)]
    assert [ago(each) for each in at] == ["3 min ago", "2 d ago"]
    with override("de"):
        assert [ago(each) for each in at] == ["vor 3 min", "vor 2 d"]
        assert duration(now - timedelta(seconds=4.25), now) == "4,2 s"


@pytest.mark.django_db
def test_a_refusal_is_said_in_the_language_of_the_page(client: Client, bob: User, project: Project) -> None:
    client.force_login(bob)
    refused = client.get(f"/projects/{project.pk}/settings/", headers={"accept-language": "de"})
    assert refused.status_code == 403
    assert "Dafür braucht es die Rolle Leitung; hier ist es die Rolle Labeln" in refused.content.decode()


@pytest.mark.django_db
def test_what_a_german_reader_has_kept_stays_english(client: Client, alice: User, project: Project) -> None:
    client.force_login(alice)
    in_german: dict[str, Any] = {"headers": {"accept-language": "de"}}
    export = client.get(f"/projects/{project.pk}/export/download/?include=unlabelled", **in_german)
    assert b"".join(export).startswith(b"item_id,")  # type: ignore[call-overload]
    client.post(f"/projects/{project.pk}/training/", {"ask": "refit"}, **in_german)
    job = Job.objects.latest("pk")
    client.post(f"/projects/{project.pk}/jobs/{job.pk}/cancel/", **in_german)
    job.refresh_from_db()
    assert job.message == "cancelled before it began"
    page = client.get(f"/projects/{project.pk}/jobs/{job.pk}/", **in_german).content.decode()
    assert "Vor dem Beginn abgebrochen" in page


def test_machines_are_answered_in_english(client: Client, alice: User, project: Project) -> None:
    client.force_login(alice)
    asked: dict[str, Any] = {"headers": {"accept-language": "de"}}
    answer = client.get(f"/api/v1/projects/{project.pk + 999}/", **asked)
    assert "there is no project" in answer.json()["error"]["message"]
    assert "Content-Language" not in answer.headers
