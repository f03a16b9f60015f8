"""From imagery and a trained checkpoint to the answer over HTTP, with the real encoder."""

import asyncio
import csv
import shutil

import numpy as np
from api_harness import served
from test_real_pairs import OVERFIT

from model.checkpoint import Checkpoint, EncoderConfig
from model.encoder import Encoder
from model.geo import LatLon, distance_m
from service.build import build
from service.index.catalogue import Catalogue
from service.index.search import TileIndex
from service.index.versions import Versions
from service.ingest import ingest
from training.data.arrays import read_arrays
from training.data.datasets import load
from training.recipes import find
from training.run.loop import train

AERIAL_PIXELS = 750
ORTHOPHOTO = "201404_13SED190110_201404_0x1500m_CL_1.tif"
CVUSA_HINTS = {"heading_deg": 0, "vertical_fov_deg": 65, "horizon": 128 / 224}


def tile_folder(folder, pairs):
    """The pairs' aerial images as a folder that `skyfix ingest` takes."""
    folder.mkdir()
    with (folder / "tiles.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "file", "latitude", "longitude", "size_m"])
        for pair in pairs:
            shutil.copy(pair.aerial.path, folder)
            size_m = AERIAL_PIXELS * pair.aerial.metres_per_pixel
            writer.writerow([pair.id, pair.aerial.path.name, *pair.position, size_m])
    return folder


async def answers(home, encoder, pairs):
    found = {}
    async with served(home, encoder) as client:
        for pair in pairs:
            upload = {"panorama": (pair.street.name, pair.street.read_bytes())}
            reply = await client.post("/localize", files=upload, params=CVUSA_HINTS)
            assert reply.status_code == 200, reply.text
            found[pair.id] = reply.json()["matches"][0]
    return found


def test_memorised_real_panoramas_are_located_at_their_position(real, tmp_path):
    recipe = find("msae-demo", OVERFIT)
    pairs = load("cvusa", real / "cvusa", "all")
    weights = train(recipe, read_arrays(pairs, recipe.encoder, 0.0), tmp_path / "run")
    home, encoder = tmp_path / "home", Encoder.load(weights)
    with Catalogue.of(home) as catalogue:
        tiles = tile_folder(tmp_path / "tiles", pairs)
        ingest(catalogue, tiles, size_m=encoder.aerial_footprint_m)
    build(home, encoder)
    found = asyncio.run(answers(home, encoder, pairs))
    for pair in pairs:
        match = found[pair.id]
        assert match["tile_id"].endswith(pair.id)
        assert distance_m(LatLon(match["latitude"], match["longitude"]), pair.position) < 1.0


def test_a_real_orthophoto_is_tiled_and_each_tile_finds_itself(real, tmp_path):
    config = EncoderConfig(aerial_footprint_m=20.0)  # the orthophoto is 57 m by 35 m
    encoder = Encoder(Checkpoint(config, config.build().state_dict()))
    with Catalogue.of(tmp_path) as catalogue:
        raster = real / "georaster" / ORTHOPHOTO
        report = ingest(catalogue, raster, size_m=encoder.aerial_footprint_m)
    version = build(tmp_path, encoder)
    index = TileIndex.open(Versions(tmp_path).path(version.name))
    assert report.tiles == version.tiles == len(index.vectors) > 3
    _, rows = index.search(index.vectors, 1)
    assert (rows[:, 0] == np.arange(len(index.vectors))).all()
