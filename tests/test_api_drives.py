"""Drives over HTTP: one form, and many uploads that are held between requests."""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path

import gpxpy
import httpx
import numpy as np
import pytest
from api_harness import application, publish, served
from fakes import FakeEncoder, panorama_of
from PIL import Image

from service.api.drive_schemas import DrivesSchema
from service.index.live_index import LiveIndex
from service.locate.drive import STATES_OF_ROLLS
from service.locate.drive_path import Frame
from service.locate.drive_times import Taken, by_time, locate_by_time
from service.locate.localizer import Localizer
from service.runtime.admission import OverloadedError
from service.runtime.drives import FRAME_BYTES, DriveFull, Drives, DriveUnknown, HeldDrive, Shot

pytestmark = pytest.mark.anyio
SETTINGS = {"max_files": 5, "max_drive_frames": 7}
NORTH = "heading_deg=0&heading_tolerance_deg=0"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    encoder = FakeEncoder()
    publish(tmp_path, "town", range(12), encoder)
    async with served(tmp_path, encoder, **SETTINGS) as made:
        yield made


def form(*bodies: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("panorama", ("frame.jpg", body)) for body in bodies]


def street(*seeds: int) -> list[tuple[str, tuple[str, bytes]]]:
    return form(*map(panorama_of, seeds))


def taken_at(seed: int, time: str, subseconds: str) -> bytes:
    """A frame whose EXIF states when it was taken."""
    image, exif, out = Image.open(io.BytesIO(panorama_of(seed))), Image.Exif(), io.BytesIO()
    exif[0x8769] = {0x9003: time, 0x9291: subseconds}
    image.save(out, "PNG", exif=exif)
    return out.getvalue()


