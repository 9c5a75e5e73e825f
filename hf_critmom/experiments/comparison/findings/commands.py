"""Commands that a report shows: those that made its comparison, one that continues it, and one that adds seeds."""

import itertools
import shlex
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from hf_critmom.experiments.comparison.arms.arm import ARMS
from hf_critmom.experiments.comparison.arms.third_party import is_arm_spec, parse_arm
from hf_critmom.experiments.comparison.command_lines import (
    flag_values,
    script_has_flag,
    single_commands,
    with_flag,
    without_flag,
)
from hf_critmom.experiments.comparison.errors import ComparisonError
from hf_critmom.experiments.comparison.growth import covered_steps
from hf_critmom.experiments.comparison.pilot import has_pilot_targets
from hf_critmom.experiments.comparison.plan import Plan, with_tuned
from hf_critmom.storage.recorded_commands import recorded_path


def continuing_command(plan: Plan, folder: Path) -> str:
    """The command that makes the missing runs of a comparison: its plan's own, if that covers all of them.

    Args:
        plan: The comparison's plan.
        folder: Its folder.
    """
    try:
        argv, covered = _covering_command(plan, folder)
    except ValueError:  # an early plan keeps a command for people, who know what to do with it
        return plan.command
    if flag_values(argv, "--until_decided") is None and (plan.left_out or not covered.issuperset(plan.seeds)):
        argv = without_flag(argv, "--num_seeds")  # then the seeds are those of the plan
    return plan.command if argv == shlex.split(plan.command) else shlex.join(argv)


def recorded_commands(plan: Plan, folder: Path) -> list[str]:
    """The commands that, one after another in an empty folder, make a comparison as it is.

    The first one is the plan's own, or those of the parts that were merged, and the merge; the others grew the
    comparison afterwards and did not cover all of it.

    Args:
        plan: The comparison's plan.
        folder: Its folder.
    """
    later = plan.history[covered:] if (covered := covered_steps(plan)) else ()
    return list(dict.fromkeys([plan.command, *_merging(plan, folder), *(one.command for one in later)]))


def _merging(plan: Plan, folder: Path) -> list[str]:
    """The command that merged the parts that a plan's commands made; none if there was one, or they are not told apart.

    Parts made on several machines may have folders of the same name.
    """
    try:
        parts = single_commands(plan.command)
    except ValueError:  # an early plan keeps a command for people
        return []
    default = [f"comparison-{plan.task.name}"]
    folders = list(dict.fromkeys((flag_values(part, "--output_dir") or default)[0] for part in parts))
    if len(folders) < max(len(parts), 2):
        return []
    return [shlex.join([parts[0][0], "merge", *folders, "--output_dir", recorded_path(folder)])]


def command_for_seeds(plan: Plan, folder: Path, seeds: int, arms: Collection[str] | None = None) -> str:
    """The command that brings arms to a number of seeds; those that grow until they are decided, up to that number.

    Args:
        plan: The comparison's plan.
        folder: Its folder.
        seeds: The number of seeds, more than one of the arms has.
        arms: Names of the arms; None for every arm.
    """
    arms = plan.arms if arms is None else arms
    try:
        argv, covered = _covering_command(plan, folder)
    except ValueError:
        named = "" if {*arms} >= {*plan.arms} else f" --arms {shlex.join(arms)}"
        return f"{plan.command}{named} --num_seeds {seeds}"
    if not {*arms} >= {*plan.arms}:
        argv = _with_arms(argv, plan, arms)
    looks = plan.planned_looks
    grows = flag_values(argv, "--until_decided") is not None
    if grows or looks.first < looks.last:
        argv = argv if grows else _until_decided(argv)
        most = min([looks.last, *map(int, flag_values(argv, "--max_seeds") or ())])
        return shlex.join(with_flag(argv, "--max_seeds", [str(seeds)]) if seeds > most else argv)
    following = (seed for seed in itertools.count(max(plan.seeds) + 1) if seed not in plan.trial_seeds)
    wanted = [*itertools.islice(itertools.chain(plan.seeds, following), seeds)]
    missing = ({*wanted} - {*plan.seeds}) | (plan.seeds_lacking(with_tuned(arms)) & {*wanted})
    own_start = script_has_flag(argv, "--seed", "--data_seed")
    for start in (min(plan.seeds), min(missing)):
        counted = [seed for seed in range(start, max(missing) + 1) if seed not in plan.trial_seeds]
        as_before = start == min(covered, default=None)
        if {*counted} <= {*wanted} and (as_before or not own_start):
            argv = with_flag(argv, "--num_seeds", [str(len(counted))])
            return shlex.join(argv if as_before else with_flag(argv, "--seed", [str(start)]))
    # No consecutive seeds would be these: they are added one by one.
    return shlex.join(with_flag(_until_decided(argv), "--max_seeds", [str(seeds)]))


