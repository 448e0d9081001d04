"""Record what transformers renders. Needs the oracle extra: ``python -m tests.cases.make_construct_recordings``.

Writes ``recorded/constructs.json``: text by construct and chat, or null where the template refuses.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import jinja2
import transformers

from tests.cases.template_constructs import CHATS, CONSTRUCTS
from tests.cases.templates import write_tokenizer


def main() -> None:
    recorded: dict[str, str | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(write_tokenizer(Path(folder) / "t", None))
    for name, template in CONSTRUCTS.items():
        for chat, (messages, tools, options) in CHATS.items():
            try:
                text = tokenizer.apply_chat_template(
                    messages,
                    tools=tools,
                    chat_template=template,
                    tokenize=False,
                    add_generation_prompt=True,
                    **options,
                )
            except (jinja2.TemplateError, TypeError) as error:
                print(f"{name}/{chat}: {error}")
                text = None
            recorded[f"{name}/{chat}"] = text
    path = Path(__file__).parent / "recorded" / "constructs.json"
    path.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