def tiles(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [frame["tile_id"] for frame in answer.json()["frames"]]


async def test_frames_are_located_in_the_order_of_the_form(client: httpx.AsyncClient) -> None:
    answer = await client.post(f"/localize/drive?{NORTH}", files=street(2, 3, 4))
    assert tiles(answer) == ["t2", "t3", "t4"]
    (drive,) = answer.json()["drives"]
    assert (drive["frames"], answer.json()["order"]) == ([0, 1, 2], "uploads")
    frames = [frame["position"] for frame in answer.json()["frames"]]
    assert drive["track"]["coordinates"] == [[f["longitude"], f["latitude"]] for f in frames]
    assert drive["track"]["type"] == "LineString"
    assert frames == [{name: round(value, 7) for name, value in f.items()} for f in frames]


@pytest.mark.parametrize("times", ["2.5,1,0.25", "2026-01-01T00:01Z,2026-01-01T00:00Z,2025-12-31"])
async def test_stated_times_order_the_frames(client: httpx.AsyncClient, times: str) -> None:
    answer = await client.post(f"/localize/drive?{NORTH}&times={times}", files=street(4, 3, 2))
    one_clock = "Z" not in times
    assert tiles(answer) == ["t4", "t3", "t2"]
    assert answer.json()["order"] == ("times" if one_clock else "uploads")
    assert answer.json()["drives"][0]["frames"] == ([2, 1, 0] if one_clock else [0, 1, 2])


async def test_times_of_exif_order_the_frames_and_a_pause_ends_a_drive(
    client: httpx.AsyncClient,
) -> None:
    frames = [
        taken_at(5, "2026:07:31 10:20:00", "0"),
        taken_at(4, "2026:07:31 10:00:00", "75"),
        taken_at(3, "2026:07:31 10:00:00", "5"),
    ]
    answer = (await client.post(f"/localize/drive?{NORTH}", files=form(*frames))).json()
    assert [drive["frames"] for drive in answer["drives"]] == [[2, 1], [0]]
    assert [frame["drive"] for frame in answer["frames"]] == [1, 0, 0]
    assert answer["frames"][1]["time"] == "2026-07-31T10:00:00.750000"
    assert answer["drives"][1]["track"] is None  # a point is no line


async def test_an_unreadable_frame_is_a_problem_and_the_rest_goes_on(
    client: httpx.AsyncClient,
) -> None:
    files = [*street(2), *form(b"no image"), *street(3)]
    answer = await client.post(f"/localize/drive?{NORTH}&times=1,2,3", files=files)
    assert tiles(answer) == ["t2", None, "t3"]
    assert [frame["time"] for frame in answer.json()["frames"]] == ["1", "2", "3"]
    problem = answer.json()["frames"][1]["problem"]
    assert (problem["type"], problem["status"]) == ("urn:skyfix:problem:image", 422)
    assert answer.json()["drives"][0]["frames"] == [0, 2]


async def test_hints_hold_for_every_frame(client: httpx.AsyncClient) -> None:
    """Tiles lie 0.001 degrees apart from 80 degrees west."""
    near = "near=25,-79.998&radius_m=50"
    answer = await client.post(f"/localize/drive?{NORTH}&{near}", files=street(1, 7))
    assert tiles(answer) == ["t2", "t2"]
    answer = await client.post("/localize/drive?near=0,0", files=street(1))
    assert answer.json()["frames"][0]["problem"]["type"] == "urn:skyfix:problem:hint"
    assert answer.json()["drives"] == []


@pytest.mark.parametrize(
    ("query", "frames", "status", "says"),
    [
        ("", 0, 400, "the form is empty"),
        ("", 6, 400, "more than 5 files 'panorama' in the form: send a longer drive to /drives"),
        ("?times=1,2,3", 2, 422, "2 frames need as many times: 3 given"),
        ("?times=1,noon", 2, 422, "time 'noon' cannot be read"),
        ("?times=1,nan", 2, 422, "time 'nan' cannot be read"),
        ("?top_k=3", 1, 422, "no such parameter"),
        ("?bbox=1", 1, 422, "bbox"),
    ],
)
async def test_bad_input_is_named(
    client: httpx.AsyncClient, query: str, frames: int, status: int, says: str
) -> None:
    drive = (await client.post("/drives")).headers["location"]
    for path in ("/localize/drive", f"{drive}/frames"):
        if frames:
            answer = await client.post(path + query, files=street(*range(frames)))
        else:
            kind = {"Content-Type": "multipart/form-data; boundary=b"}
            answer = await client.post(path, headers=kind, content=b"--b--\r\n")
        assert answer.status_code == status, answer.text
        assert says.replace("a longer drive to /drives", "") in answer.json()["detail"].replace(
            "several forms", ""
        ).replace("a longer drive to /drives", "")
    assert (await client.get(drive)).json()["images"] == 0


async def test_uploads_make_the_same_drive_as_one_form(client: httpx.AsyncClient) -> None:
    whole = (await client.post("/localize/drive", files=street(2, 3, 4, 5))).json()
    begun = await client.post("/drives")
    drive = begun.headers["location"]
    assert (begun.status_code, drive) == (201, f"/drives/{begun.json()['id']}")
    first = await client.post(f"{drive}/frames", files=street(2))
    second = await client.post(f"{drive}/frames", files=street(3, 4, 5))
    assert (first.json()["first"], second.json()["first"]) == (0, 1)
    assert second.json()["drive"]["images"] == 4
    answer = (await client.get(drive)).json()
    assert answer["answer"]["drives"] == whole["drives"]
    assert answer["answer"]["frames"] == whole["frames"]


async def test_a_drive_of_no_frame_has_an_empty_answer(client: httpx.AsyncClient) -> None:
    drive = (await client.post("/drives")).headers["location"]
    answer = (await client.get(drive)).json()
    assert (answer["answer"]["frames"], answer["answer"]["drives"]) == ([], [])


async def test_a_full_drive_and_a_deleted_drive_say_so(client: httpx.AsyncClient) -> None:
    drive = (await client.post("/drives")).headers["location"]
    await client.post(f"{drive}/frames", files=street(*range(5)))
    full = await client.post(f"{drive}/frames", files=street(1, 2, 3))
    assert (full.status_code, full.json()["type"]) == (409, "urn:skyfix:problem:drive-full")
    assert "limit of 7" in full.json()["detail"]
    deleted = await client.delete(drive)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert "content-type" not in deleted.headers
    for gone in (await client.get(drive), await client.delete(drive)):
        assert (gone.status_code, gone.json()["type"]) == (404, "urn:skyfix:problem:drive-unknown")


async def test_a_drive_finishes_on_its_own_version(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    first = publish(tmp_path, "town", range(6), encoder)
    app = application(tmp_path, encoder)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://skyfix") as client,
    ):
        drive = (await client.post("/drives")).headers["location"]
        await client.post(f"{drive}/frames?{NORTH}", files=street(2))
        second = publish(tmp_path, "suburb", range(20, 23), encoder)
        await asyncio.to_thread(app.state.live.follow)
        await client.post(f"{drive}/frames?{NORTH}", files=street(3, 21))
        answer = (await client.get(drive)).json()["answer"]
        new = (await client.post(f"/localize/drive?{NORTH}", files=street(21))).json()
    assert answer["index_version"] == first
    assert [frame["tile_id"] for frame in answer["frames"][:2]] == ["t2", "t3"]
    assert answer["frames"][2]["tile_id"] != "t21"
    assert (new["index_version"], new["frames"][0]["tile_id"]) == (second, "t21")


async def test_geojson_has_the_track_and_every_frame(client: httpx.AsyncClient) -> None:
    geo = {"Accept": "application/geo+json"}
    files = [*street(2, 3), *form(b"")]
    answer = await client.post(f"/localize/drive?{NORTH}", files=files, headers=geo)
    assert answer.headers["content-type"] == "application/geo+json"
    features = answer.json()["features"]
    assert [f["id"] for f in features] == ["drive-0", "frame-0", "frame-1", "frame-2"]
    points = [feature["geometry"] for feature in features[1:]]
    assert features[0]["geometry"]["coordinates"] == [p["coordinates"] for p in points[:2]]
    assert points[2] is None


async def test_gpx_has_the_positions_and_times_of_the_json(client: httpx.AsyncClient) -> None:
    gpx, moment = {"Accept": "application/gpx+xml"}, "2026-07-31T10:0{}:00+02:00"
    files = [*street(4, 3), *form(b""), *street(2)]
    times = ",".join(moment.format(minute) for minute in (9, 1, 1, 0)).replace("+", "%2B")
    path = f"/localize/drive?{NORTH}&times={times}"
    json = (await client.post(path, files=files)).json()
    assert [drive["frames"] for drive in json["drives"]] == [[3, 1], [0]]
    answer = await client.post(path, files=files, headers=gpx)
    assert answer.headers["content-type"] == "application/gpx+xml"
    assert [frame["in_index"] for frame in json["frames"]] == [False, True, None, True]
    for track, drive in zip(gpxpy.parse(answer.text).tracks, json["drives"], strict=True):
        frames = [json["frames"][number] for number in drive["frames"]]
        frames = [frame for frame in frames if frame["in_index"]]
        assert [
            {"latitude": point.latitude, "longitude": point.longitude}
            for point in track.segments[0].points
        ] == [frame["position"] for frame in frames]
        stated = [point.time.isoformat() for point in track.segments[0].points if point.time]
        assert stated == [frame["time"] for frame in frames]
    held = (await client.post("/drives")).headers["location"]
    await client.post(f"{held}/frames{path.removeprefix('/localize/drive')}", files=files)
    again = await client.get(held, headers=gpx)
    assert (again.headers["content-type"], again.text) == ("application/gpx+xml", answer.text)
    declared = (await client.get("/openapi.json")).json()["paths"]
    for operation in (declared["/localize/drive"]["post"], declared["/drives/{drive_id}"]["get"]):
        assert "application/gpx+xml" in operation["responses"]["200"]["content"]


def test_gpx_leaves_out_frames_outside_the_index_and_seconds() -> None:
    (example,) = DrivesSchema.model_json_schema()["examples"]
    first, last = example["frames"]
    frames = [{**first, "in_index": False}, {**last, "time": "12.5"}]
    text = DrivesSchema.model_validate({**example, "frames": frames}).gpx()
    ((point,),) = [track.segments[0].points for track in gpxpy.parse(text).tracks]
    assert {"latitude": point.latitude, "longitude": point.longitude} == last["position"]
    assert point.time is None


async def test_a_busy_service_keeps_no_frame_of_the_form(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    publish(tmp_path, "town", range(3), encoder)
    async with served(tmp_path, encoder, max_in_flight=2, max_files=2) as client:
        drive = (await client.post("/drives")).headers["location"]
        uploads = [client.post(f"{drive}/frames", files=street(0, 1)) for _ in range(6)]
        statuses = [answer.status_code for answer in await asyncio.gather(*uploads)]
        kept = (await client.get(drive)).json()["images"]
    assert set(statuses) == {200, 503}
    assert kept == 2 * statuses.count(200)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def drive() -> HeldDrive:
    return HeldDrive(None, None)  # type: ignore[arg-type]


def test_an_unused_drive_expires_and_a_used_one_does_not() -> None:
    clock = Clock()
    drives, old, used = Drives(9, 10**9, 10.0, clock), drive(), drive()
    for one in (old, used):
        drives.hold(one)
    clock.now = 6.0
    drives.get(used.id)
    clock.now = 12.0
    assert drives.get(used.id) is used
    for gone in (old, drive()):
        with pytest.raises(DriveUnknown, match="no request used it for 10 s"):
            drives.get(gone.id)
    assert drives.bytes == FRAME_BYTES


def test_a_drive_does_not_expire_while_frames_are_encoded() -> None:
    clock = Clock()
    drives, busy = Drives(9, 10**9, 10.0, clock), drive()
    drives.hold(busy)
    with drives.room(busy, 3):
        clock.now = 50.0
        assert drives.get(busy.id).encoding == 3
    assert busy.encoding == 0


def test_the_room_of_all_drives_is_bounded() -> None:
    """Room for five images, of which two are the drives themselves."""
    drives, one, other = Drives(9, 5 * FRAME_BYTES, 10.0, Clock()), drive(), drive()
    for each in (one, other):
        drives.hold(each)
    one.shots.append(Shot(problem={}))
    with drives.room(one, 1):
        with pytest.raises(OverloadedError, match="hold 144000 bytes"), drives.room(other, 2):
            pass
        with pytest.raises(DriveFull), drives.room(one, 8):
            pass
        with drives.room(other, 1), pytest.raises(OverloadedError):
            drives.hold(drive())
    drives.delete(one.id)
    assert drives.bytes == FRAME_BYTES


@pytest.fixture
def localizer(tmp_path: Path) -> Localizer:
    encoder = FakeEncoder()
    publish(tmp_path, "town", range(12), encoder)
    return Localizer(encoder, LiveIndex(tmp_path, encoder.fingerprint), rolls=4)


def frames_of(localizer: Localizer, *seeds: int) -> list[Frame]:
    queries = [localizer.prepare(panorama_of(seed)) for seed in seeds]
    return localizer.frames(localizer.live.get(), queries)


def test_a_packed_frame_keeps_its_candidates(localizer: Localizer) -> None:
    (frame,) = frames_of(localizer, 3)
    packed = Shot.of(frame, None)
    assert packed.candidates is not None
    assert packed.candidates.nbytes * STATES_OF_ROLLS == FRAME_BYTES * len(frame.rows)
    again = packed.frame(localizer.live.get())
    assert again is not None
    assert again.arc_deg == frame.arc_deg == 360.0
    for before, after in zip(frame[:4], again[:4], strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)


def test_an_image_that_is_no_frame_changes_no_drive(localizer: Localizer) -> None:
    index, (one, two) = localizer.live.get(), frames_of(localizer, 1, 2)
    late, early = Taken.read("2"), Taken.read("1")
    plain = locate_by_time(index, [one, two], [late, early])
    holed = locate_by_time(index, [None, one, None, two], [None, late, None, early])
    assert holed.drives == plain.drives
    assert (plain.numbers, holed.numbers) == ([[1, 0]], [[3, 1]])
    assert holed.places == [None, plain.places[0], None, plain.places[1]]
    assert locate_by_time(index, [None], [None]) == ([], [], [None], False)


async def test_an_answer_is_shared_and_kept_until_more_images_arrive(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    publish(tmp_path, "town", range(3), encoder)
    pipeline = application(tmp_path, encoder).state.pipeline
    drive = await pipeline.new_drive()
    drive.shots = [Shot(candidates=np.zeros(1, np.dtype([("other", np.int32)])))]
    with pytest.raises(ValueError, match="row"):
        await pipeline.locate_drive(drive)
    drive.shots = [Shot(problem={})]  # the failure is not kept
    first, second = await asyncio.gather(*(pipeline.locate_drive(drive) for _ in range(2)))
    assert first is second is await pipeline.locate_drive(drive)
    drive.shots.append(Shot(problem={}))
    assert len((await pipeline.locate_drive(drive)).places) == 2
    await pipeline.stop()


def test_equal_times_keep_the_order_and_clocks_do_not_mix() -> None:
    times = [Taken.read(text) for text in ("2", "1", "2", "1e0")]
    assert by_time(times) == ([1, 3, 0, 2], True)
    assert by_time([*times, None]) == ([0, 1, 2, 3, 4], False)
    assert by_time([]) == ([], False)
    assert by_time([Taken.read("2026-07-31T10:00:00"), Taken.read("20260731T100000Z")])[1] is False
    offset = [Taken.read(f"2026-07-31T{time}") for time in ("12:00:00+02:00", "09:59:59.5Z")]
    assert by_time(offset) == ([1, 0], True)
