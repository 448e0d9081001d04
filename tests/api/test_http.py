"""What the API says to requests that no well-behaved client sends, and to those of operators."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.api.fakes import not_ready, user

CHAT = {"model": "tiny", "messages": user("Hi")}
COMPLETION = {"model": "tiny", "prompt": "p"}


async def refusal(http, path, body):
    response = await http.post(path, json=body)
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type", "invalid_value"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "invalid_value"),
        ({"tool_choice": "sometimes"}, "tool_choice", "invalid_value"),
        ({"logit_bias": {"5": 101}}, "logit_bias", None),
        ({"logit_bias": {"five": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {str(token): "x" for token in range(1025)}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"258": 1}}, "logit_bias", "invalid_value"),
        ({"bad_words": [" "]}, "bad_words", "invalid_value"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens", "invalid_value"),
        ({"stop_token_ids": [-1]}, "stop_token_ids", "invalid_value"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
        ({"presence_penalty": 2.5}, "presence_penalty", "invalid_value"),
        ({"top_k": -2}, "top_k", "invalid_value"),
        ({"audio": {"voice": "x"}}, "audio", "unsupported_parameter"),
        ({"frequency_penalty": "x"}, "frequency_penalty", "invalid_value"),
        ({"temprature": 1}, "temprature", "unknown_parameter"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "invalid_value"),
        ({"stop": ["1", "2", "3", "4", "5"]}, "stop", None),
        ({"stop": [""]}, "stop", None),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "Hi"}, "messages", "invalid_value"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "invalid_value"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", "unsupported_parameter"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]", None),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function", None),
        ({"model": None}, "model", "missing_required_parameter"),
    ],
)
async def test_what_a_chat_refuses(http, changes, param, code):
    status, error = await refusal(http, "/v1/chat/completions", CHAT | changes)
    assert status == 400
    assert error["param"] == param
    assert code is None or error["code"] == code
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"echo": True, "logprobs": 1, "stream": True}, "stream"),
        ({"echo": True, "logprobs": 1, "prompt_logprobs": 1}, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [999]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": {"text": "p"}}, "prompt"),
        ({"prompt": ["p"] * 50, "n": 3}, "prompt"),
        ({"messages": []}, "messages"),
    ],
)
async def test_what_a_completion_refuses(http, changes, param):
    status, error = await refusal(http, "/v1/completions", COMPLETION | changes)
    assert (status, error["param"]) == (400, param)


async def test_parameters_that_ask_for_nothing_are_accepted(http):
    harmless = {
        "user": "anna",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
        "tools": [],
        "tool_choice": "none",
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "response_format": {"type": "text"},
        "logit_bias": None,
        "n": None,
        "stop": None,
    }
    response = await http.post("/v1/chat/completions", json=CHAT | harmless)
    assert response.status_code == 200


@pytest.mark.parametrize("raw", [b"{", b"[]", b"\xff", b"[" * 15_000])
async def test_a_body_that_is_not_a_json_object(http, raw):
    response = await http.post("/v1/completions", content=raw, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_json"


async def test_a_body_that_is_too_long(http):
    response = await http.post("/v1/completions", json=COMPLETION | {"prompt": "x" * 30_000})
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


async def test_a_body_of_another_type(http):
    response = await http.post(
        "/v1/completions", content=json.dumps(COMPLETION), headers={"content-type": "text/plain"}
    )
    assert response.status_code == 415
    assert response.json()["error"]["code"] == "unsupported_media_type"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v2/x", 404), ("GET", "/v1/completions", 405)])
async def test_wrong_urls_and_methods(http, method, path, status):
    response = await http.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_health_follows_readiness(http, service):
    assert (await http.get("/health")).status_code == 200
    service.status = not_ready("left is compiling")
    response = await http.get("/health")
    assert response.status_code == 503
    assert response.json() == {"status": "starting", "ready": False, "detail": "left is compiling"}
    lost = replace(service.status.nodes[0], state="lost")
    service.status = replace(not_ready(""), state="degraded", nodes=(lost, service.status.nodes[1]))
    assert "left is lost" in (await http.get("/health")).json()["detail"]


async def test_status_keeps_the_secret(http):
    response = await http.get("/helix/status")
    status = response.json()
    assert status["name"] == "job"
    assert status["nodes"][0]["layers"] == [0, 2]
    assert "secret" not in response.text


async def test_an_overview_has_rows_and_medians(http):
    before = (await http.get("/helix/overview")).json()
    assert (before["time_to_first_token_s"], before["inter_token_s"]) == (None, None)
    assert (before["nodes"], before["by_state"]) == (2, {"ready": 2})
    await http.post("/v1/completions", json=COMPLETION)
    response = await http.get("/helix/overview")
    seen = response.json()
    assert [row["name"] for row in seen["node_rows"]] == ["left", "right"]
    assert 0 < seen["inter_token_s"] < 1
    assert 0 < seen["time_to_first_token_s"] < 1
    assert "secret" not in response.text


async def test_metrics(http, service):
    await http.post("/v1/completions", json=COMPLETION)
    await http.post("/v1/completions", json=COMPLETION | {"model": "x"})
    await http.get("/v1/models/tiny")
    await http.get("/nowhere")
    response = await http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert samples["helix_http_requests_total", "/v1/completions", "200"] == 1
    assert samples["helix_http_requests_total", "/v1/completions", "404"] == 1
    assert samples["helix_http_requests_total", "/v1/models", "200"] == 1
    assert samples["helix_http_requests_total", "404", "other"] == 1
    assert samples[("helix_time_to_first_token_seconds_count",)] == 1
    assert samples[("helix_inter_token_latency_seconds_count",)] == 12
    assert samples[("helix_requests_running",)] == 1
    assert samples[("helix_requests_waiting",)] == 2
    assert samples[("helix_prompt_tokens_total",)] == 111
    assert samples[("helix_generated_tokens_total",)] == 222
    assert samples[("helix_prefix_hits_total",)] == 3
    assert samples[("helix_cached_tokens_total",)] == 48
    assert samples["helix_node_kv_used_tokens", "right"] == 20
    assert samples["helix_node_kv_kept_tokens", "left"] == 0
    assert samples["helix_node_state", "left", "ready"] == 1
    assert samples["helix_node_state", "left", "loading"] == 0
