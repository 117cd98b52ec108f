"""A test that does not run is a failure here: nothing is left out silently, on no machine."""

import pytest

Report = pytest.TestReport | pytest.CollectReport


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
