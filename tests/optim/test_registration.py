"""Claims about how Transformers learns the optimizers' names, and about the factory that needs no registration."""

import copy
import enum
import importlib
import json
import math
import pickle
import types

import pytest
import torch
import transformers.trainer_optimizer
import transformers.training_args
from helpers.tiny_models import Line
from transformers import HfArgumentParser, Trainer, TrainingArguments
from transformers.trainer_utils import HPSearchBackend
from transformers.training_args import OptimizerNames

import hf_critmom
from hf_critmom import CritMomSGD, critical_momentum, critmom_optimizer, register
from hf_critmom.damping import RULES
from hf_critmom.errors import InputError
from hf_critmom.optim import OPTIMIZERS, RegistrationError

any_name = pytest.mark.parametrize("name", OPTIMIZERS)
sgd_name = pytest.mark.parametrize("name", ["critmom", "critmom_hybrid"])

SGD_OPTIONS = ("rule", "hold", "curvature", "nesterov")


@pytest.fixture
def arguments(tmp_path):
    """Makes training arguments: ``arguments(optim="critmom")``."""

    def make(**fields):
        return TrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, **fields)

    return make


def built(cls, kwargs):
    """The optimizer as the Trainer would build it, over one parameter."""
    return cls([torch.nn.Parameter(torch.ones(2))], **kwargs)


def by_name(args):
    return built(*Trainer.get_optimizer_cls_and_kwargs(args))


def by_factory(args):
    return built(*critmom_optimizer(args, name=args.optim.value))


either_way = pytest.mark.parametrize("make", [by_name, by_factory])


