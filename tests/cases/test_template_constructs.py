"""Constructs of published chat templates, rendered as transformers renders them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helix_df.errors import RequestError
from helix_df.models.chat import ChatTemplate
from tests.cases.template_constructs import CHATS, CONSTRUCTS

RECORDED = json.loads((Path(__file__).parent / "recorded" / "constructs.json").read_text("utf-8"))
SPECIALS = {"pad_token": "</s>", "unk_token": "</s>"}


def template_of(name: str) -> ChatTemplate:
    return ChatTemplate(CONSTRUCTS[name], bos_token="<s>", eos_token="<|im_end|>", specials=SPECIALS)


PAIRS = [
    (name, chat)
    for name in CONSTRUCTS
    for chat in CHATS
    if not CHATS[chat].tools or template_of(name).takes_tools  # otherwise tools are told in words, which is ours alone
]


@pytest.mark.parametrize(("name", "chat"), PAIRS)
def test_a_construct_is_rendered_as_transformers_does(name, chat):
    messages, tools, options = CHATS[chat]
    expected, template = RECORDED[f"{name}/{chat}"], template_of(name)
    if expected is None:
        with pytest.raises(RequestError):
            template.render(messages, tools=tools or (), options=options)
    else:
        assert template.render(messages, tools=tools or (), options=options) == expected


def test_there_are_enough_of_them():
    shown = {name for name in CONSTRUCTS if any(RECORDED[f"{name}/{chat}"] is not None for chat in CHATS)}
    assert len(shown) >= 60
    assert {"refusal", "undefined attribute"}.isdisjoint(shown)
