"""Command lines for tests."""

from collections.abc import Mapping
from pathlib import Path

from qap.explain.backend import Told, told
from qap.explain.explanation import Explanation, explain
from qap.explain.prediction import Prediction

NOWHERE = Path("/nowhere")
FS = "-chardev socket,id=c0,path=/fs.sock -device vhost-user-fs-pci,id=fs0,chardev=c0,tag=share"


def explanation(line: str, *backends: str, folder: Path = NOWHERE) -> Explanation:
    """Of a line without its program; x86_64 if the line does not begin with one."""
    whole = line if line.startswith(("qemu", "kvm", "/")) else f"qemu-system-x86_64 {line}"
    known: Mapping[str, Told] = dict(told(one) for one in backends)
    return explain(whole.encode(), "it", folder, known)


def device(line: str, name: str, *backends: str) -> Prediction:
    """The virtio device of that id or type; nothing of the line may be left."""
    found = explanation(line, *backends)
    assert found.left == []
    (prediction,) = [one for one in found.predictions if name in (one.name, one.kind.driver)]
    return prediction
