"""GET over http and https as a polite client: paced, tried again, and refused by name.

GDAL's own client is not used. Its WMS driver tries once; nothing in it paces requests, heeds
Retry-After, or separates a refusal from a hole in the imagery.
"""

from __future__ import annotations

import logging
import os
import random
import re
import time
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from urllib3 import PoolManager, ProxyManager, Retry, Timeout
from urllib3.exceptions import HTTPError, LocationValueError, ResponseError, SSLError
from urllib3.util import make_headers

from model.errors import SkyfixError

log = logging.getLogger(__name__)

TRIES = 7
MAX_BODY = 64 << 20  # bytes
MAX_WAIT_S = 300.0  # that a server may ask for by Retry-After
TIMEOUT = Timeout(connect=10.0, read=60.0)
NO_IMAGERY = (204, 404, 410)
BUSY = (429, 500, 502, 503, 504)
LASTING = (SSLError, LocationValueError, ResponseError)  # another try would end alike
# Names of parameters by standards. The values of all others are hidden wherever a URL is shown.
PLAIN = {
    *("service", "request", "version", "layer", "layers", "style", "styles", "format"),
    *("crs", "srs", "bbox", "width", "height", "transparent", "tilematrixset", "tilematrix"),
    *("tilerow", "tilecol", "limit", "collections", "ids", "datetime"),
}
SECRET = re.compile("key|token|sig|secret|pass|auth|cred|expire|^s[a-z]$")
URL = re.compile(r"https?://\S+|url: \S+")
KEY_IN_PATH = re.compile(r"(?<=/)(?=[a-zA-Z]*\d)(?=\d*[a-zA-Z])[a-zA-Z0-9]{20,}(?=/|$)")
REMEDY = {
    401: "give a key in the URL or by --header",
    403: "give a key in the URL or by --header, or ask its operator whether it allows copies",
    429: "lower --rate, and run the same command later",
}


class RemoteError(SkyfixError):
    """Remote imagery that cannot be fetched. Nothing is published; what was fetched is kept."""


class NoImagery(RemoteError):
    """A service has no imagery there, or shows pictures instead that say so. Nothing is kept."""


class Answer(NamedTuple):
    """An HTTP answer, or what a file holds in its form; names of `headers` in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def start(self) -> str:
        """The content's type and first words, for messages."""
        text = " ".join(self.body[:400].decode("utf-8", "replace").split())[:120]
        return f"{self.headers.get('content-type', 'content without a type')}, {text!r}"


