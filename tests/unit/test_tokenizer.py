from __future__ import annotations

import json

import gguf
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from helix_df.errors import ModelError, RequestError
from helix_df.models.chat import ChatTemplate
from helix_df.models.tokenizer import load_tokenizer
from helix_df.spec.source import ModelSource, parse_source
from tests.unit.gguf_files import write_sentencepiece

CHAT = [{"role": "user", "content": "hi"}]


def hf_directory(folder, *, adds_bos=True, **config):
    """A byte-level tokenizer with <s> and </s>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab={token: at for at, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text("{}")
    return ModelSource("hf", str(folder))


def test_hf_directory(tmp_path):
    tokenizer = load_tokenizer(hf_directory(tmp_path))
    ids = tokenizer.encode("hé")
    assert ids[0] == 256
    assert len(ids) == 4
    assert tokenizer.decode(ids) == "hé"
    assert tokenizer.eos_ids == {257}
    assert tokenizer.vocab_size == 258


def test_no_bos_unless_the_model_wants_one(tmp_path):
    assert load_tokenizer(hf_directory(tmp_path, adds_bos=False)).encode("") == []
    assert load_tokenizer(hf_directory(tmp_path, adds_bos=False, add_bos_token=True)).encode("") == [256]


def test_a_chat_gets_one_bos(tmp_path):
    source = hf_directory(tmp_path, chat_template="{{ bos_token }}{{ messages[0].content }}{{ eos_token }}")
    assert load_tokenizer(source).encode_chat(CHAT).count(256) == 1
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert 256 not in load_tokenizer(source).encode_chat(CHAT)  # a template of the model's own says where it belongs


def test_named_templates(tmp_path):
    templates = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    assert load_tokenizer(hf_directory(tmp_path, chat_template=templates)).render_chat(CHAT) == "yes"


def test_several_ends(tmp_path):
    source = hf_directory(tmp_path)
    (tmp_path / "config.json").write_text('{"eos_token_id": 257}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [256, 257]}')
    assert load_tokenizer(source).eos_ids == {256, 257}


def test_missing_tokenizer(tmp_path):
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        load_tokenizer(ModelSource("hf", str(tmp_path)))


def test_random_models_speak_bytes():
    tokenizer = load_tokenizer(parse_source("random:tiny"))
    ids = tokenizer.encode("a€😀")
    assert ids == [256, *"a€😀".encode()]
    assert tokenizer.decode([*ids, 300, 257]) == "a€😀\ufffd"
    assert tokenizer.eos_ids == {257}
    assert tokenizer.decode(tokenizer.encode_chat(CHAT)) == "user: hi\nassistant: "


def test_sentencepiece(tmp_path):
    tokenizer = load_tokenizer(ModelSource("gguf", str(write_sentencepiece(tmp_path / "s.gguf"))))
    space, a, b, c, _ab, _space_a, space_ab, abc, _bc = range(259, 268)
    assert tokenizer.encode("ab") == [1, space_ab]
    assert tokenizer.encode("c abc")[1:] == [space, c, space_ab, c]
    assert tokenizer.encode("babc")[1:] == [space, b, abc]
    assert tokenizer.encode("é")[1:] == [space, 3 + 0xC3, 3 + 0xA9]
    assert tokenizer.decode(tokenizer.encode("ab cé a")) == "ab cé a"
    assert tokenizer.decode([a, b]) == "ab"
    assert tokenizer.eos_ids == {2}


@pytest.mark.parametrize(("kind", "pre"), [("bert", "default"), ("gpt2", "martian")])
def test_unknown_gguf_tokenizers_are_named(tmp_path, kind, pre):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(["a", "b"])
    writer.add_token_merges(["a b"] if kind == "bert" else [])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelError, match=kind if kind == "bert" else pre):
        load_tokenizer(ModelSource("gguf", str(tmp_path / "m.gguf")))


def test_a_template_that_refuses():
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(RequestError, match="roles must alternate") as caught:
        template.render(CHAT)
    assert caught.value.param == "messages"


@pytest.mark.parametrize("message", [{"role": "user"}, {"role": "user", "content": None}, {}])
def test_messages_that_break_a_template(message):
    with pytest.raises(RequestError):
        ChatTemplate("{{ messages[0]['role'] + messages[0]['content'] }}").render([message])


def test_templates_are_sandboxed():
    with pytest.raises(RequestError):
        ChatTemplate("{{ messages.__class__.__mro__[1].__subclasses__() }}").render(CHAT)


def test_malformed_template():
    with pytest.raises(ModelError):
        ChatTemplate("{% for %}")


def test_template_helpers():
    template = ChatTemplate(
        "{% for m in messages %}{% break %}{% endfor %}{{ strftime_now('%Y') }}{{ eos_token }}", eos_token="E"
    )
    assert template.render(CHAT)[4:] == "E"


def test_special_tokens_that_a_format_is_written_with_stay(tmp_path):
    tokenizer = load_tokenizer(hf_directory(tmp_path))
    ids = [*tokenizer.encode("a"), 257, *tokenizer.encode("é b")[1:], 257, 256]
    assert tokenizer.decode(ids) == "aé b"
    assert tokenizer.decoder(frozenset({"</s>"}))(ids) == "a</s>é b</s>"
    assert tokenizer.decoder(frozenset({"<s>", "</s>"}))(ids) == "<s>a</s>é b</s><s>"
    assert tokenizer.decoder(frozenset())(ids) == "aé b"


@pytest.mark.parametrize("names", [["<|end|>", "<|return|>"], ["<|end|>", "<|call|>", "<|return|>"]])
def test_a_message_of_an_answer_ends_no_turn_where_calls_do(tmp_path, names):
    path = tmp_path / "harmony.gguf"
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *names]
    writer = gguf.GGUFWriter(path, "gpt-oss")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 256 + [3] * len(names))
    writer.add_token_merges([])
    writer.add_eos_token_id(tokens.index("<|return|>"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    ends = load_tokenizer(ModelSource("gguf", str(path))).eos_ids
    assert {tokens[end] for end in ends} == set(names) - ({"<|end|>"} if "<|call|>" in names else set())
