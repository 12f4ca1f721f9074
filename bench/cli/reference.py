"""The reference page, made from the models: `python -m bench.cli.reference` writes it anew."""

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any, get_type_hints

import typer
from pydantic import BaseModel

from bench.cli.app import COMMANDS, app
from bench.study import records
from bench.study.cases import Case, VARCase, methods
from bench.study.experiment import Experiment
from bench.study.folders import CODE

PAGE = CODE / "docs" / "guide" / "reference.md"
HEAD = """# Reference

Made by `python -m bench.cli.reference` from the models that check the files, so that it is current.
What the parts are for: [experiments and commands](experiments.md), [measuring](measuring.md).
A list of values is an axis.  Precision `auto`, which a file has by default, is fp16 on a GPU and
float32 on a CPU.
"""


def page() -> str:
    """The whole page, as Markdown."""
    kinds = methods().values()
    common = {*Case.model_fields, *VARCase.model_fields}
    parts = [HEAD, "## An experiment file\n", about(Experiment), *fields_of(Experiment)]
    parts += ["\n## Axes of all methods\n", *fields_of(Case)]
    plans = [name for name in VARCase.model_fields if name not in Case.model_fields]
    parts += ["\n## Axes of methods by scales\n", *fields_of(VARCase, plans)]
    parts += ["\n## Axes of one method"]
    for kind in kinds:
        own = [name for name in kind.model_fields if name not in common]
        name = kind.model_fields["method"].default
        parts += [f"\n`{name}`: {first_line(kind.__doc__)}\n", *fields_of(kind, own)]
    parts += ["\n## A line of records.jsonl\n", *fields_of(records.Record)]
    for part in (records.Samples, records.MemoryUse, records.Predicted):
        parts += [f"\n`{part.__name__}`\n", *fields_of(part)]
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    parts += ["\n## Commands"]
    for group, named in COMMANDS.items():
        parts += [f"\n### {group}"]
        for name in named:
            parts += [f"\n**{name}**: {first_line(commands[name].help)}\n"]
            parts += options_of(commands[name].params)
    return "\n".join(parts) + "\n"


def fields_of(model: type[BaseModel], names: Iterable[str] | None = None) -> Iterator[str]:
    """A line for each field: its name, type and default."""
    hints = get_type_hints(model)
    for name in model.model_fields if names is None else names:
        field = model.model_fields[name]
        default = (
            "" if field.is_required() else f" = {field.get_default(call_default_factory=True)!r}"
        )
        yield f"- `{name}`: {type_name(hints[name])}{default}"


def about(model: type[BaseModel]) -> str:
    """What its docstring says of its fields."""
    return f"{inspect.getdoc(model)}\n"


def type_name(hint: Any) -> str:
    """A type as a reader writes it: without modules, "or" for "|"."""
    name = hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)
    name = re.sub(r"\b(typing|bench(\.\w+)+)\.", "", name)
    return (
        re.sub(r"Literal\[(.*?)\]", r"\1", name).replace(" | ", " or ").replace("NoneType", "None")
    )


def options_of(params: Iterable[Any]) -> Iterator[str]:
    """A line for each argument and option of a command."""
    for param in params:
        if param.name != "help":
            argument = param.opts == [param.name]
            named = param.metavar or param.name.upper() if argument else ", ".join(param.opts)
            yield f"- `{named}`: {' '.join((param.help or '').split())}"


def first_line(text: str | None) -> str:
    """The first line of a docstring."""
    return (text or "").strip().partition("\n")[0]


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
