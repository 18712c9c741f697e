"""The description that the server gives of itself: complete, and true of whatever a tool makes of it."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from server_process import Account, RunningServer, change
from starlette.routing import Route

from blobfs.protocol import REQUEST_ID, authorization_header
from server.app import ROUTES
from server.routes.description import OPERATIONS, describe

WAITING = ("/events/{user}",)
"""Answers that do not end; a test of their own reads them."""

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def test_every_route_and_method_is_described_and_no_other() -> None:
    described = {(path, method.upper()) for path, methods in OPERATIONS.items() for method in methods}
    served = {
        (route.path, method)
        for route in ROUTES
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert described == served


def test_the_page_is_served_to_everyone_and_names_no_account(server: RunningServer) -> None:
    account = server.account("described")
    answer = account.http.get("/openapi.json", headers={"Authorization": ""})
    assert answer.status_code == 200
    assert answer.json() == describe()


@pytest.fixture(scope="module")
def tried(server: RunningServer) -> Account:
    account = server.account("tried")
    account.put("b", b"content")
    account.push(change("d", None, "r1"), change("d", "r1", "r2"))
    return account


def description_for(account: Account) -> dict[str, Any]:
    """The page with the one account that can answer in the place of any, and without answers that do not end."""
    page: dict[str, Any] = account.http.get("/openapi.json").json()
    page["components"]["parameters"]["user"]["schema"] = {"enum": [account.name]}
    for name in ("blob_id", "doc_id"):
        schema = page["components"]["parameters"][name]["schema"]
        page["components"]["parameters"][name]["schema"] = {"anyOf": [{"enum": ["b", "d"]}, schema]}
    page["paths"]["/documents/{user}"]["get"]["parameters"].pop()  # wait
    return page


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(
    ("path", "method"), [(path, method) for path in OPERATIONS for method in OPERATIONS[path] if path not in WAITING]
)
def test_answers_are_those_of_the_description(tried: Account, path: str, method: str, mode: GenerationMode) -> None:
    generation = GenerationConfig(
        modes=[mode], deterministic=True, allow_extra_parameters=False, with_security_parameters=False
    )
    config = SchemathesisConfig(projects=ProjectsConfig(default=ProjectConfig(generation=generation)))
    schema = schemathesis.openapi.from_dict(description_for(tried), config=config)
    operation = schema[path][method]
    if mode is GenerationMode.NEGATIVE and not (operation.definition.raw["parameters"] or "{user}" in path):
        return  # there is nothing in such a request that could be wrong
    headers = {"Authorization": authorization_header(tried.name, tried.token)}
    if path == "/metrics":
        headers = {}
    checks = [*CHECKS, negative_data_rejection] if mode is GenerationMode.NEGATIVE else CHECKS

    @seed(20)
    @settings(
        max_examples=12, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def try_one(case: Case) -> None:
        answer = case.call(base_url=tried.server.url, headers=headers, timeout=30)
        if REQUEST_ID.lower() in answer.headers:
            case.validate_response(answer, checks=checks)
        else:  # the parser's own answer to what is not HTTP: control characters in a header
            assert answer.status_code == 400

    try_one()


def test_the_stream_of_events_is_what_the_description_says(tried: Account) -> None:
    with tried.http.stream("GET", f"/events/{tried.name}") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert any(line == "event: change" for line in answer.iter_lines())
