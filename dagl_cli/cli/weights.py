"""`dagl weights`: which weights there are."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from . import app

commands = typer.Typer(help="Bundled weights.", no_args_is_help=True)
app.add_typer(commands, name="weights")


@commands.command("list")
def list_weights(as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False) -> None:
    """The bundled weights: task, colours, network, training."""
    from .. import weights

    rows = []
    for path in weights.bundled():
        config, info, parameters = weights.describe(path)
        training = info.get("training", {})
        rows.append(
            {
                "name": path.stem, "task": config.task, "channels": config.channels,
                "network": "DAGL" if config.stages else "residual, no graph",
                "variant": training.get("variant"), "parameters": parameters,
                "steps": info.get("step"), "minutes": info.get("minutes"), "path": str(path),
            }
        )  # fmt: skip
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("name", "task", "colours", "network", "parameters", "steps")
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(
            row["name"], row["task"], "gray" if row["channels"] == 1 else "RGB", row["network"],
            f"{row['parameters']:,}", f"{row['steps']:,}" if row["steps"] else "?",
        )  # fmt: skip
    Console().print(table)
