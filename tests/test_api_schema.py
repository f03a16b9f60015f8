"""The OpenAPI document against the application, by schemathesis, with every check it has."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import schemathesis
from api_harness import application, listening, publish
from fakes import FakeEncoder
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.openapi.loaders import from_url
from schemathesis.specs.openapi.checks import positive_data_acceptance

from service.index.versions import NAME

GRID_TILE = re.compile(r"[\w.-]+-[\d.]+m-[ns]\d+-e\d+", re.ASCII)

TOKEN = "s3cr3t-0123456789"
EXAMPLES = 30
OPERATIONS = [
    "POST /localize",
    "POST /localize/batch",
    "POST /localize/drive",
    "POST /drives",
    "POST /drives/{drive_id}/frames",
    "GET /drives/{drive_id}",
    "DELETE /drives/{drive_id}",
    "GET /index",
    "GET /index/versions",
    "GET /tiles/{tile_id}.jpg",
    "GET /map/{z}/{x}/{y}",
    "GET /livez",
    "GET /readyz",
    "GET /metrics",
    "POST /index/rebuild",
    "POST /index/activate",
    "GET /jobs/{job_id}",
    "DELETE /jobs/{job_id}",
]
# No schema can say which bytes are a panorama, or that heading_deg and north exclude each other.
UPLOADS = (
    "POST /localize",
    "POST /localize/batch",
    "POST /localize/drive",
    "POST /drives/{drive_id}/frames",
)
EXCLUDED = {path: [positive_data_acceptance] for path in UPLOADS}
# Without a declared parameter, schemathesis makes none up; test_api_bad_input.py does.
PLAIN = {
    "POST /drives",
    "GET /index",
    "GET /index/versions",
    "GET /livez",
    "GET /readyz",
    "GET /metrics",
}
CASES = [(operation, GenerationMode.POSITIVE) for operation in OPERATIONS] + [
    (operation, GenerationMode.NEGATIVE) for operation in OPERATIONS if operation not in PLAIN
]
Schema = schemathesis.BaseSchema


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Schema]:
    home = tmp_path_factory.mktemp("home")
    encoder = FakeEncoder()
    publish(home, "town", range(3), encoder)
    app = application(home, encoder, admin_token=TOKEN, weights=Path("no-weights"))
    with listening(app) as (host, port):
        yield from_url(f"http://{host}:{port}/openapi.json")


def test_every_operation_is_tried(schema: Schema) -> None:
    assert sorted(operation.ok().label for operation in schema.get_all_operations()) == sorted(
        OPERATIONS
    )


@pytest.mark.parametrize(("operation", "mode"), CASES)
def test_an_operation_keeps_to_its_document(
    schema: Schema, operation: str, mode: GenerationMode
) -> None:
    """With requests that fit the document, and with requests that do not."""
    method, path = operation.split()

    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def tried(case: schemathesis.Case) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        # Raises where the answer breaks a promise of the document.
        case.call_and_validate(headers=headers, excluded_checks=EXCLUDED.get(operation))
        kept.append(case)

    kept: list[schemathesis.Case] = []
    tried()
    assert kept, "no request was made"


def examples(schema: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Every schema of the document that has examples, with each of them."""
    if isinstance(schema, dict):
        if isinstance(schema.get("examples"), list):
            yield from ((schema, example) for example in schema["examples"])
        for part in schema.values():
            yield from examples(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from examples(part)


def named(value: Any, names: set[str]) -> Iterator[Any]:
    """The values under one of these names, at any depth."""
    if isinstance(value, dict):
        yield from (part for name, part in value.items() if name in names)
    for part in value.values() if isinstance(value, dict) else value:
        if isinstance(part, dict | list):
            yield from named(part, names)


@pytest.fixture(scope="module")
def document(schema: Schema) -> dict[str, Any]:
    return httpx.get(schema.location).json()


def test_every_example_fits_its_schema(document: dict[str, Any]) -> None:
    for part, example in examples(document):
        jsonschema.validate(example, {**part, "components": document["components"]})
    shown = document["components"]["schemas"]
    wanted = (
        "Fix",
        "Explanation",
        "Batch",
        "Drives",
        "HeldDrive",
        "Upload",
        "Index",
        "Job",
        "Versions",
        "Activated",
        "Ready",
    )
    assert [name for name in wanted if not shown[f"{name}Schema"].get("examples")] == []


def test_the_example_of_an_index_has_the_members_of_an_index(
    schema: Schema, document: dict[str, Any]
) -> None:
    (example,) = document["components"]["schemas"]["IndexSchema"]["examples"]
    shown = httpx.get(schema.location.replace("openapi.json", "index")).json()
    assert example.keys() == shown.keys()
    assert example["sources"][0].keys() == shown["sources"][0].keys()


@pytest.mark.parametrize(("status", "never"), [("422", []), ("503", ["/livez"])])
def test_every_route_declares_422_and_503(
    document: dict[str, Any], status: str, never: list[str]
) -> None:
    answers = {
        path: [operation["responses"].keys() for operation in operations.values()]
        for path, operations in document["paths"].items()
    }
    silent = [
        path
        for path, each in answers.items()
        if any(status not in documented for documented in each)
    ]
    assert silent == never


def test_examples_have_valid_names_of_versions_and_tiles(document: dict[str, Any]) -> None:
    shown = [example for _, example in examples(document)]
    versions = [*named(shown, {"index_version", "version", "current"})]
    versions += [name for names in named(shown, {"versions"}) for name in names]
    of_fields = [
        example
        for name in ("index_version", "version")
        for field in named(document, {name})
        for _, example in examples(field)
    ]
    assert len(versions) >= 6
    assert len(of_fields) >= 2
    assert [name for name in (*versions, *of_fields) if not NAME.fullmatch(name)] == []
    tiles = [*named(shown, {"tile_id"})]
    assert tiles
    assert [tile_id for tile_id in tiles if not GRID_TILE.fullmatch(tile_id)] == []
