"""The page in a real browser, as a person uses it; skipped without playwright and a Chromium.

TOKENREC_CHROMIUM names its program if it is none of the usual ones; TOKENREC_SCREENSHOTS a folder for pictures.
"""

import os
import pathlib
import shutil

import pytest

from tests.serving.conftest import listening
from tokenrec_jax.serving.access import Access
from tokenrec_jax.serving.app import create_app

playwright = pytest.importorskip("playwright.sync_api")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def browser():
    program = os.environ.get("TOKENREC_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not program:
        pytest.skip("no Chromium: set TOKENREC_CHROMIUM, or install one such as Debian's package chromium")
    with playwright.sync_playwright() as started:
        # Chromium's own sandbox does not start as root or in most containers; the page is our own.
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A tab that fails the test if the page says an error on its console, or asks anybody but this machine."""
    context = browser.new_context(viewport={"width": 1200, "height": 860})
    page, problems = context.new_page(), []
    page.set_default_timeout(10_000)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: message.type == "error" and problems.append(message.text))
    page.on(
        "request", lambda request: request.url.startswith(("http://127.0.0.1", "data:")) or problems.append(request.url)
    )
    page.problems = problems
    yield page
    context.close()
    assert not problems


def recommended(page):
    return [row.get_attribute("data-item") for row in page.locator("#recommended > li").all()]


def picture(page, name):
    if os.environ.get("TOKENREC_SCREENSHOTS"):
        page.screenshot(path=pathlib.Path(os.environ["TOKENREC_SCREENSHOTS"], f"{name}.png"))


def test_a_person_picks_a_user_adds_items_and_asks_why(page, engine):
    with listening(create_app(engine, access=Access())) as address:
        page.goto(address)
        # The first user is there at once.
        page.get_by_role("heading", name="History of u0").wait_for()
        assert page.locator("#state").inner_text() == "20 users, 40 items"
        assert page.locator("#history .title").first.inner_text() == "Thing 2 of Ångström"
        # Another one, by typing.
        page.get_by_role("combobox", name="User").fill("u5")
        page.get_by_role("button", name="u5", exact=True).click()
        page.get_by_role("heading", name="History of u5").wait_for()
        before = recommended(page)
        assert len(before) == 12 and before[0] == "i2" and page.locator("#history > li").count() == 3
        picture(page, "user")
        # Why?
        first = page.locator("#recommended > li").first
        first.get_by_role("button", name="Why?").click()
        why = first.locator(".why")
        why.get_by_text("Closest in the history").wait_for()
        assert why.locator(".near").count() == 3 and why.locator(".code.same").all_inner_texts() == ["a-3"]
        picture(page, "why")
        # One click, and the list is another.
        first.get_by_role("button", name="Add").click()
        page.locator("#history > li").nth(3).wait_for()
        after = recommended(page)
        assert before[0] not in after and len(after) == 12
        assert page.locator("#history .title").first.inner_text() == "Thing 2 of Ångström"
        assert page.locator("#recommended .tag").count() == 1
        assert engine.recommender.history("u5") == ["i5", "i6", "i7", "i2"]
        # Any item, by its title.
        page.get_by_label("Add any item").fill("thing 33")
        page.get_by_role("button", name="Thing 33 of Ångström").click()
        page.locator("#history > li").nth(4).wait_for()
        picture(page, "added")
        # Somebody new, whose name is no markup.
        name = "<b>Zoë & Co</b>"
        page.get_by_role("combobox", name="User").fill(name)
        page.get_by_role("button", name="Start as new user").click()
        page.get_by_role("heading", name=f"History of {name}").wait_for()
        assert recommended(page) == []
        # The console tells of the 404 that says so.
        page.problems.clear()
        page.get_by_label("Add any item").fill("i7")
        page.keyboard.press("Enter")
        page.locator("#recommended > li").nth(11).wait_for()
        assert (
            engine.recommender.history(name) == ["i7"] and page.locator("#state").inner_text() == "21 users, 40 items"
        )


def test_the_page_asks_for_the_key(page, engine):
    with listening(create_app(engine, access=Access(KEY))) as address:
        page.goto(address)
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Go on").click()
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Go on").click()
        page.get_by_role("heading", name="History of u0").wait_for()
        assert len(recommended(page)) == 12
        # The console tells of the answers 401.
        page.problems.clear()


def test_the_description_of_the_api(page, engine):
    with listening(create_app(engine, access=Access())) as address:
        page.goto(f"{address}/docs")
        page.locator("summary", has_text="/recommend").click()
        page.get_by_text("exclude_seen").wait_for()
        assert page.locator("details").count() == 10
        picture(page, "docs")
