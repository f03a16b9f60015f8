"""Log records as one JSON object a line, or as text for a terminal."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from service.api.middleware.request_log import REQUEST_ID


class JsonFormatter(logging.Formatter):
    """time, level, logger, message, request_id, and the record's extra `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, even if the message has several."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if REQUEST_ID.get():
            entry["request_id"] = REQUEST_ID.get()
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class TextFormatter(logging.Formatter):
    """`LEVEL logger: message name=value …`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; an exception adds its traceback."""
        fields = getattr(record, "fields", {})
        shown = "".join(f" {name}={value}" for name, value in fields.items())
        text = f"{record.levelname} {record.name}: {record.getMessage()}{shown}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def log_to_stderr(log_format: str) -> None:
    """Send records from INFO on, and Python's warnings, to standard error.

    log_format: json, text, or auto, which is text on a terminal.
    """
    as_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    logging.getLogger("uvicorn.access").propagate = False  # the application logs its requests
