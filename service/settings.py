"""What an operator may set: one frozen dataclass, read from an environment handed in.

Knows nothing of argparse or os: the command line passes `os.environ` and overrides fields.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from model.errors import SkyfixError

logger = logging.getLogger(__name__)

MIB = 1024 * 1024
MIN_TOKEN = 16  # characters
DEMO_WEIGHTS = "skyfix-modern.safetensors"


class SettingsError(SkyfixError):
    """A setting's value is not allowed; the message names the variable and what is."""


def _packaged_weights() -> Path:
    return Path(str(resources.files("model") / "weights" / DEMO_WEIGHTS))


@dataclass(frozen=True)
class Settings:
    """Everything configurable about the service. Sizes in bytes, times in seconds.

    Uploads held in memory are bounded by `max_in_flight_bytes`, with a second copy of the one that
    is being taken out of its form and of those being decoded, and those whose client has left while
    they are decoded; images being decoded by `decode_threads`, at most 512 MiB each.
    """

    home: Path = Path("skyfix-data")
    weights: Path = field(default_factory=_packaged_weights)
    device: str = "auto"  # auto | cpu | cuda
    host: str = "127.0.0.1"
    port: int = 8000
    precision: str = "auto"  # auto: the fastest that agrees with float32 | fp32
    rolls: int = 36  # headings tried when none is known: training strays by 6 degrees at most
    max_body_bytes: int = 32 * MIB
    max_files: int = 16  # panoramas in one request to /localize/batch
    max_in_flight: int = 32  # panoramas being decoded, waiting or encoded; more get a 503
    max_in_flight_bytes: int = 256 * MIB  # of their uploads and those arriving; more get a 503
    max_stretch: float = 2.0  # mean latency under load, in lone requests' latencies; past it: 503
    max_batch: int = 8  # panoramas in one encoder call
    decode_threads: int = 2
    header_deadline_s: float = 10.0  # for the client to finish sending a request's head
    body_deadline_s: float = 30.0  # for the client to finish sending
    request_deadline_s: float = 30.0  # from the whole body received to the answer
    log_format: str = "auto"  # json | text; auto: text on a terminal
    admin_token: str = field(default="", repr=False)  # empty: the admin routes do not exist
    milvus_token: str = field(default="", repr=False)  # user:password or key; read by index.milvus

    def __post_init__(self) -> None:
        """Raises SettingsError where what one limit allows would by another be refused for ever."""
        pairs = (("max_files", "max_in_flight"), ("max_body_bytes", "max_in_flight_bytes"))
        for one, together in pairs:
            if getattr(self, one) > getattr(self, together):
                raise SettingsError(
                    f"SKYFIX_{one.upper()}={getattr(self, one)} is more than "
                    f"SKYFIX_{together.upper()}={getattr(self, together)}: such a request could "
                    "never be let in; lower the one or raise the other"
                )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Settings from `SKYFIX_*` variables; an empty or absent one means the default.

        Raises:
            SettingsError: a value that does not parse or is out of bounds.
        """
        known = {f"SKYFIX_{name.upper()}": (name, parse) for name, parse in _PARSERS.items()}
        for variable in sorted(v for v in environ if v.startswith("SKYFIX_") and v not in known):
            logger.warning("%s is not a setting; known are %s", variable, ", ".join(known))
        chosen = {
            name: parse(variable, environ[variable])
            for variable, (name, parse) in known.items()
            if environ.get(variable, "") != ""
        }
        return dataclasses.replace(cls(), **chosen)  # type: ignore[arg-type]  # typed by _PARSERS

    @property
    def max_arriving(self) -> int:
        """Uploads being received at once. Slow ones hold nothing up while they are fewer."""
        return 8 * self.max_in_flight

    @property
    def max_requests(self) -> int:
        """Requests of all kinds being answered at once; more get a 503."""
        return self.max_arriving + self.max_in_flight + 256

    @property
    def catalogue(self) -> Path:
        """The catalogue's file."""
        return self.home / "catalogue.sqlite"

    @property
    def weights_folder(self) -> Path:
        """Checkpoints that a running server may change to."""
        return self.home / "weights"

    def shown(self) -> dict[str, str]:
        """All settings as text under their variable names; secrets hidden."""
        values = {name: str(getattr(self, name)) for name in _PARSERS}
        for name in ("admin_token", "milvus_token"):
            values[name] = "(set, hidden)" if values[name] else "(not set)"
        return {f"SKYFIX_{name.upper()}": value for name, value in values.items()}


