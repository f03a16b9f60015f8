"""How problems look in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from service.api.schemas import ProblemSchema


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for these statuses, all of them problem+json."""
    content = {"application/problem+json": {"schema": ProblemSchema.model_json_schema()}}
    return {status: {"description": "problem", "content": content} for status in statuses}
