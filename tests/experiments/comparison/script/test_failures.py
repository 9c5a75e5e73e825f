"""Claims about why a script failed, by the last lines of its log: one sentence that a person can act on."""

import pytest

from hf_critmom.experiments.comparison.script.processes import explain

PARSER = [
    '    raise ValueError(f"Some specified arguments are not used by the HfArgumentParser: {remaining_args}")',
    "ValueError: Some specified arguments are not used by the HfArgumentParser: ['--blah', '3']",
]
PROMPT = ["Password: ", '  File "/usr/lib/python3/getpass.py", line 76, in unix_getpass', "EOFError"]


@pytest.mark.parametrize(
    ("status", "lines", "sentence"),
    [
        (1, PARSER, "does not take the arguments ['--blah', '3']: expected"),
        (1, [PARSER[1].replace("'--blah', '3'", "'/run/arguments.json'")], "does not read a file of arguments"),
        (1, PROMPT, "asks for input, which nobody can enter"),
        (1, ["EOFError: Ran out of input"], "ended with status 1: EOFError: Ran out of input."),
        (-9, ["loading"], "was killed (signal 9, SIGKILL), perhaps because memory ran out; its last line: loading."),
        (-11, [], "was killed (signal 11, SIGSEGV); its last line: it printed nothing."),
        (2, ["usage: train.py", "train.py: error: argument --optim: invalid choice: 'ikfad' (choose from 'sgd')"],
         "has its own choices for --optim, and ikfad is not among them (choose from 'sgd')"),
    ],
)  # fmt: skip
def test_a_failure_is_explained(status: int, lines: list[str], sentence: str) -> None:
    assert sentence in explain("train.py", status, lines)


def test_a_failure_after_training_is_reported_as_one() -> None:
    assert explain("train.py", 3, ["saved"], trained=True) == "train.py ended with status 3 after its training: saved."
