# make run     set up, then serve Winnow on http://127.0.0.1:8080 (PORT=... changes it); Ctrl-C stops everything
# make test    set up, then run every check and every test
# make check   the fast part of it: no browser, no real processes, no training
# make lock    resolve the newest versions and pin them in requirements.lock
# PYTHON=python3.12 make run   chooses the Python that makes .venv (3.11 or newer)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -q -p no:cacheprovider
PIP := 26.3
GROUPS := --group web --group worker --group dev
STAMP := $(VENV)/set-up
export PYTHONDONTWRITEBYTECODE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run test check set-up lint browser lock

run: $(STAMP)
	@exec $(BIN)/python manage.py up

# Two lanes of about the same length, because tests mostly wait for processes. Not where both would share a DATABASE_URL.
FIRST_BROWSED := $(wildcard tests/browser/test_[a-k]*.py)
test: $(STAMP) lint browser
	@said=`mktemp`; fast=; trap 'kill $$fast 2>/dev/null; rm -f "$$said"' EXIT; trap 'trap "" TERM; kill 0; exit 130' INT; \
	echo "The fast tests run beside the others; what they say follows below."; \
	{ $(PYTEST) -m "not slow and not browser"; quick=$$?; $(PYTEST) $(FIRST_BROWSED) && exit $$quick; } >"$$said" 2>&1 & fast=$$!; \
	if test -n "$$DATABASE_URL"; then wait $$fast; first=$$?; fi; \
	$(PYTEST) -m "slow and not browser"; slow=$$?; \
	$(PYTEST) $(filter-out $(FIRST_BROWSED),$(wildcard tests/browser/test_*.py)); browsed=$$?; \
	if test -z "$$DATABASE_URL"; then wait $$fast; first=$$?; fi; \
	cat "$$said"; test $$first = 0 && test $$slow = 0 && test $$browsed = 0

check: $(STAMP) lint
	$(PYTEST) -m "not slow and not browser"

set-up: $(STAMP)

# Done again only when what is asked for changed. The stamp is written last: a set-up cut short starts over.
$(STAMP): pyproject.toml requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "Winnow needs Python 3.11 or newer; install it, or name it: PYTHON=/path/to/python3 make run" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Winnow needs Python 3.11 or newer, and $(PYTHON) is `$(PYTHON) -V 2>&1`; name another one: PYTHON=python3.12 make run" >&2; exit 1; }
	@echo "Setting up $(VENV) (once; a few minutes) ..."
	@$(PYTHON) -m venv $(VENV) || { echo "Python cannot make $(VENV); on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install -qq "pip==$(PIP)"
	@$(BIN)/python -m pip install -qq -c requirements.lock $(GROUPS)
	@touch $@

lint: $(STAMP)
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/mypy --cache-dir=/dev/null annotator ml_worker
	$(BIN)/lint-imports --no-cache
	@# It warns that no database runs; the tables it compares are in the migrations.
	$(BIN)/python -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run

# The tests drive the system's Chromium; nothing is downloaded from elsewhere.
browser:
	@if command -v chromium || command -v chromium-browser || command -v google-chrome \
	    || test -x "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" \
	    || test -x "/Applications/Chromium.app/Contents/MacOS/Chromium"; then exit 0; fi >/dev/null; \
	if ! command -v apt-get >/dev/null; then as=none; \
	elif test "`id -u`" = 0; then as=; \
	elif sudo -n true 2>/dev/null; then as=sudo; \
	else as=none; fi; \
	if test "$$as" = none; then echo "the browser tests need Chromium: install it (Debian: sudo apt-get install chromium) and run make test again" >&2; exit 1; fi; \
	echo "Installing Chromium for the browser tests ..."; \
	$$as apt-get update -q && $$as env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium

# Every version pip chooses without the old lock, in an environment of its own.
lock:
	@rm -rf $(VENV)-lock
	@$(PYTHON) -m venv $(VENV)-lock
	@$(VENV)-lock/bin/python -m pip install -qq "pip==$(PIP)"
	@$(VENV)-lock/bin/python -m pip install -qq $(GROUPS)
	@{ echo "# Every version, pinned. Refresh with: make lock"; \
	   $(VENV)-lock/bin/python -m pip freeze --local | sed "s/+cpu$$//" | LC_ALL=C sort -f; } > requirements.lock
	@rm -rf $(VENV)-lock
	@echo "requirements.lock is refreshed; run make test before you commit it"
