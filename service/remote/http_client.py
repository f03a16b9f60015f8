"""GET over http and https as a polite client: paced, tried again, and refused by name.

GDAL's own client is not used. Its WMS driver tries once; nothing in it paces requests, heeds
Retry-After, or separates a refusal from a hole in the imagery.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager, Retry, Timeout
from urllib3.exceptions import (
    HTTPError,
    LocationValueError,
    MaxRetryError,
    ResponseError,
    SSLError,
)
from urllib3.util import make_headers

from model.errors import SkyfixError

log = logging.getLogger(__name__)

RATE = 4.0  # requests a second
TRIES = 6
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
    """An HTTP answer; `headers` ignore case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def start(self) -> str:
        """The content's type and first words, for messages."""
        text = " ".join(self.body[:400].decode("utf-8", "replace").split())[:120]
        return f"{self.headers.get('content-type', 'content without a type')}, {text!r}"


class Client:
    """Sends one request at a time, at most `rate` a second.

    headers: sent to the host of `url` alone, and not to other hosts that its answers name.
    """

    def __init__(
        self,
        url: str,
        rate: float = RATE,
        headers: Mapping[str, str] | None = None,
        backoff_s: float = 1.0,
    ) -> None:
        self._host, self._headers = _host(url), dict(headers or {})
        if userinfo := urlsplit(url).netloc.rpartition("@")[0]:
            self._headers |= make_headers(basic_auth=unquote(userinfo))
        self._between_s, self._next_s = 1.0 / rate, 0.0
        self._retries = Retry(TRIES, backoff_factor=backoff_s, backoff_jitter=backoff_s)
        # The library's warnings would show whole URLs.
        redirects = Retry(None, connect=0, read=0, status=0, other=0, redirect=5)
        self._redirects = redirects.new(remove_headers_on_redirect=self._headers)
        self._agent = {"User-Agent": f"skyfix/{version('skyfix')}", "Accept-Encoding": "identity"}
        proxies = {} if proxy_bypass(urlsplit(url).hostname or "") else getproxies()
        proxy = proxies.get(urlsplit(url).scheme or "https")
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
        if urlsplit(url).scheme not in ("http", "https"):
            raise RemoteError(f"{shown(url)}: imagery is fetched by http and https alone")
        headers = self._agent | (self._headers if _host(url) == self._host else {})
        if part is not None:
            headers["Range"] = f"bytes={part[0]}-{part[1]}"
        answer = self._tried(url, headers)
        if answer.status not in (200, 206, *allowed):
            remedy = REMEDY.get(answer.status, answer.start())
            raise RemoteError(f"{shown(url)} answers {answer.status}: {remedy}")
        return answer

    def _tried(self, url: str, headers: Mapping[str, str]) -> Answer:
        retries = self._retries
        while True:
            self._pace()
            wait_s = 0.0
            response: BaseHTTPResponse | None = None
            error: Exception | None = None
            try:
                response = self._pool.request(
                    "GET", url, headers=headers, timeout=TIMEOUT, retries=self._redirects,
                    preload_content=False,
                )  # fmt: skip
                answer = Answer(response.status, response.headers, _body(response))
                if answer.status not in BUSY:
                    return answer
                problem = f"answers {answer.status}"
                wait_s = retries.get_retry_after(response) or 0.0
            except HTTPError as failure:
                error = (failure.reason if isinstance(failure, MaxRetryError) else None) or failure
                problem = f"cannot be read: {_plain(error)}"
            try:
                retries = retries.increment("GET", url, response, error)
            except MaxRetryError:
                break
            if isinstance(error, LASTING) or wait_s > MAX_WAIT_S:
                break
            log.warning("%s %s: trying again", shown(url), problem)
            retries.sleep(response)
        asked = f" and asks to wait {wait_s:.0f} s" if wait_s else ""
        remedy = "check the address" if isinstance(error, LASTING) else "run the same command again"
        if response is not None:
            remedy = REMEDY.get(response.status, remedy)
        raise RemoteError(f"{shown(url)} {problem}{asked}: {remedy}")

    def _pace(self) -> None:
        now = time.monotonic()
        time.sleep(max(0.0, self._next_s - now))
        self._next_s = max(now, self._next_s) + self._between_s


def _body(response: BaseHTTPResponse) -> bytes:
    """All of it; raises IncompleteRead where the connection ends too early."""
    body = bytearray()
    for chunk in response.stream(1 << 20):
        body += chunk
        if len(body) > MAX_BODY:
            raise ResponseError(f"more than {MAX_BODY >> 20} MiB were sent")
    return bytes(body)


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _plain(error: BaseException) -> str:
    """A connection's error without its URL, which may hold a key."""
    return f"{type(error).__name__}: {URL.sub('…', str(error))}"


def shown(url: str) -> str:
    """The URL as it may be logged and stored: without password, keys and tokens."""
    return _without(url, lambda name: name not in PLAIN)


def identity(url: str) -> str:
    """A text that stays when a key or token in the URL changes; not to be logged."""
    return _without(url, lambda name: bool(SECRET.search(name)))


def _without(url: str, hide: Callable[[str], bool]) -> str:
    parts = urlsplit(url)
    pairs = (pair.partition("=") for pair in parts.query.split("&") if pair)
    query = "&".join(f"{n}={'***' if hide(n.lower()) else v}" for n, _, v in pairs)
    path = KEY_IN_PATH.sub("***", parts.path)
    return f"{parts.scheme}://{_host(url)}{path}{'?' if query else ''}{query}"
