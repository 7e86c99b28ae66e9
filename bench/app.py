"""`clipline app` under load: people who search, turn pages, drop images and ask for labels, all at once.

    python bench/app.py EMBEDDINGS [--users 50] [--seconds 60] [--out results.json]

Each does what a browser does: Gradio's queue and its stream of events, and the thumbnails of each page over one
connection. Every answer is checked to be that person's own. Printed: requests per second, latencies per kind of call,
errors, and the server's memory, descriptors and threads, before, during and after.
"""

from __future__ import annotations

import http.client
import io
import json
import random
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

COMMAND = [sys.executable, "-c", "from clipline.cli import main; main()", "app"]
WHO = ("a dog", "two children", "a man in a red shirt", "a group of people", "a white cat", "a boy on a bicycle")
WHERE = ("in the snow", "on the beach", "in a park", "on a city street", "in the water", "near the mountains")
PATIENCE = 120  # seconds for one answer


class RefusedError(Exception):
    """The server answered, but not with what was asked for."""


class Person:
    """One browser's session. url: of the page. seen: (kind, seconds) of each request."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._session = secrets.token_hex(5)
        self._connection: http.client.HTTPConnection | None = None
        self._functions: dict[tuple[str, str], int] = {}
        self.seen: list[tuple[str, float]] = []

    def request(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> tuple[int, bytes]:
        """(status, body), timed where `kind` names it."""
        start = time.perf_counter()
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._address.hostname, self._address.port, timeout=PATIENCE)
        headers = {"Content-Type": "application/json"} if body and body[:1] in b"[{" else {}
        try:
            self._connection.request(method, path, body, headers)
            answer = self._connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        if kind:
            self.seen.append((kind, time.perf_counter() - start))
        return answer.status, data

    def close(self) -> None:
        """Hang up."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def open(self) -> dict[str, Any]:
        """Load the page and what it says of itself; the first gallery."""
        self.expect(self.request("GET", "/", kind="page"))
        config = json.loads(self.expect(self.request("GET", "/config")))
        names = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
        for dependency in config["dependencies"]:
            for target, event in dependency["targets"]:
                self._functions[names.get(target) or "page", event] = dependency["id"]
        return self.call("page", "load", [])[1]

    def call(self, part: str, event: str, data: list, sent: dict | None = None, kind: str = "") -> list:
        """What the page gets when `event` happens to `part`. Raises RefusedError."""
        start = time.perf_counter()
        request = {
            "data": data, "event_data": sent, "fn_index": self._functions[part, event],
            "session_hash": self._session,
        }  # fmt: skip
        joined = json.loads(self.expect(self.request("POST", "/gradio_api/queue/join", json.dumps(request).encode())))
        stream = self.expect(self.request("GET", f"/gradio_api/queue/data?session_hash={self._session}")).decode()
        messages = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]
        for message in messages:
            if message["msg"] == "process_completed" and message["event_id"] == joined["event_id"]:
                if not message["success"]:
                    raise RefusedError(f"{part}.{event}: {message['output'].get('error')}")
                self.seen.append((kind or f"{part}.{event}", time.perf_counter() - start))
                return message["output"]["data"]
        raise RefusedError(f"{part}.{event}: no answer")

    @staticmethod
    def expect(answer: tuple[int, bytes]) -> bytes:
        """The body of a good answer. Raises RefusedError."""
        status, data = answer
        if status != 200:
            raise RefusedError(f"{status} {data[:200].decode(errors='replace')}")
        return data

    def look(self, gallery: dict[str, Any]) -> list[str]:
        """Fetch the thumbnails of a gallery; what its images are called in calls."""
        for source in re.findall(r'<img src="(pictures/thumb/[^"]+)"', gallery["html"]):
            self.expect(self.request("GET", f"/{source}", kind="thumbnail"))
        return re.findall(r'data-picture="([^"]+)"', gallery["html"])

    def visit(self, chance: random.Random, photo: bytes) -> None:
        """One round of what the page offers. Raises RefusedError, also where an answer is someone else's."""
        query = f"{chance.choice(WHO)} {chance.choice(WHERE)} {chance.randrange(10**6)}"
        gallery = self.call("query", "submit", [query], kind="search")[1]
        self._mine(query in gallery["html"] and gallery["page"] == 0)
        self.look(gallery)
        gallery = self.call("results-next", "click", [gallery], kind="next page")[0]
        self._mine(query in gallery["html"] and gallery["page"] == 1)
        pictures = self.look(gallery)
        picture = chance.choice(pictures)
        _, slot, near, *_ = self.call("results", "use", [], {"picture": picture}, kind="similar")
        self._mine(slot["picture"] == picture)
        self.look(near)
        sent = json.loads(self.expect(self.request("POST", "/pictures/upload", photo, kind="upload")))["picture"]
        _, slot, near, *_ = self.call("top", "chosen", [], {"picture": sent}, kind="similar to upload")
        self._mine(slot["picture"] == sent)
        self.look(near)
        label = f"label {chance.randrange(10**6)}"
        (ranked,) = self.call("labels", "submit", [slot, f"dog, beach, {label}"], kind="labels")
        self._mine(label in ranked)
        (ranked,) = self.call("captions", "submit", [slot, f"a dog runs\n{query}"], kind="captions")
        self._mine(query in ranked)

    @staticmethod
    def _mine(right: bool) -> None:
        if not right:
            raise RefusedError("the answer to another question")


