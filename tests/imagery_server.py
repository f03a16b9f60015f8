"""A local HTTP server of imagery, for tests: files with byte ranges, and faults on demand."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.imagery.area import Area
from service.imagery.gridded_source import runs
from service.imagery.source_kinds import open_source
from service.remote.fetch import Fetch, Wanted


class Reply(NamedTuple):
    """An answer; `sent` bytes of its body leave before the connection ends."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})
    sent: int | None = None


class Seen(NamedTuple):
    path: str
    headers: dict[str, str]


Answer = Callable[[Seen], Reply]


class ImageryServer:
    """`answer` may be replaced at any time; `seen` holds every request."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.seen = answer, list[Seen]()
        self.url = ""

    def paths(self) -> list[str]:
        return [seen.path for seen in self.seen]


@contextmanager
def serving(answer: Answer) -> Iterator[ImageryServer]:
    server = ImageryServer(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen = Seen(self.path, {name.lower(): v for name, v in self.headers.items()})
            server.seen.append(seen)
            status, body, headers, sent = server.answer(seen)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[:sent])

        def log_message(self, *_: object) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}"
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def files(folder: Path, ranges: bool = True) -> Answer:
    """Answers with the files of a folder, as a static host does."""

    def answer(seen: Seen) -> Reply:
        file = folder / seen.path.partition("?")[0].lstrip("/")
        if not file.is_file():
            return Reply(404)
        body, stat = file.read_bytes(), file.stat()
        version = {"ETag": f'"{stat.st_mtime_ns}-{stat.st_size}"'}
        wanted = re.match(r"bytes=(\d+)-(\d+)", seen.headers.get("range", ""))
        if not (wanted and ranges):
            return Reply(200, body, version)
        first, last = int(wanted[1]), min(int(wanted[2]), len(body) - 1)
        span = {"Content-Range": f"bytes {first}-{last}/{len(body)}", **version}
        return Reply(206, body[first : last + 1], span)

    return answer


def planned(home: Path, address: str, area: Area | None, **options: Any) -> Fetch:
    """A fetch for tiles of 32 m, without waits."""
    quick = {"rate": 1000.0, "max_requests": 20_000, "backoff_s": 0.001, **options}
    around = area.grown(24.0) if area else None
    return Fetch.of(home, Wanted(address, around, pixel_m=0.2, **quick), "town")


def fetched(home: Path, address: str, area: Area | None, **options: Any) -> Path:
    """The folder of a fetch that has ended."""
    fetch = planned(home, address, area, **options)
    if not fetch.done:
        fetch.run(lambda done, expected: None)
    return fetch.folder


class Tiles(dict[str, NDArray[np.uint8]]):
    """Images by tile id. Equal: within one grey level, which a hole beside a tile can change."""

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Tiles)
        pairs = [(image.astype(int), other.get(name)) for name, image in self.items()]
        same = [tile is not None and np.abs(image - tile).max() <= 1 for image, tile in pairs]
        return len(self) == len(other) > 0 and all(same)

    def __ne__(self, other: object) -> bool:
        return not self == other


def tiles(path: Path, area: Area | None) -> Tiles:
    """The tiles of 32 m in the area, as an ingest cuts them."""
    with closing(open_source(path, "town")) as source:
        cuts = [cut for cut in source.cuts(32.0, 16.0) if area is None or area.contains(cut.centre)]
        found = Tiles()
        for run in runs(cuts, 128):
            images = [image.pixels for image in source.read_run(run, 128)]
            found.update(zip((cut.tile_id for cut in run), images, strict=True))
        return found
