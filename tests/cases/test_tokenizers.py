"""Tokens, templates and ends as transformers has them; byte-fallback text in streams and in log-probabilities."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import gguf
import httpx
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from helix_df.errors import ModelError
from helix_df.load import parse_job
from helix_df.models.chat import PLAIN_TEMPLATE, ChatTemplate
from helix_df.models.streaming_text import StreamDecoder
from helix_df.models.tokenizer import LibraryCodec, Tokenizer, load_tokenizer
from helix_df.runtime.api.app import create_app
from helix_df.runtime.api.generation import TextService
from helix_df.runtime.requests import GenerationRequest, TokenEvent, TopLogprobs
from helix_df.spec.source import ModelSource
from tests.api.fakes import FakeService
from tests.cases.files import gguf_file, job_text
from tests.cases.templates import CHATS, ODD, TEMPLATES, write_tokenizer

RECORDED = json.loads((Path(__file__).parent / "recorded" / "templates.json").read_text("utf-8"))


def loaded(folder: Path, template: str | None = None, **config: Any) -> Tokenizer:
    return load_tokenizer(ModelSource("hf", str(write_tokenizer(folder, template, **config))))


# ---------------------------------------------------------------------- templates


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("chat", CHATS)
def test_templates_render_and_tokenize_as_transformers_does(tmp_path, name, chat):
    tokenizer = loaded(tmp_path, TEMPLATES[name])
    expected = RECORDED["chats"][f"{name}/{chat}"]
    assert tokenizer.render_chat(CHATS[chat]) == expected["text"]
    assert tokenizer.encode_chat(CHATS[chat]) == expected["ids"]


def test_tojson_is_plain_json(tmp_path):
    assert loaded(tmp_path, TEMPLATES["tojson"]).render_chat(CHATS["one"]) == json.dumps(ODD, ensure_ascii=False)


@pytest.mark.parametrize("text", ["hi", "<|im_start|>user\nhi<|im_end|>", "a<s>b", " <|im_end|> "])
def test_tokens_of_the_config_alone_have_one_id_each(tmp_path, text):
    tokenizer = loaded(tmp_path)
    assert tokenizer.encode(text) == RECORDED["texts"][text]
    assert tokenizer.decode(tokenizer.encode(text)) == RECORDED["decoded"][text]


def test_added_tokens_of_the_older_file(tmp_path):
    write_tokenizer(tmp_path, None, added_tokens_decoder={})
    (tmp_path / "added_tokens.json").write_text('{"<|x|>": 258}')
    assert load_tokenizer(ModelSource("hf", str(tmp_path))).encode("a<|x|>")[-1] == 258


def test_added_tokens_at_another_id_than_the_config_says(tmp_path):
    with pytest.raises(ModelError, match="disagree"):
        loaded(tmp_path, added_tokens_decoder={"300": {"content": "<|x|>"}})


# ---------------------------------------------------------------------- the model's own end


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        (None, {"eos_token_id": 2}, {2, 259}),
        (None, {}, {259}),
        ({"eos_token_id": [257, 258]}, {"eos_token_id": 2}, {257, 258, 259}),
        ({"eos_token_id": 257}, {}, {257, 259}),
        ({"temperature": 1.0}, {"eos_token_id": [2, 3]}, {2, 3, 259}),
    ],
)
def test_the_ends_that_any_file_names(tmp_path, generation, config, ends):
    write_tokenizer(tmp_path, None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert load_tokenizer(ModelSource("hf", str(tmp_path))).eos_ids == ends


# ---------------------------------------------------------------------- byte fallback

PIECES = ["\u2581one", "\u2581two", "\u2581three", "\u2581", "a", "é"]


def byte_fallback() -> tokenizers.Tokenizer:
    """A vocabulary as Llama 2 has it: specials, bytes, then words with U+2581 for spaces."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    vocabulary = {name: at for at, name in enumerate(names)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


ONE, TWO, THREE, SPACE, A, _ = range(259, 265)


def byte(value: int) -> int:
    return 3 + value


def streamed(ids: list[int]) -> list[str]:
    codec = LibraryCodec(byte_fallback())
    decoder = StreamDecoder(codec.decode)
    return [*(decoder.push(number) for number in ids), decoder.finish()]


@pytest.mark.parametrize(
    ("ids", "pieces"),
    [
        ([byte(0xC3), byte(0xA9), byte(0xE2), ONE, TWO], ["", "é", "", "\ufffd one", " two", ""]),
        ([byte(0xE2), ONE, TWO], ["", "\ufffd one", " two", ""]),
        ([ONE, byte(0xE2), TWO, THREE], ["one", "", "\ufffd two", " three", ""]),
        ([ONE, byte(0xC3), byte(0xA9), byte(0xE2), TWO], ["one", "", "é", "", "\ufffd two", ""]),
        ([byte(0xC3), byte(0xA9), byte(0xE2), byte(0x82), byte(0xAC), ONE], ["", "é", "", "", "€", " one", ""]),
        ([byte(0xC3), byte(0xA9), byte(0xE2)], ["", "é", "", "\ufffd"]),
        ([byte(0xE2)] * 2, ["", "", "\ufffd\ufffd"]),
    ],
)
def test_text_flows_on_after_a_stray_byte(ids, pieces):
    assert streamed(ids) == pieces


def test_stray_bytes_without_end_flow_too():
    pieces = streamed([byte(0xC3), byte(0xA9), *[byte(0xE2)] * 10, ONE])
    assert "".join(pieces) == "é" + "\ufffd" * 10 + " one"
    assert sum(map(bool, pieces)) > 5


