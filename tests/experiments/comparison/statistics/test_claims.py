"""Claims about claims: which ones a comparison answers, and how a user states one."""

from dataclasses import replace

import pytest
from helpers.tables_by_hand import compared

from hf_critmom.experiments.comparison import ComparisonError
from hf_critmom.experiments.comparison.statistics.claims import (
    CLAIMS,
    Claim,
    claim_title,
    claim_weights,
    claims_of,
    parse_claim,
    why_untested,
)

ARMS = ["constant", "matched", "critmom", "hybrid"]


def pairs(*arms: str, baseline: str = "constant", claimed: tuple[Claim, ...] = ()) -> list[tuple[str, tuple[str, ...]]]:
    return [(claim.arm, claim.baselines) for claim in claims_of(arms, baseline, claimed)]


def test_the_papers_claims_come_by_themselves_and_then_every_arm_against_the_baseline() -> None:
    assert pairs(*ARMS) == [
        ("critmom", ("constant",)),
        ("critmom", ("matched",)),
        ("hybrid", ()),
        ("matched", ("constant",)),
        ("hybrid", ("constant",)),
    ]
    assert pairs("adamw", "lion", "muon", baseline="adamw") == [("lion", ("adamw",)), ("muon", ("adamw",))]


def test_a_comparison_without_the_papers_arms_answers_none_of_its_claims() -> None:
    assert pairs("constant") == []
    assert not {claim.text for claim in claims_of(["constant", "matched", "adamw"], "constant")} & {
        claim.text for claim in CLAIMS
    }


def test_every_pair_is_answered_once_whichever_way_round_it_is_claimed() -> None:
    claimed = (parse_claim("constant < critmom", ARMS),)
    assert pairs(*ARMS, claimed=claimed) == [
        ("constant", ("critmom",)),
        ("critmom", ("matched",)),
        ("hybrid", ()),
        ("matched", ("constant",)),
        ("hybrid", ("constant",)),
    ]


def test_tuned_variants_are_compared_with_the_tuned_baseline() -> None:
    arms = ["constant", "constant_tuned", "lion", "lion_tuned"]
    assert pairs(*arms) == [("lion", ("constant",)), ("lion_tuned", ("constant_tuned",))]
    assert pairs("constant", "lion", "lion_tuned")[-1] == ("lion_tuned", ("constant",))


def test_a_claim_of_the_user_is_also_about_the_tuned_variants_of_its_arms() -> None:
    arms = ("constant", "constant_tuned", "qhm", "qhm_tuned", "nesterov", "nesterov_tuned", "adamw")
    stated = [parse_claim(text, arms) for text in ("qhm < nesterov", "qhm < adamw", "qhm < all")]
    found = [claim_title(claim) for claim in claims_of(arms, "constant", stated) if claim.primary]
    assert found == [
        *("qhm against nesterov", "qhm against adamw", "qhm against every other arm"),
        "qhm_tuned against nesterov_tuned",
    ]


def test_rivals_of_a_claim_to_be_first_are_all_others_but_tuned_variants() -> None:
    first = next(claim for claim in CLAIMS if claim.first)
    assert first.rivals(["constant", "hybrid", "hybrid_tuned", "adamw"]) == ("constant", "adamw")


# ---------------------------------------------------------------------------------------------------- the user's claims


@pytest.mark.parametrize("text", ["lion < adamw", "lion<adamw", "  adamw  >  lion ", "adamw>lion"])
def test_less_than_means_faster(text: str) -> None:
    claim = parse_claim(text, ["adamw", "lion"])
    assert (claim.arm, claim.baselines, claim.primary) == ("lion", ("adamw",), True)
    assert claim.text == "lion is faster than adamw"


def test_names_with_colons_dots_and_brackets_are_names() -> None:
    arms = ["timm:lion", "torch.optim.Muon(lr=0.1)"]
    assert parse_claim("timm:lion < torch.optim.Muon(lr=0.1)", arms).baselines == (arms[1],)


def test_less_than_all_means_the_first() -> None:
    claim = parse_claim("lion < all", ["adamw", "lion"])
    assert claim.first and claim.arm == "lion" and not claim.highest_only
    assert parse_claim("lion < all", ["all", "lion"]).baselines == ("all",)  # an arm that is called so


@pytest.mark.parametrize(
    "text", ["", "lion", "lion <", "< adamw", "lion < adamw < muon", "lion = adamw", "<", "a <> b"]
)
def test_what_is_no_claim_is_refused_with_the_form_of_one(text: str) -> None:
    with pytest.raises(ComparisonError, match='write "A < B"') as caught:
        parse_claim(text, ["adamw", "lion"])
    assert "\n" not in str(caught.value)


