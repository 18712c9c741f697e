"""The page of `blobfs browse` in a real browser: what a person sees and does, and what cannot run in it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.door.conftest import Desk, await_close, sync, tell, told
from tests.door.visiting import inner, picture

WAIT_S = 120


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory, account: Desk) -> Iterator[WebDriver]:
    """A browser that has followed a link."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    assert driver is not None, "chromedriver is missing; python3 tests/run.py installs it"
    assert chromium is not None, "chromium is missing; python3 tests/run.py installs it"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # Root may not use the browser's sandbox; what is shown here is our own page.
    arguments = ["headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "no-proxy-server"]
    arguments += ["disable-background-networking", "disable-component-update"]
    for argument in (*arguments, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=Service(driver))
    # What is looked for may come with the page that is on its way, or with what a script fetches.
    window.implicitly_wait(WAIT_S)
    try:
        window.get(tell(account, "browse", account.mount, "--no-open").strip())
        wait(window, lambda: window.current_url.endswith("/files/"))
        yield window
    finally:
        window.quit()


def wait(window: WebDriver, condition: Callable[[], object]) -> None:
    WebDriverWait(window, WAIT_S, ignored_exceptions=(WebDriverException,)).until(lambda _: condition())


def go(window: WebDriver, room: str, path: str = "") -> None:
    before = window.find_element(By.TAG_NAME, "html")
    window.execute_script("location.assign(arguments[0])", f"/{room}/{path}")
    wait(window, lambda: window.find_element(By.TAG_NAME, "html") != before)
    wait(window, lambda: window.execute_script("return document.readyState") == "complete")
    assert f"/{room}/" in window.current_url


def press(window: WebDriver, text: str) -> None:
    """A button, and the page that it leads to."""
    before = window.find_element(By.TAG_NAME, "html")
    wait(window, lambda: click(button for button in window.find_elements(By.TAG_NAME, "button") if button.text == text))
    wait(window, lambda: window.find_element(By.TAG_NAME, "html") != before)
    wait(window, lambda: window.find_element(By.ID, "notice"))


def follow(window: WebDriver, link: str, by: str = By.LINK_TEXT) -> None:
    """The page draws its list anew: what was found may be gone before it is clicked."""
    wait(window, lambda: click(window.find_elements(by, link)))


def click(found: Iterable[WebElement]) -> bool:
    """The first, if there is one."""
    for element in found:
        element.click()
        return True
    return False


def shown(window: WebDriver, text: str) -> None:
    wait(window, lambda: text in window.find_element(By.TAG_NAME, "body").text)


def texts(window: WebDriver, selector: str) -> list[str]:
    return [element.text for element in window.find_elements(By.CSS_SELECTOR, selector)]


def are_side_by_side(left: WebElement, right: WebElement) -> bool:
    return left.rect["y"] == right.rect["y"] and left.rect["x"] < right.rect["x"]


def loaded(window: WebDriver, selector: str) -> bool:
    script = "const p = document.querySelector(arguments[0]); return p.complete && p.naturalWidth"
    return window.execute_script(script, selector) == 48


def test_a_person_goes_through_folders_and_sees_pictures_texts_and_states(
    account: Desk, window: WebDriver, folder: Path
) -> None:
    hostile = "<img src=x onerror=document.title=1>"
    (folder / "deep").mkdir()
    (folder / "deep" / hostile).write_text(f"<script>document.title = 2</script>\n{hostile}")
    (folder / "photo.png").write_bytes(picture())
    sync(account)
    window.get_log("browser")
    go(window, "files")
    follow(window, f"{folder.name}/")
    wait(window, lambda: loaded(window, "td img"))
    shown(window, "here")
    tell(account, "evict", folder)
    follow(window, "photo.png")
    wait(window, lambda: loaded(window, ".preview img"))  # fetched by being looked at
    follow(window, folder.name)
    follow(window, "deep/")
    follow(window, hostile)
    shown(window, "<script>document.title = 2</script>")
    assert hostile in window.find_element(By.TAG_NAME, "pre").text
    assert window.title.startswith(hostile)
    assert window.get_log("browser") == []
    assert window.execute_script("return [document.cookie, localStorage.length]") == ["", 0]


def test_what_changes_shows_by_itself_and_names_are_found_from_the_keyboard(
    account: Desk, window: WebDriver, folder: Path
) -> None:
    go(window, "files", inner(account, folder))
    shown(window, "This folder is empty.")
    tell(account, "config", account.mount, "paused", "on")
    try:
        (folder / "needle.txt").write_text("x")
        shown(window, "needle.txt")
        shown(window, "Paused · ")
        # The page draws itself anew: what was found may be gone before it is asked for its text.
        wait(window, lambda: window.find_element(By.CSS_SELECTOR, "td .badge").text == "waiting")
    finally:
        tell(account, "config", account.mount, "paused", "off")
    window.find_element(By.TAG_NAME, "body").send_keys("/")
    window.switch_to.active_element.send_keys("NEEDLE", Keys.ENTER)
    shown(window, "1 found")
    shown(window, f"{inner(account, folder)}/needle.txt")


def test_a_conflict_is_settled_side_by_side_and_a_version_restored(
    account: Desk, window: WebDriver, folder: Path
) -> None:
    file, copy = folder / "letter.txt", folder / "letter (conflict left 2026-01-02 030405).txt"
    file.write_text("mine")
    sync(account)
    file.write_text("mine, later")
    copy.write_text("theirs")
    sync(account)
    go(window, "conflicts")
    follow(window, inner(account, copy))
    shown(window, "mine, later")
    shown(window, "theirs")
    wait(window, lambda: are_side_by_side(*window.find_elements(By.TAG_NAME, "section")))
    wait(window, lambda: texts(window, ".changes span")[1:] == ["-mine, later", "+theirs"])
    await_close(account, file, copy)
    press(window, "Keep both")
    assert file.read_text() == "mine, later"
    assert (folder / "letter (left 2026-01-02 030405).txt").read_text() == "theirs"
    sync(account)
    go(window, "versions", inner(account, file))
    follow(window, "Version ", By.PARTIAL_LINK_TEXT)
    shown(window, "From then to now")
    wait(window, lambda: window.find_element(By.CSS_SELECTOR, "figure pre").text == "mine")
    wait(window, lambda: texts(window, ".changes .added") == ["+mine, later"])
    await_close(account, file)
    press(window, "Restore")
    wait(window, lambda: file.read_text() == "mine")
    press(window, "Keep this file here")
    assert told(account, "status", file)["pinned"]


def test_the_page_fits_a_telephone_and_the_keyboard_reaches_it(account: Desk, window: WebDriver, folder: Path) -> None:
    (folder / ("a-very-long-name-without-a-space" * 6 + ".txt")).write_text("x")
    usual = window.get_window_size()
    try:
        window.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        )
        for room, path in (("files", inner(account, folder)), ("waiting", ""), ("trash", "")):
            go(window, room, path)
            assert window.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    finally:
        window.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        window.set_window_size(usual["width"], usual["height"])
    go(window, "files")
    window.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert window.switch_to.active_element.text == "Skip to the content"


def test_a_page_of_another_port_can_press_no_button(account: Desk, window: WebDriver, folder: Path) -> None:
    go(window, "files", inner(account, folder))
    home, origin = window.current_url, window.execute_script("return location.origin")
    form = window.find_element(By.NAME, "form").get_attribute("value")
    path = inner(account, folder)

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # It even knows the secret of the form, and the browser sends it our cookie: ports share them.
            page = (
                f"<form method=post action={origin}/do/pin><input name=form value={form}><input name=path value={path}>"
                f"<button>Win</button></form><img src={origin}/page.svg>"
            )
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            window.get(f"http://127.0.0.1:{other.server_port}/")
            assert window.execute_script("return document.images[0].naturalWidth") == 0
            window.find_element(By.TAG_NAME, "button").click()
            shown(window, "Another site asked for this.")
        finally:
            other.shutdown()
            thread.join()
    assert not told(account, "status", folder)["pinned"]
    window.get(home)
    shown(window, "This folder is empty.")
