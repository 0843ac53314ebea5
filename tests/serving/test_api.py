"""The native API: what a client sends, and what it gets."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from tether.images import open_image
from tether.kinds import annotate, kinds
from tether.sampling import SCHEDULERS, Request, Session
from tether.sampling.request import read_request

from .conftest import as_base64, ended, png

SMALL = {"prompt": "a cube", "steps": 2}


def drawn(client: TestClient, values: dict[str, Any], **options: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json=values, **options)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    job = ended(client, answer.json()["id"])
    assert job["state"] == "done", job
    return job


def test_a_job_gives_the_bytes_that_a_session_gives(client: TestClient, tiny_folder: Path) -> None:
    job = drawn(client, SMALL | {"seed": 5, "count": 2})
    own = Session().run(Request(base=str(tiny_folder), seed=5, count=2, **SMALL))
    assert [image["index"] for image in job["images"]] == [0, 1]
    for image, expected in zip(job["images"], own, strict=True):
        answer = client.get(image["url"])
        assert answer.headers["content-type"] == "image/png"
        assert open_image(io.BytesIO(answer.content)).tobytes() == expected.image.tobytes()


def test_an_image_carries_a_request_that_posted_again_gives_it_again(
    client: TestClient, photo: Image.Image, tmp_path: Path
) -> None:
    control = {"ref": "edges", "photo": as_base64(photo), "options": {"low": 20, "high": 60}}
    job = drawn(client, SMALL | {"controls": [control]})
    first = client.get(job["images"][0]["url"]).content
    (tmp_path / "first.png").write_bytes(first)
    request = read_request(tmp_path / "first.png")
    assert (request.base, request.controls[0].ref) == ("tiny", "edges")  # names, not paths
    assert str(tmp_path.parent).encode() not in first

    answer = client.post("/v1/read", files={"image": first})
    assert answer.status_code == 200, answer.text
    again = drawn(client, answer.json())
    assert client.get(again["images"][0]["url"]).content == first


def test_the_map_that_was_drawn_is_shown(client: TestClient, photo: Image.Image) -> None:
    job = drawn(client, SMALL | {"controls": [{"ref": "edges", "condition": as_base64(annotate("canny", photo))}]})
    (url,) = job["maps"]
    assert open_image(io.BytesIO(client.get(url).content)).size == (64, 64)


def test_files_of_a_form_are_the_images_of_a_request(client: TestClient, photo: Image.Image) -> None:
    request = SMALL | {"seed": 3, "controls": [{"ref": "edges"}], "denoising_strength": 0.9}
    files = {"controls.0.photo": png(photo), "init": png(photo)}
    answer = client.post("/v1/jobs", data={"request": json.dumps(request)}, files=files)
    assert answer.status_code == 202, answer.text
    by_form = ended(client, answer.json()["id"])
    inside = request | {"controls": [{"ref": "edges", "photo": as_base64(photo)}], "init": as_base64(photo)}
    by_json = drawn(client, inside)
    one, other = (client.get(job["images"][0]["url"]).content for job in (by_form, by_json))
    assert one == other


def test_a_seed_that_is_left_out_is_random_and_kept(client: TestClient) -> None:
    seeds = set()
    for values in (SMALL, SMALL | {"seed": None}):
        job = client.post("/v1/jobs", json=values).json()
        seeds.add(client.get(f"/v1/jobs/{job['id']}/request").json()["seed"])
    assert len(seeds) == 2
    assert all(isinstance(seed, int) for seed in seeds)


def test_the_same_idempotency_key_gives_the_same_job(client: TestClient) -> None:
    headers = {"Idempotency-Key": "one"}
    first = client.post("/v1/jobs", json=SMALL, headers=headers)
    second = client.post("/v1/jobs", json=SMALL, headers=headers)
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["id"] == second.json()["id"]
    other = client.post("/v1/jobs", json=SMALL | {"steps": 3}, headers=headers)
    assert other.status_code == 422
    assert other.json()["error"]["field"] == "Idempotency-Key"
    assert client.post("/v1/jobs", json=SMALL, headers={"Idempotency-Key": "x" * 256}).status_code == 422


def test_events_end_with_the_end_of_the_job(client: TestClient) -> None:
    job = client.post("/v1/jobs", json=SMALL | {"steps": 8}).json()
    answer = client.get(f"/v1/jobs/{job['id']}/events", params={"preview": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [one.split("\n") for one in answer.text.strip().split("\n\n")]
    names = [name.removeprefix("event: ") for name, _ in events]
    states = [json.loads(data.removeprefix("data: ")) for _, data in events]
    assert names == [state["state"] for state in states]
    assert names[-1] == "done"
    assert sorted(names, key=["queued", "running", "done"].index) == names
    steps = [state["progress"]["step"] for state in states if "progress" in state]
    assert steps == sorted(steps)
    # One that follows late hears the end at once.
    assert client.get(f"/v1/jobs/{job['id']}/events").text.count("event:") == 1


def test_a_running_job_is_cancelled_between_steps(client: TestClient) -> None:
    slow = client.post("/v1/jobs", json=SMALL | {"steps": 100, "count": 8}).json()
    waiting = client.post("/v1/jobs", json=SMALL | {"steps": 100}).json()
    assert client.delete(f"/v1/jobs/{waiting['id']}").json()["state"] == "cancelled"  # at once
    client.delete(f"/v1/jobs/{slow['id']}")
    job = ended(client, slow["id"])
    assert (job["state"], job["images"]) == ("cancelled", [])
    assert client.delete(f"/v1/jobs/{slow['id']}").json() == job
    assert client.get(f"/v1/jobs/{slow['id']}/images/0").status_code == 404


def test_a_request_that_the_base_cannot_draw_fails_with_one_line_without_paths(client: TestClient) -> None:
    job = client.post("/v1/jobs", json=SMALL | {"controls": [{"ref": "canny", "condition": black()}]}).json()
    job = ended(client, job["id"])  # the shipped control does not fit the tiny base
    assert job["state"] == "failed"
    assert "\n" not in job["error"]
    assert "/" not in job["error"]


def black() -> str:
    return as_base64(Image.new("RGB", (64, 64)))


def test_jobs_are_listed_newest_first_and_by_pages(client: TestClient) -> None:
    made = [client.post("/v1/jobs", json=SMALL).json()["id"] for _ in range(3)]
    page = client.get("/v1/jobs", params={"limit": 2}).json()["jobs"]
    assert [job["id"] for job in page] == made[:0:-1]
    rest = client.get("/v1/jobs", params={"limit": 1, "before": page[-1]["number"]}).json()["jobs"]
    assert [job["id"] for job in rest] == made[:1]


def test_annotate_gives_the_map_that_the_package_makes(client: TestClient, photo: Image.Image) -> None:
    values = {"kind": "canny", "options": {"low": 20, "high": 60}}
    by_json = client.post("/v1/annotate", json=values | {"image": as_base64(photo)})
    by_form = client.post("/v1/annotate", data={"request": json.dumps(values)}, files={"image": png(photo)})
    expected = annotate("canny", photo, low=20, high=60).tobytes()
    for answer in (by_json, by_form):
        assert answer.status_code == 200, answer.text
        assert open_image(io.BytesIO(answer.content)).tobytes() == expected
    sized = client.post("/v1/annotate", json=values | {"image": as_base64(photo), "size": [64, 40]})
    assert open_image(io.BytesIO(sized.content)).size == (64, 40)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"kind": "cany"}, "kind"),
        ({"kind": "canny", "annotator": "x"}, "annotator"),
        ({"kind": "canny", "options": {"low": 1e9}}, "options"),
        ({"kind": "canny", "size": [10**6, 10**6]}, "size"),
        ({"kind": "canny", "image": "!"}, "image"),
        ({"kind": "canny", "other": 1}, "other"),
        ({}, "kind"),
    ],
)
def test_annotate_names_the_field_that_is_wrong(client: TestClient, values: dict[str, Any], field: str) -> None:
    answer = client.post("/v1/annotate", json={"image": black()} | values)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field


def test_the_lists_name_what_a_request_may_name(client: TestClient) -> None:
    assert [one["name"] for one in client.get("/v1/bases").json()] == ["tether", "tiny"]
    controls = client.get("/v1/controls").json()
    assert {"name": "edges", "kind": "canny"} in controls
    assert {"name": "canny", "kind": "canny"} in controls
    assert {one["name"] for one in client.get("/v1/samplers").json()} == set(SCHEDULERS)
    listed = {one["name"]: one for one in client.get("/v1/kinds").json()}
    assert set(listed) == set(kinds())
    annotator = listed["canny"]["annotators"][0]
    assert {one["name"] for one in annotator["options"]} >= {"low", "high"}
    for what in ("vaes", "loras", "embeddings"):
        assert client.get(f"/v1/{what}").json() == []
    assert client.get("/v1/limits").json()["count"] == 8


def test_the_openapi_document_describes_the_bodies(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    body = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])  # every reference leads somewhere
    assert set(document["components"]["schemas"]["Request"]["properties"]) == set(Request.model_fields)


def test_what_is_not_there_is_one_line_of_json(client: TestClient) -> None:
    for path in ("/v1/jobs/none", "/v1/none", "/v1/jobs/none/events", "/v1/jobs/none/images/0"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"
    assert client.put("/v1/jobs").status_code == 405
    answer = client.get("/v1/jobs", params={"limit": 0})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "limit")


def test_a_control_may_have_a_map_an_image(client: TestClient, photo: Image.Image) -> None:
    other = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    request = SMALL | {"count": 2, "controls": [{"ref": "edges"}]}
    files = [("controls.0.photo", png(photo)), ("controls.0.photo", png(other))]
    answer = client.post("/v1/jobs", data={"request": json.dumps(request)}, files=files)
    assert answer.status_code == 202, answer.text
    job = ended(client, answer.json()["id"])
    one, two = (client.get(url).content for url in job["maps"])
    assert one != two
    wrong = client.post("/v1/jobs", json=request | {"controls": [{"ref": "edges", "photo": [black(), "?"]}]})
    assert wrong.json()["error"]["field"] == "controls.0.photo.1"
