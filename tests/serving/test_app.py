import asyncio
import concurrent.futures
import json
import re
import time
import urllib.parse
import urllib.request

import pytest

from tests.serving.conftest import listening, make_engine
from tests.serving.fake import FakeRecommender
from tokenrec_jax.serving.access import Access
from tokenrec_jax.serving.app import create_app
from tokenrec_jax.serving.engine import Query
from tokenrec_jax.serving.guard import MAX_BODY
from tokenrec_jax.serving.log import Add, AddItem, LogError, Remove
from tokenrec_jax.serving.protocol import Recommends
from tokenrec_jax.types import ConfigError, DataError

starlette = pytest.importorskip("starlette.testclient")


def test_the_fake_keeps_to_the_protocol():
    assert isinstance(FakeRecommender(), Recommends)


def recommended(client, **body):
    answer = client.post("/recommend", json=body)
    assert answer.status_code == 200, answer.text
    return [one["item"] for one in answer.json()["recommendations"]]


def failure(answer, status):
    assert answer.status_code == status, answer.text
    (error,) = answer.json().values()
    assert list(answer.json()) == ["error"] and error and "\n" not in error
    return error


def test_recommends_to_users_and_histories(client, engine):
    assert recommended(client, user="u0", k=3) == ["i3", "i4", "i5"]
    assert recommended(client, history=["i2", "i3"], k=2) == ["i4", "i5"]
    assert recommended(client, user="u0", k=2, exclude_seen=False) == ["i2", "i3"]
    assert recommended(client, user="u0", filter=["i9", "i0"]) == ["i9"]
    (best,) = client.post("/recommend", json={"user": "u0", "k": 1}).json()["recommendations"]
    assert best == {"item": "i3", "title": "Thing 3 of Ångström", "score": 3.0}
    # Few shapes: k is rounded up.
    assert {call["k"] for call in engine.recommender.calls} == {16}


def test_what_was_told_counts_at_once_and_twice_as_once(client, engine):
    began = time.time()
    told = {"interactions": [{"user": "new", "item": "i3"}, {"user": "new", "item": "n1", "title": "N"}]}
    assert client.post("/interactions", json=told).json() == {"accepted": 2, "sequence": 1}
    assert client.post("/interactions", json=told).json() == {"accepted": 2, "sequence": 2}
    assert client.get("/users/new/history").json()["history"] == [
        {"item": "i3", "title": "Thing 3 of Ångström"}, {"item": "n1", "title": "N"},
    ]  # fmt: skip
    assert "i3" not in recommended(client, user="new")
    assert client.get("/items?query=n1").json()["items"] == [{"item": "n1", "title": "N"}]
    assert client.get("/health").json() == {"status": "ok", "users": 21, "items": 41, "sequence": 2}
    # What came without a time came now.
    *_, second = engine.log.path.read_text().splitlines()
    assert all(abs(time - began) < 60 for *_, time, _ in json.loads(second)["events"])


def test_lists(client):
    assert client.get("/users", params={"query": "U1", "limit": 2, "offset": 1}).json() == {
        "users": ["u10", "u11"], "total": 20,
    }  # fmt: skip
    assert client.get("/users/u0/history?limit=2").json() == {
        "user": "u0", "total": 3,
        "history": [{"item": "i1", "title": "Thing 1 of Ångström"}, {"item": "i2", "title": "Thing 2 of Ångström"}],
    }  # fmt: skip


