"""The OpenAPI document against the application, by schemathesis, with every check it has."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from fakes import FakeEncoder
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.openapi.loaders import from_url
from schemathesis.specs.openapi.checks import positive_data_acceptance
from serving import application, listening, publish

TOKEN = "s3cr3t-0123456789"
EXAMPLES = 30
OPERATIONS = [
    "POST /localize",
    "POST /localize/batch",
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
# No schema tells which bytes are a panorama, nor that heading_deg and north exclude each other.
EXCLUDED = {path: [positive_data_acceptance] for path in ("POST /localize", "POST /localize/batch")}
# What takes nothing cannot be asked wrongly.
PLAIN = {"GET /index", "GET /index/versions", "GET /livez", "GET /readyz", "GET /metrics"}
CASES = [(one, GenerationMode.POSITIVE) for one in OPERATIONS] + [
    (one, GenerationMode.NEGATIVE) for one in OPERATIONS if one not in PLAIN
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
    assert sorted(one.ok().label for one in schema.get_all_operations()) == sorted(OPERATIONS)


@pytest.mark.parametrize(("operation", "mode"), CASES)
def test_an_operation_keeps_its_word(schema: Schema, operation: str, mode: GenerationMode) -> None:
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
        case.call_and_validate(headers=headers, excluded_checks=EXCLUDED.get(operation))

    tried()
