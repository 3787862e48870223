"""Sound samples are kept where the audio subsystem, which reads them as integers, may read them."""

import json
import shlex
import subprocess

from qap.verify.kit.lab import Lab

SOURCE = "hw/audio/virtio-snd.c"
# The largest sample: VIRTIO_SND_PCM_FMT_S32 and FLOAT (5.14.6.6.2).
CHECK = """
#include "qemu/osdep.h"
#include "hw/audio/virtio-snd.h"
_Static_assert(offsetof(VirtIOSoundPCMBuffer, data) % 4 == 0, "misaligned");
"""


def test_samples_are_aligned(lab: Lab) -> None:
    """No processor of ours minds where they are. So the compiler is asked where it puts them."""
    commands = json.loads((lab.build.folder / "compile_commands.json").read_text())
    (command,) = [each for each in commands if each["file"].endswith(SOURCE)]
    flags = [word for word in shlex.split(command["command"]) if word.startswith(("-I", "-D"))]
    tree = lab.build.tree
    flags += [f"-iquote{tree}", f"-iquote{tree / 'include'}", f"-iquote{tree / 'host/include'}"]
    compiled = subprocess.run(
        ["gcc", "-std=gnu11", "-fsyntax-only", *flags, "-iquote.", "-xc", "-"],
        input=CHECK,
        cwd=command["directory"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert compiled.returncode == 0, compiled.stderr
