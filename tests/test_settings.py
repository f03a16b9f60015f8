"""Settings come from the mapping handed in, and bad values are named with what is allowed."""

from dataclasses import fields
from pathlib import Path

import pytest

from service.settings import Settings, SettingsError


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_env({}) == Settings()
    assert Settings.from_env({"SKYFIX_PORT": "", "PATH": "/bin"}) == Settings()


def test_every_field_can_be_set_by_its_variable() -> None:
    texts = {
        "HOME": "/data", "WEIGHTS": "w.safetensors", "DEVICE": "cpu", "PRECISION": "fp32",
        "HOST": "0.0.0.0", "PORT": "81", "ROLLS": "36", "MAX_BODY_BYTES": "5000",
        "MAX_FILES": "2", "MAX_IN_FLIGHT": "3", "MAX_IN_FLIGHT_BYTES": "9000",
        "MAX_STRETCH": "3.5", "MAX_BATCH": "4", "DECODE_THREADS": "1", "HEADER_DEADLINE_S": "0.5",
        "BODY_DEADLINE_S": "1.5", "REQUEST_DEADLINE_S": "2.5", "LOG_FORMAT": "json",
        "ADMIN_TOKEN": "0123456789abcdef", "MILVUS_TOKEN": "root:Milvus",
    }  # fmt: skip
    settings = Settings.from_env({f"SKYFIX_{name}": text for name, text in texts.items()})
    assert {field.name.upper() for field in fields(Settings)} == set(texts)
    assert {f.name.upper(): str(getattr(settings, f.name)) for f in fields(Settings)} == texts
    assert settings.home == Path("/data")


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("DEVICE", "tpu", "auto, cpu, cuda"),
        ("PORT", "eighty", "whole number"),
        ("PORT", "70000", "65535"),
        ("ROLLS", "0", "1 to 360"),
        ("BODY_DEADLINE_S", "nan", "3600"),
        ("REQUEST_DEADLINE_S", "soon", "seconds"),
        ("HOME", "~nobody-of-this-name/data", "whole path"),
        ("WEIGHTS", "~nobody-of-this-name/one.safetensors", "whole path"),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, text: str, allowed: str) -> None:
    with pytest.raises(SettingsError, match=f"SKYFIX_{name}") as caught:
        Settings.from_env({f"SKYFIX_{name}": text})
    assert text in str(caught.value)
    assert allowed in str(caught.value)


@pytest.mark.parametrize(
    ("one", "all_together"),
    [
        ({"SKYFIX_MAX_FILES": 9}, {"SKYFIX_MAX_IN_FLIGHT": 8}),
        ({"SKYFIX_MAX_BODY_BYTES": 5001}, {"SKYFIX_MAX_IN_FLIGHT_BYTES": 5000}),
    ],
)
def test_a_request_that_would_be_refused_for_ever_is_not_allowed(
    one: dict[str, int], all_together: dict[str, int]
) -> None:
    (name,), (most,) = one, all_together.values()
    environ = {name: str(value) for name, value in {**one, **all_together}.items()}
    with pytest.raises(SettingsError, match=f"{name}={one[name]}") as caught:
        Settings.from_env(environ)
    assert f"{next(iter(all_together))}={most}" in str(caught.value)
    Settings.from_env({**environ, name: str(most)})


@pytest.mark.parametrize("below", ["", "index"])
def test_a_home_that_is_a_file_is_refused(below: str, tmp_path: Path) -> None:
    file = tmp_path / "passwd"
    file.touch()
    home = file / below
    with pytest.raises(SettingsError, match=f"SKYFIX_HOME={home}: {file} is a file"):
        Settings.from_env({"SKYFIX_HOME": str(home)})
    for name in (tmp_path, tmp_path / "not" / "yet"):
        assert Settings.from_env({"SKYFIX_HOME": str(name)}).home == name


def test_an_unknown_variable_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    Settings.from_env({"SKYFIX_PROT": "81"})
    assert "SKYFIX_PROT" in caplog.text


@pytest.mark.parametrize("name", ["SKYFIX_ADMIN_TOKEN", "SKYFIX_MILVUS_TOKEN"])
def test_a_token_is_never_shown(name: str) -> None:
    settings = Settings.from_env({name: "s3cr3t-0123456789"})
    assert "s3cr3t" not in repr(settings) + str(settings.shown())
    assert len(settings.shown()) == len(fields(Settings))


@pytest.mark.parametrize("token", ["s3cr3t", "s3cr3t with spaces in it", "s3cr3t-é-0123456789"])
def test_a_weak_token_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(SettingsError, match="SKYFIX_ADMIN_TOKEN") as caught:
        Settings.from_env({"SKYFIX_ADMIN_TOKEN": token})
    assert "s3cr3t" not in str(caught.value)


def test_a_token_of_milvus_is_one_line() -> None:
    with pytest.raises(SettingsError, match="SKYFIX_MILVUS_TOKEN") as caught:
        Settings.from_env({"SKYFIX_MILVUS_TOKEN": "root:s3cr3t\n"})
    assert "s3cr3t" not in str(caught.value)
