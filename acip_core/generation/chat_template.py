"""A prompt as a message to a chat model, by its tokenizer's template, which may fail in any way."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from ..errors import GenerationError

_WAY_OUT = "switch the chat template off"


def apply_chat_template(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The text put into the chat template as a user's message, up to where the answer begins.

    Raises:
        GenerationError: there is no template, or it fails, or it makes nothing of the text.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise GenerationError(f"This model has no chat template; {_WAY_OUT}.")
    message = [{"role": "user", "content": text}]
    try:
        rendered = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # templates are programs: they raise what their authors like
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise GenerationError(
            f"This model's chat template cannot be applied to the prompt ({reason[:200]}); {_WAY_OUT}."
        ) from error
    if not isinstance(rendered, str) or not rendered.strip():
        raise GenerationError(f"This model's chat template makes nothing of the prompt; {_WAY_OUT}.")
    return rendered
