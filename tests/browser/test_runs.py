"""The list of runs and the page of one, in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.server.pages.test_continued_runs import continued, save, train
from tests.server.pages.test_run_pages import add_run, take_step
from tests.support.recording_engine import RecordingEngine
from tests.support.server_calls import API, Api
from tinkex.local import serve

OpenPage = Callable[..., Any]


@pytest.fixture
def runs(api: Api) -> str:
    """The address of a server with thirty runs."""
    for number in range(30):
        take_step(api, add_run(api, f"try-{number:02}", team="odd" if number % 2 else "even"), 1, 9)
    return str(api.http.base_url)


def titles(page: Any) -> list[str]:
    return page.locator("#runs a.title").all_inner_texts()


def wait_for_titles(page: Any, count: int, first: str) -> None:
    page.wait_for_function(
        """([count, first]) => {
            const titles = [...document.querySelectorAll("#runs a.title")];
            return titles.length === count && titles[0].textContent === first;
        }""",
        arg=[count, first],
    )


def test_the_list_is_searched_as_one_types_and_the_focus_stays(
    runs: str, open_page: OpenPage
) -> None:
    page = open_page(runs)
    wait_for_titles(page, 25, "try-29")
    page.keyboard.press("/")
    page.keyboard.type("try-1")
    wait_for_titles(page, 10, "try-19")
    assert page.evaluate("document.activeElement.id") == "search"
    assert page.url.endswith("?q=try-1")
    assert page.locator("#announcer").inner_text() == "10 runs"
    page.keyboard.type("nothing")
    page.get_by_text("No run matches.").wait_for()
    page.reload()
    assert page.locator("#search").input_value() == "try-1nothing"


def test_it_is_filtered_sorted_and_paged_without_a_new_page(runs: str, open_page: OpenPage) -> None:
    page = open_page(runs)
    page.evaluate("window.stays = true")
    page.get_by_role("link", name="Next").click()
    wait_for_titles(page, 5, "try-04")
    page.get_by_role("link", name="Run", exact=True).click()
    wait_for_titles(page, 25, "try-00")
    assert page.get_by_role("columnheader", name="Run").get_attribute("aria-sort") == "ascending"
    page.get_by_role("link", name="Run", exact=True).click()
    wait_for_titles(page, 25, "try-29")
    page.get_by_role("navigation", name="Filter runs").get_by_role("link", name="Failed").click()
    page.get_by_text("No run matches.").wait_for()
    page.go_back()
    wait_for_titles(page, 25, "try-29")
    assert page.evaluate("window.stays")


def test_a_run_is_shown_live_while_it_trains(api: Api, open_page: OpenPage) -> None:
    model_id = add_run(api, "live")
    take_step(api, model_id, 1, 8)
    page = open_page(f"{api.http.base_url}/runs/{model_id}")
    page.locator("#live", has_text="live").wait_for()
    page.evaluate("document.querySelector('#chart-lines path.curve').kept = true")
    page.locator("#chart-table summary").click()
    for seq_id, loss in ((3, 6), (5, 4)):
        take_step(api, model_id, seq_id, loss)
    page.locator(".newest", has_text=re.compile("^4$")).wait_for()
    lines = page.locator("#chart-lines")
    assert "From 8 at step 1 to 4 at step 3" in lines.get_attribute("aria-label")
    assert page.locator("#chart-table tbody tr").count() == 3
    # the same element as before, so that nothing flickers, and what was opened is open
    assert page.evaluate("document.querySelector('#chart-lines path.curve').kept")
    assert page.locator("#chart-table").get_attribute("open") is not None


def test_a_metric_is_chosen_and_read_by_pointer_and_keys(api: Api, open_page: OpenPage) -> None:
    model_id = add_run(api, "metrics")
    for seq_id in (1, 3, 5):
        take_step(api, model_id, seq_id, 9 - seq_id)
        reward = {"metrics": {"reward": seq_id / 10}}
        api.http.post(f"{API}/training_runs/{model_id}/metrics", json=reward).raise_for_status()
    page = open_page(f"{api.http.base_url}/runs/{model_id}")
    page.get_by_role("navigation", name="Metrics of this run").get_by_text("reward").click()
    page.locator("#chart-title", has_text="reward").wait_for()
    assert page.url.endswith("?metric=reward")
    lines = page.locator("#chart-lines")
    lines.hover()
    assert page.locator("#chart-point").inner_text() == "step 2: 0.3"
    lines.focus()
    page.keyboard.press("End")
    assert page.locator("#announcer").inner_text() == "Step 3: 0.5"
    page.keyboard.press("ArrowLeft")
    assert page.locator("#chart-point").inner_text() == "step 2: 0.3"


@pytest.mark.parametrize("scripts", [True, False])
def test_a_continued_run_shows_the_run_before_and_leads_to_it(
    api: Api, open_page: OpenPage, scripts: bool
) -> None:
    old = add_run(api, "first night")
    train(api, old, 1, 9, 8)
    new = continued(api, save(api, old, 5, "at-2"), "second night")
    train(api, new, 1, 6, 5)
    page = open_page(f"{api.http.base_url}/runs/{new}", java_script_enabled=scripts)
    chart = page.get_by_role("img", name="Loss per token by step. From 9 at step 1 to 5 at step 4")
    assert "Up to step 2: first night." in chart.get_attribute("aria-label")
    own, before = (page.locator(f"#chart-lines path.curve{which}") for which in ("", ".earlier"))
    assert (own.count(), before.count()) == (2, 1)
    colors = [path.evaluate("path => getComputedStyle(path).stroke") for path in own.all()]
    assert colors[0] != colors[1]
    assert page.locator("#chart-lines path.joint").bounding_box()["height"] > 100
    page.get_by_text("Values as a table").click()
    assert page.get_by_role("cell", name="first night").count() == 2
    page.get_by_role("link", name="first night").click()
    page.get_by_role("link", name="second night").click()
    page.wait_for_url(f"**/runs/{new}")


def test_the_cursor_tells_the_steps_of_the_run_before(api: Api, open_page: OpenPage) -> None:
    old = add_run(api, "first night")
    train(api, old, 1, 9, 8)
    new = continued(api, save(api, old, 5, "at-2"), "second night")
    page = open_page(f"{api.http.base_url}/runs/{new}")
    page.locator("#live", has_text="live").wait_for()
    train(api, new, 1, 6)
    page.locator(".newest", has_text=re.compile("^6$")).wait_for()
    page.locator("#chart-lines").focus()
    page.keyboard.press("Home")
    assert page.locator("#announcer").inner_text() == "Step 1 of first night: 9"
    assert page.locator("#chart-point").inner_text() == "step 1 of first night: 9"
    page.keyboard.press("End")
    assert page.locator("#announcer").inner_text() == "Step 3: 6"


def test_a_checkpoint_is_deleted_after_a_question(api: Api, open_page: OpenPage) -> None:
    model_id = add_run(api, "kept")
    for seq_id, name in ((1, "first"), (2, "second")):
        api.result(api.ok("save_weights", model_id=model_id, seq_id=seq_id, path=name))
    page = open_page(f"{api.http.base_url}/runs/{model_id}")
    delete = page.get_by_role("link", name="Delete first")
    delete.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Keep it").click()
    assert not dialog.is_visible()
    assert page.get_by_role("link", name="Delete first").is_visible()
    delete.click()
    dialog.get_by_role("button", name="Delete").click()
    page.get_by_role("link", name="Delete first").wait_for(state="detached")
    assert page.locator("#announcer").inner_text() == "first was deleted"
    assert page.get_by_role("link", name="Delete second").is_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download second").click()
    assert download.value.suggested_filename.endswith(".tar")


def test_a_lost_server_is_said_and_found_again(open_page: OpenPage, tmp_path: Any) -> None:
    with serve(engine=RecordingEngine(), data_dir=tmp_path) as server:
        port = int(server.base_url.rpartition(":")[2])
        page = open_page(server.base_url)
        page.locator("#live-words", has_text=re.compile("^live$")).wait_for()
    page.locator("#live-words", has_text="reconnecting").wait_for()
    assert "lost" in page.locator("#announcer").inner_text()
    with serve(engine=RecordingEngine(), data_dir=tmp_path, port=port):
        page.locator("#live-words", has_text=re.compile("^live$")).wait_for()


def test_without_scripts_the_page_shows_searches_and_deletes(
    runs: str, api: Api, open_page: OpenPage
) -> None:
    page = open_page(runs, java_script_enabled=False)
    page.locator("#search").fill("try-07")
    page.get_by_role("button", name="Search").click()
    assert titles(page) == ["try-07"]
    page.get_by_role("link", name="try-07").click()
    assert page.get_by_role("img", name="Loss per token by step. 9 at step 1.").is_visible()
    model_id = page.url.rpartition("/")[2]
    api.result(api.ok("save_weights", model_id=model_id, seq_id=3, path="last"))
    page.reload()
    page.get_by_role("link", name="Delete last").click()
    page.get_by_role("button", name="Delete").click()
    assert page.get_by_text("None has been saved.").is_visible()


def test_with_a_key_the_browser_logs_in_and_changes_things(open_page: OpenPage) -> None:
    with serve(engine=RecordingEngine(), api_key="ours") as server:
        page = open_page(server.base_url)
        page.get_by_label("API key").fill("ours")
        page.get_by_role("button", name="Log in").click()
        page.get_by_text("No run yet.").wait_for()
        page.locator("#live-words", has_text=re.compile("^live$")).wait_for()
        page.goto(f"{server.base_url}/playground")
        page.get_by_label("Prompt").fill("5 6")
        page.get_by_role("button", name="Sample").click()
        page.locator(".facts-line", has_text="mean logprob").wait_for()
        page.get_by_role("button", name="Log out").click()
        page.get_by_label("API key").wait_for()
