from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from report import MODEL, URL, trying

model = OpenAILike(model=MODEL, api_base=f"{URL}/v1", api_key="none", is_chat_model=True, max_tokens=8, max_retries=0)
asked = [ChatMessage(role="user", content="What is the capital of France?")]

with trying("chat"):
    assert model.chat(asked).message.content
with trying("streamed chat"):
    assert "".join(piece.delta or "" for piece in model.stream_chat(asked))
with trying("completion"):
    plain = OpenAILike(model=MODEL, api_base=f"{URL}/v1", api_key="none", is_chat_model=False, max_tokens=8)
    assert plain.complete("1, 2, 3,").text
