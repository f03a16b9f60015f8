"""Every setting of the service, in one frozen model, read from an environment that is passed in.

Knows nothing of argparse or os: the command line passes `os.environ` with its options on top.
`Settings.model_json_schema()` holds each setting's description, default, bounds and unit.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from model.errors import SkyfixError
from model.stated_heading import BELIEVED

logger = logging.getLogger(__name__)

MIB = 1024 * 1024
MIN_TOKEN = 16  # characters
DEMO_WEIGHTS = "skyfix-modern.safetensors"
PREFIX = "SKYFIX_"
_PORTS = {"http": 80, "https": 443}  # which browsers leave out


class SettingsError(SkyfixError):
    """A value is not allowed; the message says which variable, which value and what to give."""


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:  # an unknown user, or a user without a home
        raise ValueError(f"{error} Write the whole path") from error


def _folder(path: Path) -> Path:
    """A folder that exists or can be made."""
    path = _expanded(path)
    try:
        nearest = next((parent for parent in (path, *path.parents) if parent.exists()), None)
        is_file = nearest is not None and not nearest.is_dir()
    except OSError as error:
        raise ValueError(f"the folder cannot be read: {error}") from error
    if is_file:
        raise ValueError(f"{nearest} is a file: name a folder")
    return path


def _strong(token: str) -> str:
    if len(token) < MIN_TOKEN or not (token.isascii() and token.isprintable()) or " " in token:
        raise ValueError(
            f"the value has {len(token)} characters: give {MIN_TOKEN} or more of printable ASCII "
            "without spaces, for example from `openssl rand -hex 32`"
        )
    return token


def _one_word(token: str) -> str:
    if not token.isprintable() or " " in token:
        raise ValueError("the value holds a space, a line break or another control character")
    return token


def _origins(text: str) -> str:
    """Origins as browsers send them, joined by commas."""
    origins = text.replace(",", " ").split()
    for origin in origins:
        if origin != "*" and origin != (sent := _origin(origin)):
            meant = f"write {sent}" if sent else "write scheme://host or scheme://host:port"
            raise ValueError(f"{origin} is not an origin as browsers send it: {meant}")
    if "*" in origins and len(origins) > 1:
        raise ValueError("* allows every origin: write * alone, or leave it out")
    return ",".join(origins)


def _origin(url: str) -> str:
    """The origin of a URL: lower case, without path and default port; empty if it has none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    if not parts.scheme or not re.fullmatch(r"[a-z0-9._-]+|[0-9a-f:.]*:[0-9a-f:.]*", host):
        return ""
    host = f"[{host}]" if ":" in host else host
    shown = "" if port is None or _PORTS.get(parts.scheme) == port else f":{port}"
    return f"{parts.scheme}://{host}{shown}"


def _basemap(url: str) -> str:
    """The address of a base map's pictures, on a host that a content security policy can name."""
    places = set(re.findall(r"\{(\w*)\}", url))
    if not url:
        return url
    if urlsplit(url).scheme not in _PORTS or not _origin(url) or places != {"x", "y", "z"}:
        raise ValueError("write http(s)://host/…{z}…{x}…{y}…, with these three and one host")
    return url


Folder = Annotated[Path, AfterValidator(_folder)]
File = Annotated[Path, AfterValidator(_expanded)]
Seconds = Annotated[float, Field(ge=0.001, le=3600, json_schema_extra={"unit": "seconds"})]
Bytes = Annotated[int, Field(ge=1024, json_schema_extra={"unit": "bytes"})]
AdminToken = Annotated[str, Field(repr=False), AfterValidator(_strong)]
Origins = Annotated[str, AfterValidator(_origins)]
BaseMapUrl = Annotated[str, AfterValidator(_basemap)]
MilvusToken = Annotated[str, Field(repr=False), AfterValidator(_one_word)]


def _packaged_weights() -> Path:
    return Path(str(resources.files("model") / "weights" / DEMO_WEIGHTS))


