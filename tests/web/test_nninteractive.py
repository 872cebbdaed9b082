"""The unmodified client of nnInteractive against the page's server, and what it may not ask for."""

from __future__ import annotations

import json
import struct
import time

import httpx
import numpy as np
import pytest
from stand_in_page import INTERACTIVE, MULTICLASS, RADIUS, TOKEN, Segmenter, balls, make_desk, serving

from umamba2.engine.session import SIDES
from umamba2.errors import InputError
from umamba2.scans.clicks import Clicks
from umamba2.web import packing
from umamba2.web.models import Models
from umamba2.web.nninteractive import nearest_side
from umamba2.web.routes import Desk

pytest.importorskip("blosc2")
remote = pytest.importorskip("nnInteractive.inference.remote")
SHAPE = (20, 30, 40)
LEFT, RIGHT = (8, 9, 33), (8, 9, 6)  # x grows to the patient's left


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path) as (desk, url):
        yield desk, url


@pytest.fixture
def client(server):
    with remote.nnInteractiveRemoteInferenceSession(server[1], api_key=TOKEN) as session:
        yield session


@pytest.fixture
def opened(client):
    """A client with an image, and its mask."""
    image = np.random.default_rng(0).normal(300, 400, SHAPE).astype(np.float32)
    client.set_image(image[None], {"spacing": np.array([0.7, 0.5, 0.4])})
    mask = np.zeros(SHAPE, np.uint8)
    client.set_target_buffer(mask)
    return client, mask


def ball(*points) -> np.ndarray:
    where = np.array(points, float).reshape(-1, 3)
    return balls(SHAPE, Clicks(where, np.zeros(len(where), np.int64)), RADIUS)


def test_points_come_go_and_are_one_mask(opened):
    client, mask = opened
    assert client.original_image_shape == (1, *SHAPE)
    assert client.supports_undo
    assert client.supported_interactions["points"]
    assert not any(on for kind, on in client.supported_interactions.items() if kind != "points")
    assert len(client.preferred_scribble_thickness) == 3  # the napari plug-in takes one of them by axis when it opens
    box = client.add_point_interaction(LEFT, include_interaction=True)
    np.testing.assert_array_equal(mask, ball(LEFT))
    assert box == [[c - RADIUS, c + RADIUS + 1] for c in LEFT]
    near = (10, 12, 30)
    client.add_point_interaction(near, include_interaction=True)
    np.testing.assert_array_equal(mask, ball(LEFT, near))
    assert client.undo()
    np.testing.assert_array_equal(mask, ball(LEFT))
    assert client.undo()
    assert not mask.any()
    assert not client.undo()
    client.add_point_interaction(RIGHT, include_interaction=True, run_prediction=False)
    assert not mask.any()
    client._predict()
    np.testing.assert_array_equal(mask, ball(RIGHT))
    client.reset_interactions()
    assert not mask.any()
    assert not client.undo()
    client.add_point_interaction(LEFT, include_interaction=True)
    np.testing.assert_array_equal(mask, ball(LEFT))


def test_a_point_goes_to_the_nearest_canal_and_the_answer_says_so(server, opened):
    desk, _ = server
    client, mask = opened

    def clicked(*point):
        answer = client._post_json(
            "/add_point_interaction", {"coordinates": point, "include_interaction": True, "run_prediction": True}
        )
        client._apply_prediction_response(answer)
        return json.loads(answer.headers["x-meta"])

    said = clicked(*RIGHT)
    assert said["side"] == "right"
    assert "no canal is found yet" in said["why"]
    said = clicked(8, 9, 25)  # in the left half, but only the right canal is there
    assert (said["side"], said["why"]) == ("right", "the left canal is not found, the right one 6.4 mm away")
    (study,) = desk.studies
    assert [click.side for click in study.session.clicks] == ["right", "right"]
    assert mask.sum() == ball(RIGHT, (8, 9, 25)).sum()


@pytest.mark.parametrize("name", ["9" * 5000 + "i4", ",i4", "(1,)*9", "\ud800", "(2,)u1", [], None])
def test_types_that_are_none_are_refused(server, opened, name):
    desk, url = server
    (study,) = desk.studies
    headers = {"authorization": f"Bearer {TOKEN}", "x-lease-token": study.name, "content-type": "application/json"}
    asked = json.dumps({"shape": SHAPE, "dtype": name})
    answer = httpx.post(f"{url}set_target_buffer", headers=headers, content=asked)
    assert (answer.status_code, answer.json()["detail"][:24]) == (400, "target buffer: found typ")


def test_the_nearest_side_is_measured_in_millimetres():
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[4, 10, 10], labels[10, 10, 15] = 1, 2
    assert nearest_side(labels, (10, 10, 10), (1, 1, 1))[0] == "right"
    assert nearest_side(labels, (10, 10, 10), (0.5, 1, 1)) == (
        "left",
        "the left canal is 3.0 mm away, the right one 5.0 mm away",
    )
    empty = np.zeros_like(labels)
    assert [nearest_side(empty, (0, 0, x), (1, 1, 1))[0] for x in (3, 16)] == ["right", "left"]
    assert SIDES == ("left", "right")


