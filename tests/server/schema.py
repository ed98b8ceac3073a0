"""Requests made up from /openapi.json: whatever they are, no 5xx and no malformed error.

Whether bad requests are refused is not asked here: unknown fields are ignored on purpose. By hand, with more and others:
`SEED=7 EXAMPLES=200 python run.py schema …`.
"""

import json
import os
import urllib.request

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import response_schema_conformance

EXAMPLES = int(os.environ.get("EXAMPLES", 5))


def error_has_its_form(path: str, answer):
    """Each API's clients read errors in a form of their own."""
    error = answer["error"]
    if path.startswith("/v1/messages"):
        assert answer["type"] == "error" and {"type", "message"} <= set(error), answer
    elif path.startswith("/api/"):
        assert isinstance(error, str), answer
    else:
        assert set(error) == {"message", "type", "param", "code"}, answer


def every_operation(client, _model: str):
    root = str(client.base_url).rsplit("/v1", 1)[0]
    document = json.load(urllib.request.urlopen(f"{root}/openapi.json"))
    schema = schemathesis.openapi.from_dict(document)
    load_all_checks()
    names, failures = [], []
    for operation in schema.get_all_operations():
        operation = operation.ok()

        @seed(int(os.environ.get("SEED", 0)))
        @settings(max_examples=EXAMPLES, deadline=None, database=None,
                  suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
        @given(case=operation.as_strategy())
        def check(case):
            response = case.call(base_url=root, timeout=120)
            assert response.status_code < 500, (case.as_curl_command(), response.status_code, response.text)
            if response.status_code >= 400:
                error_has_its_form(operation.path, response.json())
            elif "event-stream" not in response.headers.get("content-type", [""])[0]:
                case.validate_response(response, checks=[response_schema_conformance])

        names.append(operation.label)
        try:
            check()
        except Exception as why:
            failures.append(f"{operation.label}: {why}")
    assert len(names) >= 30, names
    assert not failures, "\n".join(failures)


CASES = [every_operation]
