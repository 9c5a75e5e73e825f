"""Claims about commands as text: a command that continues a comparison is completed from the one before."""

import pytest

from hf_critmom.experiments.comparison.command_lines import completed


@pytest.mark.parametrize(
    ("given", "earlier", "then"),
    [
        ("compare --num_seeds 5", "compare --arms a b --num_seeds 3", "compare --num_seeds 5 --arms a b"),
        ("compare", "compare --num_seeds=3 --targets 0.9 0.95", "compare --num_seeds 5 --targets 0.9 0.95"),
        ("compare --num-seeds=5", "compare --num_seeds 3", "compare --num-seeds=5"),
        ("compare --margin 0.2", "compare --margin 0.2 --workers 2 --engine ray", "compare --margin 0.2"),
        ("compare", "compare --threads_per_worker 2 --workers 4", "compare --threads_per_worker 2"),
        ("compare --num_seeds 5", "compare --until_decided --max_seeds 4", "compare --num_seeds 5"),
        ("compare --output_dir b", "compare --output_dir a --bf16", "compare --output_dir b --bf16"),
        (
            "compare --script t.py --num_seeds 5 -- --lr 1",
            "compare --script t.py --arms adamw -- --lr 1 --own",
            "compare --script t.py --num_seeds 5 --arms adamw -- --lr 1",
        ),
        ("compare", "compare --claim 'a < b' 'a < c'", "compare --claim 'a < b' 'a < c'"),
        ("compare --num_seeds 5", "compare --seed 43 --num_seeds 3", "compare --num_seeds 5"),  # from the default seed
        ("compare", "compare --seed 43 --num_seeds 3", "compare --seed 43 --num_seeds 5"),
        ("compare", "compare --claim 'a < b", "compare"),  # kept for people by an early plan
        ("compare", "compare --arms a && compare --arms b", "compare"),  # of a merge
    ],
)
def test_what_only_the_earlier_command_says_is_kept(given: str, earlier: str, then: str) -> None:
    assert completed(given, earlier, seeds=5) == then
