"""Settings come from the mapping passed in; errors say what was wrong and what is allowed."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import Settings, SettingsError, allowed, variable


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_env({}) == Settings()
    assert Settings.from_env({"SKYFIX_PORT": "", "PATH": "/bin"}) == Settings()


def test_every_field_can_be_set_by_its_variable() -> None:
    texts = {
        "HOME": "/data", "WEIGHTS": "w.safetensors", "DEVICE": "cpu", "PRECISION": "fp32",
        "HOST": "0.0.0.0", "PORT": "81", "ROLLS": "36", "HEADING_SOURCES": "EXIF",
        "HEADING_TOLERANCE_DEG": "12.5", "MAX_BODY_BYTES": "5000",
        "MAX_FILES": "2", "MAX_IN_FLIGHT": "3", "MAX_IN_FLIGHT_BYTES": "9000",
        "MAX_DRIVE_FRAMES": "7", "MAX_DRIVE_BYTES": "17000000", "DRIVE_TTL_S": "4.5",
        "MAX_STRETCH": "3.5", "MAX_BATCH": "4", "DECODE_THREADS": "1", "HEADER_DEADLINE_S": "0.5",
        "BODY_DEADLINE_S": "1.5", "REQUEST_DEADLINE_S": "2.5", "LOG_FORMAT": "json",
        "ADMIN_TOKEN": "0123456789abcdef",
        "CORS_ORIGINS": "https://maps.example,http://localhost:3000", "MILVUS_TOKEN": "root:Milvus",
        "BASEMAP_URL": "https://maps.example/{z}/{x}/{y}.png", "BASEMAP_ATTRIBUTION": "A Map",
    }  # fmt: skip
    environ = {f"SKYFIX_{name}": text for name, text in texts.items()}
    settings = Settings.from_env(environ)
    assert {variable(name) for name in Settings.model_fields} == set(environ)
    assert {variable(name): str(value) for name, value in settings} == environ
    assert settings.home == Path("/data")


@pytest.mark.parametrize(
    ("name", "text", "remedy"),
    [
        ("DEVICE", "tpu", "auto, cpu, cuda"),
        ("PORT", "eighty", "whole number"),
        ("PORT", "81.0", "whole number"),
        ("ROLLS", "3_5", "whole number"),
        ("PORT", "70000", "65535"),
        ("ROLLS", "0", "1 to 360"),
        ("MAX_BODY_BYTES", "1", "1024 to 1073741824 bytes"),
        ("MAX_STRETCH", "1.5", "2 to 1000"),
        ("BODY_DEADLINE_S", "nan", "3600"),
        ("REQUEST_DEADLINE_S", "soon", "seconds"),
        ("HOME", "~nobody-of-this-name/data", "whole path"),
        ("WEIGHTS", "~nobody-of-this-name/one.safetensors", "whole path"),
    ],
)
def test_a_bad_value_is_named_with_its_remedy(name: str, text: str, remedy: str) -> None:
    with pytest.raises(SettingsError, match=f"SKYFIX_{name}") as caught:
        Settings.from_env({f"SKYFIX_{name}": text})
    assert text in str(caught.value)
    assert remedy in str(caught.value)


def test_all_bad_values_are_named_together() -> None:
    with pytest.raises(SettingsError, match=r"SKYFIX_PORT='x'.*SKYFIX_ROLLS='0'"):
        Settings.from_env({"SKYFIX_ROLLS": "0", "SKYFIX_PORT": "x"})


@pytest.mark.parametrize(
    ("single", "total"),
    [
        ({"SKYFIX_MAX_FILES": 9}, {"SKYFIX_MAX_IN_FLIGHT": 8}),
        ({"SKYFIX_MAX_BODY_BYTES": 5001}, {"SKYFIX_MAX_IN_FLIGHT_BYTES": 5000}),
    ],
)
def test_one_request_may_not_exceed_the_limit_of_all_requests(
    single: dict[str, int], total: dict[str, int]
) -> None:
    (name,), (most,) = single, total.values()
    environ = {name: str(value) for name, value in {**single, **total}.items()}
    with pytest.raises(SettingsError, match=f"{name}={single[name]}") as caught:
        Settings.from_env(environ)
    assert f"{next(iter(total))}={most}" in str(caught.value)
    Settings.from_env({**environ, name: str(most)})


@pytest.mark.parametrize(
    "url",
    [
        "maps.example/{z}/{x}/{y}",
        "ftp://maps.example/{z}/{x}/{y}",
        "https://maps.example/{z}/{x}",
        "https://{s}.maps.example/{z}/{x}/{y}",
        "https://maps.example; script-src */{z}/{x}/{y}",
    ],
)
def test_a_base_map_is_one_host_with_a_credit(url: str) -> None:
    good = {"SKYFIX_BASEMAP_URL": "https://maps.example:8443/{z}/{x}/{y}.png"}
    with pytest.raises(SettingsError, match="needs SKYFIX_BASEMAP_ATTRIBUTION"):
        Settings.from_env(good)
    credit = {"SKYFIX_BASEMAP_ATTRIBUTION": "A Map"}
    assert Settings.from_env(good | credit).basemap_origin == "https://maps.example:8443"
    with pytest.raises(SettingsError, match="with these three and one host"):
        Settings.from_env(credit | {"SKYFIX_BASEMAP_URL": url})


@pytest.mark.parametrize("below", ["", "index"])
def test_a_home_that_is_a_file_is_refused(below: str, tmp_path: Path) -> None:
    file = tmp_path / "passwd"
    file.touch()
    home = file / below
    with pytest.raises(SettingsError, match=f"SKYFIX_HOME='{home}': {file} is a file"):
        Settings.from_env({"SKYFIX_HOME": str(home)})
    for name in (tmp_path, tmp_path / "not" / "yet"):
        assert Settings.from_env({"SKYFIX_HOME": str(name)}).home == name


def test_an_unknown_variable_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    Settings.from_env({"SKYFIX_PROT": "81"})
    assert "SKYFIX_PROT" in caplog.text


@pytest.mark.parametrize("change", [{"prot": 81}, {"port": 70000}])
def test_code_cannot_set_an_unknown_field_or_a_bad_value(change: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        Settings(**change)
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 81


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())
    assert allowed("port") == "a whole number from 0 to 65535"
    assert allowed("log_format") == "one of auto, json, text"


@pytest.mark.parametrize("name", ["SKYFIX_ADMIN_TOKEN", "SKYFIX_MILVUS_TOKEN"])
def test_a_token_is_never_shown(name: str) -> None:
    settings = Settings.from_env({name: "s3cr3t-0123456789"})
    assert "s3cr3t" not in repr(settings) + str(settings) + str(settings.shown())
    assert len(settings.shown()) == len(Settings.model_fields)


@pytest.mark.parametrize("token", ["s3cr3t", "s3cr3t with spaces in it", "s3cr3t-é-0123456789"])
def test_a_weak_token_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(SettingsError, match="SKYFIX_ADMIN_TOKEN") as caught:
        Settings.from_env({"SKYFIX_ADMIN_TOKEN": token})
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    "origin",
    ["https://maps.example", "http://[::1]:3000", "https://xn--mnchen-3ya.example", "app://x", "*"],
)
def test_an_origin_is_kept_as_browsers_send_it(origin: str) -> None:
    assert Settings.from_env({"SKYFIX_CORS_ORIGINS": f" {origin} ,"}).cors_origins == origin


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("https://maps.example/", "write https://maps.example"),
        ("HTTPS://Maps.Example:443", "write https://maps.example"),
        ("http://u:p@maps.example:80/a?b#c", "write http://maps.example"),
        ("https://maps.example http://b:1/", "http://b:1/ is not an origin as browsers send it"),
        ("maps.example", "write scheme://host or scheme://host:port"),
        ("https://maps.example:port", "scheme://host"),
        ("https://*.maps.example", "scheme://host"),
        ("https://münchen.example", "scheme://host"),
        ("null", "scheme://host"),
        ("*,https://maps.example", "write * alone"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(text: str, remedy: str) -> None:
    with pytest.raises(SettingsError, match="SKYFIX_CORS_ORIGINS=") as caught:
        Settings.from_env({"SKYFIX_CORS_ORIGINS": text})
    assert remedy in str(caught.value)


def test_a_milvus_token_is_one_line() -> None:
    with pytest.raises(SettingsError, match="SKYFIX_MILVUS_TOKEN") as caught:
        Settings.from_env({"SKYFIX_MILVUS_TOKEN": "root:s3cr3t\n"})
    assert "s3cr3t" not in str(caught.value)
