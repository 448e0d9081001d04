"""Answers of ``/v1/responses``, whole and as events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from helix_df.errors import HelixError
from helix_df.runtime.api.answer_blocks import AnswerBlock, AnswerBlocks, BlockKind
from helix_df.runtime.api.answering import Pieces
from helix_df.runtime.api.answers import Json, describe
from helix_df.runtime.api.called_tools import call_id
from helix_df.runtime.api.stream import EVENT_NAME

_PREFIXES: dict[BlockKind, str] = {"said": "msg", "thought": "rs", "called": "fc"}
_TEXTS: dict[BlockKind, str] = {
    "said": "response.output_text",
    "thought": "response.reasoning_text",
    "called": "response.function_call_arguments",
}


@dataclass(slots=True)
class ResponseAnswer:
    """One response as it grows.

    Args:
        id: of the response.
        created: in Unix seconds.
        model: the name of the model.
        prompt_tokens: of its prompt.
        echoed: what it repeats of its request.
    """

    id: str
    created: int
    model: str
    prompt_tokens: int
    echoed: Json
    answer: AnswerBlocks = field(default_factory=AnswerBlocks)

    @property
    def status(self) -> str:
        """Whether it is over, and as it should be."""
        if self.answer.finish is None:
            return "in_progress"
        return "incomplete" if self.answer.finish == "length" else "completed"

    def body(self) -> Json:
        """The response as it is now."""
        blocks = self.answer.blocks
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": self.status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if self.status == "incomplete" else None,
            "model": self.model,
            "output": [
                self.item(index, self.status if index == len(blocks) - 1 else "completed")
                for index in range(len(blocks))
            ],
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            "metadata": {},
            **self.echoed,
            "usage": None if self.answer.finish is None else self._usage(),
        }

    def item_id(self, index: int) -> str:
        """The id of an item."""
        return call_id(self.id, 1, index, prefix=_PREFIXES[self.answer.blocks[index].kind])

    def item(self, index: int, status: str) -> Json:
        """An item; while it is in progress, as it began."""
        block, begins = self.answer.blocks[index], status == "in_progress"
        same: Json = {"id": self.item_id(index), "status": status}
        match block.kind:
            case "said":
                content = [] if begins else [self.part(index)]
                return {"type": "message", "role": "assistant", **same, "content": content}
            case "thought":
                return {"type": "reasoning", **same, "summary": [], "content": [] if begins else [self.part(index)]}
            case "called":
                return {
                    "type": "function_call",
                    **same,
                    "call_id": call_id(self.id, 0, block.call),
                    "name": block.name,
                    "arguments": "" if begins else block.text,
                }

    def part(self, index: int, *, begins: bool = False) -> Json:
        """The one part of what is said or thought, as it is now or as it begins."""
        block = self.answer.blocks[index]
        text = "" if begins else block.text
        if block.kind == "thought":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _usage(self) -> Json:
        answer = self.answer
        return {
            "input_tokens": self.prompt_tokens,
            "input_tokens_details": {"cached_tokens": answer.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": answer.output_tokens,
            "output_tokens_details": {"reasoning_tokens": answer.thought_tokens},
            "total_tokens": self.prompt_tokens + answer.output_tokens,
        }


async def whole_response(response: ResponseAnswer, pieces: Pieces) -> Json:
    """The body of a response, once it is finished."""
    async with aclosing(pieces):
        async for _, piece in pieces:
            for _grown in response.answer.add(piece):
                pass
    return response.body()


class ResponseEvents:
    """The events of a response, numbered."""

    def __init__(self, response: ResponseAnswer) -> None:
        self._response = response
        self._number = -1
        self._opened = 0

    async def follow(self, pieces: Pieces) -> AsyncGenerator[Json, None]:
        """All of them, as the pieces come."""
        response = self._response
        begun = False
        async with aclosing(pieces):
            async for _, piece in pieces:
                if not begun:
                    begun = True
                    yield self._event("response.created", response=response.body())
                    yield self._event("response.in_progress", response=response.body())
                for block, added in response.answer.add(piece):
                    for event in self._grown(block, added):
                        yield event
        for event in self._closed():
            yield event
        yield self._event(f"response.{response.status}", response=response.body())

    def describe(self, error: HelixError) -> tuple[int, Json]:
        """The error at which a stream breaks off."""
        status, document = describe(error)
        told = document["error"]
        return status, self._event("error", code=told["code"], message=told["message"], param=told["param"])

    def _grown(self, block: AnswerBlock, added: str) -> Iterator[Json]:
        index = len(self._response.answer.blocks) - 1
        if index >= self._opened:
            yield from self._closed()
            self._opened = index + 1
            item = self._response.item(index, "in_progress")
            yield self._event("response.output_item.added", output_index=index, item=item)
            if block.kind != "called":
                part = self._response.part(index, begins=True)
                yield self._about(index)("response.content_part.added", part=part)
        if added:
            more: Json = {"logprobs": []} if block.kind == "said" else {}
            yield self._about(index)(f"{_TEXTS[block.kind]}.delta", delta=added, **more)

    def _closed(self) -> Iterator[Json]:
        """The end of the last item."""
        if not self._opened:
            return
        response, index = self._response, self._opened - 1
        block, about = response.answer.blocks[index], self._about(index)
        if block.kind == "called":
            yield about(f"{_TEXTS[block.kind]}.done", name=block.name, arguments=block.text)
        else:
            more: Json = {"logprobs": []} if block.kind == "said" else {}
            yield about(f"{_TEXTS[block.kind]}.done", text=block.text, **more)
            yield about("response.content_part.done", part=response.part(index))
        is_last = index == len(response.answer.blocks) - 1
        status = response.status if is_last and response.answer.finish is not None else "completed"
        yield self._event("response.output_item.done", output_index=index, item=response.item(index, status))

    def _about(self, index: int) -> Callable[..., Json]:
        """Makes events about what an item has."""
        same: Json = {"item_id": self._response.item_id(index), "output_index": index}
        if self._response.answer.blocks[index].kind != "called":
            same["content_index"] = 0

        def make(name: str, /, **fields: Any) -> Json:
            return self._event(name, **same, **fields)

        return make

    def _event(self, name: str, /, **fields: Any) -> Json:
        self._number += 1
        return {EVENT_NAME: name, "type": name, "sequence_number": self._number, **fields}
