"""Entry point of `skyfix-train` and `python -m training`; see training.cli.commands."""

import sys

from training.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
