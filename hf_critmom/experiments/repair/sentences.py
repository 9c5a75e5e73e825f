"""The outcome of a repair in sentences."""

from hf_critmom.experiments.repair.advantages import BETTER, UNDECIDED, WORSE
from hf_critmom.experiments.repair.results import DoubtfulLabels, Repair
from hf_critmom.experiments.repair.selection import CHOSEN, control_help
from hf_critmom.experiments.repair.verification import Verification
from hf_critmom.reporting.text import counted, join_names

_STATUS = {
    BETTER: "the chosen groups were better",
    WORSE: "the chosen groups were worse",
    UNDECIDED: "undecided",
}


def outcome(repair: Repair) -> str:
    """The outcome of the repair, in two sentences."""
    found = repair.verification
    if found is None:
        treated = repair.roles[CHOSEN][0]
        return (
            f"The treatment with seed {treated.seed} diverged after {counted(treated.steps, 'step')}: its loss, "
            "weights or predictions are no longer finite. There is no repaired model: try a lower --learning_rate."
        )
    before, after, word = found.accuracy_before, found.accuracy_after, outcome_word(repair)
    said = (
        "By this test, the effect of the repair cannot be told from chance"
        if word == UNDECIDED
        else f"The repair {word}"
    )
    return (
        f"Of {counted(found.items, 'test item')}, {_changes(found)}, net {found.net:+,}; accuracy {before:.4f} before, "
        f"{after:.4f} after. {said} ({found.test}, p = {found.pvalue:.2g})."
    )


def _changes(found: Verification) -> str:
    """How many items were wrong, and how many of them and of the others changed."""
    wrong = found.items - found.right_before
    said = f"{wrong:,} were wrong: {found.fixed:,} of them {_was(found.fixed)} fixed"
    if wrong < 2:
        said = f"1 was wrong: it was {'' if found.fixed else 'not '}fixed" if wrong else "none was wrong"
    return f"{said}, and {found.broken:,} that had been right {_was(found.broken)} broken"


def _was(number: int) -> str:
    return "was" if number == 1 else "were"


def outcome_word(repair: Repair) -> str:
    """The outcome of the repair in a word: "helped", "did harm", "diverged" or `UNDECIDED`."""
    found = repair.verification
    if found is None:
        return "diverged"
    if found.pvalue >= 0.05:
        return UNDECIDED
    return "helped" if found.net > 0 else "did harm"


def provenance_findings(repair: Repair) -> list[str]:
    """The checks that the test split is new to the repaired network, in sentences; nothing else is claimed."""
    overlap, said = repair.plan.overlap, []
    if overlap is not None and overlap.unknown:
        names = " and ".join(overlap.unknown)
        said = [f"The splits were not checked for shared examples: the content of {names} cannot be compared."]
    elif overlap is not None and overlap.shared:
        pairs = ", ".join(f"{pair} share {count:,}" for pair, count in overlap.shared.items())
        said = [
            f"The splits were compared by content: {pairs} short blocks of text, which may be chance, and nothing else."
        ]
    elif overlap is not None:
        said = ["The training, diagnosis and test splits share no example: this was checked by content."]
    elif repair.plan.task is not None and repair.plan.task.label_names:  # earlier versions could compare images only
        said = [
            "The training, diagnosis and test splits share no image: this was checked by content before the repair."
        ]
    if repair.plan.trained_on is None:
        where = "this repair" if overlap is None else "the checkpoint"
        said.append(
            f"The data that the network was trained on before the repair is not recorded with {where}: if it included "
            "test examples, these figures mean less."
        )
    else:
        said.append("The network had been trained on the same training split, as its fingerprint shows.")
    return said


def budget_finding(repair: Repair) -> str:
    """The budget of the treatments, which is the same for all of them."""
    if repair.budget is None:
        return "Every treatment diverged, and was stopped before the end of its budget."
    short = any(one.diverged for treatments in repair.roles.values() for one in treatments)
    stopped = "; those that diverged were stopped before its end" if short else ""
    return f"Every treatment had the same budget: {counted(repair.budget, 'step')} on the training split{stopped}."


def control_findings(repair: Repair) -> list[str]:
    """Whether the diagnosis chose better than each control, in a sentence each."""
    found = []
    for role, advantage in repair.advantages().items():
        difference = advantage.interval
        if difference.n == 0:
            found.append(f"Against {role} ({control_help(role)}): undecided, because one of the two always diverged.")
            continue
        seeds = f"{difference.n} seed{'s' if difference.n != 1 else ''}"
        has_width = difference.n > 1 and difference.low < difference.high
        interval = f", 95 % interval {difference.low:+.1f} to {difference.high:+.1f}" if has_width else ""
        reason = f"; {advantage.reason}" if advantage.reason else ""
        found.append(
            f"Against {role} ({control_help(role)}): {_STATUS[advantage.status]} with {seeds}; net "
            f"{difference.estimate:+.1f} items on average{interval}{reason}."
        )
    same = [role for role, found_ in repair.roles.items() if role != CHOSEN and repair.is_chosen(found_)]
    found += [f"Against {role}: it chose the same groups." for role in same]
    return found + [
        f"Against {role}: there is no such choice, because all groups that can be trained were chosen."
        for role in repair.impossible
    ]


def reading_findings(repair: Repair) -> list[str]:
    """How the differences from the controls are to be read: their intervals, and the sizes of the treatments."""
    advantages = repair.advantages()
    found = []
    if len(advantages) > 1:
        found.append(
            "An interval is that of one control, over the seeds of the treatment on this one test split; better or "
            f"worse is said with Holm's correction for all {len(advantages)} controls."
        )
    own = repair.num_trained(repair.roles[CHOSEN][0])
    sizes = {role: [repair.num_trained(one) for one in repair.roles[role]] for role in advantages}
    fewer = [role for role, counts in sizes.items() if min(counts) < own]
    more = [role for role, counts in sizes.items() if max(counts) > own]
    others = [f"{word} in {join_names(roles)}" for word, roles in (("fewer", fewer), ("more", more)) if roles]
    if others:
        found.append(
            f"{counted(own, 'parameter')} {'is' if own == 1 else 'are'} retrained in the chosen groups, "
            f"{' and '.join(others)}: a difference from these may be one of size and not of place."
        )
    return found


def label_findings(labels: DoubtfulLabels) -> list[str]:
    """The number of doubtful labels, in sentences."""
    count, accuracy = len(labels.doubtful), 1.0 - labels.misclassified / labels.examples
    has = f"{count:,} have" if count > 1 else f"{count or 'none'} has"
    advice = f": check {'those' if count > 1 else 'it'} before blaming layers" if count else ""
    return [
        f"Of {counted(labels.misclassified, 'misclassified example')} of the {labels.split} split, {has} a doubtful "
        f"label by confident learning (cleanlab){advice}. The network predicts {accuracy:.1%} of that split correctly; "
        "the lower this share, the less reliable these flags are."
    ]