def test_what_has_no_meaning_here_is_refused_in_words(opened):
    client, mask = opened
    scribble = np.zeros(SHAPE, np.uint8)
    for call, words in (
        (lambda: client.add_point_interaction(LEFT, include_interaction=False), "found a negative one"),
        (lambda: client.add_bbox_interaction([[0, 1], [2, 9], [2, 9]], True), "takes no boxes"),
        (lambda: client.add_scribble_interaction(scribble, True), "takes no scribbles"),
        (lambda: client.add_lasso_interaction(scribble, True), "takes no lassos"),
        (lambda: client.add_initial_seg_interaction(scribble), "takes no segmentations"),
        (lambda: client.add_point_interaction((99, 0, 0), True), "inside an image of shape"),
        (lambda: client.add_point_interaction((1, 2), True), "expected a voxel"),
        (lambda: client.set_image(np.zeros((2, 3, 3, 3), np.float32)), r"expected (1, z, y, x)"),
        (lambda: client.set_image(np.ones((1, 3, 3, 3)), {"spacing": [0, 1, 1]}), "spacing: found"),
        (lambda: client.set_image(np.ones((1, 3, 3, 3)), {"spacing": [10**400, 1, 1]}), "spacing: found"),
        (lambda: client.set_target_buffer(np.zeros((2, 2, 2), np.uint8)), "expected the image's"),
        (lambda: client.set_target_buffer(np.zeros(SHAPE, np.float32)), "bool or whole numbers"),
    ):
        with pytest.raises(httpx.HTTPStatusError) as caught:
            call()
        assert caught.value.response.status_code == 400
        assert words in caught.value.response.json()["detail"]
    client.set_target_buffer(mask)  # the client took the wrong one all the same
    client.add_point_interaction(LEFT, include_interaction=True)
    np.testing.assert_array_equal(mask, ball(LEFT))


def test_leases_end_and_are_few(server):
    desk, url = server
    first = remote.nnInteractiveRemoteInferenceSession(url, api_key=TOKEN)
    assert first.ping()
    assert first.lease_status()["remaining_seconds"] > 0
    with pytest.raises(httpx.HTTPStatusError):
        first.add_point_interaction(LEFT, include_interaction=True)  # no image yet
    (study,) = desk.studies
    desk.studies.close(study)
    with pytest.raises(remote.SessionExpiredError):
        first.set_target_buffer(np.zeros(SHAPE, np.uint8))
    others = [desk.studies.new() for _ in range(16)]
    with pytest.raises(remote.ServerAtCapacityError):
        remote.nnInteractiveRemoteInferenceSession(url, api_key=TOKEN)
    desk.studies.close(others[0])
    with remote.nnInteractiveRemoteInferenceSession(url, api_key=TOKEN):
        assert len(list(desk.studies)) == 16
    assert len(list(desk.studies)) == 15
    with pytest.raises(httpx.HTTPStatusError):
        remote.nnInteractiveRemoteInferenceSession(url, api_key="not the token of this one")


def test_who_hangs_up_takes_the_work_along(server, opened):
    desk, url = server
    client, mask = opened
    slow = desk.models.find(INTERACTIVE).slow
    slow.set()
    (study,) = desk.studies
    headers = {"authorization": f"Bearer {TOKEN}", "x-lease-token": study.name}
    point = {"coordinates": LEFT, "include_interaction": True}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}add_point_interaction", headers=headers, json=point, timeout=0.5)
    deadline = time.monotonic() + 30
    while desk.line.of(study.name):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    slow.clear()
    assert study.session.clicks == ()
    client.add_point_interaction(RIGHT, include_interaction=True)
    np.testing.assert_array_equal(mask, ball(RIGHT))


def test_without_a_model_for_clicks(tmp_path):
    desk = make_desk(tmp_path)
    desk = Desk(Models([Segmenter(MULTICLASS)], demos=False), desk.studies, desk.line)
    with serving(tmp_path, desk) as (_, url), pytest.raises(httpx.HTTPStatusError) as caught:
        remote.nnInteractiveRemoteInferenceSession(url, api_key=TOKEN)
    assert "found no model that takes them" in caught.value.response.json()["detail"]
    assert INTERACTIVE != MULTICLASS


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, bool])
def test_arrays_are_packed_as_the_client_does(dtype):
    theirs = pytest.importorskip("nnInteractive.inference.remote.serialization")
    array = (np.random.default_rng(0).random((1, 7, 9, 11)) * 100).astype(dtype)
    np.testing.assert_array_equal(packing.unpack(theirs.pack_array(array)), array)
    ours = theirs.unpack_array(packing.pack(array))
    np.testing.assert_array_equal(ours, array)
    assert ours.dtype == array.dtype
    assert packing.announced(theirs.pack_array(array)) == (array.shape, array.dtype)


def test_damaged_arrays_are_an_input_error():
    whole = packing.pack(np.arange(600, dtype=np.int16).reshape(1, 6, 10, 10))
    for cut in range(0, len(whole), 7):
        with pytest.raises(InputError):
            packing.unpack(whole[:cut])
    for wrong in (
        b"XXXX" + whole[4:],
        whole[:4] + b"\2" + whole[5:],
        struct.pack("<4sBBBB", b"NNIA", 1, 1, 1, 6) + b"object" + struct.pack("<q", 1),
        struct.pack("<4sBBBB", b"NNIA", 1, 1, 2, 5) + b"uint8" + struct.pack("<2q", 2**40, 2**40),
        struct.pack("<4sBBBB", b"NNIA", 1, 1, 1, 5) + b"uint8" + struct.pack("<q", -5),
    ):
        with pytest.raises(InputError):
            packing.unpack(wrong)
    rng = np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(whole)
        broken[rng.integers(8, len(whole))] ^= int(rng.integers(1, 256))
        try:
            packing.unpack(bytes(broken))  # other numbers, or
        except (InputError, MemoryError):
            continue