def test_items_that_nobody_has_touched(client, engine):
    told = [
        {"item": "n1", "title": "Nice", "attributes": ["brand=A", "red"], "text": "Softer."},
        {"item": "n2"},
        {"item": "i3", "title": "Not this one"},
    ]
    assert client.post("/items", json={"items": told}).json() == {"accepted": 3, "sequence": 1}
    assert engine.recommender.said == [("n1", ("brand=A", "red"), "Softer."), ("n2", (), None), ("i3", (), None)]
    assert client.get("/items?query=nice").json() == {"items": [{"item": "n1", "title": "Nice"}], "total": 42}
    assert {"n1", "n2"} <= set(recommended(client, user="u0", k=50))
    assert client.get("/items?query=i3&limit=1").json()["items"][0]["title"] == "Thing 3 of Ångström"
    assert client.delete("/items/n1").json()["accepted"] == 1
    assert "n1" not in recommended(client, user="u0", k=50)
    assert b'tokenrec_events_total{kind="item"} 3.0' in client.get("/metrics").content
    # What is refused is not in the log, and another server that reads the log has the same.
    failure(client.post("/items", json={"items": [{"item": "n3"}, {"item": "refused"}]}), 422)
    assert "no such model" in failure(client.post("/items", json={"items": [{"item": "n3"}, {"item": "unread"}]}), 503)
    engine.log.close()
    again = make_engine(engine.log.path.parent)
    assert again.recommender.said == engine.recommender.said
    assert again.recommender.item_ids == engine.recommender.item_ids
    again.log.append([AddItem("unread")])
    again.log.close()
    with pytest.raises(ConfigError, match=r"interactions.jsonl: .*no such model; one of events 1 to 5 "):
        make_engine(engine.log.path.parent)


@pytest.mark.parametrize(
    ("item", "part"),
    [
        ({}, "item"), ({"item": ""}, "item"), ({"item": "n", "attributes": "red"}, "attributes"),
        ({"item": "n", "attributes": [None]}, "attributes.0"), ({"item": "n", "text": 5}, "text"),
        ({"item": "n", "title": "t" * 1001}, "title"), ({"item": "n", "price": 5}, "price"),
    ],
)  # fmt: skip
def test_bad_items_are_422_and_name_the_place(client, engine, item, part):
    assert f"body.items.1.{part}" in failure(client.post("/items", json={"items": [{"item": "n0"}, item]}), 422)
    assert not engine.catalogue.has_item("n0") and engine.log.sequence == 0


def test_a_removed_item_is_not_recommended(client):
    assert client.delete("/items/i3").json() == {"accepted": 1, "sequence": 1}
    assert recommended(client, user="u0", k=2) == ["i4", "i5"]
    assert client.delete("/items/i3").json()["accepted"] == 1
    assert recommended(client, history=["i3"], k=1) == ["i2"]
    assert client.get("/items?query=thing 3 ").json() == {"items": [], "total": 39}
    assert client.put("/items/i3").json() == {"accepted": 1, "sequence": 3}
    assert recommended(client, user="u0", k=1) == ["i3"]


def test_explains(client):
    assert client.get("/explain?user=u0&item=i3&limit=1").json() == {
        "user": "u0", "item": "i3", "title": "Thing 3 of Ångström", "score": 0.75, "codes": [3, 7],
        "nearest": [{"item": "i0", "title": "Thing 0 of Ångström", "similarity": 0.5, "shared_codes": [True, False]}],
    }  # fmt: skip
    failure(client.get("/explain?user=u0&item=nothing"), 404)
    failure(client.get("/explain?user=u0"), 422)


def test_ids_may_hold_anything(engine):
    user, item = 'a/history/../"ü%2F?#', "x/y"
    # Over a real port: test clients take addresses apart in their own ways.
    with listening(create_app(engine, access=Access())) as address:

        def call(method, path, body=None):
            request = urllib.request.Request(
                address + path, method=method, headers={"content-type": "application/json"}
            )
            with urllib.request.urlopen(request, body and json.dumps(body).encode(), timeout=10) as answer:
                return json.load(answer)

        call("POST", "/interactions", {"interactions": [{"user": user, "item": item}]})
        found = call("GET", f"/users/{urllib.parse.quote(user, safe='')}/history")
        assert found == {"user": user, "history": [{"item": item, "title": ""}], "total": 1}
        assert call("DELETE", "/items/x%2Fy") == {"accepted": 1, "sequence": 2}


