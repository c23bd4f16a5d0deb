"""The OpenAPI document is true: schemathesis sends what it allows and what it forbids, and checks each answer."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")
schemathesis = pytest.importorskip("schemathesis")
hypothesis = pytest.importorskip("hypothesis")

from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402


@pytest.fixture(scope="module")
def api(running):
    headers = {"Authorization": "Bearer secret-of-tests"}
    return schemathesis.openapi.from_url(f"{running.url.removesuffix('/v1')}/openapi.json", headers=headers)


schema = schemathesis.pytest.from_fixture("api")


# Few examples: each that is a wish makes the model answer. Raise it by hand for a long run.
@pytest.mark.timeout(900)
@schema.parametrize()
@hypothesis.settings(max_examples=8, deadline=None, suppress_health_check=list(hypothesis.HealthCheck), database=None)
def test_the_document_is_true(case) -> None:
    case.call_and_validate(
        headers={"Authorization": "Bearer secret-of-tests"},
        timeout=60,
        # What a schema cannot say, such as whether base64 holds a picture, is refused with 400.
        excluded_checks=[positive_data_acceptance],
    )
