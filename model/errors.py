"""The one base error. Each cause has its own subclass, in the module that detects it; here stands
the one that several detect."""


class SkyfixError(Exception):
    """Something the user can act on: the message names the offending value and the remedy."""


class PretrainedError(SkyfixError):
    """ImageNet weights were asked for and cannot be had."""


# What its messages propose instead of ImageNet weights.
RANDOM = "--set pretrained=false --set frozen_maps=0"
