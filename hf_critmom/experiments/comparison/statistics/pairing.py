"""Whether runs with the same seed are paired, by their fingerprints of initial weights and first batches."""

from collections.abc import Iterable, Mapping, Sequence

from hf_critmom.experiments.comparison.records import RunResult

_TITLES = {"weights": "initial weights", "batches": "first batches"}


def unpaired_seeds(runs: Iterable[RunResult]) -> Mapping[str, Mapping[int, Sequence[str]]]:
    """Where pairing failed: for each kind of fingerprint, the seeds whose runs differ, with the arms that differ.

    The first run of a seed is the one that the others are compared with. Runs without fingerprints, such as those of
    our own tasks, are paired by construction; a missing fingerprint, such as that of weights that another process
    holds, does not count as a difference.

    Args:
        runs: Results at one budget.
    """
    by_seed: dict[int, list[RunResult]] = {}
    for run in runs:
        if run.pairing:
            by_seed.setdefault(run.seed, []).append(run)
    found: dict[str, dict[int, Sequence[str]]] = {}
    for seed, of_seed in sorted(by_seed.items()):
        for name in _TITLES:
            known = [run for run in of_seed if run.pairing.get(name)]
            others = [run.arm for run in known if run.pairing[name] != known[0].pairing[name]]
            if others:
                found.setdefault(name, {})[seed] = others
    return found


def ended_on(runs: Iterable[RunResult]) -> str:
    """Split of the final values of runs: "test", or "final validation" if a run had no test split."""
    return "final validation" if any(run.ended_on == "validation" for run in runs) else "test"


def pairing_sentences(runs: Iterable[RunResult]) -> list[str]:
    """Sentences on failed pairing, and on a missing test split."""
    runs = list(runs)
    sentences = []
    for name, seeds in unpaired_seeds(runs).items():
        arms = sorted({arm for others in seeds.values() for arm in others})
        sentences.append(
            f"Pairing failed: the {_TITLES[name]} of {', '.join(arms)} differ from those of the other arms with the "
            f"same seed (seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}), so the intervals below are "
            "unpaired, and wider than those of pairs."
        )
    if ended_on(runs) == "final validation":
        sentences.append(
            "There is no test split: validation was used for both, to time targets and for the values at the end. "
            "Whatever is chosen by validation (a learning rate, a target, the best checkpoint) looks better on it than "
            "it will on new data, so the values at the end compare the arms, and promise nothing of other data."
        )
    return sentences
