"""Claims about training arguments of the commands: every flag is used, refused with the reason, or harmless."""

import math
from dataclasses import MISSING, fields

import pytest
from transformers import TrainingArguments

from hf_critmom.commands.compare import parse_comparison
from hf_critmom.commands.parser import dataclass_parser, parse_dataclasses
from hf_critmom.errors import InputError
from hf_critmom.experiments.repair.arguments import RepairTrainingArguments
from hf_critmom.training.arguments import recorded_training_arguments
from hf_critmom.training.flags import FLAGS, Ignored, Number, Refused, Used

DEFAULTS = {
    part.name: part.default if part.default is not MISSING else part.default_factory()
    for part in fields(TrainingArguments)
}


def compare(*flags):
    return parse_comparison([*flags, "--output_dir", "unused", "--use_cpu"]).training


def repair(*flags):
    parser = dataclass_parser("repair", (RepairTrainingArguments,))
    (args,) = parse_dataclasses(parser, [*flags, "--output_dir", "unused", "--use_cpu"])
    return args


def sentence(parse, *flags):
    with pytest.raises(InputError) as raised:
        parse(*flags)
    said = str(raised.value)
    assert "\n" not in said and said.endswith(".")
    return said


def test_every_field_of_the_installed_release_is_in_the_table_once():
    assert set(FLAGS) == set(DEFAULTS)
    assert all(isinstance(treatment, Used | Refused | Ignored) for treatment in FLAGS.values())


def test_the_defaults_pass_and_are_what_the_table_takes():
    for parse in (compare, repair):
        args = parse()
        for name, treatment in FLAGS.items():
            value = getattr(args, name)
            if isinstance(treatment, Used) and treatment.values is not None and value is not None:
                assert treatment.values.accepts(value), name


# ------------------------------------------------------------------------------------------------------------ refused

VALUES = {bool: "true", int: "7", float: "0.5", str: "something"}


def other_value(name):
    """A value of a flag that differs from its default, as text."""
    default, text = DEFAULTS[name], str(TrainingArguments.__dataclass_fields__[name].type)
    given = {
        "hub_strategy": "end", "logging_nan_inf_filter": "true", "eval_do_concat_batches": "false",
        "dataloader_in_order": "false", "skip_memory_metrics": "false", "include_for_metrics": "inputs",
        "train_sampling_strategy": "sequential", "activation_checkpointing_kwargs": '{"use_reentrant": false}',
        "gradient_checkpointing_kwargs": '{"use_reentrant": false}', "liger_kernel_config": '{"rope": true}',
    }  # fmt: skip
    return given.get(name) or ("true" if isinstance(default, bool) or "bool" in text else "something")


@pytest.mark.parametrize("parse", [compare, repair])
@pytest.mark.parametrize("name", [name for name, treatment in FLAGS.items() if isinstance(treatment, Refused)])
def test_a_refused_flag_is_refused_with_the_reason(name, parse):
    if name in ("parallelism_config", "liger_kernel_config"):  # no value on a command line
        said = sentence(parse, f"--{name}", other_value(name))
        assert f"--{name}" in said
    else:
        said = sentence(parse, f"--{name}", other_value(name))
        assert said == f"--{name} is not for this command: {FLAGS[name].reason}."


def test_pushing_names_its_own_command_and_a_token_is_forgotten():
    assert "hf-critmom push" in sentence(compare, "--push_to_hub")
    assert compare("--hub_token", "hf_abcdefghijklmnopqrstuvwxyz").hub_token is None


def test_flags_that_each_arm_decides_are_refused_in_a_comparison_alone():
    for name, value in (("adam_beta1", "0.8"), ("adam_beta2", "0.9"), ("adam_epsilon", "1e-4")):
        assert "every arm has its own" in sentence(compare, f"--{name}", value)
        assert getattr(repair("--optim", "adamw_torch", f"--{name}", value), name) == float(value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--optim", "critmom", "--adam_beta1", "0.8"), "--adam_beta1 would have no effect: critmom does not have it"),
        (("--optim", "sgd", "--adam_epsilon", "1e-4"), "--adam_epsilon would have no effect: sgd does not have it"),
        (("--optim", "critmom_adamw", "--adam_beta1", "0.8"), "the first beta of critmom_adamw follows"),
        (("--metric_for_best_model", "loss"), "--metric_for_best_model would have no effect"),
        (("--greater_is_better", "true"), "--greater_is_better would have no effect"),
        (("--fsdp_config", '{"min_num_params": 1}'), "it belongs to --fsdp"),
        (("--dataloader_prefetch_factor", "2"), "it needs workers"),
        (("--dataloader_persistent_workers",), "it needs workers: give --dataloader_num_workers, too"),
        (("--dataloader_multiprocessing_context", "spawn"), "it needs workers"),
    ],
)
def test_flags_without_an_effect_are_refused(flags, words):
    assert words in sentence(repair, *flags)


def test_the_second_beta_of_our_adamw_is_its_own():
    assert repair("--optim", "critmom_adamw", "--adam_beta2", "0.9").adam_beta2 == 0.9


def test_half_precision_gradients_need_an_accelerator():
    assert "--fp16 needs an accelerator: on a CPU, use --bf16" in sentence(compare, "--fp16")
    assert repair("--bf16").bf16


