"""Every setting: its default, what is refused and with which sentence, and that the documentation names it."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from annotator import environment
from annotator.environment import InvalidEnvironment
from annotator.settings import BASE_DIR, _socket_folder

READERS = {"text", "flag", "number", "words", "folder", "url"}


def names_read() -> set[str]:
    """The variables that settings.py asks for."""
    tree = ast.parse((BASE_DIR / "annotator" / "settings.py").read_text())
    return {
        call.args[0].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in READERS
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "environment"
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    }


def read(expression: str, **variables: str) -> str:
    """What the expression over `settings` is in a fresh process with these variables alone; else what it said."""
    done = subprocess.run(
        [sys.executable, "-c", f"from annotator import settings; print(({expression}))"],
        cwd=BASE_DIR,
        env={"PATH": os.environ["PATH"], "HOME": "/home/alice", "PYTHONDONTWRITEBYTECODE": "1", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_the_documentation_names_every_variable_and_no_other() -> None:
    rows = re.findall(r"^\| `([A-Z_0-9]+)` \|", (BASE_DIR / "docs" / "settings.md").read_text(), re.MULTILINE)
    assert len(names_read()) > 15
    assert set(rows) - {"PYTHON"} == names_read()
    assert len(rows) == len(set(rows))


def test_no_other_way_to_the_environment() -> None:
    """What settings.py does not read through annotator.environment would be neither checked nor documented."""
    text = (BASE_DIR / "annotator" / "settings.py").read_text()
    assert "environ[" not in text
    assert "getenv" not in text


def test_without_any_variable_it_is_for_this_machine_alone() -> None:
    data = BASE_DIR / "data"
    assert read("settings.WINNOW_DATA, settings.MEDIA_ROOT") == str((data, data / "media"))
    assert read("settings.HOST, settings.PORT, settings.DEBUG") == "('127.0.0.1', 8080, False)"
    assert read("settings.ALLOWED_HOSTS") == "['localhost', '127.0.0.1', '[::1]']"
    assert read("settings.SESSION_COOKIE_SECURE, settings.DATABASE_URL") == "(False, '')"


def test_blank_is_the_same_as_not_set() -> None:
    blank = dict.fromkeys(names_read(), " ")
    assert read("settings.WINNOW_DATA, settings.PORT, settings.ALLOWED_HOSTS", **blank) == read(
        "settings.WINNOW_DATA, settings.PORT, settings.ALLOWED_HOSTS"
    )


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("DEBUG", "maybe", "DEBUG must be true or false, not 'maybe'"),
        ("SECURE_COOKIES", "2", "SECURE_COOKIES must be true or false, not '2'"),
        ("PORT", "80a", "PORT must be a whole number from 1 to 65535, not '80a'"),
        ("PORT", "65536", "PORT must be a whole number from 1 to 65535, not '65536'"),
        ("HOST", "http://x", "HOST must be a host name or an address, as in 127.0.0.1, not 'http://x'"),
        ("ALLOWED_HOSTS", "a.org, b.org/x", "ALLOWED_HOSTS must be host names alone"),
        ("CSRF_TRUSTED_ORIGINS", "winnow.example.org", "CSRF_TRUSTED_ORIGINS must be addresses as in https://"),
        (
            "WINNOW_DATA",
            "~no-such-user/x",
            "WINNOW_DATA is '~no-such-user/x', but there is no such home",
        ),
        ("MEDIA_ROOT", "~no-such-user/x", "MEDIA_ROOT is '~no-such-user/x', but there is no such home"),
        ("TRAINING_PROCESSES", "-1", "TRAINING_PROCESSES must be a whole number from 0 to 1024, not '-1'"),
        ("TORCHRUN_OPTIONS", "--nnodes='2", "TORCHRUN_OPTIONS must be options as at a command line: No closing"),
        ("ADMIN_USERNAME", "a b", "ADMIN_USERNAME must be at most 150 letters, digits and @ . + - _"),
        ("ADMIN_EMAIL", "alice", "ADMIN_EMAIL must be an e-mail address, not 'alice'"),
        ("ADMIN_PASSWORD", "s3cret", "ADMIN_PASSWORD is set without ADMIN_USERNAME"),
        ("DATABASE_URL", "sqlite:///x", "DATABASE_URL must begin with postgresql:// or postgres://"),
        ("DATABASE_URL", "postgresql://u:s3cret@h:1x/y", "DATABASE_URL must look like postgresql://user:password@"),
        ("DATABASE_URL", "postgresql://u:s3cret@h", "DATABASE_URL must look like postgresql://user:password@"),
        ("CELERY_BROKER_URL", "kafka://s3cret", "CELERY_BROKER_URL must begin with redis://, rediss://, amqp://"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_name(name: str, value: str, sentence: str) -> None:
    said = read("'taken'", **{name: value})
    assert said.startswith(f"annotator.environment.InvalidEnvironment: {sentence}")
    assert "s3cret" not in said


def test_a_command_says_the_sentence_alone() -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=BASE_DIR,
        env={**os.environ, "PORT": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout + done.stderr == "winnow: PORT must be a whole number from 1 to 65535, not '0'\n"


def test_a_bucket_takes_the_place_of_the_folder() -> None:
    bucket = {"AWS_STORAGE_BUCKET_NAME": "pictures"}
    options = "settings.STORAGES['default']['OPTIONS']"
    assert read(f"{options}['bucket_name'], {options}['endpoint_url']", **bucket) == "('pictures', None)"
    assert "AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY" in read("1", **bucket, AWS_ACCESS_KEY_ID="k")
    assert "AWS_S3_ENDPOINT_URL must begin with https://" in read("1", **bucket, AWS_S3_ENDPOINT_URL="storage")


def test_a_team_names_its_services() -> None:
    database = read("settings.DATABASES['default']", DATABASE_URL="postgresql://alice:a%2Fb@db.example.org:5433/pets")
    for part in ("'NAME': 'pets'", "'HOST': 'db.example.org'", "'PORT': 5433", "'PASSWORD': 'a/b'"):
        assert part in database
    redis = {"CELERY_BROKER_URL": "redis://broker:6379/0"}
    assert read("settings.CELERY_BROKER_URL", **redis) == "redis://broker:6379/0"
    assert read("hasattr(settings, 'CELERY_BROKER_TRANSPORT_OPTIONS')", **redis) == "False"


def test_cookies_need_https_once_others_can_reach_it() -> None:
    assert read("settings.SESSION_COOKIE_SECURE", HOST="0.0.0.0") == "True"
    assert read("settings.SESSION_COOKIE_SECURE", CSRF_TRUSTED_ORIGINS="https://winnow.example.org") == "True"
    assert read("settings.SESSION_COOKIE_SECURE", HOST="0.0.0.0", SECURE_COOKIES="false") == "False"


def test_a_folder_may_be_relative_and_under_home() -> None:
    assert read("settings.WINNOW_DATA", WINNOW_DATA="x/../pool") == str(BASE_DIR / "pool")
    assert read("settings.WINNOW_DATA", WINNOW_DATA="~/pool") == "/home/alice/pool"


def test_a_folder_behind_a_link_is_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("FOLDER", str(tmp_path / "link"))
    assert environment.folder("FOLDER", tmp_path) == tmp_path.resolve() / "real"


def test_words_lose_their_spaces_and_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAMES", " a.org , ,b.org,")
    assert environment.words("NAMES", []) == ["a.org", "b.org"]


def test_numbers_of_other_scripts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBER", "²")
    with pytest.raises(InvalidEnvironment, match="NUMBER must be a whole number from 1 to 9"):
        environment.number("NUMBER", 1, 1, 9)


def test_a_socket_finds_room_under_any_path(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    assert _socket_folder(long) != long
    assert len(bytes(_socket_folder(long) / ".s.PGSQL.5432")) <= 103
    assert _socket_folder(long) == _socket_folder(long)
    assert _socket_folder(long) != _socket_folder(long / "y")
    assert _socket_folder(Path("/srv/winnow")) == Path("/srv/winnow")


def test_the_key_is_the_given_one_else_the_kept_one(tmp_path: Path) -> None:
    (tmp_path / "secret_key").write_text("kept\n")
    assert read("settings.SECRET_KEY", WINNOW_DATA=str(tmp_path)) == "kept"
    assert read("settings.SECRET_KEY", WINNOW_DATA=str(tmp_path), SECRET_KEY="given") == "given"
    assert len(read("settings.SECRET_KEY", WINNOW_DATA=str(tmp_path / "none"))) > 50


def test_a_request_may_bring_as_much_as_is_documented() -> None:
    from django.conf import settings

    from annotator.wsgi import LARGEST_FORM_BYTES

    assert settings.DATA_UPLOAD_MAX_MEMORY_SIZE == LARGEST_FORM_BYTES == 10 * 1024**2
    assert "10 MB" in (BASE_DIR / "docs" / "settings.md").read_text("utf-8")