def _until_decided(argv: list[str]) -> list[str]:
    """A command that adds seeds until the claims are decided, instead of giving a number of them."""
    return with_flag(without_flag(argv, "--num_seeds"), "--until_decided")


def command_for_pilot(plan: Plan, folder: Path) -> str | None:
    """The command that makes the comparison anew beside it with targets from a pilot run; None if these are from one.

    Args:
        plan: The comparison's plan.
        folder: Its folder.
    """
    if has_pilot_targets(plan):
        return None
    try:
        argv, _ = _covering_command(plan, folder)
    except ValueError:
        return None
    argv = without_flag(argv, "--targets")
    if not plan.task.is_script:
        argv = with_flag(argv, "--pilot")
    if flag_values(argv, "--until_decided") is None:
        argv = with_flag(argv, "--num_seeds", [str(len(plan.seeds))])
    beside = folder.resolve().with_name(f"{folder.resolve().name}-pilot")
    return shlex.join(with_flag(argv, "--output_dir", [recorded_path(beside)]))


def _covering_command(plan: Plan, folder: Path) -> tuple[list[str], set[int]]:
    """The plan's command, with every arm and this folder, and the seeds that it covers as far as that is known."""
    argv, *others = single_commands(plan.command)
    arms, seeds = (set[str](), set[int]()) if others else _covered(plan)
    if not arms.issuperset(plan.arms):
        argv = _with_arms(argv, plan, plan.arms)
    (named,) = flag_values(argv, "--output_dir") or [f"comparison-{plan.task.name}"]
    if Path(named).name != folder.resolve().name:  # it was renamed, copied or merged
        argv = with_flag(argv, "--output_dir", [recorded_path(folder)])
    return argv, seeds


def _covered(plan: Plan) -> tuple[set[str], set[int]]:
    """Arms and seeds that the plan's command covers: it became the plan's because it left none out by then."""
    if not plan.history:
        return set(plan.arms), set(plan.seeds)
    history = plan.history[: covered_steps(plan)]
    return {arm for one in history for arm in one.arms}, {seed for one in history for seed in one.seeds}


def _with_arms(argv: list[str], plan: Plan, arms: Collection[str]) -> list[str]:
    """A command that names arms of a plan as the commands did that added them.

    Where no command names one of them, or two files of arms would be needed, it names none if it is about every arm:
    then the arms are those of the plan. Some of them it names as the plan does.
    """
    spelled: dict[str, str] = {}
    files: set[str] = set()
    for command in (plan.command, *(one.command for one in plan.history)):
        for one in single_commands(command):
            files.update(flag_values(one, "--arms_file") or ())
            for text in flag_values(one, "--arms") or ():
                with suppress(ComparisonError):  # an early version may have read it otherwise
                    spelled.setdefault(parse_arm(text).name if is_arm_spec(text) else text, text)
    spelled = {
        name: spelled.get(name, name) for name in plan.arms if name in arms and (name in spelled or name in ARMS)
    }
    argv = without_flag(argv, "--arms", "--arms_file")
    if len(spelled) < len(arms) or len(files) > 1:
        return argv if {*arms} >= {*plan.arms} else with_flag(argv, "--arms", [*arms])
    argv = with_flag(argv, "--arms_file", [*files]) if files else argv
    return with_flag(argv, "--arms", list(spelled.values()))
