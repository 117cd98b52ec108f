"""Every setting of Winnow. This file only sets: it creates nothing and connects to nothing.

Variables of the environment are read by `annotator.environment`, which refuses what cannot be used in one sentence
that names the variable. docs/settings.md lists them all.
"""

import hashlib
import re
import secrets
import shlex
from pathlib import Path
from typing import Any

import dj_database_url
from csp.constants import NONE, SELF

from annotator import environment
from annotator.environment import InvalidEnvironment

BASE_DIR = Path(__file__).resolve().parent.parent

# --- where things are kept ----------------------------------------------------------------------------------
# data/: postgres/ media/ broker/ artifacts/ logs/ lock secret_key
WINNOW_DATA: Path = environment.folder("WINNOW_DATA", BASE_DIR / "data")
MEDIA_ROOT: Path = environment.folder("MEDIA_ROOT", WINNOW_DATA / "media")
ARTIFACT_ROOT: Path = WINNOW_DATA / "artifacts"

# --- how it is reached --------------------------------------------------------------------------------------
DEBUG: bool = environment.flag("DEBUG", False)
HOST: str = environment.text("HOST", "127.0.0.1")
if not re.fullmatch(r"[\w.:-]+", HOST):
    raise InvalidEnvironment(f"HOST must be a host name or an address, as in 127.0.0.1, not {HOST!r}")
PORT: int = environment.number("PORT", 8080, 1, 65535)
ALLOWED_HOSTS: list[str] = environment.words("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])
for _host in ALLOWED_HOSTS:
    if not re.fullmatch(r"\*|\.?[\w.-]+|\[[0-9A-Fa-f:.]+\]", _host):
        raise InvalidEnvironment(f"ALLOWED_HOSTS must be host names alone, as in winnow.example.org, not {_host!r}")
CSRF_TRUSTED_ORIGINS: list[str] = environment.words("CSRF_TRUSTED_ORIGINS", [])
for _origin in CSRF_TRUSTED_ORIGINS:
    if not re.fullmatch(r"https?://[^/\s]+", _origin):
        raise InvalidEnvironment(
            f"CSRF_TRUSTED_ORIGINS must be addresses as in https://winnow.example.org, without a path, not {_origin!r}"
        )

# The first owner; without a name and a password `up` makes a local one and prints a one-time login link.
ADMIN_USERNAME: str = environment.text("ADMIN_USERNAME")
if not re.fullmatch(r"[\w.@+-]{0,150}", ADMIN_USERNAME):
    raise InvalidEnvironment("ADMIN_USERNAME must be at most 150 letters, digits and @ . + - _")
ADMIN_PASSWORD: str = environment.text("ADMIN_PASSWORD")
environment.needs("ADMIN_PASSWORD", "ADMIN_USERNAME")
ADMIN_EMAIL: str = environment.text("ADMIN_EMAIL")
if ADMIN_EMAIL and not re.fullmatch(r"[^@\s]+@[^@\s]+", ADMIN_EMAIL):
    raise InvalidEnvironment(f"ADMIN_EMAIL must be an e-mail address, not {ADMIN_EMAIL!r}")


def _secret_key() -> str:
    """SECRET_KEY as given, else the one `up` keeps in the data folder, else one for this process alone."""
    if given := environment.text("SECRET_KEY"):
        return given
    try:
        return (WINNOW_DATA / "secret_key").read_text().strip() or secrets.token_urlsafe(50)
    except OSError:
        return secrets.token_urlsafe(50)


SECRET_KEY = _secret_key()

# --- the application ----------------------------------------------------------------------------------------
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "django_htmx",
    "template_partials.apps.SimpleAppConfig",  # the simple one: the loaders and builtins are named below
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "csp",
    "annotator",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "annotator.views.compressing.compressed",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "annotator.views.utf8_only",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "annotator.views.languages.PageLanguage",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]
ROOT_URLCONF = "annotator.urls"
WSGI_APPLICATION = "annotator.wsgi.application"
_LOADERS: list[Any] = [
    "django.template.loaders.filesystem.Loader",
    "django.template.loaders.app_directories.Loader",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            "builtins": ["template_partials.templatetags.partials", "django.templatetags.static"],
            "loaders": [
                (
                    "template_partials.loader.Loader",
                    _LOADERS if DEBUG else [("django.template.loaders.cached.Loader", _LOADERS)],
                )
            ],
        },
    }
]

