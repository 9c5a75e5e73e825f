"""Whether the runs of one seed are pairs: recorded fingerprints of initial weights and first batches are compared."""

from collections.abc import Iterable, Mapping, Sequence

from hf_critmom.experiments.comparison.records import RunResult

IN_WORDS = {"weights": "initial weights", "batches": "first batches"}


def unpaired_seeds(runs: Iterable[RunResult]) -> Mapping[str, Mapping[int, Sequence[str]]]:
    """Where pairing failed: what differs, the seeds in which it does, and the arms that differ from the first one.

    Runs without fingerprints, as those of our own tasks, are pairs by construction. Where some could not be taken, as
    of weights that other processes hold, nothing is found to differ.

    Args:
        runs: Results of one budget.
    """
    by_seed: dict[int, list[RunResult]] = {}
    for run in runs:
        if run.pairing:
            by_seed.setdefault(run.seed, []).append(run)
    found: dict[str, dict[int, Sequence[str]]] = {}
    for seed, of_seed in sorted(by_seed.items()):
        for name in IN_WORDS:
            known = [run for run in of_seed if run.pairing.get(name)]
            others = [run.arm for run in known if run.pairing[name] != known[0].pairing[name]]
            if others:
                found.setdefault(name, {})[seed] = others
    return found


def ended_on(runs: Iterable[RunResult]) -> str:
    """What the last values of runs are of: "test", or "final validation" where a run had no test split."""
    return "final validation" if any(run.ended_on == "validation" for run in runs) else "test"


def pairing_sentences(runs: Iterable[RunResult]) -> list[str]:
    """What a reader must know of how the runs pair, and of what they were tested on, as sentences."""
    runs = list(runs)
    said = []
    for name, seeds in unpaired_seeds(runs).items():
        arms = sorted({arm for others in seeds.values() for arm in others})
        said.append(
            f"Pairing failed: the {IN_WORDS[name]} of {', '.join(arms)} differ from those of the other arms with the "
            f"same seed (seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}), so the intervals below are "
            "unpaired, and wider than those of pairs."
        )
    if ended_on(runs) == "final validation":
        said.append(
            "There is no test split: validation was used for both, to time targets and for the values at the end. "
            "Whatever is chosen by validation (a learning rate, a target, the best checkpoint) looks better on it than "
            "it will on new data, so the values at the end compare the arms, and promise nothing of other data."
        )
    return said
