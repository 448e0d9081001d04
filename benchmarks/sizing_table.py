"""The cheapest fleet for Llama-3.3-70B at three rates, of all offers and of each GPU type alone, with lower bounds.

python -m benchmarks.sizing_table
    --rates 1 4 12          requests/s
    --by flow simulation    what serving means
    --seconds 120           brake of each search

Offers, prices and links are those of the example job ``rent``; without its limits on latency where flow judges.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from helix_df.load import load_job
from helix_df.sizing import CheapestOf, Effort, cheapest_of
from helix_df.sizing.answer import JudgedBy
from helix_df.sizing.market import restricted
from helix_df.spec.job import Job

EXAMPLE = Path(__file__).parent.parent / "spec/examples/rent.yaml"


def groups(job: Job) -> dict[str, list[str]]:
    """Offers by what they are called in the table: all, and each GPU type alone."""
    types = dict.fromkeys(offer.gpu for offer in job.offers.values())
    alone = {gpu: [name for name, offer in job.offers.items() if offer.gpu == gpu] for gpu in types}
    return {"all": list(job.offers), **alone}


def timed(job: Job, rate: float, by: JudgedBy, effort: Effort) -> tuple[CheapestOf, float]:
    """The cheapest fleet and the seconds that it took, with all that is prepared."""
    began = time.perf_counter()
    found = cheapest_of(job, rate, by, effort)
    return found, time.perf_counter() - began


def row(name: str, rate: float, found: CheapestOf, seconds: float, cheapest: float) -> str:
    lower = "–" if found.lower_bound is None else f"{found.lower_bound:.2f}"
    if found.fleet is None:
        return f"| {rate:g} | {name} | none found | – | {lower} | – | – | {found.judged} | {seconds:.1f} |"
    fleet, share = found.fleet, found.fleet.cost / cheapest
    return (
        f"| {rate:g} | {name} | {fleet} | {fleet.cost:.2f} | {lower} | {found.gap or 0:.1%} | {share:.2f} "
        f"| {found.judged} | {seconds:.1f} |"
    )


def show(job: Job, rates: list[float], by: JudgedBy, effort: Effort) -> None:
    print(f"\nJudged by {by}.\n")
    print("| requests/s | offers | cheapest fleet | cost an hour | at least | gap | × cheapest | judged | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for rate in rates:
        found = {name: timed(restricted(job, offers), rate, by, effort) for name, offers in groups(job).items()}
        cheapest = min(one.fleet.cost for one, _ in found.values() if one.fleet is not None)
        for name, (one, seconds) in found.items():
            print(row(name, rate, one, seconds, cheapest), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", nargs="+", type=float, default=[1.0, 4.0, 12.0])
    parser.add_argument("--by", nargs="+", choices=("flow", "simulation"), default=["flow", "simulation"])
    parser.add_argument("--seconds", type=float, default=120.0)
    arguments = parser.parse_args()
    for by in arguments.by:
        show(load_job(EXAMPLE), arguments.rates, by, Effort(time_limit_s=arguments.seconds))


if __name__ == "__main__":
    main()