# --- database and files -------------------------------------------------------------------------------------
# A unix socket's path may have 103 bytes on macOS (107 on Linux); PostgreSQL adds this name to its folder.
_SOCKET_NAME = ".s.PGSQL.5432"
POSTGRES_DATA: Path = WINNOW_DATA / "postgres"


def _socket_folder(postgres_data: Path) -> Path:
    """PostgreSQL's own folder where the socket's path fits, else a short one under /tmp named by its hash.

    /tmp and not TMPDIR: every process must find the same folder, whatever its environment.
    """
    if len(bytes(postgres_data / _SOCKET_NAME)) <= 103:
        return postgres_data
    return Path("/tmp") / f"winnow-{hashlib.sha256(bytes(postgres_data)).hexdigest()[:16]}"


POSTGRES_SOCKET_FOLDER = _socket_folder(POSTGRES_DATA)
DATABASE_URL: str = environment.url("DATABASE_URL", ("postgresql", "postgres"))


def _database() -> dict[str, Any]:
    """The team's PostgreSQL from DATABASE_URL, else the embedded one through its unix socket."""
    database: dict[str, Any] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "winnow",
        "USER": "postgres",
        "HOST": str(POSTGRES_SOCKET_FOLDER),
        "PORT": "5432",
    }
    if DATABASE_URL:
        try:
            database = dict(dj_database_url.parse(DATABASE_URL))
        except ValueError:
            database = {}
        if not database.get("NAME"):
            # Not shown, nor chained: the password is part of it.
            raise InvalidEnvironment(
                "DATABASE_URL must look like postgresql://user:password@host:5432/name;"
                " in a password, write / @ : # ? and % as %2F %40 %3A %23 %3F and %25"
            )
    return database | {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}


DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

STORAGES: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "annotator.storage.AtomicFileStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
if _bucket := environment.text("AWS_STORAGE_BUCKET_NAME"):
    environment.needs("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    environment.needs("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")
    STORAGES["default"] = {
        "BACKEND": "storages.backends.s3.S3Storage",
        "OPTIONS": {
            "bucket_name": _bucket,
            "endpoint_url": environment.url("AWS_S3_ENDPOINT_URL", ("https", "http")) or None,
            "region_name": environment.text("AWS_S3_REGION_NAME") or None,
            "access_key": environment.text("AWS_ACCESS_KEY_ID") or None,
            "secret_key": environment.text("AWS_SECRET_ACCESS_KEY") or None,
            "location": environment.text("AWS_LOCATION"),
            "default_acl": None,
            "querystring_auth": True,
            "file_overwrite": True,
        },
    }

STATIC_URL = "/static/"
STATICFILES_DIRS = [folder for folder in [BASE_DIR / "static"] if folder.is_dir()]
WHITENOISE_USE_FINDERS = True  # serves from the source folders: no collectstatic step
WHITENOISE_AUTOREFRESH = DEBUG

# Uploads go to disk as they arrive; one request may bring a whole folder of images.
FILE_UPLOAD_MAX_MEMORY_SIZE = 256 * 1024
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.TemporaryFileUploadHandler"]
DATA_UPLOAD_MAX_MEMORY_SIZE = 10 * 1024 * 1024  # of what is no file; as wsgi.py allows
DATA_UPLOAD_MAX_NUMBER_FILES = 20_000
DATA_UPLOAD_MAX_NUMBER_FIELDS = 21_000
MAX_IMAGE_BYTES = 50 * 1024 * 1024
MAX_IMAGE_PIXELS = 100_000_000

# --- people and safety --------------------------------------------------------------------------------------
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
# Cookies travel over https only, unless Winnow is served on this machine alone and no https origin is named.
_IS_LOCAL = HOST in {"127.0.0.1", "localhost", "::1"}
_HAS_HTTPS = any(origin.startswith("https://") for origin in CSRF_TRUSTED_ORIGINS)
SECURE_COOKIES: bool = environment.flag("SECURE_COOKIES", _HAS_HTTPS or not _IS_LOCAL)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_COOKIES
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
# A browser shares cookies between the ports of one machine; own names keep two applications apart.
SESSION_COOKIE_NAME = "winnow_session"
CSRF_COOKIE_NAME = "winnow_csrf"
X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:", "blob:"],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}

# --- API ----------------------------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "annotator.api.authentication.ApiTokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": [
        "annotator.api.parsing.BoundedJson",
        "rest_framework.parsers.FormParser",
        "rest_framework.parsers.MultiPartParser",
    ],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "annotator.api.schema.SummarisedSchema",
    "EXCEPTION_HANDLER": "annotator.api.refusals.answer_refusal",
    "URL_FORMAT_OVERRIDE": None,  # ?format= names the format of an export
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Winnow",
    "DESCRIPTION": "Label a pool of images with the least effort, and know how good the labels are.",
    "VERSION": "0.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "COMPONENT_SPLIT_REQUEST": True,  # an uploaded file is bytes on the way in
    # Fields called "state" of several tables; unnamed, the names would be hashes.
    "ENUM_NAME_OVERRIDES": {
        "JobState": "annotator.models.Job.State",
        "ItemState": "annotator.models.Item.State",
        "ProposalState": "annotator.models.Proposal.State",
        "SuspectState": "annotator.models.Suspect.State",
    },
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "annotator.api.schema.add_refusals",
    ],
}

