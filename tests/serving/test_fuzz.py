"""The server against its own description: whatever a client sends, it does not fail, and says what it promised."""

import pytest

from tests.serving.conftest import listening
from tokenrec_jax.serving.access import Access
from tokenrec_jax.serving.app import create_app

schemathesis = pytest.importorskip("schemathesis")
hypothesis = pytest.importorskip("hypothesis")

ROUTES = [
    ("POST", "/recommend"), ("GET", "/explain"), ("GET", "/items"), ("GET", "/users"),
    ("GET", "/users/{user}/history"), ("POST", "/interactions"), ("POST", "/items"), ("DELETE", "/items/{item}"),
    ("PUT", "/items/{item}"), ("GET", "/health"), ("GET", "/metrics"),
]  # fmt: skip


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_whatever_is_sent(engine, mode):
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    settings = hypothesis.settings(
        max_examples=15,
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    sent, statuses = set(), set()
    with listening(create_app(engine, access=Access())) as address:
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        for operation in (result.ok() for result in schema.get_all_operations()):
            how = schemathesis.GenerationMode(mode)

            @hypothesis.given(case=operation.as_strategy(generation_mode=how))
            @settings
            def send(case):
                answer = case.call(timeout=10)
                statuses.add(answer.status_code)
                case.validate_response(
                    answer,
                    checks=[not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
                            checks.response_schema_conformance],
                )  # fmt: skip

            try:
                send()
            except hypothesis.errors.Unsatisfiable:
                assert mode == "negative"  # Nothing can be wrong with a request without parameters.
            sent.add((operation.method.upper(), operation.path))
    assert sent == set(ROUTES)
    assert statuses >= ({200, 404} if mode == "positive" else {422})
    assert not any(status >= 500 for status in statuses)
