"""The one base error. Each cause has its own subclass, in the module that detects it."""


class SkyfixError(Exception):
    """Something the user can act on: the message names the offending value and the remedy."""
