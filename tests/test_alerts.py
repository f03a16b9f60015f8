"""Alerts ask for metrics, labels and problems that the service really has."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_harness import application, publish
from fakes import FakeEncoder
from fastapi import FastAPI
from prometheus_client import generate_latest

from service.api.errors import PROBLEMS, UNEXPECTED

DEPLOY = Path(__file__).parent.parent / "deploy"
GROUPS = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
ALERTS: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
ASKED = " ".join(alert["expr"] for alert in ALERTS)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    home = tmp_path_factory.mktemp("home")
    publish(home, "town", range(3), FakeEncoder())
    made = application(home, FakeEncoder())
    made.state.metrics.seconds.labels("/localize").observe(1.0)
    made.state.metrics.requests.labels("POST", "/localize", 200).inc()
    return made


def test_every_metric_in_an_alert_exists(app: FastAPI) -> None:
    page = generate_latest(app.state.metrics.registry).decode()
    there = set(re.findall(r"^(skyfix_\w+)", page, re.MULTILINE))
    asked = set(re.findall(r"skyfix_\w+", ASKED))
    assert len(asked) >= 8
    assert asked <= there


def test_every_label_value_in_an_alert_is_possible(app: FastAPI) -> None:
    slugs = {problem.slug for problem in (*PROBLEMS.values(), UNEXPECTED)}
    for types in re.findall(r'type=~?"([^"]+)"', ASKED):
        assert set(types.split("|")) <= slugs
    page = generate_latest(app.state.metrics.registry).decode()
    assert 'skyfix_jobs_total{kind="rebuild",status="failed"} 0.0' in page


def test_every_failure_except_a_refusal_raises_an_alert(app: FastAPI) -> None:
    failures = {p.slug for p in (*PROBLEMS.values(), UNEXPECTED) if p.status >= 500}
    (expression,) = (alert["expr"] for alert in ALERTS if alert["alert"] == "SkyfixErrors")
    (watched,) = re.findall(r'type=~"([^"]+)"', expression)
    assert sorted(watched.split("|")) == sorted(failures - {"overloaded"})
    page = generate_latest(app.state.metrics.registry).decode()
    for slug in failures:  # from 0 on, or the first would be missed
        assert f'skyfix_problems_total{{type="{slug}"}} 0.0' in page


def test_prometheus_reads_the_alerts_and_scrapes_the_api() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    assert [(DEPLOY / name).is_file() for name in config["rule_files"]] == [True]
    (job,) = config["scrape_configs"]
    assert f'job="{job["job_name"]}"' in ASKED
    assert job["static_configs"] == [{"targets": ["api:8000"]}]


def test_every_alert_states_its_urgency_and_a_remedy() -> None:
    assert len({alert["alert"] for alert in ALERTS}) == len(ALERTS)
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert len(alert["annotations"]["summary"]) > 20