class Scripted(FakeService):
    """Answers with given ids, each with given alternatives."""

    def __init__(self, ids: list[int], top: tuple[tuple[int, float], ...]) -> None:
        super().__init__()
        self._ids, self._top = ids, top

    async def submit(self, request: GenerationRequest):
        for count, token in enumerate(self._ids):
            last = count + 1 == len(self._ids)
            yield TokenEvent(token, "length" if last else None, TopLogprobs(-0.25, ((token, -0.25), *self._top)))


IDS = [ONE, TWO, byte(0xE2), byte(0x82), byte(0xAC), THREE, A]
ALIKE = ((byte(0xFE), -2.0), (byte(0xFF), -2.5), (byte(0x61), -3.0), (A, -3.5), (2, -4.0))
TEXT = "one two€ threea"


@pytest.fixture
def http() -> httpx.AsyncClient:
    tokenizer = Tokenizer(
        LibraryCodec(byte_fallback()),
        vocab_size=265,
        bos_id=1,
        eos_ids=frozenset({2}),
        chat=ChatTemplate(PLAIN_TEMPLATE),
    )
    text = TextService(Scripted(IDS, ALIKE), tokenizer, model_name="m", context=100)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=create_app(text)), base_url="http://test")


async def test_logprobs_of_a_completion_join_to_its_text(http):
    body = {"model": "m", "prompt": "one", "max_tokens": 7, "logprobs": 6}
    choice = (await http.post("/v1/completions", json=body)).json()["choices"][0]
    found = choice["logprobs"]
    assert choice["text"] == TEXT == "".join(found["tokens"])
    assert found["text_offset"] == [len("".join(found["tokens"][:at])) for at in range(len(IDS))]
    assert [TEXT[at:].startswith(token) for at, token in zip(found["text_offset"], found["tokens"], strict=True)] == [
        True
    ] * len(IDS)
    assert [len(top) for top in found["top_logprobs"]] == [len(ALIKE) + 1] * len(IDS)
    first = {"one": -0.25, "bytes:\\xfe": -2.0, "bytes:\\xff": -2.5, "a": -3.0, f"token_id:{A}": -3.5, "</s>": -4.0}
    assert found["top_logprobs"][0] == first


async def test_logprobs_of_a_chat_have_true_bytes_and_all_entries(http):
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 7,
        "logprobs": True,
        "top_logprobs": 6,
    }
    choice = (await http.post("/v1/chat/completions", json=body)).json()["choices"][0]
    content = choice["logprobs"]["content"]
    assert choice["message"]["content"] == TEXT == "".join(entry["token"] for entry in content)
    assert bytes(value for entry in content for value in entry["bytes"]).decode() == TEXT
    assert [len(entry["top_logprobs"]) for entry in content] == [len(ALIKE) + 1] * len(IDS)
    assert content[2]["bytes"] == [0xE2]
    assert content[0]["top_logprobs"][1] == {"token": "bytes:\\xfe", "logprob": -2.0, "bytes": [0xFE]}


async def test_offsets_of_a_stream_are_those_of_the_whole(http):
    body = {"model": "m", "prompt": "one", "max_tokens": 7, "logprobs": 1, "stream": True, "stop": ["threeaX"]}
    response = await http.post("/v1/completions", json=body)
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")]
    found = [choice["logprobs"] for line in lines for choice in json.loads(line)["choices"] if choice["logprobs"]]
    offsets = [offset for one in found for offset in one["text_offset"]]
    assert offsets == [0, 3, 7, 7, 7, 8, 14]


def test_bytes_of_a_byte_level_vocabulary():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab={token: at for at, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    codec = LibraryCodec(tokenizer)
    text = " é€😀\n\x00\u00ad"
    assert b"".join(codec.token_bytes(number) for number in codec.encode(text)) == text.encode()
    assert sorted(codec.token_bytes(number) for number in range(256)) == [bytes([value]) for value in range(256)]


# ---------------------------------------------------------------------- GGUF without the name of its splitter


def write_bpe(folder: Path, specials: list[str], pre: str | None) -> ModelSource:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    extra = {"tokenizer.ggml.pre": pre} if pre is not None else {}
    tokens = [*alphabet, "12", "34", "123", *specials]
    keys: dict[str, object] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * (len(tokens) - len(specials)) + [3] * len(specials),
        "tokenizer.ggml.merges": ["1 2", "3 4", "12 3"],
        **extra,
    }
    return gguf_file(folder, metadata=keys)


LLAMA_3 = ["<|begin_of_text|>", "<|start_header_id|>", "<|eot_id|>"]


def test_a_llama_3_vocabulary_is_known_by_its_tokens(tmp_path, caplog):
    unnamed = write_bpe(tmp_path / "unnamed", LLAMA_3, None)
    named = write_bpe(tmp_path / "named", LLAMA_3, "llama-bpe")
    with caplog.at_level(logging.WARNING):
        parse_job(job_text(unnamed))
    assert not caplog.records
    for text in ("1234 5678", "It's WE'LL 12345", "a\n\n b  c"):
        assert load_tokenizer(unnamed).encode(text) == load_tokenizer(named).encode(text)


def test_an_unknown_vocabulary_is_warned_about_at_validate(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        parse_job(job_text(write_bpe(tmp_path, ["<|mystery|>"], None)))
    assert "tokenizer.ggml.pre" in caplog.text


@pytest.mark.parametrize("pre", ["default", "gpt-2", "smollm"])
def test_a_named_splitter_is_no_reason_to_warn(tmp_path, caplog, pre):
    with caplog.at_level(logging.WARNING):
        parse_job(job_text(write_bpe(tmp_path, ["<|mystery|>"], pre)))
    assert not caplog.records


def test_the_gguf_package_agrees_about_the_key():
    assert gguf.Keys.Tokenizer.PRE == "tokenizer.ggml.pre"
