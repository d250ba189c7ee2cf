"""The files of `deploy/` name flags, routes and metrics that there are."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from flover.cli.main import make_parser
from flover.server.http_paths import LIVENESS_PATHS
from flover.server.metrics import Metrics

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def test_commands_are_those_of_flover() -> None:
    image = (DEPLOY / "Dockerfile").read_text()
    entry = json.loads(next(line for line in image.splitlines() if line.startswith("ENTRYPOINT")).split(" ", 1)[1])
    unit = (DEPLOY / "flover.service").read_text()
    command = shlex.split(next(line for line in unit.splitlines() if line.startswith("ExecStart=")).split("=", 1)[1])
    (container,) = documents("kubernetes.yaml")[1]["spec"]["template"]["spec"]["containers"]
    assert make_parser("serve").parse_args([*entry[1:], *container["args"]]).host == "0.0.0.0"
    assert command[1:3] == ["serve", "--config"]


def test_probes_ask_routes_that_answer_without_a_key() -> None:
    (container,) = documents("kubernetes.yaml")[1]["spec"]["template"]["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in LIVENESS_PATHS


def test_a_pod_asks_for_no_rights_and_for_no_scrape_without_the_key() -> None:
    """What the profile "restricted" of Kubernetes' Pod Security Standards wants."""
    template = documents("kubernetes.yaml")[1]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert template["spec"]["securityContext"].items() >= {"runAsNonRoot": True, "runAsUser": 1000}.items()
    assert template["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    rights = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert container["securityContext"] == rights
    assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert "annotations" not in template["metadata"]


def test_panels_draw_metrics_that_there_are() -> None:
    known = set(re.findall(r"^(flover:\w+)", Metrics("m").exposition().decode(), re.MULTILINE))
    drawn = set(re.findall(r"flover:\w+", (DEPLOY / "grafana.json").read_text()))
    assert len(drawn) > 10 and drawn <= known
