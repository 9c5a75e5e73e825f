"""What the Hub says against the front matter of cards."""

import re
from typing import Any

import yaml

LICENSES = ("apache-2.0", "mit", "other")
SDKS = ("gradio", "docker", "static")
COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")


def front_matter_errors(card: str, kind: str) -> list[str]:
    """What the Hub would say against a card's front matter."""
    match = re.match(r"\s*---\r?\n(.*?)\r?\n---\s", card, re.DOTALL)
    if match is None:
        return []
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"The YAML cannot be read: {error}"]
    errors = []
    if data.get("license") not in (None, *LICENSES):
        errors.append(f'"license" must be one of {", ".join(LICENSES)}')
    if kind == "space":
        errors += space_errors(data)
    if kind == "dataset":
        for config in data.get("configs", []):
            if not isinstance(config.get("config_name"), str) or not config.get("data_files"):
                errors.append('"configs" must have a name and data files')
    for model in data.get("model-index", []):
        if not isinstance(model.get("name"), str) or not model.get("results"):
            errors.append('"model-index" must have a name and results')
        for result in model.get("results", []):
            if not isinstance(result.get("task", {}).get("type"), str):
                errors.append('"model-index[0].results[0].task.type" is required')
            if not {"name", "type"} <= result.get("dataset", {}).keys():
                errors.append('"model-index[0].results[0].dataset" must have a name and a type')
            if any(not {"type", "value"} <= metric.keys() for metric in result.get("metrics", [{}])):
                errors.append('"model-index[0].results[0].metrics" must have types and values')
    return errors


def space_errors(data: dict[str, Any]) -> list[str]:
    """What the Hub would say against a Space's front matter."""
    errors = []
    if data.get("sdk") not in SDKS:
        errors.append(f'"sdk" must be one of {", ".join(SDKS)}')
    for color in ("colorFrom", "colorTo"):
        if data.get(color, "red") not in COLORS:
            errors.append(f'"{color}" must be one of {", ".join(COLORS)}')
    if len(data.get("short_description", "")) > 60:
        errors.append('"short_description" length must be less than or equal to 60 characters long')
    if re.fullmatch(r"[^\x00-\u2000]{1,2}", data.get("emoji", "?")) is None:
        errors.append('"emoji" must be an emoji')
    return errors