class Settings(BaseModel):
    """Everything that an operator can set. Each text below a field is its description."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )

    home: Folder = Path("skyfix-data")
    """Data folder: catalogue, weights and index."""
    weights: File = Field(default_factory=_packaged_weights)
    """Checkpoint that encodes images. Default: skyfix-modern, which is part of the package."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the network. auto: the GPU if there is one."""
    precision: Literal["auto", "fp32"] = "auto"
    """Arithmetic of the network. auto: the fastest that agrees with float32."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """TCP port to listen on. 0: the system chooses a free port."""
    rolls: Annotated[int, Field(ge=1, le=360)] = 36
    """Headings tried for a panorama of unknown heading. 36: training covers errors up to 6°."""
    heading_sources: Literal["GPano,EXIF", "GPano", "EXIF", "none"] = "GPano,EXIF"
    """Metadata whose heading is believed, the first before the second."""
    heading_tolerance_deg: Annotated[float, Field(ge=0, le=180)] = BELIEVED.tolerance_deg
    """Degrees by which a heading in metadata may be off. 0: exact, a fifth of the cost."""
    max_body_bytes: Annotated[Bytes, Field(le=1024 * MIB)] = 32 * MIB
    """Largest request body. A larger body gets a 413."""
    max_files: Annotated[int, Field(ge=1, le=256)] = 16
    """Most images in one form: /localize/batch, /localize/drive or frames of a drive."""
    max_in_flight: Annotated[int, Field(ge=1, le=4096)] = 32
    """Most panoramas that are decoded, waiting or encoded at once. More get a 503."""
    max_in_flight_bytes: Annotated[Bytes, Field(le=64 * 1024 * MIB)] = 256 * MIB
    """Most bytes of uploads at once. More get a 503. Budget twice this memory, because parsing \
and decoding each hold a copy, and 512 MiB for each of decode_threads."""
    max_stretch: Annotated[float, Field(ge=2, le=1000)] = 2.0
    """Longest mean latency under load, as a multiple of a lone request's. Beyond it: 503."""
    max_batch: Annotated[int, Field(ge=1, le=256)] = 8
    """Most panoramas in one call of the network."""
    decode_threads: Annotated[int, Field(ge=1, le=64)] = 2
    """Threads that decode images. Each needs up to 512 MiB."""
    max_drive_frames: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    """Most frames of one drive at /drives. 10,000 take up to 2.4 GiB while they are followed."""
    max_drive_bytes: Annotated[Bytes, Field(ge=16 * MIB, le=64 * 1024 * MIB)] = 512 * MIB
    """Most bytes of all drives at /drives, counted as 36 kB a frame. More get a 503."""
    drive_ttl_s: Annotated[
        float, Field(ge=0.001, le=86_400, json_schema_extra={"unit": "seconds"})
    ] = 3600.0
    """Time after a drive's last request until the service forgets the drive."""
    header_deadline_s: Seconds = 10.0
    """Time for a client to send a request's headers."""
    body_deadline_s: Seconds = 30.0
    """Time for a client to send a request's body."""
    request_deadline_s: Seconds = 30.0
    """Time from the end of a request's body to its answer."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """Form of log lines. auto: text on a terminal, else JSON."""
    cors_origins: Origins = ""
    """Origins whose pages may call the API, such as https://maps.example, separated by commas. \
*: any origin. Empty: none."""
    basemap_url: BaseMapUrl = ""
    """Another host's map tiles below the region's imagery on the page, such as \
