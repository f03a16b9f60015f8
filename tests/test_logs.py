"""Each record is one line of JSON or text."""

import json
import logging
import sys
import warnings

import pytest

from service.api.middleware.request_log import REQUEST_ID
from service.cli.logs import JsonFormatter, TextFormatter, log_to_stderr


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("service.x", logging.INFO, "x.py", 1, message, (), None)
    made.__dict__.update(extra)
    return made


def test_a_record_is_one_json_object_on_one_line() -> None:
    token = REQUEST_ID.set("order-66")
    line = JsonFormatter().format(record('two\nlines "quoted" é', fields={"status": 200}))
    REQUEST_ID.reset(token)
    entry = json.loads(line)
    assert "\n" not in line
    assert (entry["message"], entry["status"]) == ('two\nlines "quoted" é', 200)
    assert (entry["level"], entry["request_id"]) == ("INFO", "order-66")
    assert entry["time"].endswith("+00:00")


def test_an_exception_is_kept() -> None:
    try:
        raise ValueError("reason")
    except ValueError:
        failed = record("failed", exc_info=sys.exc_info())
    entry = json.loads(JsonFormatter().format(failed))
    assert "ValueError: reason" in entry["exception"]
    assert "ValueError: reason" in TextFormatter().format(failed)


def test_text_shows_the_fields() -> None:
    shown = TextFormatter().format(record("request", fields={"status": 200, "ms": 1.5}))
    assert shown == "INFO service.x: request status=200 ms=1.5"


def test_a_warning_is_a_record_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        log_to_stderr("json")
        warnings.warn("two\nlines", stacklevel=1)
        logging.captureWarnings(False)
    assert "two\nlines" in json.loads(capsys.readouterr().err)["message"]
