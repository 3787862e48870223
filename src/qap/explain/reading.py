"""From the words of a command line to a Command."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from qap.explain import opts
from qap.explain.command import Command, Global, Item
from qap.explain.config_file import groups
from qap.explain.opts import Opts
from qap.explain.qemu_options import option_name, with_value
from qap.explain.start import Form, Start
from qap.host.errors import UsageError

# The key of a first word without “=”, by option.
IMPLIED = {
    "machine": "type",
    "M": "type",
    "device": "driver",
    "object": "qom-type",
    "netdev": "type",
    "chardev": "backend",
    "fsdev": "fsdriver",
    "virtfs": "fsdriver",
    "nic": "type",
    "numa": "type",
    "net": "type",
    "drive": "file",
}
DISKS = frozenset(["hda", "hdb", "hdc", "hdd", "cdrom"])


class Reader:
    """Reads the words of a command line into a Command.

    Args:
        files: reads a -readconfig file; None if it can't be had.
    """

    def __init__(self, program: str, files: Callable[[str], str | None]) -> None:
        self.command = Command(program)
        self._files = files
        self._sets: list[str] = []

    def read(self, words: Sequence[str]) -> None:
        """Take every option.

        Raises:
            UsageError: JSON or a configuration file can't be read.
        """
        for option, value in self._options(words):
            self._option(option, value)
        self._apply_sets()

    def _options(self, words: Sequence[str]) -> Iterator[tuple[str, str]]:
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if not word:
                continue
            name = option_name(word)
            if name is None and word.startswith("-") and len(word) > 1:
                value = rest.pop(0) if rest and not rest[0].startswith("-") else ""
                self.command.left.append(f"{word} {value}".rstrip() + ": QEMU has no such option")
            elif name is None and "$" in word:
                self.command.left.append(f"{word}: what the shell puts there is not known")
            elif name is None:
                yield "hda", word
            elif name in with_value():
                if not rest:
                    raise UsageError(f"{word}: its value is missing: is the command line whole?")
                yield name, rest.pop(0)
            else:
                yield name, ""

    def _option(self, name: str, value: str) -> None:
        command = self.command
        if name in IMPLIED:
            self._group(f"-{name}", opts.parse(value, IMPLIED[name]), value)
        elif name in DISKS:
            drive = Opts((("file", value), ("media", "cdrom" if name == "cdrom" else "disk")))
            command.drives.append(Item(f"-{name}", drive, value))
        elif name == "global":
            self._global(value)
        elif name == "set":
            self._sets.append(value)
        elif name == "readconfig":
            self._config(value)
        elif name == "nodefaults":
            command.nodefaults = True
        elif name == "vga":
            self._vga(value)
        elif name in ("balloon", "soundhw", "virtioconsole") and "none" not in value:
            command.left.append(f"-{name} {value}: today's QEMU does not have it")

    def _vga(self, value: str) -> None:
        """-vga makes a device, too."""
        kind = opts.parse(value, "type").get("type")
        if kind == "virtio":
            self.command.devices.append(Item("-vga", Opts((("driver", "virtio-vga"),)), value))

    def _group(self, option: str, parsed: Opts, said: str) -> None:
        """Take an option or a group of a configuration file."""
        command = self.command
        if "$" in said:
            command.left.append(f"{option} {said}: what the shell puts there is not known")
        match option:
            case "-machine" | "-M":
                command.machine = command.machine.joined(parsed)
            case "-device":
                command.devices.append(Item(option, parsed, said))
            case "-drive":
                command.drives.append(Item(option, parsed, said))
            case "-numa":
                command.numa.append(parsed)
            case "-virtfs":
                self._virtfs(parsed, said)
            case "-nic" | "-net":
                command.no_nic = True
                if option == "-nic" or parsed.get("type") == "nic":
                    command.nics.append(Item(option, parsed, said))
            case _:
                command.no_nic |= option == "-netdev"
                command.tables[option[1:]][parsed.get("id")] = parsed

    def _virtfs(self, parsed: Opts, said: str) -> None:
        """-virtfs is an -fsdev and a -device."""
        name = parsed.get("id") or parsed.get("mount-tag")
        self.command.fsdevs[name] = parsed
        pairs = (("driver", "virtio-9p"), ("fsdev", name), ("mount_tag", parsed.get("mount-tag")))
        self.command.devices.append(Item("-virtfs", Opts(pairs), said))

    def _global(self, value: str) -> None:
        head, equals, rest = value.partition("=")
        driver, dot, name = head.partition(".")
        if equals and dot and "," not in head:
            self.command.globals.append(Global(driver, name, rest))
            return
        parsed = opts.parse(value)
        if not (parsed.has("driver") and parsed.has("property")):
            self.command.left.append(f"-global {value}: not DRIVER.PROPERTY=VALUE")
            return
        self._global_of(parsed)

    def _global_of(self, parsed: Opts) -> None:
        self.command.globals.append(
            Global(parsed.get("driver"), parsed.get("property"), parsed.get("value"))
        )

    def _config(self, path: str) -> None:
        text = self._files(path)
        if text is None:
            self.command.left.append(
                f"-readconfig {path}: the file is not here, so what is in it is not known"
            )
        else:
            self.config(text, path)

    def config(self, text: str, name: str) -> None:
        """Take a configuration file.

        Raises:
            UsageError: a line of it can't be read.
        """
        for group in groups(text, name):
            option = f"-{group.name}"
            if group.name in IMPLIED:
                said = ",".join(f"{key}={value}" for key, value in group.opts.pairs)
                self._group(option, group.opts, said)
            elif group.name == "global":
                self._global_of(group.opts)

    def _apply_sets(self) -> None:
        """-set GROUP.ID.KEY=VALUE changes what stands elsewhere."""
        for value in self._sets:
            head, _, new = value.partition("=")
            group, _, rest = head.partition(".")
            name, _, key = rest.partition(".")
            if not self._set(group, name, Opts(((key, new),))):
                self.command.left.append(f"-set {value}: there is no {group} {name!r}")

    def _set(self, group: str, name: str, change: Opts) -> bool:
        table = self.command.tables.get(group, {})
        if name in table:
            table[name] = table[name].joined(change)
            return True
        items = {"device": self.command.devices, "drive": self.command.drives}.get(group, [])
        for number, item in enumerate(items):
            if item.id == name:
                items[number] = Item(item.option, item.opts.joined(change), item.said)
                return True
        return False


def read(start: Start, folder: Path) -> Command:
    """A command line as records.

    Args:
        folder: where -readconfig files are looked for by their names if they are not in place.
    Raises:
        UsageError: it can't be read.
    """

    def file(path: str) -> str | None:
        for place in (Path(path), folder / Path(path).name):
            if place.is_file():
                return place.read_text(errors="replace")
        return None

    reader = Reader(start.words[0], file)
    reader.read(start.words[1:])
    if start.form is Form.CONFIG:
        reader.config(start.config, "the file")
    return reader.command
