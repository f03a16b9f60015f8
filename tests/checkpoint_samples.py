"""A real checkpoint, untrained and small enough for tests."""

from model.checkpoint import Checkpoint, EncoderConfig
from model.network import NetworkConfig
from model.preprocessing import Preprocessing


def tiny_checkpoint() -> Checkpoint:
    """D = 16, views of 64 pixels, tiles of the default width; random weights at each call."""
    network = NetworkConfig(neck=4, group_channels=4, dimension=16)
    config = EncoderConfig(network, Preprocessing(input_size=64))
    return Checkpoint(config, config.build().state_dict())
