"""The outcome of a repair in sentences."""

from hf_critmom.experiments.repair.results import DoubtfulLabels, Repair
from hf_critmom.experiments.repair.selection import CHOSEN, control_help
from hf_critmom.reporting.intervals import Interval

UNDECIDED = "undecided"
_STATUS = {
    "better": "the chosen groups were better",
    "worse": "the chosen groups were worse",
    UNDECIDED: "undecided",
}


def outcome(repair: Repair) -> str:
    """The outcome of the repair, in two sentences."""
    found = repair.verification
    if found is None:
        treated = repair.roles[CHOSEN][0]
        return (
            f"The treatment with seed {treated.seed} diverged after {treated.steps:,} steps: its loss, weights or "
            "predictions are no longer finite. There is no repaired model: try a lower --learning_rate."
        )
    before, after, word = found.accuracy_before, found.accuracy_after, outcome_word(repair)
    said = (
        "By this test, the effect of the repair cannot be told from chance"
        if word == UNDECIDED
        else f"The repair {word}"
    )
    return (
        f"Of {found.items:,} test items, {found.items - found.right_before:,} were wrong: {found.fixed:,} of them were "
        f"fixed, and {found.broken:,} that had been right were broken, net {found.net:+,}; accuracy {before:.4f} "
        f"before, {after:.4f} after. {said} ({found.test}, p = {found.pvalue:.2g})."
    )


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


def control_findings(repair: Repair) -> list[str]:
    """Whether the diagnosis chose better than each control, in a sentence each."""
    found = []
    for role, advantage in repair.advantages().items():
        if advantage.n == 0:
            found.append(f"Against {role} ({control_help(role)}): undecided, because one of the two always diverged.")
            continue
        seeds = f"{advantage.n} seed{'s' if advantage.n != 1 else ''}"
        interval = "" if advantage.n < 2 else f", 95 % interval {advantage.low:+.1f} to {advantage.high:+.1f}"
        status = _STATUS[advantage_status(advantage)]
        found.append(
            f"Against {role} ({control_help(role)}): {status} with {seeds}; net {advantage.estimate:+.1f} "
            f"items on average{interval}."
        )
    same = [role for role, found_ in repair.roles.items() if role != CHOSEN and repair.is_chosen(found_)]
    return found + [f"Against {role}: it chose the same groups." for role in same]


def advantage_status(advantage: Interval) -> str:
    """Whether the chosen groups were "better" or "worse" than a control, or it is "undecided"."""
    if advantage.n > 1 and advantage.low > 0.0:
        return "better"
    return "worse" if advantage.n > 1 and advantage.high < 0.0 else "undecided"


def label_findings(labels: DoubtfulLabels) -> list[str]:
    """The number of doubtful labels, in sentences."""
    count, accuracy = len(labels.doubtful), 1.0 - labels.misclassified / labels.examples
    has = "has" if count == 1 else "have"
    return [
        f"Of {labels.misclassified:,} misclassified examples of the {labels.split} split, {count:,} {has} a doubtful "
        f"label by confident learning (cleanlab): check those before blaming layers. The network predicts "
        f"{accuracy:.1%} of that split correctly; the lower this share, the less its doubts mean."
    ]
