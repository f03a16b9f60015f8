"""The one base error. Each cause has its own subclass, in the module that detects it; here stands
the one that several detect."""


class SkyfixError(Exception):
    """Something the user can act on: the message names the offending value and the remedy."""


# What to ask for instead of them.
RANDOM = "--set pretrained=false --set frozen_maps=0"


class PretrainedError(SkyfixError):
    """ImageNet weights were asked for and cannot be had."""