@pytest.mark.parametrize(
    "body",
    [
        "", "{", "[]", "null", "1", "{}", '{"user": 1}', '{"user": ""}', '{"user": "u0", "history": ["i1"]}',
        '{"user": "u0", "k": 0}', '{"user": "u0", "k": 257}', '{"user": "u0", "k": "3"}', '{"user": "u0", "k": true}',
        '{"user": "u0", "k": NaN}', '{"user": "u0", "wrong": 1}', '{"history": []}', '{"history": ["i1", null]}',
        '{"user": "\\ud800"}', '{"user": "u0", "filter": ["\\udfff"]}', '{"user": "u0", "k": ' + "9" * 5000 + "}",
        "[" * 100_000, '{"user": "' + "u" * 257 + '"}', '{"user": "u0", "exclude_seen": 1}', "\xff\xfe",
    ],
)  # fmt: skip
def test_bad_bodies_are_422(client, body):
    error = failure(
        client.post("/recommend", content=body.encode("latin-1"), headers={"content-type": "application/json"}), 422
    )
    assert len(error) < 500


def test_a_body_of_another_type_is_422(client):
    # What a form on somebody else's page can send.
    plain = client.post("/recommend", content=b'{"user": "u0"}', headers={"content-type": "text/plain"})
    assert failure(plain, 422) == "body: is not read; send JSON with the header content-type: application/json"


@pytest.mark.parametrize(
    ("row", "part"),
    [({"user": "a"}, "item"), ({"user": "a", "item": "b", "timestamp": -1}, "timestamp"),
     ({"user": "a", "item": "b", "timestamp": 1_700_000_000_000}, "timestamp"),
     ({"user": "a", "item": "b", "timestamp": 1.5}, "timestamp"), ({"user": "a", "item": "b", "title": 3}, "title")],
)  # fmt: skip
def test_bad_interactions_are_422_and_name_the_place(client, engine, row, part):
    error = failure(client.post("/interactions", json={"interactions": [{"user": "a", "item": "b"}, row]}), 422)
    assert f"body.interactions.1.{part}" in error
    assert engine.log.sequence == 0


def test_unknown_ids_are_404(client):
    assert "user 'nobody': not known" in failure(client.post("/recommend", json={"user": "nobody"}), 404)
    failure(client.post("/recommend", json={"history": ["i1", "nothing"]}), 404)
    failure(client.post("/recommend", json={"user": "u0", "filter": ["nothing"]}), 404)
    failure(client.delete("/items/nothing"), 404)
    failure(client.put("/items/nothing"), 404)
    failure(client.get("/users/nobody/history"), 404)
    failure(client.get("/users//history"), 404)
    failure(client.get("/nowhere"), 404)
    failure(client.get("/recommend"), 405)


def test_too_large_is_413_whether_it_says_so_or_not(client):
    large = b" " * (MAX_BODY + 1)
    failure(client.post("/recommend", content=large), 413)
    failure(client.post("/recommend", content=(large[n : n + 65536] for n in range(0, len(large), 65536))), 413)
    assert recommended(client, user="u0")


def test_one_refused_request_does_not_take_others_with_it(tmp_path):
    engine = make_engine(tmp_path)
    fine, refused = [Add("a", "i1")], [Add("refused", "i1")]
    found = engine._record(None, [fine, refused, [Remove("i7")], [Remove("nothing")], [Add("b", "i2")]])
    assert found[0] == found[2] == found[4] == 1
    assert "refused" in str(found[1]) and "not known" in str(found[3])
    events = [event for batch in engine.log.batches(size=9) for event in batch]
    assert events == [Add("a", "i1"), Remove("i7"), Add("b", "i2")]
    # Requests that may go together do.
    before = engine.recommender.additions
    engine._record(None, [[Add(f"c{n}", "i1")] for n in range(9)])
    assert engine.recommender.additions == before + 1


def test_refused_interactions_are_422(client):
    failure(client.post("/interactions", json={"interactions": [{"user": "refused", "item": "i1"}]}), 422)


