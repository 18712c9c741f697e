"""The admin page, in a real browser: what it shows, whom it shows it to, and what cannot run in it."""

import html
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.wait import WebDriverWait
from server_process import RunningServer, change, wait_until

WAIT_S = 30


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    assert driver is not None, "chromedriver is missing; python3 tests/run.py installs it"
    assert chromium is not None, "chromium is missing; python3 tests/run.py installs it"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    # Root may not use the browser's sandbox; what is shown here is our own page.
    arguments = ["headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "no-proxy-server"]
    arguments += ["disable-background-networking", "disable-component-update", f"user-data-dir={profile}"]
    for argument in arguments:
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=Service(driver))
    yield window
    window.quit()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = RunningServer(tmp_path_factory.mktemp("admin") / "data")
    yield running
    assert running.stop() == 0


def enter(browser: WebDriver, server: RunningServer, user: str, token: str) -> None:
    browser.get(f"{server.url}/admin")
    browser.find_element(By.ID, "user").send_keys(user)
    browser.find_element(By.ID, "token").send_keys(token)
    browser.find_element(By.CSS_SELECTOR, "#door button").click()


def wait_for(browser: WebDriver, name: str) -> str:
    """The text of the element once it shows."""
    WebDriverWait(browser, WAIT_S).until(lambda window: window.find_element(By.ID, name).is_displayed())
    return browser.find_element(By.ID, name).text


def test_the_page_shows_users_usage_devices_and_errors_and_says_why_no_names(
    browser: WebDriver, own: RunningServer
) -> None:
    alice = own.account("alice", quota=1 << 20)
    alice.put("blob-of-alice", bytes(512 << 10))
    alice.push(change("document-of-alice", None, "r1", added=["blob-of-alice"]))
    own.account("bob")
    assert own.run("token", "add", "bob", "--label", "<b>bob's & laptop</b>").returncode == 0
    chief = own.account("chief", scope="admin")
    for path in (own.data / "blobs").rglob("blob-of-alice"):
        path.unlink()
    failed = alice.get("blob-of-alice")
    assert failed.status_code == 503
    enter(browser, own, chief.name, chief.token)
    rows = wait_for(browser, "users").splitlines()
    shown = " ".join(rows)
    assert "alice 512.0 KiB 1.0 MiB" in shown
    assert "<b>bob's & laptop</b> (write): never" in shown  # as text, not as markup
    failures = wait_for(browser, "failures")
    assert failed.headers["x-request-id"] in failures
    assert "503 GET /blobs/{user}/{blob_id}" in failures
    assert "Errors of the last hour: 1" in browser.page_source
    assert "no file names and no content here, because the server has none" in browser.page_source
    for hidden in ("blob-of-alice", "document-of-alice", chief.token):
        assert hidden not in html.unescape(browser.page_source)
    assert browser.execute_script("return [localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    alice.push(change("another", None, "r1"))
    browser.find_element(By.ID, "again").click()
    WebDriverWait(browser, WAIT_S).until(lambda window: "3 users" in window.find_element(By.ID, "state").text)
    assert [entry for entry in browser.get_log("browser") if "Content Security Policy" in entry["message"]] == []


def test_whoever_is_no_admin_sees_a_sentence_and_no_data(browser: WebDriver, own: RunningServer) -> None:
    own.account("eve")
    eve = own.token("eve", own.account("mallory").user_id, "write")
    enter(browser, own, "mallory", eve.token)
    assert "may not do that" in wait_for(browser, "fault")
    assert not browser.find_element(By.ID, "shown").is_displayed()
    enter(browser, own, "mallory", "wrong")
    assert "unknown, expired or revoked" in wait_for(browser, "fault")
    enter(browser, own, "m\u00e4llory\u2603", "x")
    assert "character" in wait_for(browser, "fault")


def test_nothing_but_its_own_script_runs_in_the_page(browser: WebDriver, own: RunningServer) -> None:
    browser.get(f"{own.url}/admin")
    browser.get_log("browser")  # what earlier tests left
    browser.execute_script(
        "const made = document.createElement('div');"
        "made.innerHTML = '<img src=x onerror=\"document.title=1\">'; document.body.append(made);"
        "const script = document.createElement('script'); script.textContent = 'document.title = 2';"
        "document.body.append(script);"
    )
    messages: list[str] = []

    def both_were_refused() -> bool:
        messages.extend(entry["message"] for entry in browser.get_log("browser"))
        return sum("Content Security Policy" in message for message in messages) >= 2

    wait_until(both_were_refused)
    assert browser.title == "blobfs server"


def test_the_page_cannot_be_framed_cached_or_sniffed_and_holds_nothing(own: RunningServer) -> None:
    for name in ("", "/admin.js", "/admin.css"):
        answer = httpx.get(f"{own.url}/admin{name}", trust_env=False, timeout=60)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        for part in ("default-src 'none'", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'"):
            assert part in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert (Path(__file__).parents[2] / "server/pages" / (name[1:] or "admin.html")).read_text() == answer.text
    assert httpx.get(f"{own.url}/admin/../settings.py", trust_env=False, timeout=60).status_code == 404


def test_times_of_tokens_are_written_down_at_the_end(tmp_path: Path) -> None:
    server = RunningServer(tmp_path / "data")
    used = server.account("me")
    server.token("me", used.user_id, "read")
    assert used.get("none").status_code == 404
    assert server.stop() == 0
    tokens = json.loads(server.run("token", "list", "me", "--json").stdout)
    assert [token["seen"] is None for token in tokens] == [False, True]
