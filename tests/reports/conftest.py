"""A browser for the pages."""

import pytest

from tests.browser import Browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless browser; tests that ask for it are skipped where there is none."""
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
