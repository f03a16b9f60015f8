"""A network cut in two at its trunk's finest map, so that most of it can compute in bfloat16.

On a processor with AMX, OpenVINO in bfloat16 takes half of float32's time. But rounding the
layers before the finest map alone lowers the worst cosine with float32's descriptors to 0.992;
0.999 is asked. So these layers stay in float32. A view then takes 1.44 ms, all float32 takes
2.1 ms, and the worst cosine is 0.9993 (docs/decisions.md, "bfloat16 behind the finest map").
Float32 is as fast in two parts as in one.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from model.network import Branch

# Images at once in each part, so that the maps stay in a core's cache: finest maps are large.
FINE_BATCH, COARSE_BATCH = 2, 16


class WithFinestMap(nn.Module):
    """A branch that returns its descriptors and its trunk's finest map."""

    def __init__(self, branch: Branch) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.branch.maps(images)
        return self.branch.encode_maps(maps), maps[0]


def cut_at_finest_map(openvino: Any, model: Any) -> tuple[Any, Any]:
    """An OpenVINO model of `WithFinestMap` as two: images to finest map, and map to descriptors.

    openvino: the package, imported by the caller, who keeps it from reporting its starts.
    """
    finest = model.output(1).get_node().input_value(0)
    entry = openvino.opset13.parameter(finest.partial_shape, openvino.Type.f32)
    finest.replace(entry.output(0))  # for every layer that reads the finest map
    fine = openvino.Model([finest], model.get_parameters())
    coarse = openvino.Model(model.get_results()[:1], [entry])
    return fine, coarse
