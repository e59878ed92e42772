"""How many tokens a model can attend to, from its configuration alone."""

from __future__ import annotations

from transformers import PreTrainedConfig, PreTrainedModel

# In the words of the families: most; GPT-2, GPT-J, CTRL; MPT; RWKV; ChatGLM.
_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "context_length",
    "max_sequence_length",
    "seq_length",
)
_UNSTATED = 2048  # of models that state none, because they have none: Bloom's ALiBi, Mamba; what most were trained on


def context_length(config: PreTrainedConfig) -> int:
    """Tokens of the longest text that a model reads: its positions where it has them, otherwise a common length.

    Where positions are learned, a model has as many embeddings as this, and fails on a longer text; OPT's two extra
    ones belong to its offset. Rotary models run on beyond it, into positions that they have never seen.
    """
    text = config.get_text_config()
    stated = (getattr(text, name, None) for name in _NAMES)
    return next((n for n in stated if isinstance(n, int) and not isinstance(n, bool) and n > 0), _UNSTATED)


def fitting_window(model: PreTrainedModel, length: int) -> int:
    """`length` tokens, or as many as `model` has positions for where these are fewer."""
    return min(length, context_length(model.config))