def test_an_arm_that_is_not_there_is_named_with_the_nearest_one() -> None:
    with pytest.raises(ComparisonError, match=r"the arm lino, .* among adamw, lion: did you mean lion\?"):
        parse_claim("lino < adamw", ["adamw", "lion"])
    with pytest.raises(ComparisonError, match=r"the arm xyz, .*: add it to --arms"):
        parse_claim("lion < xyz", ["adamw", "lion"])
    with pytest.raises(ComparisonError, match="with itself"):
        parse_claim("lion < lion", ["adamw", "lion"])


# -------------------------------------------------------------------------------------------------------------- weights


def test_primary_claims_share_one_half() -> None:
    claims = claims_of(ARMS, "constant")
    assert [claim.primary for claim in claims] == [True, False, False, False, False]
    assert claim_weights(claims) == [0.5, 0.125, 0.125, 0.125, 0.125]


def test_claims_of_one_kind_share_alike() -> None:
    assert claim_weights(claims_of(["adamw", "lion", "muon"], "adamw")) == [0.5, 0.5]
    assert claim_weights([parse_claim("a < b", "ab")]) == [1.0]


def test_the_users_claims_are_primary_instead_of_the_papers() -> None:
    claims = claims_of(ARMS, "constant", [parse_claim("hybrid < matched", ARMS)])
    assert [claim.arm for claim in claims if claim.primary] == ["hybrid"]
    assert sum(claim_weights(claims)) == pytest.approx(1.0) and claim_weights(claims)[0] == 0.5


@pytest.mark.parametrize("later", ["hybrid < matched", "constant < critmom"])
def test_a_claim_that_results_may_have_led_to_weighs_no_more_than_any_pair(later: str) -> None:
    claims = claims_of(ARMS, "constant", [replace(parse_claim(later, ARMS), primary=False)])
    assert [claim.arm for claim in claims if claim.primary] == ["critmom"]
    assert {frozenset(later.split(" < "))} <= {frozenset((claim.arm, *claim.baselines)) for claim in claims}
    both = [parse_claim("matched < constant", ARMS), replace(parse_claim(later, ARMS), primary=False)]
    assert [claim.arm for claim in claims_of(ARMS, "constant", both) if claim.primary] == ["matched"]


# ------------------------------------------------------------------------------------------------------ what is missing


def test_a_claim_without_the_arm_that_it_needs_is_not_tested() -> None:
    same_rate, matched, *_, first = (CLAIMS[place] for place in (0, 1, 3))
    table = compared(critmom=[3, 3], hybrid=[3, 3])
    assert why_untested(same_rate, table) == "it needs the arm constant"
    assert why_untested(matched, table) == "it needs the arm matched"
    assert why_untested(parse_claim("a < b", "ab"), table) == "it needs the arms a and b"
    assert why_untested(first, compared(hybrid=[3, 3])) == "there is no other arm"
    assert why_untested(first, table) == ""


def test_arms_at_different_learning_rates_do_not_test_a_claim_about_the_same_one() -> None:
    table = compared(critmom=[3, 3, 3], constant=[6, 6, 6], matched=[6, 6, 6])
    table["peak_learning_rate"] = table["arm"].map({"critmom": 0.1, "constant": 0.02, "matched": 0.1})
    assert why_untested(CLAIMS[0], table) == "the arms have different learning rates"
    assert why_untested(CLAIMS[1], table) == ""  # the other claims do not depend on it
    table["peak_learning_rate"] = 0.1
    assert why_untested(CLAIMS[0], table) == ""


def test_a_pair_at_different_learning_rates_is_compared_without_the_claim_about_the_same_one() -> None:
    table = compared(critmom=[3, 3, 3], constant=[6, 6, 6])
    table["peak_learning_rate"] = table["arm"].map({"critmom": 0.1, "constant": 0.02})
    arms = ["critmom", "constant"]
    found = [claim.text for claim in claims_of(arms, "constant", table=table) if not why_untested(claim, table)]
    assert found == ["critmom is faster than constant"]
    table["peak_learning_rate"] = 0.1
    found = [claim.text for claim in claims_of(arms, "constant", table=table) if not why_untested(claim, table)]
    assert found == [CLAIMS[0].text]


def test_no_arm_is_called_the_first_before_all_planned_ones_have_results() -> None:
    table = compared(critmom=[3, 3], constant=[6, 6])
    claim = parse_claim("critmom < all", ["critmom", "constant", "adamw"])
    assert why_untested(claim, table, ["critmom", "constant", "adamw", "critmom_tuned"]) == "it needs the arm adamw"
    assert why_untested(claim, table, ["critmom", "constant"]) == ""


def test_results_of_before_learning_rates_were_recorded_are_of_one_learning_rate() -> None:
    table = compared(critmom=[3, 3, 3], constant=[6, 6, 6])
    assert table["peak_learning_rate"].isna().all()
    assert why_untested(CLAIMS[0], table.drop(columns="peak_learning_rate")) == ""
