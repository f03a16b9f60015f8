"""Entry point of `skyfix` and `python -m service`; the commands are in service.cli.commands."""

import sys

from service.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