# ------------------------------------------------------------------------------------------------------------- numbers

NUMBERS = [
    name
    for name, default in DEFAULTS.items()
    if isinstance(FLAGS[name], Used)
    and (
        type(default) in (int, float)
        or any(kind in str(TrainingArguments.__dataclass_fields__[name].type) for kind in ("int", "float"))
    )
    and name not in ("include_num_input_tokens_seen", "logging_strategy", "eval_strategy", "save_strategy")
]


def test_every_number_is_bounded():
    assert {"learning_rate", "eval_steps", "save_total_limit", "seed", "ddp_timeout", "num_train_epochs"} <= set(
        NUMBERS
    )
    assert [name for name in NUMBERS if not isinstance(FLAGS[name].values, Number)] == []
    for name in NUMBERS:
        for value in (math.nan, math.inf, -math.inf, -5):
            assert not FLAGS[name].values.accepts(value), (name, value)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-5"])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_make_no_sense_are_a_sentence(name, value):
    said = sentence(compare, f"--{name}={value}")
    assert f"--{name}" in said


@pytest.mark.parametrize(
    "flag",
    [
        "--num_train_epochs=1e300", "--num_train_epochs=0", "--max_steps=0", "--max_steps=99999999999999",
        "--max_grad_norm=-1", "--label_smoothing_factor=5", "--label_smoothing_factor=1", "--eval_steps=0",
        "--seed=4294967296", "--seed=-1", "--dataloader_num_workers=99999", "--ddp_timeout=99999999999999999999",
        "--per_device_train_batch_size=99999999999999", "--gradient_accumulation_steps=0", "--save_total_limit=0",
        "--save_steps=0", "--logging_steps=0", "--warmup_steps=-1", "--weight_decay=-0.1", "--learning_rate=0",
        "--learning_rate=1e400", "--eval_delay=-1", "--eval_accumulation_steps=0", "--ddp_bucket_cap_mb=0",
        "--neftune_noise_alpha=-1", "--torch_empty_cache_steps=0", "--ddp_backend=carrier_pigeon",
        '--lr_scheduler_kwargs={"num_cycles": NaN}', '--lr_scheduler_kwargs={"a": [1, {"b": Infinity}]}',
        "--num_train_epochs=abc", "--seed=1.5", "--lr_scheduler_type=zigzag", "--eval_strategy=sometimes",
        "--logging_steps=1.5", "--eval_steps=2.5", "--lr_scheduler_kwargs={", "--lr_scheduler_kwargs=[1]",
        "--lr_scheduler_kwargs=cosine", "--dataloader_multiprocessing_context=thread",
        "--accelerator_config=nowhere.json", "--debug=everything",
    ],
)  # fmt: skip
def test_absurd_values_are_a_sentence(flag):
    assert flag.split("=")[0].removeprefix("--") in sentence(compare, flag)


def test_what_transformers_itself_cannot_use_is_a_sentence():
    assert "unexpected keyword argument 'even'" in sentence(compare, '--accelerator_config={"even": 1}')
    assert "fsdp" in sentence(compare, "--fsdp", "sometimes").lower()


def test_budgets_are_checked_one_by_one():
    for budgets in (("1", "nan"), ("nan", "1"), ("1", "1e300"), ("1", "-2")):
        assert "--num_train_epochs must be positive" in sentence(compare, "--num_train_epochs", *budgets)


@pytest.mark.parametrize(
    "flags",
    [
        ("--learning_rate", "1e-8"), ("--max_steps", "7"), ("--max_steps", "-1"), ("--seed", "4294967295"),
        ("--eval_strategy", "steps", "--eval_steps", "0.25"), ("--warmup_steps", "0.1"), ("--num_train_epochs", "0.5"),
        ("--label_smoothing_factor", "0.1"), ("--load_best_model_at_end", "--save_strategy", "epoch"),
        ("--load_best_model_at_end", "--save_strategy", "epoch", "--metric_for_best_model", "loss"),
        ("--do_train", "--do_eval", "--remove_unused_columns", "true", "--disable_tqdm", "false"),
        ("--dataloader_num_workers", "1", "--dataloader_persistent_workers", "--dataloader_prefetch_factor", "2"),
        ("--report_to", "none", "--logging_first_step", "--full_determinism", "--torch_compile"),
    ],
)  # fmt: skip
def test_sensible_values_are_taken(flags):
    assert compare(*flags).remove_unused_columns is False


def test_what_results_do_not_depend_on_is_not_recorded():
    args = compare("--seed", "7", "--logging_first_step", "--save_strategy", "epoch", "--dataloader_num_workers", "1")
    assert not {"seed", "logging_first_step", "save_strategy", "dataloader_num_workers"} & set(
        recorded_training_arguments(args)
    )
    recorded = recorded_training_arguments(compare("--dataloader_drop_last", "--max_grad_norm", "1.5"))
    assert recorded["dataloader_drop_last"] is True and recorded["max_grad_norm"] == 1.5


def test_words_are_listed_where_one_is_unknown():
    said = sentence(compare, "--lr_scheduler_type", "zigzag")
    assert said.startswith("--lr_scheduler_type must be one of linear, cosine, ") and said.endswith(", got zigzag.")
    assert "critmom_adamw" in sentence(repair, "--optim", "adamm")