@contextmanager
def served(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[tuple[str, subprocess.Popen]]:
    """`clipline app` with these arguments on a free port: (address, process). environment: None takes this one."""
    command = [*COMMAND, *arguments, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        line = server.stdout.readline()
        if not line.startswith("http"):
            raise RuntimeError(f"the server did not start: {line}")
        yield line.split()[0], server
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    if code:
        raise RuntimeError(f"the server ended with {code}")


def vitals(pid: int) -> dict[str, float]:
    """Memory in MB, open descriptors and threads of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return {
        "rss_mb": int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024,
        "descriptors": sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),
    }


def photos(count: int) -> list[bytes]:
    """JPEG files of noise, 800 x 600, each another one."""
    made, chance = [], random.Random(0)
    for _ in range(count):
        small = Image.frombytes("RGB", (40, 30), chance.randbytes(3600))
        data = io.BytesIO()
        small.resize((800, 600), Image.Resampling.BICUBIC).save(data, "JPEG")
        made.append(data.getvalue())
    return made


def load(url: str, pid: int, users: int, seconds: float) -> dict[str, Any]:
    """All at once for a while; figures."""
    until, errors, people = time.monotonic() + seconds, Counter(), [Person(url) for _ in range(users)]
    pictures, finished = photos(min(users, 16)), Counter()

    def live(number: int) -> None:
        chance, person = random.Random(number), people[number]
        opened = False
        while time.monotonic() < until:
            try:
                if not opened:
                    person.open()
                    opened = True
                person.visit(chance, pictures[number % len(pictures)])
                finished["rounds"] += 1
            except (RefusedError, OSError, http.client.HTTPException) as error:
                errors[f"{type(error).__name__}: {error}"[:160]] += 1
        person.close()

    threads = [threading.Thread(target=live, args=(number,)) for number in range(users)]
    start, samples = time.monotonic(), []
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        samples.append(vitals(pid) | {"second": round(time.monotonic() - start, 1)})
        time.sleep(0.5)
    took = time.monotonic() - start
    seen = defaultdict(list)
    for kind, duration in (request for person in people for request in person.seen):
        seen[kind].append(duration)
    return {"seconds": took, "rounds": finished["rounds"], "seen": seen, "errors": dict(errors), "samples": samples}


def quantiles(durations: list[float]) -> list[float]:
    """p50, p95, p99 and the longest, in milliseconds."""
    ordered = sorted(durations)
    return [1000 * ordered[min(len(ordered) - 1, int(len(ordered) * q))] for q in (0.5, 0.95, 0.99, 1)]


def report(before: dict, figures: dict, after: dict) -> None:
    """The figures as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    everything = [duration for durations in figures["seen"].values() for duration in durations]
    console.print(
        f"{len(everything):,} requests in {figures['seconds']:.1f} s: {len(everything) / figures['seconds']:.1f}/s; "
        f"{figures['rounds']:,} rounds; {sum(figures['errors'].values())} errors {figures['errors'] or ''}",
        highlight=False,
    )
    table = Table("milliseconds", "requests", "p50", "p95", "p99", "longest")
    for kind, durations in [*sorted(figures["seen"].items()), ("all", everything)]:
        table.add_row(kind, f"{len(durations):,}", *(f"{value:,.0f}" for value in quantiles(durations)))
    console.print(table)
    table = Table("server", "before", "after 1/4", "most", "after")
    quarter = figures["samples"][len(figures["samples"]) // 4]
    for name, first in before.items():
        maximum = max(sample[name] for sample in figures["samples"])
        table.add_row(name, *(f"{value:,.0f}" for value in (first, quarter[name], maximum, after[name])))
    console.print(table)


def main(
    embeddings: Annotated[Path, typer.Argument(help="What `clipline embed` wrote.")],
    *,
    model: Annotated[Path | None, typer.Option(help="The model that embedded them.")] = None,
    users: Annotated[int, typer.Option(min=1, help="At once.")] = 50,
    seconds: Annotated[float, typer.Option(min=1)] = 60,
    out: Annotated[Path | None, typer.Option(help="Also write all figures to this JSON file.")] = None,
) -> None:
    """Measure `clipline app` with many people at once."""
    from machine_facts import machine_facts

    with served(str(embeddings), *(["--model", str(model)] if model else [])) as (url, server):
        person = Person(url)
        person.open()
        person.visit(random.Random(-1), photos(1)[0])  # everything is loaded once
        person.close()
        before = vitals(server.pid)
        figures = load(url, server.pid, users, seconds)
        time.sleep(3)
        after = vitals(server.pid)
    report(before, figures, after)
    if out:
        figures = {"machine": machine_facts(), "users": users, "before": before, "after": after, **figures}
        out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