def _path(variable: str, text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~ of nobody, or of a user without a home
        raise SettingsError(f"{variable}={text}: {error} Write the whole path") from error


def _folder(variable: str, text: str) -> Path:
    """One that is there, or can be made."""
    path = _path(variable, text)
    try:
        there = next((place for place in (path, *path.parents) if place.exists()), None)
        taken = there is not None and not there.is_dir()
    except OSError as error:
        raise SettingsError(f"{variable}={text} cannot be looked at: {error}") from error
    if taken:
        raise SettingsError(f"{variable}={text}: {there} is a file: name a folder")
    return path


def _one_of(*allowed: str) -> Callable[[str, str], str]:
    def parse(variable: str, text: str) -> str:
        if text not in allowed:
            raise SettingsError(f"{variable}={text!r}: allowed values are {', '.join(allowed)}")
        return text

    return parse


def _text(variable: str, text: str) -> str:
    return text


def _token(variable: str, text: str) -> str:
    """The value itself is in no message."""
    if len(text) < MIN_TOKEN or not (text.isascii() and text.isprintable()) or " " in text:
        raise SettingsError(
            f"{variable} has {len(text)} characters: {MIN_TOKEN} or more of printable ASCII "
            "without spaces are needed, for example from `openssl rand -hex 32`"
        )
    return text


def _foreign_token(variable: str, text: str) -> str:
    """Whoever made it chose its length; the value itself is in no message."""
    if not text.isprintable() or " " in text:
        raise SettingsError(f"{variable} holds a space, a line's end, or another control character")
    return text


def _integer(low: int, high: int) -> Callable[[str, str], int]:
    def parse(variable: str, text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise SettingsError(f"{variable}={text!r} is not a whole number") from None
        if not low <= value <= high:
            raise SettingsError(f"{variable}={value}: allowed is {low} to {high}")
        return value

    return parse


def _number(low: float, high: float, unit: str = "") -> Callable[[str, str], float]:
    def parse(variable: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise SettingsError(
                f"{variable}={text!r} is not a number{unit and ' of '}{unit}"
            ) from None
        if not low <= value <= high:
            raise SettingsError(
                f"{variable}={text}: allowed is {low:g} to {high:g} {unit}".rstrip()
            )
        return value

    return parse


_seconds = _number(0.001, 3600.0, "seconds")


_PARSERS: dict[str, Callable[[str, str], object]] = {
    "home": _folder,
    "weights": _path,
    "device": _one_of("auto", "cpu", "cuda"),
    "precision": _one_of("auto", "fp32"),
    "host": _text,
    "port": _integer(0, 65535),
    "rolls": _integer(1, 360),
    "max_body_bytes": _integer(1024, 1024 * MIB),
    "max_files": _integer(1, 256),
    "max_in_flight": _integer(1, 4096),
    "max_in_flight_bytes": _integer(1024, 64 * 1024 * MIB),
    "max_stretch": _number(2.0, 1000.0),
    "max_batch": _integer(1, 256),
    "decode_threads": _integer(1, 64),
    "header_deadline_s": _seconds,
    "body_deadline_s": _seconds,
    "request_deadline_s": _seconds,
    "log_format": _one_of("auto", "json", "text"),
    "admin_token": _token,
    "milvus_token": _foreign_token,
}
