"""What holds for every run of the tests: files of its own, and a test that does not run is a failure."""

import shutil
import tempfile

import pytest

Report = pytest.TestReport | pytest.CollectReport


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Temporary files in a folder of this run's own.

    Each run of pytest closes its usual folder to other accounts, under the feet of any other run whose PostgreSQL,
    started by root, has to pass through.
    """
    if config.option.basetemp is None:
        config.option.basetemp = tempfile.mkdtemp(prefix="winnow-pytest-")
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))


def _no_skip(report: Report) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"not run: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> object:
    report = yield
    _no_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> object:
    report = yield
    _no_skip(report)
    return report
