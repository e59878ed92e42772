"""`python -m benchmarks [names]`: measure, print, keep in results.json, refresh the documents."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from .accelerator import measure_accelerator
from .closeness import measure_closeness
from .coded import measure_coded
from .cold_start import measure_cold_start
from .documents import refresh
from .factorization import measure_factorization
from .figure import Figure, merge, table
from .gguf_files import measure_gguf
from .large import measure_large
from .llama_speed import measure_llama
from .methods import measure_methods
from .page import measure_page
from .peers.results import measure_peers
from .planning import measure_planning
from .plot import draw_plots
from .quality import measure_quality
from .reliability import CAMPAIGNS, run_campaigns
from .resizing import measure_resizing
from .speed import measure_speed
from .start import measure_start
from .tables import RESULTS
from .training import measure_training
from .visitors import measure_visitors

BENCHMARKS: dict[str, Callable[[], list[Figure]]] = {
    "quality": measure_quality,
    "closeness": measure_closeness,
    "methods": measure_methods,
    "bytes": measure_coded,
    "gguf": measure_gguf,
    "peers": measure_peers,
    "factorization": measure_factorization,
    "planning": measure_planning,
    "resizing": measure_resizing,
    "training": measure_training,
    "speed": measure_speed,
    "llama": measure_llama,
    "gpu": measure_accelerator,
    "start": measure_start,
    "space": measure_cold_start,
    "page": measure_page,
    "visitors": measure_visitors,
    "large": measure_large,
}
RELIABILITY = "reliability"  # what follows it are campaigns


def main(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"Any of {', '.join(BENCHMARKS)}, or {RELIABILITY} and any of {', '.join(CAMPAIGNS)}; all by default."
        ),
    ] = None,
    docs_only: Annotated[
        bool, typer.Option("--docs", help="Measure nothing, only refresh the README and docs/.")
    ] = False,
    readme_only: Annotated[bool, typer.Option("--readme", hidden=True)] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; the best one present by default.")] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Measure nothing, only draw the documents' plots.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Short campaigns, whose counts are kept nowhere.")] = False,
) -> None:
    """Measure the figures of the README and docs/; nothing else should run on the machine meanwhile."""
    console = Console()
    if readme_only:
        console.print("--readme is now --docs: it refreshes docs/ as well.")
    docs_only |= readme_only
    known, chosen = (CAMPAIGNS, names[1:]) if names and names[0] == RELIABILITY else (BENCHMARKS, names or [])
    if unknown := set(chosen) - set(known):
        raise typer.BadParameter(f"there is no benchmark {', '.join(sorted(unknown))}")
    if known is CAMPAIGNS and quick:
        raise typer.Exit(1 if _campaigns(chosen, quick) else 0)
    if device:
        os.environ["ACIP_DEVICE"] = device  # also that of the processes that are started
    if plot:
        draw_plots()
    if not (names or docs_only or plot):
        RESULTS.unlink(missing_ok=True)  # a whole run leaves nothing of an older one
    for name in [] if docs_only or plot or known is CAMPAIGNS else names or BENCHMARKS:
        with console.status(f"measuring {name} …"):
            figures = BENCHMARKS[name]()
            merge(RESULTS, figures)
        console.print(Markdown("\n".join(table(figures))))
    if known is CAMPAIGNS or not (names or docs_only or plot):
        _campaigns(chosen)
    refresh()


def _campaigns(names: list[str], quick: bool = False) -> int:
    """Run campaigns, print a line of each as soon as it ends and keep its counts; how many faults there were."""
    faults = 0
    for tally in run_campaigns(names, quick):
        print("\n".join([tally.line(), *tally.shown()]), flush=True)
        faults += tally.faults.total()
        if not quick:
            merge(RESULTS, tally.figures())
    return faults


if __name__ == "__main__":
    typer.run(main)