def test_queries_of_one_shape_share_a_batch(tmp_path):
    recommender = FakeRecommender(seconds=0.05)
    engine = make_engine(tmp_path, recommender)
    with starlette.TestClient(create_app(engine, access=Access()), base_url="http://localhost") as client:
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            bodies = [{"user": f"u{n % 20}", "k": 1 + n % 7} for n in range(16)]
            bodies += [{"history": [f"i{n}"], "k": 30} for n in range(8)]
            answers = list(pool.map(lambda body: recommended(client, **body), bodies))
        assert [len(answer) for answer in answers] == [body["k"] for body in bodies]
        assert len(recommender.calls) < 12
        assert {call["k"] for call in recommender.calls if call["users"] is None} == {64}
        text = client.get("/metrics").text
    assert re.search(r'tokenrec_requests_total\{method="POST",route="/recommend",status="200"\} 24.0', text)
    assert 'tokenrec_batch_size_sum{queue="recommend"} 24.0' in text


def test_a_full_queue_is_503_with_retry_after_and_nothing_is_lost(tmp_path):
    engine = make_engine(tmp_path, FakeRecommender(seconds=0.1), batch=2, pending=2)
    with starlette.TestClient(create_app(engine, access=Access()), base_url="http://localhost") as client:
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: client.post("/recommend", json={"user": "u0"}), range(12)))
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 503}
        for answer in answers:
            if answer.status_code == 503:
                assert answer.headers["retry-after"] == "1"
                assert "try again" in failure(answer, 503)
        assert f'tokenrec_refused_total{{queue="recommend"}} {statuses.count(503)}.0' in client.get("/metrics").text
        assert recommended(client, user="u0")


