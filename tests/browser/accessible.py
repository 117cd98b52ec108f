"""What axe-core finds wrong with a page, in words a failing test can print."""

from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

# WCAG 2.2 AA and everything before it, and the practices axe recommends beside it.
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


def faults(page: Page, within: str | None = None) -> list[str]:
    """Every violation on the page as it stands, one line an element: the rule, what is wrong, and where.

    ``within``: a selector that narrows the search to one part.
    """
    found: dict[str, Any] = Axe().run(page, context=within, options=RULES).response
    return [
        f"{rule['id']} ({rule['impact']}): {rule['help']}: {', '.join(map(str, node['target']))}: {node['html'][:160]}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]
