"""Building a wheel makes its manual page, so that `man dagl` finds it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Manual(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # the help texts still change
            return
        command = [sys.executable, "-m", "dagl_cli.cli.manual"]
        made = subprocess.run(command, cwd=self.root, capture_output=True, check=False)
        if made.returncode:  # no reason to have no dagl at all
            why = made.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            self.app.display_warning(f"there will be no manual page: {why}")
            return
        page = Path(self.directory) / "dagl.1"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_bytes(made.stdout)
        build_data["shared_data"][str(page)] = "share/man/man1/dagl.1"
