"""Prints the man page, cc-textfile(1), made from what `--help` says: one text, and no second to go stale."""

import inspect
import os
import re
import time
from collections.abc import Iterator

import click

from cc_textfile import __version__
from cc_textfile.cli import main

FILES = {
    "/etc/default/cc-textfile": "Settings for the units, one NAME=value a line.",
    "/etc/cc-textfile/password": "The portal's password; the units wait until it is there.",
    "/etc/cc-textfile/NAME.env, /etc/cc-textfile/NAME.password": "The same for a further account.",
    "/var/lib/cc-textfile": "Text files and ledgers that the units write.",
}
SEE_ALSO = "cc-textfile.service(8), prometheus-node-exporter(1), systemctl(1), journalctl(1), systemd-creds(1)"


def escaped(text: str) -> str:
    """Return text that roff prints as it is: backslash, hyphen, a dot or quote that begins a line say more to it."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def paragraphs(text: str) -> Iterator[str]:
    """Yield a help text's paragraphs; click leaves one that a backspace begins as it is written, and so does this."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        yield ".PP"
        if paragraph.startswith("\b"):
            yield ".nf\n" + escaped(paragraph.removeprefix("\b\n")) + "\n.fi"
        else:
            yield escaped(" ".join(paragraph.split()))


def options(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield a command's options, as its help lists them."""
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record:
            yield f".TP\n\\fB{escaped(record[0])}\\fR\n{escaped(record[1])}"


def page(group: click.Group, when: time.struct_time) -> Iterator[str]:
    """Yield the page, section by section."""
    context = click.Context(group, info_name="cc-textfile")
    title, _, about = (group.help or "").partition("\n")
    yield f'.TH CC\\-TEXTFILE 1 "{time.strftime("%Y-%m-%d", when)}" "cc\\-textfile {__version__}" "User Commands"'
    yield f".SH NAME\ncc\\-textfile \\- {escaped(title.rstrip('.'))}"
    yield ".SH SYNOPSIS"
    for name in group.list_commands(context):
        yield f".B cc\\-textfile {escaped(name)}\n[OPTIONS]\n.br"
    yield ".SH DESCRIPTION"
    yield from paragraphs(about)
    yield ".SH OPTIONS"
    yield from options(group, context)
    for name, command in sorted(group.commands.items()):
        yield f'.SH "CC\\-TEXTFILE {escaped(name.upper())}"'
        yield from paragraphs(command.help or "")
        yield from options(command, click.Context(command, info_name=name, parent=context))
    yield ".SH FILES"
    for path, meaning in FILES.items():
        yield f".TP\n.I {escaped(path)}\n{escaped(meaning)}"
    yield f".SH SEE ALSO\n{escaped(SEE_ALSO)}"


if __name__ == "__main__":
    click.echo("\n".join(page(main, time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))))
