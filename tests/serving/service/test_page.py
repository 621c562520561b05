"""The service's page in headless Chromium: its values, states, ranking, and that the users' text never runs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.serving.service.standin import BIG, IMAGE, PAGE, STATES, StandIn, running

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
FLAGS += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--enable-logging=stderr"]
FRAMES = {state: f"/{state}/" for state in STATES} | {
    "form": "/busy.form/",
    "ranked": "/busy.ranked/#rank=buyer-7",
    "refused": "/busy.refused/#rank=nobody",
    "hostile": "/hostile/#rank=%3Cimg%20src=x%20onerror=console.error('run')%3E",
    "plus": "/busy.plus/#rank=a+b%26c",
}
# The narrowest screen: every frame of 360 pixels. After 10 s the form is filled in, after 20 s the frames are read.
DRIVER = """<!DOCTYPE html><link rel="icon" href="data:,"><pre></pre><script>
const frames = %s;
for (const [name, path] of Object.entries(frames)) {
  frames[name] = document.body.appendChild(document.createElement("iframe"));
  Object.assign(frames[name], {src: path, width: 360, height: 640});
}
setTimeout(() => {
  const page = frames.form.contentDocument;
  for (const [name, value] of Object.entries({src: " 7", top: "3", t: " 2026-04-05 ", mode: "cached"}))
    page.forms[0].elements[name].value = value;
  page.forms[0].querySelector("button").click();
  page.getElementById("always").click();
}, 10_000);
setTimeout(() => {
  const pages = Object.entries(frames).map(([name, {contentDocument: page}]) =>
    [name, {html: page.documentElement.outerHTML, width: page.documentElement.scrollWidth, hash: page.location.hash}]);
  document.querySelector("pre").textContent = JSON.stringify(Object.fromEntries(pages));
}, 20_000);
</script>"""


class Texts(HTMLParser):
    """The texts of a page by id, the cells of its tables by row, and the names of its elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.rows: dict[str, list[list[str]]] = {}
        self.classes: dict[str, str] = {}
        self.tags: set[str] = set()
        self.table, self.open = "", [""]
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = dict(attrs)
        self.tags.add(tag)
        if name := fields.get("id"):
            self.texts[name], self.classes[name] = "", fields.get("class") or ""
        if tag == "table":
            self.table = fields.get("id") or ""
            self.rows[self.table] = []
        elif tag == "tr" and self.table:
            self.rows[self.table].append([])
        elif tag in ("td", "th") and self.table:
            self.rows[self.table][-1].append("")
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(fields.get("id") or "")

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()
        if tag == "table":
            self.table = ""

    def handle_data(self, data: str) -> None:
        for name in filter(None, self.open):
            self.texts[name] += data
        if self.table and self.rows[self.table] and self.rows[self.table][-1]:
            self.rows[self.table][-1][-1] += data


@dataclass(frozen=True)
class Visit:
    """Outcome of a visit to the page: frames by name, lines of the console, and the server."""

    frames: dict[str, dict[str, Any]]
    console: list[str]
    server: StandIn

    def page(self, name: str) -> Texts:
        return Texts(self.frames[name]["html"])

    def asked(self, path: str) -> list[dict[str, Any]]:
        """Bodies of the requests to a path."""
        return [body for _, each, body in self.server.requests if each == path and body]


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"the page is tested in Chromium, and none of {', '.join(BROWSERS)} is installed")
    profile = tmp_path_factory.mktemp("profile")
    with running({"/drive": DRIVER % json.dumps(FRAMES)}) as server:
        options = [f"--user-data-dir={profile}", "--virtual-time-budget=22000", "--dump-dom"]
        command = [browser, *FLAGS, *options, f"{server.url}/drive"]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60)
        result = re.search("<pre>(.+?)</pre>", done.stdout, re.DOTALL)
        assert result, f"{browser} has not shown the page: {done.stderr[-2000:]}"
        console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
        yield Visit(json.loads(unescape(result[1])), console, server)


def test_values_appear(visit: Visit) -> None:
    page = visit.page("busy")
    values = {
        "model": "tgn on march", "pill": "●  Ready, observing", "nodes": "3,204", "kinds": "buyer, shop",
        "observed": "27,450 since the run", "time": "2026-04-04T02:45:00", "log": "4.8 MB", "entries": "1,310 entries",
        "snapshot": "entry 1,200", "since": "110 entries since", "swaps": "3", "waiting": "2",
    }  # fmt: skip
    assert {name: page.texts[name] for name in values} == values
    assert re.fullmatch(r"129,[0-6]\d\d", page.texts["events"])
    assert re.fullmatch(r"received (now|\d s ago)", page.texts["received"])
    assert re.fullmatch(r"updated \d\d:\d\d:\d\d", page.texts["seen"])


