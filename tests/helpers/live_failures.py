"""Plugin of pytest: says of a failed test at once which and why, so that a run that is cut off has said it too."""

from __future__ import annotations

import pytest


_MAX_LINES = 6


class LiveFailures:
    """Prints failures as they are reported, through the terminal of the run (with xdist that of its controller)."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    @pytest.hookimpl(trylast=True)  # after the letter F
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            message = str(report.longrepr if crash is None else crash.message).strip().splitlines()[:_MAX_LINES]
            self._terminal.write_line("")  # the letters of other tests may stand in this line
            self._terminal.write_line(f"FAILED {report.nodeid} ({report.when})", red=True)
            for line in message:
                self._terminal.write_line(f"    {line[:300]}")
            self._terminal.flush()


@pytest.hookimpl(trylast=True)  # the terminal reporter is made in the same hook
def pytest_configure(config: pytest.Config) -> None:
    """Takes the place of what is printed at the end alone; the processes of xdist print nothing themselves."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(LiveFailures(terminal), "live-failures")
