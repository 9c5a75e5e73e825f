"""The Jinja environment that renders all cards and pages."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hf_critmom.reporting.text import markdown_block, markdown_code, markdown_text, printable


@cache
def jinja_environment() -> Environment:
    """The environment: undefined variables are errors, and HTML templates escape all text.

    In Markdown templates, foreign text needs a filter: ``md`` in sentences, ``md_code`` as inline code, ``md_block`` as
    a code block. Control characters are replaced everywhere.
    """
    environment = Environment(
        loader=PackageLoader("hf_critmom.reporting"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
        autoescape=lambda name: name is not None and name.endswith(".html.jinja"),
    )
    environment.filters.update(md=markdown_text, md_code=markdown_code, md_block=markdown_block)
    return environment


def _printable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def render(template: str, **context: Any) -> str:
    """Renders a template from ``reporting/templates``.

    Args:
        template: File name without ``.jinja``, such as ``comparison.md``.
        context: Variables of the template.
    """
    return jinja_environment().get_template(f"{template}.jinja").render(**context)