def test_events_per_second_come_from_successive_counts(visit: Visit) -> None:
    page = visit.page("busy")
    assert 25 < float(page.texts["now"]) < 75  # 53, if each poll is 2 s after the one before
    assert page.texts["ticks"] in ("40200", "60300", "80400")
    curve = re.search(r'id="curve" d="M([^"M]+)"', visit.frames["busy"]["html"])
    assert curve
    points = [tuple(map(float, point.split())) for point in curve[1].split("L")]
    assert len(points) in range(6, 11), "one per poll, of which the last may be under way"
    assert all(before < after for (before, _), (after, _) in pairwise(points))
    assert points[-1][0] == pytest.approx(300, abs=0.5)
    assert all(0 < y < 100 for _, y in points)


def test_latencies_of_the_last_minute(visit: Visit) -> None:
    rows = visit.page("busy").rows["latencies"]
    assert [cell.strip() for cell in rows[0]] == ["Endpoint", "per s", "p50", "p99", "2xx", "4xx", "5xx"]
    observe, score, rank, embed = rows[1:]
    assert [row[0] for row in rows[1:]] == ["observe", "score", "rank", "embed"]
    assert float(observe[1]) == pytest.approx(20, rel=0.5)
    # Of 10,000 requests, 1,962 take up to 2.5 ms, 6,614 up to 5 ms; 9,398 up to 10 ms, 9,959 up to 25 ms.
    assert observe[2:4] == ["4.1", "23"]
    assert int(observe[4]) == 19 * int(observe[5]) > 0
    assert observe[6] == "0"
    assert 10 < float(score[2]) < 25
    assert 25 < float(rank[2]) < 50
    assert embed[2:4] == [">10K", ">10K"]
    assert re.match(r"Over the last 1\d s\. ", visit.page("busy").texts["period"])


def test_latencies_since_the_start(visit: Visit) -> None:
    page = visit.page("form")
    assert page.rows["latencies"][0][1] == "requests"
    assert int(page.rows["latencies"][1][1].replace(",", "")) in range(40 * 106, 40 * 112, 40)
    assert page.texts["period"].startswith("Since the start.")


def test_latest_events(visit: Visit) -> None:
    rows = visit.page("busy").rows["latest"]
    assert len(rows) == 21
    assert rows[1][:3] == ["buyer-0", "books-0", "2026-04-04T02:45:00"]
    assert rows[2][:3] == ["buyer-37", "garden-7", "2026-04-04T02:44:00"]
    assert re.fullmatch(r"[5-9] s ago", rows[2][3])
    assert rows[20][3] == "2 min ago"
    assert '<a href="#rank=buyer-37"' in visit.frames["busy"]["html"].replace(' title="buyer-37"', "")


@pytest.mark.parametrize(
    ("state", "kind", "pill", "note"),
    [
        ("quiet", "ok", "Ready, observing", "The service takes in events and answers questions."),
        ("following", "ok", "Ready, following", "Events come from a followed source; 3 of its lines were rejected."),
        ("readonly", "warn", "Log not writable", "The log cannot be written, so no events are taken in."),
        ("starting", "wait", "Starting", "The service restores its state."),
        ("gone", "bad", "Disconnected since", "The service does not answer. The page tries again every 2 s."),
    ],
)
def test_states(visit: Visit, state: str, kind: str, pill: str, note: str) -> None:
    page = visit.page(state)
    assert page.texts["pill"].startswith(f"●  {pill}")
    assert page.texts["note"] == note
    assert page.classes["pill"] == page.classes["note"] == kind


def test_the_last_values_stay_after_a_disconnection(visit: Visit) -> None:
    page = visit.page("gone")
    assert page.texts["nodes"] == "3,204"
    assert page.texts["pill"].split()[-1] == page.texts["seen"].split()[-1]