@any_name
def test_training_arguments_and_their_parser_know_every_name(name, tmp_path):
    (args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(
        ["--output_dir", str(tmp_path), "--optim", name, "--learning_rate", "0.04"]
    )
    assert args.optim == name
    assert args.optim in OptimizerNames
    cls, kwargs = Trainer.get_optimizer_cls_and_kwargs(args)
    assert cls is OPTIMIZERS[name].cls
    assert kwargs["lr"] == 0.04
    assert isinstance(built(cls, kwargs), cls)


def test_the_parser_offers_the_names_and_refuses_others(capsys):
    parser = HfArgumentParser(TrainingArguments)
    with pytest.raises(SystemExit):
        parser.parse_args(["--optim", "critmomentum"])
    refusal = capsys.readouterr().err
    for name in OPTIMIZERS:
        assert name in refusal


def test_names_of_transformers_itself_still_mean_what_they_meant(arguments):
    cls, _ = Trainer.get_optimizer_cls_and_kwargs(arguments(optim="sgd"))
    assert cls is torch.optim.SGD
    with pytest.raises(ValueError, match="critmomentum"):
        OptimizerNames("critmomentum")


@any_name
def test_a_registered_name_behaves_like_a_member_from_the_start(name):
    member = OptimizerNames(name)
    assert member is OptimizerNames[name.upper()] is getattr(OptimizerNames, name.upper())
    assert isinstance(member, OptimizerNames) and isinstance(member, str)
    assert member == name and member.value == name and member.name == name.upper()
    assert list(OptimizerNames).count(member) == 1
    assert {member: 1}[OptimizerNames(name)] == 1
    assert str(member) == str(OptimizerNames("sgd")).replace("SGD", name.upper())


def test_registering_again_changes_nothing():
    members = {name: id(member) for name, member in OptimizerNames.__members__.items()}
    handlers = dict(transformers.trainer_optimizer._OPTIMIZER_HANDLERS)
    register()
    hf_critmom.register()
    importlib.reload(hf_critmom)
    assert {name: id(member) for name, member in OptimizerNames.__members__.items()} == members
    assert handlers == transformers.trainer_optimizer._OPTIMIZER_HANDLERS
    assert len(list(OptimizerNames)) == len(members)


@either_way
def test_critmom_is_the_papers_rule_and_the_hybrid_holds_nine_tenths(make, arguments):
    critmom = make(arguments(optim="critmom", learning_rate=0.04))
    hybrid = make(arguments(optim="critmom_hybrid", learning_rate=0.04))
    assert type(critmom) is CritMomSGD and type(hybrid) is CritMomSGD
    for optimizer, hold in ((critmom, None), (hybrid, 0.9)):
        group = optimizer.param_groups[0]
        assert (group["lr"], group["rule"], group["hold"], group["curvature"]) == (0.04, "linear", hold, 1.0)
        assert group["nesterov"] is False


@either_way
@pytest.mark.parametrize(
    ("optim_args", "expected"),
    [
        ("", {}),
        ("rule=exact", {"rule": "exact"}),
        ("nesterov=true", {"nesterov": True}),
        ("nesterov=False", {"nesterov": False}),
        ("hold=0.8", {"hold": 0.8}),
        ("hold=none", {"hold": None}),
        ("rule=exponential, hold=0.8, curvature=2, nesterov=1", None),
    ],
)
@sgd_name
def test_options_arrive_parsed(make, optim_args, expected, name, arguments):
    if expected is None:
        expected = {"rule": "exponential", "hold": 0.8, "curvature": 2.0, "nesterov": True}
    group = make(arguments(optim=name, optim_args=optim_args)).param_groups[0]
    preset = {"rule": "linear", "hold": 0.9 if name == "critmom_hybrid" else None, "curvature": 1.0, "nesterov": False}
    assert {option: group[option] for option in SGD_OPTIONS} == {**preset, **expected}


@either_way
@pytest.mark.parametrize(
    ("optim_args", "named"),
    [
        ("momentum=0.9", ["critmom", "momentum", *SGD_OPTIONS]),
        ("Rule=exact", ["Rule", *SGD_OPTIONS]),
        ("rule=exact,weight_decay=0.1", ["weight_decay", *SGD_OPTIONS]),
        ("rule=quadratic", ["rule", "quadratic", *RULES]),
        ("nesterov=maybe", ["nesterov", "maybe", "true or false"]),
        ("hold=1.5", ["hold", "1.5", "between 0 and 1"]),
        ("hold=much", ["hold", "much", "between 0 and 1"]),
        ("curvature=-1", ["curvature", "-1", "positive"]),
        ("curvature=nan", ["curvature", "nan", "positive"]),
    ],
)
def test_a_bad_option_is_named_with_the_known_ones(make, optim_args, named, arguments):
    with pytest.raises(ValueError) as error:
        make(arguments(optim="critmom", optim_args=optim_args))
    for word in named:
        assert word in str(error.value)


@either_way
@pytest.mark.parametrize(
    ("optim_args", "named"), [("=exact", ["'=exact'", "name=value"]), ("rule=exact,rule=linear", ["rule", "twice"])]
)
def test_option_text_is_read_strictly(make, optim_args, named, arguments):
    with pytest.raises(InputError) as error:
        make(arguments(optim="critmom", optim_args=optim_args))
    for word in named:
        assert word in str(error.value)


@either_way
@pytest.mark.parametrize(
    ("optim_args", "named"),
    [
        ("nesterov", ["'nesterov'"]),
        ("rule=exact,nesterov", ["'nesterov'"]),
        ("rule=exact=linear", ["'rule=exact=linear'"]),
        ('{"rule": "exact", "hold": 0.9}', ["JSON object"]),
        ({"rule": "exact"}, ["JSON object", "exact"]),
        (["rule=exact"], ["['rule=exact']"]),
    ],
)
def test_option_text_that_cannot_be_taken_apart_is_a_sentence(make, optim_args, named, arguments):
    with pytest.raises(InputError) as error:
        make(arguments(optim="critmom", optim_args=optim_args))
    for word in (*named, "--optim_args", "name=value pairs separated by commas"):
        assert word in str(error.value)


def test_option_text_of_other_optimizers_still_reaches_them(arguments):
    args = arguments(optim="sgd", optim_args="momentum=0.5, nesterov=true")
    group = built(*Trainer.get_optimizer_cls_and_kwargs(args)).param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (0.5, True)


@either_way
@any_name
@pytest.mark.parametrize("lr", [0.0, -0.1, math.nan, math.inf])
def test_a_learning_rate_that_trains_nothing_is_refused(make, name, lr, arguments):
    with pytest.raises(ValueError, match="learning rate must be positive and finite") as error:
        make(arguments(optim=name, learning_rate=lr))
    assert str(lr) in str(error.value) and name in str(error.value)


def test_the_factory_takes_the_learning_rate_from_the_arguments(arguments):
    cls, kwargs = critmom_optimizer(arguments(learning_rate=0.07))
    assert cls is CritMomSGD
    assert kwargs["lr"] == 0.07
    assert "weight_decay" not in kwargs  # the Trainer's own param groups carry it


def test_the_factory_makes_a_new_dictionary_each_time(arguments):
    args = arguments()
    for name in OPTIMIZERS:
        _, first = critmom_optimizer(args, name=name)
        expected = dict(first)
        first.clear()
        assert critmom_optimizer(args, name=name)[1] == expected


@pytest.mark.parametrize("trainer_cls", [Trainer, hf_critmom.CritMomTrainer])
def test_what_a_trial_of_a_hyperparameter_search_sets_reaches_the_optimizer(trainer_cls, arguments):
    """A search writes a trial's values into the arguments, long after the factory was called."""
    args = arguments(learning_rate=0.1)
    pair = critmom_optimizer(args, nesterov=True)
    trainer = trainer_cls(args=args, model_init=Line, optimizer_cls_and_kwargs=pair)
    trainer.hp_search_backend = HPSearchBackend.WANDB  # whose trials are dictionaries
    for trial in ({"learning_rate": 0.02}, {"learning_rate": 0.05, "optim_args": "rule=exact"}):
        trainer._hp_search_setup(trial)  # what `train` does with a trial, before it creates the optimizer
        trainer.optimizer = None
        group = trainer.create_optimizer().param_groups[0]
        assert group["lr"] == trial["learning_rate"]
        assert group["nesterov"] is True
        assert group["rule"] == ("exact" if "optim_args" in trial else "linear")
        assert group["momentum"] == critical_momentum(group["lr"], rule=group["rule"])


def test_a_learning_rate_that_was_fixed_at_the_factory_stays_and_that_is_said(arguments):
    args = arguments(learning_rate=0.1)
    cls, kwargs = critmom_optimizer(args, lr=0.03)
    assert built(cls, kwargs).param_groups[0]["lr"] == 0.03
    args.learning_rate = 0.2
    with pytest.warns(UserWarning, match="does not reach the optimizer") as said:
        assert built(cls, kwargs).param_groups[0]["lr"] == 0.03
    assert "0.2" in str(said[0].message) and "lr=0.03" in str(said[0].message)


def test_a_trials_learning_rate_that_trains_nothing_is_refused(arguments):
    args = arguments(learning_rate=0.1)
    cls, kwargs = critmom_optimizer(args)
    args.learning_rate = 0.0
    with pytest.raises(InputError, match="learning rate must be positive"):
        built(cls, kwargs)


def test_what_is_changed_by_hand_in_the_dictionary_stays(arguments):
    args = arguments(learning_rate=0.1)
    cls, kwargs = critmom_optimizer(args)
    kwargs.update(lr=0.04, hold=0.5)
    group = built(cls, kwargs).param_groups[0]
    assert (group["lr"], group["hold"]) == (0.04, 0.5)
    for twin in (copy.deepcopy(kwargs), pickle.loads(pickle.dumps(kwargs)), dict(kwargs)):
        assert twin == {"lr": 0.04, "hold": 0.5}


def test_overrides_win_over_option_text_and_presets(arguments):
    args = arguments(learning_rate=0.04, optim_args="rule=exact,curvature=2")
    _, kwargs = critmom_optimizer(args, name="critmom_hybrid", rule="exponential", hold=0.8, lr=0.01)
    assert kwargs == {"lr": 0.01, "rule": "exponential", "hold": 0.8, "curvature": 2.0}
    assert args.optim_args == "rule=exact,curvature=2" and args.learning_rate == 0.04


@pytest.mark.parametrize("overrides", [{"momentum": 0.9}, {"rule": "quadratic"}, {"hold": 2}, {"nesterov": "perhaps"}])
def test_overrides_are_checked_like_option_text(overrides, arguments):
    with pytest.raises(ValueError) as error:
        critmom_optimizer(arguments(), **overrides)
    for option, value in overrides.items():
        assert option in str(error.value)
        assert option == "momentum" or str(value) in str(error.value)


def test_an_unknown_optimizer_is_named_with_the_known_ones(arguments):
    with pytest.raises(ValueError) as error:
        critmom_optimizer(arguments(), name="adamw")
    assert "'adamw'" in str(error.value)
    for name in OPTIMIZERS:
        assert name in str(error.value)


@any_name
def test_training_arguments_survive_json_copies_and_pickles(name, arguments):
    args = arguments(optim=name, learning_rate=0.04)
    assert json.loads(args.to_json_string())["optim"] == name
    assert args.to_sanitized_dict()["optim"] == name
    for twin in (copy.deepcopy(args), copy.copy(args), pickle.loads(pickle.dumps(args))):
        assert twin.optim is args.optim
        assert type(by_name(twin)) is OPTIMIZERS[name].cls
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(args.optim, protocol)) is args.optim