# --- jobs ---------------------------------------------------------------------------------------------------
JOBS_INLINE = False  # True runs a job where it is enqueued: tests and `simulate`
# A run that was silent for so long is taken for dead; six beats must be missing.
JOB_STALE_S: int = environment.number("JOB_STALE_S", 20, 6, 3600)
JOB_HEARTBEAT_S = min(3.0, JOB_STALE_S / 6)
LEASE_S = 300
# Images that a worker scores at a time; the smallest is what a network looks at at once.
SHARD_IMAGES: int = environment.number("SHARD_IMAGES", 2048, 512, 1_000_000)
# 0: as many as there are GPUs, or one; only the worker can count them.
TRAINING_PROCESSES: int = environment.number("TRAINING_PROCESSES", 0, 0, 1024)
TORCHRUN_OPTIONS: str = environment.text("TORCHRUN_OPTIONS")
try:
    shlex.split(TORCHRUN_OPTIONS)
except ValueError as error:
    raise InvalidEnvironment(f"TORCHRUN_OPTIONS must be options as at a command line: {error}") from error

CELERY_BROKER_URL: str = environment.url(
    "CELERY_BROKER_URL", ("redis", "rediss", "amqp", "amqps", "filesystem"), default="filesystem://"
)
if CELERY_BROKER_URL.startswith("filesystem:"):
    # The same folder in and out: whoever reads it is the other side.
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": str(WINNOW_DATA / "broker" / "messages"),
        "data_folder_out": str(WINNOW_DATA / "broker" / "messages"),
        "control_folder": str(WINNOW_DATA / "broker" / "control"),
        "polling_interval": 0.1,  # seconds
    }
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_IGNORE_RESULT = True  # the Job row is the result
CELERY_TASK_ACKS_LATE = False  # the Job row is the truth; tend_jobs sends a lost message again
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULE = {
    "tend-jobs": {"task": "ml_worker.tasks.tend_jobs", "schedule": 5.0, "options": {"expires": 10}},
}
CELERY_BEAT_SCHEDULE_FILENAME = str(WINNOW_DATA / "broker" / "beat-schedule")

# --- time, language, log ------------------------------------------------------------------------------------
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("de", "Deutsch")]
# The texts in other languages are in annotator/locale; `manage.py translations` keeps them in step.
LOCALE_PATHS = [BASE_DIR / "annotator" / "locale"]
LANGUAGE_COOKIE_NAME = "winnow_language"
# Numbers in pages are also read by machines (attributes, forms): a point stays a point in every language.
FORMAT_MODULE_PATH = ["annotator.locale"]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "annotator": {"level": "INFO"},
        "ml_worker": {"level": "INFO"},
        "kombu.connection": {"level": "ERROR"},  # warns that a folder has no host name
        "django": {"level": "WARNING", "handlers": ["stderr"], "propagate": False},
    },
}
