"""Who gets in: the token, the Host and the Origin of a request, and what every answer says to the browser."""

from __future__ import annotations

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from umamba2.errors import InputError
from umamba2.web.gate import Gate, check_token, cookie_name

TOKEN = "a-token-of-the-tests"


def client(token: str | None = TOKEN, host: str = "127.0.0.1") -> TestClient:
    return TestClient(Gate(PlainTextResponse("in"), token, host), "http://127.0.0.1:8765", follow_redirects=False)


def test_the_printed_address_lets_in_and_the_token_leaves_it():
    browser = client()
    assert browser.get("/").status_code == 401
    assert "umamba2 serve" in browser.get("/").text
    answer = browser.get("/", params={"token": TOKEN, "render": "0"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/?render=0")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert browser.get("/").text == "in"
    assert browser.get("/api/scans").text == "in"


@pytest.mark.parametrize("wrong", ["", "x", TOKEN[:-1], TOKEN + "x", "ü" * 20])
def test_nothing_else_does(wrong):
    assert client().get("/", params={"token": wrong}).status_code == 401
    assert client().get("/", headers={"cookie": f"{cookie_name(TOKEN)}={wrong.replace('ü', 'u')}"}).status_code == 401
    assert client().get("/api", headers={"authorization": f"Bearer {wrong}".encode()}).status_code == 401
    assert client().get("/api", params={"token": TOKEN}).status_code == 401  # only the page takes it from an address


def test_servers_side_by_side_do_not_take_each_others_cookie():
    tokens = ["a-token-of-the-tests", "the-token-of-another"]
    jar = 'other={"no": "good"}; '  # of yet another server on this machine; cookies know no ports
    for token in tokens:
        answer = client(token).get("/", params={"token": token})
        jar += answer.headers["set-cookie"].split(";")[0] + "; "
    assert jar.count("umamba2-") == len({part.split("=")[0] for part in jar.split("; ") if "umamba2-" in part}) == 2
    for token in tokens:
        assert client(token).get("/api", headers={"cookie": jar}).text == "in"
    assert client("a-third-one-with-none").get("/api", headers={"cookie": jar}).status_code == 401


@pytest.mark.parametrize("token", ['quo"ted; and, more', "semi;colon=equals=="])
def test_any_token_fits_into_a_cookie(token):
    browser = client(token)
    assert browser.get("/", params={"token": token}).status_code == 303
    assert browser.get("/api").text == "in"


def test_programs_send_the_token_as_a_header():
    assert client().get("/api", headers={"authorization": f"Bearer {TOKEN}"}).text == "in"
    assert client(None).get("/api").text == "in"


@pytest.mark.parametrize(
    ("host", "listening", "fine"),
    [
        ("127.0.0.1:8765", "127.0.0.1", True),
        ("localhost:1", "127.0.0.1", True),  # through a tunnel from another port
        ("[::1]:8765", "127.0.0.1", True),
        ("evil.example:8765", "127.0.0.1", False),  # a name that somebody has pointed here
        ("evil.example", "0.0.0.0", False),
        ("192.168.1.7:8765", "127.0.0.1", False),
        ("192.168.1.7:8765", "0.0.0.0", True),
        ("", "127.0.0.1", False),
        ("127.0.0.1:", "127.0.0.1", True),
        ("127.0.0.1:1@evil.example", "127.0.0.1", False),  # ours would be the name of a user there
        ("127.0.0.1:1/x", "127.0.0.1", False),
        ("127.0.0.1:[", "127.0.0.1", False),
        ("[::1]evil.example", "127.0.0.1", False),
    ],
)
def test_hosts(host, listening, fine):
    answer = client(host=listening).get("/api", headers={"host": host, "authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == (200 if fine else 421)


@pytest.mark.parametrize("origin", ["http://evil.example", "https://127.0.0.1:8765", "http://127.0.0.1:1", "null"])
def test_requests_of_other_pages_are_refused(origin):
    known = {"authorization": f"Bearer {TOKEN}"}
    for method in ("GET", "POST", "PUT", "DELETE"):
        assert client().request(method, "/api", headers={**known, "origin": origin}).status_code == 403
        assert client(None).request(method, "/api", headers={"origin": origin}).status_code == 403
        assert client().request(method, "/api", headers={**known, "origin": "http://127.0.0.1:8765"}).text == "in"


def test_every_answer_is_guarded():
    for answer in (client(None).get("/"), client().get("/"), client().get("/", headers={"host": "evil"})):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_elsewhere_only_with_a_token(host):
    with pytest.raises(InputError, match="expected a token"):
        check_token(host, None)
    check_token(host, TOKEN)
    with pytest.raises(InputError, match="expected at least 16"):
        check_token(host, "short")
    for loopback in ("127.0.0.1", "localhost", "::1", "127.8.9.1"):
        check_token(loopback, None)
