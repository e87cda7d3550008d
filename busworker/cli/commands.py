"""The commands there are, with their help in one line each; a command's module is imported when it runs."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping

import click


class LazyGroup(click.Group):
    """A group whose commands are known by name, help and "module:function" alone.

    So `busworker --help` imports no command, and `busworker status` no broker.
    """

    def __init__(self, *, lazily: Mapping[str, tuple[str, str]], **attributes: object) -> None:
        super().__init__(**attributes)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        self._lazily = lazily

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazily)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazily:
            return None
        module, _, function = self._lazily[cmd_name][0].partition(":")
        command: object = getattr(importlib.import_module(module), function)
        return command if isinstance(command, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self._lazily and (near := difflib.get_close_matches(args[0], self._lazily, n=1)):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazily.items()])


COMMANDS = {
    "start": ("busworker.cli.start:start", "Run a service: its supervisor and its pools."),
    "publish": ("busworker.cli.publish:publish", "Publish events from the command line."),
    "check": ("busworker.cli.check:check", "Import an application and show what it declares."),
    "status": ("busworker.cli.service:status", "Show a running service."),
    "health": ("busworker.cli.health:health", "Tell whether a running service is well, by the exit code."),
    "scale": ("busworker.cli.service:scale", "Change the number of workers of a channel."),
    "pause": ("busworker.cli.steering:pause", "Have a channel take no more messages."),
    "resume": ("busworker.cli.steering:resume", "Have a paused channel take messages again."),
    "restart": ("busworker.cli.steering:restart", "Replace the workers of a running service one by one."),
    "stop": ("busworker.cli.service:stop", "Drain a running service and end it."),
    "dead": ("busworker.cli.dead:dead", "List, show, replay, drop, export, import and run dead letters."),
    "subscriptions": ("busworker.cli.subscriptions:subscriptions_", "List and remove subscriptions."),
    "why": ("busworker.cli.why:why", "Show where a message is, and why."),
    "tail": ("busworker.cli.tail:tail", "Show events as they are published."),
    "relay": ("busworker.cli.relay:relay", "Send what a spool has kept."),
    "demo": ("busworker.cli.demo:demo", "Watch messages survive crashes."),
}


@click.group(cls=LazyGroup, lazily=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="busworker", message="%(prog)s %(version)s")
def busworker() -> None:
    """An event bus for Python services: typed topics, pools of workers, retries and dead letters."""