class Client:
    """Sends one request at a time, at most `rate` a second.

    url: the first address. Local files are read only where it is a path itself.
    headers: sent to the host of `url` alone, and not to other hosts that its answers name.
    backoff_s: about how long to wait for a second try; each later wait is twice as long.
    """

    def __init__(
        self,
        url: str,
        rate: float,
        headers: Mapping[str, str] | None = None,
        backoff_s: float = 1.0,
    ) -> None:
        parts = urlsplit(url)
        self._is_local = not parts.scheme
        self._host, self._headers = _host(url), dict(headers or {})
        if userinfo := parts.netloc.rpartition("@")[0]:
            self._headers |= make_headers(basic_auth=unquote(userinfo))
        self._between_s, self._next_s, self._backoff_s = 1.0 / rate, 0.0, backoff_s
        # Other faults are tried again here: the library's warnings would show whole URLs.
        self._redirects = Retry(
            None, connect=0, read=0, status=0, other=0, redirect=5,
            remove_headers_on_redirect=self._headers,
        )  # fmt: skip
        self._agent = {"User-Agent": f"skyfix/{version('skyfix')}", "Accept-Encoding": "identity"}
        proxies = {} if proxy_bypass(parts.hostname or "") else getproxies()
        proxy = proxies.get(parts.scheme or "https")
        self._pool = ProxyManager(proxy) if proxy else PoolManager()

    def get(
        self, url: str, part: tuple[int, int] | None = None, allowed: Collection[int] = ()
    ) -> Answer:
        """The answer of status 200, 206 or one of `allowed`.

        Args:
            part: first and last byte that are wanted; a server may send all of them.

        Raises:
            RemoteError: naming the URL without its secrets, the status, and a remedy.
        """
        scheme = urlsplit(url).scheme
        if self._is_local and not scheme:
            return _read(url, part)
        if scheme not in ("http", "https"):
            raise RemoteError(f"{shown(url)}: only http and https are fetched")
        headers = self._agent | (self._headers if _host(url) == self._host else {})
        if part is not None:
            headers["Range"] = f"bytes={part[0]}-{part[1]}"
        answer = self._tried(url, headers)
        if answer.status not in (200, 206, *allowed):
            remedy = REMEDY.get(answer.status, answer.start())
            raise RemoteError(f"{shown(url)} answers {answer.status}: {remedy}")
        return answer

    def _tried(self, url: str, headers: Mapping[str, str]) -> Answer:
        problem, remedy, wait_s = "", "", 0.0
        for number in range(TRIES):
            if number:
                log.warning("%s %s: trying again", shown(url), problem)
                time.sleep(wait_s)
            self._pace()
            remedy = "run the same command again"
            wait_s = self._backoff_s * 2.0**number * random.uniform(0.75, 1.25)
            try:
                response = self._pool.request(
                    "GET", url, headers=headers, timeout=TIMEOUT, retries=self._redirects,
                    preload_content=False,
                )  # fmt: skip
                body = response.read(MAX_BODY + 1)
                if len(body) > MAX_BODY:
                    raise ResponseError(f"more than {MAX_BODY >> 20} MiB were sent")
            except HTTPError as failure:
                error = getattr(failure, "reason", failure)
                # The error's words may hold the URL, and so a key.
                problem = f"cannot be read: {type(error).__name__}: {URL.sub('…', str(error))}"
                if isinstance(error, LASTING):
                    remedy = "check the address"
                    break
                continue
            if response.status not in BUSY:
                return Answer(response.status, response.headers, body)
            problem, remedy = f"answers {response.status}", REMEDY.get(response.status, remedy)
            wait_s = self._redirects.get_retry_after(response) or wait_s
            if wait_s > MAX_WAIT_S:
                problem += f" and asks to wait {wait_s:.0f} s"
                break
        raise RemoteError(f"{shown(url)} {problem}: {remedy}")

    def _pace(self) -> None:
        now = time.monotonic()
        time.sleep(max(0.0, self._next_s - now))
        self._next_s = max(now, self._next_s) + self._between_s


def _read(path: str, part: tuple[int, int] | None) -> Answer:
    """A file in the form of an answer."""
    first, last = part or (0, MAX_BODY)
    try:
        with open(path, "rb") as file:
            file.seek(first)
            body, stat = file.read(last + 1 - first), os.fstat(file.fileno())
    except OSError as error:
        raise RemoteError(f"{path} cannot be read: {error.strerror}") from error
    span = f"bytes {first}-{first + len(body) - 1}/{stat.st_size}"
    return Answer(206, {"content-range": span, "last-modified": str(stat.st_mtime_ns)}, body)


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def shown(url: str) -> str:
    """The URL as it may be logged and stored: without password, keys and tokens."""
    return _without(url, lambda name: name not in PLAIN)


def identity(url: str) -> str:
    """A text that stays when a key or token in the URL changes; not to be logged."""
    return _without(url, lambda name: bool(SECRET.search(name)))


def _without(url: str, hide: Callable[[str], bool]) -> str:
    parts = urlsplit(url)
    if not parts.scheme:
        return url
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    query = "&".join(f"{name}={'***' if hide(name.lower()) else value}" for name, value in pairs)
    path = KEY_IN_PATH.sub("***", parts.path)
    return f"{parts.scheme}://{_host(url)}{path}{'?' if query else ''}{query}"
