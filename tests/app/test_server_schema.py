"""The OpenAPI document is true: schemathesis sends what it allows and what it forbids, and checks each answer."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("schemathesis")

# Few examples, for each that is a wish makes the model answer; raise it by hand for a long run. What a schema cannot
# say, such as whether base64 holds a picture, is refused with 400: hence the check that is left out.
OPTIONS = ["--max-examples", "8", "--phases", "examples,fuzzing", "--exclude-checks", "positive_data_acceptance"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_document_is_true(running) -> None:
    """It runs as a process of its own, so that its pytest plugin is not loaded for all tests (pyproject.toml)."""
    document = f"{running.url.removesuffix('/v1')}/openapi.json"
    header = "Authorization: Bearer secret-of-tests"
    line = ["run", document, "--header", header, "--seed", "1", "--no-color", *OPTIONS]
    command = f"import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis({line!r}))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
