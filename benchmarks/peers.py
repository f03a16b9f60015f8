"""The same weights and index behind plain FastAPI, or behind LitServe, as many people write them.

Pillow decodes whole images, cv2.remap applies the inverse polar transform, eager torch encodes in
float32, faiss searches a flat index. `python -m benchmarks.peers plain|litserve PORT HOME WEIGHTS`.
"""

from __future__ import annotations

import io
import math
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import faiss
import litserve as ls
import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, UploadFile
from numpy.typing import NDArray
from PIL import Image

from model.checkpoint import Checkpoint
from service.index.manifest import VECTORS
from service.index.versions import Versions

Maps = tuple[NDArray[np.float32], NDArray[np.float32]]  # source columns and rows, for cv2.remap


class Peer:
    """Locates panoramas: bytes to row numbers of tiles."""

    def __init__(self, home: Path, weights: Path) -> None:
        checkpoint = Checkpoint.load(weights)
        self.network = checkpoint.network().street
        self.preprocessing = checkpoint.config.preprocessing
        self.turns = checkpoint.config.turns
        versions = Versions(home)
        folder = versions.path(versions.require_current())
        self.index = faiss.read_index(str(folder / VECTORS))

    def decode(self, data: bytes) -> NDArray[np.float32]:
        """The network's input, (3, S, S)."""
        image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        columns, rows = _maps(image.shape[:2], self.preprocessing.input_size)
        view = cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mean = np.array(self.preprocessing.mean, np.float32)
        std = np.array(self.preprocessing.std, np.float32)
        normal = (view.astype(np.float32) / 255.0 - mean) / std
        return np.ascontiguousarray(normal.transpose(2, 0, 1))

    def locate(self, inputs: list[NDArray[np.float32]]) -> list[list[int]]:
        """The ten nearest tiles of each input."""
        with torch.inference_mode():
            views = torch.from_numpy(np.stack(inputs))
            turned = [views.rot90(turn, (2, 3)) for turn in range(0, 4, 4 // self.turns)]
            descriptors = torch.cat([self.network(view) for view in turned], 1).numpy()
        _, rows = self.index.search(descriptors, 10)
        found: list[list[int]] = rows.tolist()
        return found


@lru_cache(maxsize=8)
def _maps(shape: tuple[int, int], size: int) -> Maps:
    height, width = shape
    offsets = np.arange(size) - (size - 1) / 2
    dx, dy = np.meshgrid(offsets, offsets)
    rows = height - 1 - math.sqrt(2) * height / size * np.hypot(dx, dy)
    columns = (np.arctan2(dy, dx) / (2 * math.pi) - 0.25) % 1.0 * width
    return columns.astype(np.float32), rows.astype(np.float32)


def plain(peer: Peer, port: int) -> None:
    """FastAPI as its tutorial has it: a function in the thread pool, one image at a time."""
    app = FastAPI()

    @app.post("/localize")
    def localize(panorama: UploadFile) -> dict[str, list[int]]:
        return {"matches": peer.locate([peer.decode(panorama.file.read())])[0]}

    uvicorn.run(app, port=port, log_level="warning")


class Api(ls.LitAPI):  # type: ignore[misc]
    """LitServe with its dynamic batching."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(max_batch_size=8, batch_timeout=0.005, api_path="/localize")
        self.peer = peer

    def setup(self, device: str) -> None:
        """Nothing: the worker is a copy of this process."""

    def decode_request(self, request, **_: Any) -> NDArray[np.float32]:  # type: ignore[no-untyped-def]
        return self.peer.decode(request["panorama"].file.read())

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, inputs: list[Any], **_: Any) -> list[list[int]]:
        return self.peer.locate(inputs)

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: list[int], **_: Any) -> dict[str, list[int]]:
        return {"matches": output}


def litserve(peer: Peer, port: int) -> None:
    """One worker, because there is one model."""
    server = ls.LitServer(Api(peer), accelerator="cpu", workers_per_device=1)
    server.run(port=port, generate_client_file=False, log_level="error", num_api_servers=1)


if __name__ == "__main__":
    kind, port, home, weights = sys.argv[1:]
    {"plain": plain, "litserve": litserve}[kind](Peer(Path(home), Path(weights)), int(port))
