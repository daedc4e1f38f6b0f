"""The built site in a browser: ``OPFLOW_SITE=docs/_build pytest tests/test_site.py``.

Needs Chromium and its driver (packages chromium and chromium-driver) and ``pip install '.[docs]'``.
"""

import functools
import http.server
import os
import shutil
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest

SITE = Path(os.environ.get("OPFLOW_SITE", "no site"))
PAGES = sorted(str(page.relative_to(SITE)) for page in SITE.rglob("*.html"))
PAGES = [page for page in PAGES if not page.startswith("_static")]
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--disable-dev-shm-usage",
)

pytestmark = pytest.mark.skipif(not PAGES, reason="OPFLOW_SITE is no built site")

#: formulas that MathJax left as they were, or could not read
BROKEN_MATH = """return [...document.querySelectorAll('.math')].filter(
    math => !math.querySelector('mjx-container') || math.querySelector('mjx-merror')
).map(math => math.textContent)"""
MATH_IS_DONE = """const done = arguments[0];
if (!document.querySelector('.math')) done(); else {
    const ready = () => window.MathJax?.startup?.promise
        ? MathJax.startup.promise.then(done) : setTimeout(ready, 20);
    ready();
}"""


@pytest.fixture(scope="module")
def address():
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install '.[docs]'")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for option in OPTIONS:
        options.add_argument(option)
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


def resize(browser, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_whole_on_a_screen_and_on_a_phone(page, address, browser):
    resize(browser, 1280)
    browser.get(address + page)
    browser.execute_async_script(MATH_IS_DONE)
    assert browser.execute_script(BROKEN_MATH) == []
    for width in (1280, 400):
        resize(browser, width)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert errors == []


class Anchors(HTMLParser):
    """Where a page leads to, and the names that lead into it."""

    def __init__(self, page):
        super().__init__()
        self.links, self.names = set(), {""}
        self.feed((SITE / page).read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.names |= {attrs.get("id"), attrs.get("name")}
        self.links |= {attrs[key] for key in ("href", "src") if attrs.get(key)}


def test_no_link_is_dead():
    anchors = functools.cache(Anchors)
    dead = []
    for page in PAGES:
        for link in anchors(page).links:
            target, name = urldefrag(unquote(urljoin(f"site:///{page}", link)))
            if not target.startswith("site:///"):
                continue  # of another site
            path = target.removeprefix("site:///").partition("?")[0]
            there = (SITE / path).is_file()
            if not there or (path.endswith(".html") and name not in anchors(path).names):
                dead.append((page, link))
    assert dead == []


def test_search_finds_the_gram(address, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(address + "search.html?q=Gram")
    found = "return [...document.querySelectorAll('#search-results li a')].map(a => a.textContent)"
    results = WebDriverWait(browser, 20).until(lambda chrome: chrome.execute_script(found))
    assert any("Gram" in result for result in results)