https://maps.example/{z}/{x}/{y}.png. Browsers then ask that host. Empty: none."""
    basemap_attribution: str = ""
    """Credit of basemap_url, which the page shows. Required with it."""
    admin_token: AdminToken = ""
    """Bearer token of the admin routes: 16 or more ASCII characters. Empty: no admin routes."""
    milvus_token: MilvusToken = ""
    """Credentials for Milvus: user:password or an API key."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Settings from `SKYFIX_*` variables; an empty or absent variable means the default.

        Raises:
            SettingsError: a value does not parse, is out of bounds, or contradicts another value.
        """
        known = {variable(name): name for name in cls.model_fields}
        for unknown in sorted(v for v in environ if v.startswith(PREFIX) and v not in known):
            logger.warning("%s is not a setting; known are %s", unknown, ", ".join(known))
        given = {name: environ[v] for v, name in known.items() if environ.get(v)}
        try:
            return cls.model_validate(given)
        except ValidationError as error:  # `from None`: its input may hold a token
            raise SettingsError("; ".join(_message(e) for e in error.errors())) from None

    @field_validator("*", mode="before")
    @classmethod
    def _plain_digits(cls, value: object, info: ValidationInfo) -> object:
        """Raises unless a whole number is written in digits: pydantic reads 81.0 and 3_5, too."""
        is_whole = cls.model_fields[str(info.field_name)].annotation is int
        if is_whole and isinstance(value, str) and not value.strip().isdecimal():
            raise PydanticCustomError("whole_number", "not a whole number")
        return value

    @model_validator(mode="after")
    def _one_request_fits(self) -> Settings:
        """Raises SettingsError if one request may be larger than all requests together."""
        for single, total in (
            ("max_files", "max_in_flight"),
            ("max_body_bytes", "max_in_flight_bytes"),
        ):
            if getattr(self, single) > getattr(self, total):
                raise SettingsError(
                    f"{variable(single)}={getattr(self, single)} is more than "
                    f"{variable(total)}={getattr(self, total)}, so the largest request would "
                    "always be refused: lower the former or raise the latter"
                )
        return self

    @model_validator(mode="after")
    def _the_base_map_is_credited(self) -> Settings:
        """Raises SettingsError if a base map is shown without its credit."""
        if self.basemap_url and not self.basemap_attribution.strip():
            raise SettingsError(
                f"{variable('basemap_url')} needs {variable('basemap_attribution')}: write the "
                "credit that the map's owner asks for"
            )
        return self

    @property
    def basemap_origin(self) -> str:
        """Scheme and host of the base map; empty without one."""
        return _origin(self.basemap_url)

    @property
    def max_arriving(self) -> int:
        """Most uploads received at once. Below this number a slow client delays no other."""
        return 8 * self.max_in_flight

    @property
    def max_requests(self) -> int:
        """Most requests of all kinds at once. More get a 503."""
        return self.max_arriving + self.max_in_flight + 256

    @property
    def catalogue(self) -> Path:
        """The catalogue's file."""
        return self.home / "catalogue.sqlite"

    @property
    def weights_folder(self) -> Path:
        """Folder of the checkpoints that a running server may change to."""
        return self.home / "weights"

    def shown(self) -> dict[str, str]:
        """All settings as text under their variables' names; tokens hidden."""
        texts = {}
        for name, field in type(self).model_fields.items():
            text = str(getattr(self, name))
            texts[variable(name)] = text if field.repr else "(set, hidden)" if text else "(not set)"
        return texts


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def allowed(name: str) -> str:
    """The values that a setting accepts, in words: for messages and the reference."""
    schema = Settings.model_json_schema()["properties"][name]
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if "minimum" in schema:
        kind = "a whole number" if schema["type"] == "integer" else "a number"
        bounds = f"from {schema['minimum']} to {schema['maximum']}"
        return " ".join(filter(None, (kind, bounds, schema.get("unit"))))
    return "a path" if schema.get("format") == "path" else "text"


def _message(error: ErrorDetails) -> str:
    """One error of pydantic as variable, value and remedy; a token's value is left out."""
    name = str(error["loc"][0])
    shown = f"={error['input']!r}" if Settings.model_fields[name].repr else ""
    cause = error.get("ctx", {}).get("error")  # raised by a validator above
    return f"{variable(name)}{shown}: {cause or f'give {allowed(name)}'}"