def test_a_service_without_traffic(visit: Visit) -> None:
    page = visit.page("quiet")
    assert page.texts["events"] == "128,450"
    assert [page.texts[name] for name in ("now", "snapshot", "kinds")] == ["0", "none", "of one kind"]
    assert page.rows["latencies"][1:] == [
        [name, "0", "–", "–", "0", "0", "0"] for name in ("observe", "score", "rank", "embed")
    ]
    assert len(page.rows["latest"]) == 1
    assert page.texts["none"] == "No events have come yet."


def test_a_link_ranks_its_source(visit: Visit) -> None:
    page = visit.page("ranked")
    assert {"src": "buyer-7", "top": 10, "mode": "exact"} in visit.asked("/busy.ranked/rank")
    assert re.match(r"Ranked for buyer-7 in [\d,]+ ms\.", page.texts["answer"])
    assert page.rows["ranking"][1] == ["1", "books-0", "", "3.214"]
    assert page.rows["ranking"][10] == ["10", "books-3", "", "−3.356"]
    bars = re.findall(r'<i class="(\w*)" style="left: ([\d.]+)%; width: ([\d.]+)%;">', visit.frames["ranked"]["html"])
    assert [name for name, _, _ in bars] == ["plus"] * 5 + [""] * 5
    zero = 100 * 3.356 / (3.214 + 3.356)
    assert float(bars[0][1]) == pytest.approx(zero, abs=0.01)
    assert float(bars[0][2]) == pytest.approx(100 - zero, abs=0.01)
    assert float(bars[-1][1]) == 0


def test_a_link_may_hold_any_character(visit: Visit) -> None:
    assert "a+b&c" in [body["src"] for body in visit.asked("/busy.plus/rank")]
    assert visit.frames["plus"]["hash"] == "#rank=a%2Bb%26c"


def test_the_form_ranks(visit: Visit) -> None:
    assert {"src": " 7", "top": 3, "t": "2026-04-05", "mode": "cached"} in visit.asked("/busy.form/rank")
    assert len(visit.page("form").rows["ranking"]) == 4
    assert visit.frames["form"]["hash"] == "#rank=%207"


def test_an_error_appears_in_its_place(visit: Visit) -> None:
    page = visit.page("refused")
    assert page.texts["answer"] == f"src: buyer 'nobody' is new; {IMAGE}"
    assert page.classes["answer"] == "bad"
    assert re.search(r'<table id="ranking"[^>]* hidden', visit.frames["refused"]["html"])


def test_text_of_users_stays_text(visit: Visit) -> None:
    page = visit.page("hostile")
    assert "img" not in page.tags | visit.page("refused").tags
    assert page.texts["model"] == page.texts["time"] == IMAGE
    assert page.texts["kinds"] == f"{IMAGE}, shop"
    assert page.rows["latest"][1][:2] == [IMAGE, str(BIG)]
    assert page.rows["latest"][2][:2] == [str(BIG), IMAGE]
    assert [row[1] for row in page.rows["ranking"][1:3]] == [IMAGE, str(BIG)]
    assert page.texts["answer"].startswith(f"Ranked for {IMAGE} in ")


def test_the_console_stays_empty(visit: Visit) -> None:
    assert visit.console == []


def test_requests_go_to_the_service_alone(visit: Visit) -> None:
    assert visit.server.hosts == {visit.server.url.removeprefix("http://")}
    paths = {path for _, path, _ in visit.server.requests} - {"/drive"}
    assert {path.rpartition("/")[2] for path in paths} == {"", "status", "metrics", "rank"}
    assert {path.split("/")[1].split(".")[0] for path in paths} == set(STATES)


def test_the_page_fits_a_narrow_screen(visit: Visit) -> None:
    assert {name: frame["width"] for name, frame in visit.frames.items()} == dict.fromkeys(FRAMES, 360)


def test_the_file_stands_alone() -> None:
    text = Path(PAGE).read_text(encoding="utf-8")
    assert len(text.splitlines()) < 300
    assert not re.search(r"https?:|//\w+\.|innerHTML|insertAdjacent|document\.write|eval\(", text)


def test_the_policy_names_the_script() -> None:
    """The policy of the page lets no other script run; it changes with each change of the script."""
    text = Path(PAGE).read_text(encoding="utf-8")
    script = re.search(r'<script type="module">(.*?)</script>', text, re.DOTALL)
    policy = re.search(r"script-src '(.*?)'", text)
    assert script
    assert policy
    assert policy[1] == f"sha256-{base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()}"
    assert "require-trusted-types-for 'script'" in text
