"""Claims about which arm is faster: the paper's, the user's, and every arm against the baseline."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from hf_critmom.experiments.comparison.arms.arm import TUNED_SUFFIX
from hf_critmom.experiments.comparison.errors import ComparisonError

EVERY_OTHER = "all"
"""Name that stands for every other arm in a user's claim."""


@dataclass(frozen=True)
class Claim:
    """A claim about time to target, fixed before the runs.

    Attributes:
        text: The claim as a sentence without a full stop.
        arm: The arm that should be faster.
        baselines: Arms than which it should be faster; empty for all others except tuned variants.
        highest_only: Whether only the hardest target counts.
        same_learning_rate: Whether the claim is about arms with the same learning rate.
        primary: Whether the comparison is made for this claim: primary claims share half of the error probability, the
            others share the other half.
    """

    text: str
    arm: str
    baselines: tuple[str, ...]
    highest_only: bool = False
    same_learning_rate: bool = False
    primary: bool = False

    @property
    def first(self) -> bool:
        """Whether it claims to be faster than every other arm."""
        return not self.baselines

    def rivals(self, arms: Sequence[str]) -> tuple[str, ...]:
        """The arms than which the claim's arm should be faster.

        Tuned variants are not among all others, because a tuned variant may be the arm itself.

        Args:
            arms: Names of the arms that have results.
        """
        return self.baselines or tuple(name for name in arms if name != self.arm and not name.endswith(TUNED_SUFFIX))


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "critmom is faster than constant momentum at the same learning rate",
        "critmom",
        ("constant",),
        same_learning_rate=True,
        primary=True,
    ),
    Claim("critmom is faster than its matched control", "critmom", ("matched",)),
    Claim("critmom, tuned, is faster than constant momentum, tuned", "critmom_tuned", ("constant_tuned",)),
    Claim("hybrid is the first to reach the high target", "hybrid", (), highest_only=True),
    Claim(
        "critmom_adamw is faster than AdamW at the same learning rate",
        "critmom_adamw",
        ("adamw",),
        same_learning_rate=True,
    ),
    Claim("critmom_adamw, tuned, is faster than AdamW, tuned", "critmom_adamw_tuned", ("adamw_tuned",)),
)
"""The paper's claims (the first and the fourth), and claims about the controls that they have to survive."""


def parse_claim(text: str, arms: Sequence[str]) -> Claim:
    """Parses a claim as ``--claim`` states it: "A < B" or "B > A", A is faster than B; "A < all", than every other arm.

    Args:
        text: The claim.
        arms: Names of the arms of the comparison.

    Raises:
        ComparisonError: If it has another form, or names an arm that the comparison does not have.
    """
    found = re.fullmatch(r"\s*([^<>]*[^<>\s])\s*([<>])\s*([^<>]*[^<>\s])\s*", text)
    if found is None:
        raise ComparisonError(
            f'--claim "{text}" is not a claim: write "A < B" for "A takes fewer steps than B", or "A < {EVERY_OTHER}".'
        )
    left, sign, right = found.groups()
    arm, baseline = (left, right) if sign == "<" else (right, left)
    every_other = baseline == EVERY_OTHER and baseline not in arms
    for name in [arm] if every_other else [arm, baseline]:
        if name not in arms:
            near = difflib.get_close_matches(name, arms, n=1)
            meant = f"did you mean {near[0]}?" if near else "add it to --arms, or leave the claim out."
            raise ComparisonError(
                f'--claim "{text}" is about the arm {name}, which is not among {", ".join(arms)}: {meant}'
            )
    if arm == baseline:
        raise ComparisonError(f'--claim "{text}" compares the arm {arm} with itself: name two arms.')
    if every_other:
        return Claim(f"{arm} is faster than every other arm", arm, (), primary=True)
    return Claim(f"{arm} is faster than {baseline}", arm, (baseline,), primary=True)


