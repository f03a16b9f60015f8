"""`skyfix`: parses arguments, runs one command, prints.

Results go to standard output, progress and logs to standard error. Exit codes: 0 done, 1 a problem
(one line says which), 2 wrong usage, 130 interrupted, 141 the output's reader has ended; `serve`
also 3, from uvicorn, when it cannot listen; `locate` also 3, when a survey ran to its end but some
of its images have a problem.
Commands import torch and faiss only when they run, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from model.errors import SkyfixError
from model.freed_memory import keep_freed_memory
from service.cli import accuracy_commands, answer_commands, imagery_commands, index_commands
from service.cli.options import Argument, arg, setting
from service.cli.survey import SomeImagesFailed
from service.settings import Settings, variable

COMMANDS = {
    **imagery_commands.COMMANDS,
    **index_commands.COMMANDS,
    **accuracy_commands.COMMANDS,
    **answer_commands.COMMANDS,
}
COMMON = (
    setting("home", type=Path),
    setting("weights", type=Path),
    setting("device", choices=("auto", "cpu", "cuda")),
    arg("-v", "--verbose", action="store_true", help="Log each step."),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = command_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if arguments.verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    # faiss logs each variant that it cannot load; a reader takes that for a failure.
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    # rasterio logs errors as INFO before it raises them; those that are handled would mislead.
    logging.getLogger("rasterio._env").setLevel(logging.WARNING)
    keep_freed_memory()
    try:
        arguments.run(arguments, _settings(arguments))
        print(end="", flush=True)
    except SkyfixError as error:
        print(f"skyfix: {error}", file=sys.stderr)
        return 3 if isinstance(error, SomeImagesFailed) else 1
    except KeyboardInterrupt:
        print("skyfix: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        return _without_output(error)
    return 0


def _without_output(error: OSError) -> int:
    """The exit code when the output's reader has ended, as `head` does, or its disk is full."""
    # Python writes the rest when it exits, which would fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno == errno.EPIPE:
        return 128 + signal.SIGPIPE
    print(f"skyfix: a file or the output is not written: {error.strerror}", file=sys.stderr)
    return 1


def command_parser() -> argparse.ArgumentParser:
    """All commands and their options; the documentation lists them from here."""
    parser = argparse.ArgumentParser(prog="skyfix", description="Find where panoramas were taken.")
    common = argparse.ArgumentParser(add_help=False)
    _add(common, COMMON)
    subparsers = parser.add_subparsers(required=True, metavar="command")
    for name, command in COMMANDS.items():
        text = command.run.__doc__
        subparser = subparsers.add_parser(name, parents=[common], help=text, description=text)
        _add(subparser, command.arguments)
        subparser.set_defaults(run=command.run)
    return parser


def _add(parser: argparse.ArgumentParser, arguments: Sequence[Argument]) -> None:
    for names, options in arguments:
        parser.add_argument(*names, **options)


def _settings(arguments: argparse.Namespace) -> Settings:
    """The environment's settings, overridden by the command line's options."""
    given = {variable(name): getattr(arguments, name, None) for name in Settings.model_fields}
    options = {name: str(value) for name, value in given.items() if value is not None}
    return Settings.from_env({**os.environ, **options})
