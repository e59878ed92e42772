"""The smallest size at which a model still knows some facts: `python -m examples.smallest_size_that_still_knows`.

Each prompt is completed at ever smaller shares of the layers' parameters (the mode `directions`, for which no codes
have to be made) until the answer is wrong for the first time. The model is loaded once; a new size is one assignment.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from acip_core import AcipModel

FACTS = {
    "The capital of Germany is called": "Berlin",
    "The capital of France is": "Paris",
    "The largest planet in the solar system is": "Jupiter",
    "The opposite of hot is": "cold",
}
STEP, SMALLEST = 5, 30  # percent


def smallest_sizes(model: AcipModel, facts: Mapping[str, str] = FACTS) -> Iterator[tuple[str, str, int | None]]:
    """For each prompt: its answer and the smallest size in percent down to which all sizes give it, None if none do."""
    for prompt, answer in facts.items():
        known = None
        for percent in range(100, SMALLEST - 1, -STEP):
            model.set_size(percent / 100, mode="directions")
            if answer.lower() not in model.complete(prompt, max_new_tokens=3).lower():
                break
            known = percent
        yield prompt, answer, known


def main(source: str = "smollm2-135m-instruct") -> None:
    """Print one row a fact."""
    model = AcipModel.from_pretrained(source)
    print(f"{'prompt':<44}{'answer':<10}{'known down to':>14}")
    for prompt, answer, percent in smallest_sizes(model):
        print(f"{prompt:<44}{answer:<10}{f'{percent} %' if percent else 'never':>14}")


if __name__ == "__main__":
    main(*sys.argv[1:])
