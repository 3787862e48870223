"""Command lines for tests."""

from collections.abc import Mapping
from pathlib import Path

from qap.explain.backend import Told, told
from qap.explain.explanation import Explanation, explain
from qap.explain.prediction import Prediction

NOWHERE = Path("/nowhere")
SHARED = "-object memory-backend-memfd,id=ram0,size=1G -machine memory-backend=ram0"
FS = "-chardev socket,id=c0,path=/fs.sock -device vhost-user-fs-pci,id=fs0,chardev=c0,tag=share"


def explanation(
    line: str, *backends: str, folder: Path = NOWHERE, memory: str = SHARED
) -> Explanation:
    """Of a line without its program; x86_64 if the line does not begin with one.

    Args:
        memory: options, which come first.
    """
    whole = line if line.startswith(("qemu", "kvm", "/")) else f"qemu-system-x86_64 {line}"
    program, _, rest = whole.partition(" ")
    whole = f"{program} {memory} {rest}" if memory else whole
    known: Mapping[str, Told] = dict(told(one) for one in backends)
    return explain(whole.encode(), "it", folder, known)


def device(line: str, name: str, *backends: str, memory: str = SHARED) -> Prediction:
    """The virtio device of that id or type; nothing of the line may be left."""
    found = explanation(line, *backends, memory=memory)
    assert found.left == []
    (prediction,) = [one for one in found.predictions if name in (one.name, one.kind.driver)]
    return prediction
