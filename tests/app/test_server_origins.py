"""Web pages: nobody's may ask, but those of origins that were allowed; keys in every way that clients write them."""

from __future__ import annotations

import subprocess
import sys

import httpx
import pytest

from emova.core.errors import InputError

pytest.importorskip("fastapi")

PAGE = "https://app.example.org"
ASKED = {"model": "emova-nano", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def allowing(nano, serving):
    from emova_app.server.config import ServerConfig

    with serving(nano, ServerConfig(port=0, api_key="key", allowed_origins=(PAGE,), drain_seconds=2)) as server:
        yield server


def preflight(server, origin: str, method: str = "POST", wanted: str = "authorization,content-type", **more: str):
    headers = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": wanted}
    return httpx.options(f"{server.url}/chat/completions", headers={**headers, **more})


def test_a_preflight_of_an_allowed_page_needs_no_key(allowing) -> None:
    wanted = "authorization,content-type,x-stainless-os"  # as OpenAI's package sends in a browser
    more = {"Access-Control-Request-Private-Network": "true"}
    answer = preflight(allowing, PAGE, wanted=wanted, **more)
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == PAGE
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert set(wanted.split(",")) <= set(answer.headers["access-control-allow-headers"].replace(" ", "").split(","))
    assert answer.headers["access-control-allow-private-network"] == "true"
    assert "access-control-allow-credentials" not in answer.headers


def test_answers_and_errors_can_be_read_by_the_page(allowing) -> None:
    def post(key: str = "key", origin: str = PAGE, path: str = "/chat/completions", **fields) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}", "Origin": origin}
        return httpx.post(f"{allowing.url}{path}", json={**ASKED, **fields}, headers=headers, timeout=60)

    answers = [post(), post(stream=True), post(top_p=7), post(key="wrong"), post(path="/nothing"), post(model="gpt")]
    assert [answer.status_code for answer in answers] == [200, 200, 400, 401, 404, 404]
    headers = {"Authorization": "Bearer key", "Origin": PAGE}
    large = b" " * (allowing.service.config.max_body_bytes + 1)
    too_large = httpx.post(f"{allowing.url}/chat/completions", headers=headers, content=large)
    for answer in [*answers, too_large]:
        assert answer.headers["access-control-allow-origin"] == PAGE and "origin" in answer.headers["vary"].lower()
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
    assert too_large.status_code == 413
    assert "access-control-allow-origin" not in post(origin="https://other.example.org").headers


def test_other_pages_may_not_ask(allowing, running) -> None:
    for origin in ("https://other.example.org", "http://app.example.org", "https://app.example.org.evil.org", "null"):
        refused = preflight(allowing, origin)
        assert refused.status_code == 400 and "access-control-allow-origin" not in refused.headers
    for answer in (preflight(running, PAGE), httpx.get(f"{running.url}/models", headers={"Origin": PAGE})):
        assert answer.status_code in (401, 405)  # no origin is allowed where none was named
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_without_a_key_only_named_pages_may_ask(nano, serving) -> None:
    from emova_app.server.config import ServerConfig

    with serving(nano, ServerConfig(port=0, allowed_origins=(PAGE,), drain_seconds=2)) as server:
        found = {}
        for origin in (None, PAGE, "https://evil.example.org", "http://localhost:3000"):
            headers = {} if origin is None else {"Origin": origin}
            found[origin] = httpx.get(f"{server.url}/models", headers=headers).status_code
        assert found == {None: 200, PAGE: 200, "https://evil.example.org": 403, "http://localhost:3000": 200}
        led_here = httpx.get(f"{server.url}/models", headers={"Origin": PAGE, "Host": "app.example.org"})
        assert led_here.status_code == 403  # a name that leads here (DNS rebinding)
        assert led_here.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize(
    "origin",
    ["", "app.example.org", "https://app.example.org/", "https://a.org/x", "ftp://a.org", "https://", "HTTPS://A.org"]
    + ["https://a.org:x", "https://u@a.org", "https://*.example.org", "*", "null"],
)
def test_wrong_origins_are_told(origin: str) -> None:
    from emova_app.server.config import ServerConfig

    with pytest.raises(InputError, match="^the origin"):
        ServerConfig(allowed_origins=(origin,))


def test_with_a_key_all_pages_can_be_allowed() -> None:
    from emova_app.server.config import ServerConfig

    assert ServerConfig(api_key="key", allowed_origins=("*", "null", "http://localhost:3000")).allowed_origins


def test_the_option_is_read() -> None:
    command = [sys.executable, "-m", "emova", "serve", "--allow-origin", PAGE, "--allow-origin", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "nonsense" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer ", "bEaReR  "])
def test_the_schemes_case_does_not_matter(running, scheme: str) -> None:
    answer = httpx.get(f"{running.url}/models", headers={"Authorization": f"{scheme} secret-of-tests"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "given", ["", "Bearer", "secret-of-tests", "Basic secret-of-tests", "Bearersecret-of-tests", "bearer x"]
)
def test_anything_else_is_no_key(running, given: str) -> None:
    assert httpx.get(f"{running.url}/models", headers={"Authorization": given}).status_code == 401
