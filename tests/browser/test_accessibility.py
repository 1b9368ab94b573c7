"""The pages for people who use the keyboard or a screen reader, and by day and night."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.server.pages.test_continued_runs import continued, train
from tests.server.pages.test_run_pages import add_run, take_step
from tests.support.server_calls import Api

OpenPage = Callable[..., Any]


@pytest.fixture
def model_id(api: Api) -> str:
    """A run with two steps, a checkpoint, a failure and a request that waits, and a run that
    continues it.
    """
    model_id = add_run(api, "all of it", recipe="sft")
    take_step(api, model_id, 1, 8)
    take_step(api, model_id, 3, 4)
    path = api.result(api.ok("save_weights", model_id=model_id, seq_id=5, path="first"))["path"]
    train(api, continued(api, path, "the rest of it"), 1, 3, 2)
    api.result(api.step(model_id, 6, 99))
    api.step(model_id, 8)
    return model_id


@pytest.fixture(scope="session")
def axe() -> str:
    """The rules of axe-core, as a script."""
    package = pytest.importorskip("axe_core_python", reason="run `make test-browser`")
    [script] = Path(package.__file__).parent.rglob("axe.min.js")
    return script.read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "path", ["/", "run", "continued", "delete", "/playground", "/failures", "/sessions"]
)
def test_axe_finds_nothing(
    api: Api, model_id: str, axe: str, open_page: OpenPage, path: str, scheme: str
) -> None:
    [later] = api.get(f"training_runs/{model_id}").json()["continued_by"]
    paths = {
        "run": f"/runs/{model_id}",
        "continued": f"/runs/{later}",
        "delete": f"/runs/{model_id}/checkpoints/weights/first/delete",
    }
    url = f"{api.http.base_url}{paths.get(path, path)}"
    page = open_page(url, color_scheme=scheme, bypass_csp=True)
    if path == "/playground":
        page.get_by_label("Prompt").fill("5 6")
        page.get_by_role("button", name="Sample").click()
        page.locator("#start:not([disabled])").wait_for()
        page.keyboard.press("Tab")
        page.locator("#answer-1 .tokens").focus()
        page.keyboard.press("ArrowRight")
    page.evaluate(axe)
    found = page.evaluate("axe.run()")["violations"]
    assert [
        (violation["id"], [node["html"][:200] for node in violation["nodes"]])
        for violation in found
    ] == []


def test_a_checkpoint_is_deleted_with_the_keyboard_alone(
    api: Api, model_id: str, open_page: OpenPage
) -> None:
    page = open_page(str(api.http.base_url))

    def focused() -> str:
        return page.evaluate(
            "document.activeElement.ariaLabel ?? document.activeElement.textContent.trim()"
        )

    def tab_to(words: str, most: int = 40) -> None:
        for _ in range(most):
            page.keyboard.press("Tab")
            if focused().startswith(words):
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", f"nobody sees that {words} has the focus"
                return
        pytest.fail(f"Tab does not reach {words}")

    page.keyboard.press("Tab")
    assert focused() == "Skip to content"
    page.keyboard.press("Enter")
    tab_to("all of it")  # the link in the failure
    tab_to("all of it")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/runs/{model_id}")
    tab_to("Loss per token by step")
    tab_to("Delete first")
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    assert not page.get_by_role("dialog").is_visible()
    assert focused() == "Delete first"  # the focus is back
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    tab_to("Delete", 5)
    page.keyboard.press("Enter")
    page.get_by_text("None has been saved.").wait_for()
    assert page.locator("#announcer").inner_text() == "first was deleted"


def background(page: Any) -> tuple[int, ...]:
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return tuple(int(part) for part in color.strip("rgb()").split(","))


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_the_theme_follows_the_system_until_the_user_chooses(
    api: Api, open_page: OpenPage, scheme: str, is_dark: bool
) -> None:
    page = open_page(str(api.http.base_url), color_scheme=scheme)
    button = page.get_by_role("button", name="Dark mode")
    assert (max(background(page)) < 60) is is_dark
    assert button.get_attribute("aria-pressed") == str(is_dark).lower()
    button.click()
    assert (max(background(page)) < 60) is not is_dark
    page.goto(f"{api.http.base_url}/playground")
    assert (max(background(page)) < 60) is not is_dark  # the choice stays


def test_nothing_is_wider_than_a_narrow_screen(
    api: Api, model_id: str, open_page: OpenPage
) -> None:
    page = open_page(str(api.http.base_url), viewport={"width": 380, "height": 800})
    [later] = api.get(f"training_runs/{model_id}").json()["continued_by"]
    runs = f"/runs/{model_id}", f"/runs/{later}"
    for path in ("/", *runs, "/playground", "/failures", "/sessions", "/docs"):
        page.goto(f"{api.http.base_url}{path}")
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 380, path
