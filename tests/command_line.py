"""Every command of `tiles`."""

from collections.abc import Iterator

import click


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Return each command, by the words one types."""
    for name, command in group.commands.items():
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield f"{path}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
