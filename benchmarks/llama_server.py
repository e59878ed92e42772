"""llama.cpp with one file: for each line that comes in, the seconds that it writes some tokens in; no torch here."""

from __future__ import annotations

import json
import os
import sys


def main(file: str, prompt: int, new: int) -> None:
    """Serve measurements of `new` tokens behind a prompt of `prompt`."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel, settings.verbosity = file, 512, 1, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = os.cpu_count()
    server = xllamacpp.Server(settings)
    request = {"prompt": " the" * prompt, "max_tokens": new, "n_predict": new, "temperature": 0, "ignore_eos": True}
    for _ in sys.stdin:
        answer = server.handle_completions(request)
        timings = (json.loads(answer) if isinstance(answer, str | bytes) else answer)["timings"]
        print(new / timings["predicted_n"] * timings["predicted_ms"] / 1e3, flush=True)
    os._exit(0)  # its threads do not end by themselves


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