def test_a_log_that_cannot_be_written_is_503_and_health_says_so(client, engine, monkeypatch):
    def fail(_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        answer = client.post("/interactions", json={"interactions": [{"user": "a", "item": "i1"}]})
        assert "Input/output error" in failure(answer, 503)
        assert answer.headers["retry-after"]
    assert "restart" in client.get("/health").json()["status"]
    assert client.get("/health").status_code == 503
    failure(client.delete("/items/i1"), 503)
    assert recommended(client, user="u0")


def test_what_a_full_disk_kept_off_the_log_is_written_before_what_follows(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    engine = make_engine(tmp_path)
    with starlette.TestClient(create_app(engine, access=Access()), base_url="http://localhost") as client:
        with monkeypatch.context() as patch:
            patch.setattr("os.write", full)
            for item in ("n1", "n2"):
                answer = client.post("/interactions", json={"interactions": [{"user": "a", "item": item}]})
                assert "not recorded yet" in failure(answer, 503) and "No space left" in failure(answer, 503)
            failure(client.delete("/items/n1"), 503)
            assert client.get("/health").status_code == 200
        assert engine.log.sequence == 0
        # The recommender has known the item since the first request; its removal says so.
        assert client.delete("/items/n1").status_code == 200
        failure(client.delete("/items/n2"), 404)
        assert 'tokenrec_events_total{kind="add"} 1.0' in client.get("/metrics").text
        with monkeypatch.context() as patch:
            patch.setattr("os.write", full)
            failure(client.post("/interactions", json={"interactions": [{"user": "a", "item": "n3"}]}), 503)
    # What was not written at the end either is tried once more before the log is closed.
    again = make_engine(tmp_path)
    assert again.recommender.history("a") == ["n1", "n3"]
    assert not again.catalogue.find_items("n1", limit=1)
    again.log.close()


def test_what_was_done_of_a_request_that_is_refused_or_fails_is_in_the_log(tmp_path, monkeypatch):
    engine = make_engine(tmp_path)
    (error,) = engine._record(None, [[Add("a", "n1"), Remove("nothing")]])
    assert isinstance(error, DataError)
    first, second, third = engine._record(None, [[Add("a", "n2")], [Add("refused", "n9")], [Remove("n1")]])
    assert isinstance(second, DataError) and first == third == engine.log.sequence
    with monkeypatch.context() as patch:
        patch.setattr(engine.recommender, "remove_items", lambda _: 1 / 0)
        # A mistake of ours is for whom it is about, too.
        done, failed = engine._record(None, [[Add("a", "n3")], [Remove("n2")]])
        assert done == engine.log.sequence and isinstance(failed, ZeroDivisionError)
    assert engine._record(None, [[Remove("n3")]]) == [engine.log.sequence]
    engine.log.close()
    again = make_engine(tmp_path)
    assert again.recommender.history("a") == engine.recommender.history("a") == ["n1", "n2", "n3"]
    assert again.recommender._removed == engine.recommender._removed == {"n1", "n3"}
    again.log.close()


def test_our_own_mistakes_are_500_with_one_line(engine, client, monkeypatch):
    monkeypatch.setattr(engine.recommender, "recommend", lambda **_: 1 / 0)
    assert failure(client.post("/recommend", json={"user": "u0"}), 500) == "internal error; the server's log has more"


def test_with_a_key_only_the_pages_and_health_are_open(engine):
    key = "0123456789abcdef"
    with starlette.TestClient(create_app(engine, access=Access(key)), base_url="http://example.org") as client:
        for path in ("/", "/docs", "/openapi.json", "/health"):
            assert client.get(path).status_code == 200
        for path in ("/users", "/items", "/metrics", "/users/u0/history", "/nowhere"):
            answer = client.get(path)
            failure(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
        failure(client.post("/interactions", json={"interactions": [{"user": "a", "item": "b"}]}), 401)
        assert engine.log.sequence == 0
        client.headers["authorization"] = f"Bearer {key}"
        assert recommended(client, user="u0")
        schema = client.get("/openapi.json").json()
    assert "security" in schema["paths"]["/recommend"]["post"] and "security" not in schema["paths"]["/health"]["get"]


def test_other_names_of_this_machine_are_refused_without_a_key(client):
    failure(client.get("/users", headers={"host": "evil.example"}), 403)


def test_pages_need_nothing_from_elsewhere(client):
    for path in ("/", "/docs"):
        page = client.get(path)
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "'sha256-" in policy
        addresses = re.findall(r"""(?:src|href)=["']([^"']*)|url\(([^)]*)|\bhttps?://(?!www\.w3\.org)\S+""", page.text)
        assert all(not first.startswith(("http", "//")) for first, _ in addresses)


def test_an_end_answers_what_was_taken_and_closes_the_log(tmp_path):
    engine = make_engine(tmp_path, FakeRecommender(seconds=0.05), batch=1)

    async def scenario():
        engine.start()
        reads = [asyncio.create_task(engine.recommend(Query(user="u0"))) for _ in range(4)]
        write = asyncio.create_task(engine.record([Add("a", "i1")]))
        await asyncio.sleep(0)
        await engine.close()
        assert all(len(found) == 10 for found in await asyncio.gather(*reads))
        assert await write == 1

    asyncio.run(scenario())
    with pytest.raises(LogError):
        engine.log.append([])
    again = make_engine(tmp_path)
    assert again.recommender.history("a") == ["i1"]
    again.log.close()


def test_a_log_is_replayed_in_order_and_belongs_to_its_run(tmp_path):
    engine = make_engine(tmp_path)
    engine._record(None, [[Add("a", "i1"), Add("a", "n1", None, "New")]])
    engine._record(None, [[Remove("n1")]])
    engine.log.close()
    again = make_engine(tmp_path)
    assert again.recommender.history("a") == ["i1", "n1"]
    assert not again.catalogue.find_items("n1", limit=1) and again.recommender.additions == 1
    again.log.close()
    with pytest.raises(ConfigError, match="another run"):
        make_engine(tmp_path, FakeRecommender(num_items=41))


def test_openapi_describes_what_is_sent(client):
    schema = client.get("/openapi.json").json()
    assert {"/recommend", "/interactions", "/items", "/items/{item}", "/users", "/health", "/metrics"} <= set(
        schema["paths"]
    )
    body = schema["components"]["schemas"]["RecommendationRequest"]
    assert body["properties"]["k"]["maximum"] == 256 and body["additionalProperties"] is False
    assert json.dumps(schema)