def claims_of(
    arms: Sequence[str], baseline: str, user_claims: Sequence[Claim] = (), table: pd.DataFrame | None = None
) -> tuple[Claim, ...]:
    """The claims of a comparison, each pair of arms once.

    The user's primary claims come first, then those of the paper that are about an arm of the comparison, then the
    user's other ones, then every other arm against the baseline: a tuned variant against the tuned baseline, if there
    is one. Each of the user's claims is also about the tuned variants of its arms if there are any.

    Args:
        arms: Names of the arms that have results, including tuned variants.
        baseline: The arm that the others are compared with.
        user_claims: The user's claims. If any of them is primary, none of the paper's claims is.
        table: The table of results. A claim about arms of the same learning rate, which these do not have, cannot be
            tested, so that their pair has another claim as well.
    """
    first, later = ([claim for claim in user_claims if claim.primary == primary] for primary in (True, False))
    known = [replace(claim, primary=claim.primary and not first) for claim in CLAIMS if claim.arm in arms]
    found = [*first, *_of_tuned_variants(first, arms), *known, *later, *_of_tuned_variants(later, arms)]
    tuned_baseline = f"{baseline}{TUNED_SUFFIX}"
    for arm in arms:
        against = tuned_baseline if arm.endswith(TUNED_SUFFIX) and tuned_baseline in arms else baseline
        if arm not in (baseline, tuned_baseline):
            found.append(Claim(f"{arm} is faster than {against}", arm, (against,)))
    once: dict[frozenset[str] | str, Claim] = {}
    for claim in found:
        alone = claim.first or not (table is None or _has_its_learning_rate(claim, table))
        once.setdefault(claim.text if alone else frozenset((claim.arm, *claim.baselines)), claim)
    return tuple(once.values())


def _of_tuned_variants(claims: Sequence[Claim], arms: Sequence[str]) -> list[Claim]:
    """Claims about two arms as claims about the tuned variants of both, as far as the comparison has these."""
    found = []
    for claim in claims:
        arm, *baselines = (f"{name}{TUNED_SUFFIX}" for name in (claim.arm, *claim.baselines))
        if baselines and {arm, *baselines} <= {*arms}:
            found.append(
                replace(claim, text=f"{arm} is faster than {', '.join(baselines)}", arm=arm, baselines=tuple(baselines))
            )
    return found


def claim_title(claim: Claim) -> str:
    """The arms that a claim compares, such as "critmom against constant"."""
    against = ", ".join(claim.baselines) or "every other arm"
    return f"{claim.arm} against {against}{', highest target only' if claim.highest_only else ''}"


def why_untested(claim: Claim, table: pd.DataFrame, planned: Sequence[str] = ()) -> str:
    """Why a claim cannot be tested; empty if it can.

    Args:
        claim: The claim.
        table: The table of results at one budget.
        planned: Names of the planned arms, all of which a claim to be first is about.
    """
    arms = list(dict.fromkeys(table["arm"]))
    if missing := [name for name in (claim.arm, *claim.rivals(planned)) if name not in arms]:
        return f"it needs the arm{'s' if len(missing) > 1 else ''} {' and '.join(missing)}"
    if not claim.rivals(arms):
        return "there is no other arm"
    if not _has_its_learning_rate(claim, table):
        return "the arms have different learning rates"
    return ""


def claim_weights(claims: Sequence[Claim]) -> list[float]:
    """The share of the error probability with which each claim starts; they sum to 1.

    Primary claims share one half, and the others the other half; if all are of one kind, they share all of it. Weights
    that are fixed before the runs control the error over all claims as equal weights do (Holm, Scand. J. Statist. 6
    (1979) 65).

    Args:
        claims: The claims that can be tested.
    """
    primary = sum(claim.primary for claim in claims)
    if primary in (0, len(claims)):
        return [1.0 / len(claims)] * len(claims)
    return [0.5 / primary if claim.primary else 0.5 / (len(claims) - primary) for claim in claims]


def _has_its_learning_rate(claim: Claim, table: pd.DataFrame) -> bool:
    """Whether the arms of a claim that is about one learning rate have one."""
    if not claim.same_learning_rate or "peak_learning_rate" not in table:  # in tables of version 0.1, all arms had one
        return True
    return table[table["arm"].isin([claim.arm, *claim.baselines])]["peak_learning_rate"].nunique(dropna=False) <= 1