ELSEWHERE = """
import importlib.abc, sys
import torch, transformers
from transformers.trainer_utils import HPSearchBackend
from transformers.training_args import OptimizerNames

class NotInstalled(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_critmom":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

assert "hf_critmom" not in sys.modules
finder = NotInstalled()
sys.meta_path.insert(0, finder)
try:
    torch.load("training_args.bin", weights_only=False)
except ImportError as error:
    assert "hf_critmom" in str(error), error
else:
    raise AssertionError("unpickled without the package")

sys.meta_path.remove(finder)
args = torch.load("training_args.bin", weights_only=False)
assert args.optim is OptimizerNames("critmom_hybrid")
print(transformers.Trainer.get_optimizer_cls_and_kwargs(args)[0].__name__)
"""


def test_a_saved_run_unpickles_where_the_package_is_installed_and_says_so_where_not(arguments, tmp_path, run_bare):
    torch.save(arguments(optim="critmom_hybrid"), tmp_path / "training_args.bin")
    finished = run_bare("-c", ELSEWHERE)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["CritMomSGD"]


class _NamesWithoutStrings(enum.Enum):
    SGD = "sgd"


CHANGES = {
    "no handlers": {"_OPTIMIZER_HANDLERS": None},
    "handlers of another kind": {"_OPTIMIZER_HANDLERS": lambda context: None},
    "handlers that nobody may add to": {"_OPTIMIZER_HANDLERS": types.MappingProxyType({OptimizerNames("sgd"): None})},
    "handlers by other keys": {"_OPTIMIZER_HANDLERS": {"SGD": None}},
    "no names": {"OptimizerNames": None},
    "names in a list": {"OptimizerNames": ["sgd", "adamw_torch"]},
    "names from a function": {"OptimizerNames": str, "_OPTIMIZER_HANDLERS": {"sgd": None}},
    "names that are not strings": {
        "OptimizerNames": _NamesWithoutStrings,
        "_OPTIMIZER_HANDLERS": {_NamesWithoutStrings.SGD: None},
    },
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_transformers_that_cannot_be_extended_is_met_with_a_sentence(change, monkeypatch):
    for name, value in change.items():
        module = transformers.training_args if name == "OptimizerNames" else transformers.trainer_optimizer
        if value is None:
            monkeypatch.delattr(module, name)
        else:
            monkeypatch.setattr(module, name, value)
    with pytest.raises(RegistrationError) as error:
        register()
    for word in (transformers.__version__, "--optim critmom", "optimizer_cls_and_kwargs=hf_critmom.critmom_optimizer"):
        assert word in str(error.value)


CHANGED_TRANSFORMERS = """
import warnings
import torch, transformers.trainer
from transformers import TrainingArguments, trainer_optimizer
del trainer_optimizer._OPTIMIZER_HANDLERS

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import hf_critmom
said = [str(warning.message) for warning in caught if "critmom_optimizer" in str(warning.message)]
assert len(said) == 1, caught

args = TrainingArguments(output_dir="run", use_cpu=True, learning_rate=0.04, max_steps=1, save_strategy="no")
data = [{"x": torch.ones(2), "labels": torch.ones(1)}] * 8

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x, labels):
        return {"loss": (self.layer(x) - labels).pow(2).mean()}

try:
    hf_critmom.CritMomTrainer(Model(), args, train_dataset=data)
except hf_critmom.optim.RegistrationError as error:
    assert "critmom_optimizer" in str(error), error
else:
    raise AssertionError("a trainer without an optimizer")

for trainer_cls in (transformers.Trainer, hf_critmom.CritMomTrainer):
    pair = hf_critmom.critmom_optimizer(args, name="critmom_hybrid")
    trainer = trainer_cls(Model(), args, train_dataset=data, optimizer_cls_and_kwargs=pair)
    trainer.train()
    assert isinstance(trainer.optimizer.optimizer, hf_critmom.CritMomSGD)
print("trained")
"""


def test_where_names_cannot_be_registered_importing_warns_and_the_factory_still_trains(run_bare):
    finished = run_bare("-c", CHANGED_TRANSFORMERS)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1] == "trained"


IMPORTED_TWICE = """
import importlib, pickle, sys
import hf_critmom
from transformers.trainer_utils import HPSearchBackend
from transformers.training_args import OptimizerNames

before = list(OptimizerNames)
for name in [name for name in sys.modules if name.split(".")[0] == "hf_critmom"]:
    del sys.modules[name]
again = importlib.import_module("hf_critmom")
assert again is not hf_critmom
assert list(OptimizerNames) == before
assert pickle.loads(pickle.dumps(OptimizerNames("critmom"))) is OptimizerNames("critmom")
print(again.CritMomTrainer.__name__)
"""


@pytest.mark.slow
def test_a_second_import_from_scratch_is_harmless(run_bare):
    finished = run_bare("-c", IMPORTED_TWICE)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["CritMomTrainer"]
