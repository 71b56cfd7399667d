"""The group of all commands: finds them late, turns tropism's own errors into a message, and lets plugins add commands."""

from __future__ import annotations

import importlib
from typing import Any

import click

import tropism
from tropism.errors import ElsewhereError, PluginError, TropismError, nearest

COMMANDS = (
    *("ls", "show", "cp", "check", "run", "resume", "sample", "steer", "eval", "report", "compare", "export", "push"),
    *("pairs", "doctor", "plugins", "schema"),
)


class LazyGroup(click.Group):
    """Built-in commands by name from ``tropism.cli.<name>:command``; plugins are asked only for other names and for ``--help``."""

    _asked = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._ask_plugins()
        return [*COMMANDS, *sorted(self.commands)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            command: click.Command = importlib.import_module(f"tropism.cli.{cmd_name}").command
            return command
        self._ask_plugins()
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None:
            ctx.fail(f"no command '{args[0]}'{nearest(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a plugin's command. Raises PluginError for the name of a command that is there already."""
        taken = name or cmd.name
        if taken in COMMANDS or taken in self.commands:
            raise PluginError(f"there is a command '{taken}' already")
        super().add_command(cmd, name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. A TropismError is a message and exit status 1 (``--debug``: with its stack trace); Ctrl-C is 130."""
        try:
            return super().invoke(ctx)
        except ElsewhereError:
            ctx.exit(1)
        except TropismError as error:
            if ctx.params["debug"]:
                raise
            click.echo("\n".join([f"tropism: {error}", *(f"  {note}" for note in getattr(error, "__notes__", ()))]), err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            ctx.exit(130)

    def _ask_plugins(self) -> None:
        """Let every installed plugin add its commands, once; one that fails is named and hurts no other."""
        if self._asked:
            return
        self._asked = True
        from tropism import plugins

        for implementation in plugins.installed()[0].hook.register_commands.get_hookimpls():
            try:
                implementation.function(self)
            except Exception as error:  # whatever a third party raises must not take the command line with it
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                click.echo(f"tropism: commands of plugin {implementation.plugin_name} left out: {reason}", err=True)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="\b\nExamples:\n  tropism ls recipes\n  tropism run toy/ddpo\n  tropism run toy/ddpo train.iterations=20 --out runs/try",
)
@click.version_option(tropism.__version__, prog_name="tropism", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show stack traces.")
def cli(debug: bool) -> None:
    """Turn a diffusion, flow or consistency model toward a reward or a preference."""
