"""Guest memory that a vhost-user back-end can't map."""

import pytest

from qap.oracle.fence import Outcome

from .lines import FS, device

OBJECT = "-object memory-backend-"
MAIN = "-M memory-backend=m0"
PRIVATE = {
    "-m 512": "the machine's own, without a memory backend",
    f"{OBJECT}ram,id=m0,size=1G {MAIN}": "m0",
    f"{OBJECT}memfd,id=m0,size=1G,share=off {MAIN}": "m0",
    f"{OBJECT}file,id=m0,size=1G,mem-path=/dev/shm {MAIN}": "m0",
    f"{OBJECT}memfd,id=m0,size=1G -numa node,memdev=m0 "
    f"{OBJECT}ram,id=m1,size=1G -numa node,memdev=m1": "m1",
    f"{OBJECT}memfd,id=m0,size=1G {MAIN} {OBJECT}ram,id=m1,size=1G -device pc-dimm,memdev=m1": "m1",
}
REACHED = (
    f"{OBJECT}memfd,id=m0,size=1G {MAIN}",
    f"{OBJECT}file,id=m0,size=1G,mem-path=/dev/shm,share=on -numa node,memdev=m0",
    f"{OBJECT}shm,id=m0,size=1G {MAIN}",
    f"{OBJECT}memfd,id=m0,size=1G {MAIN} {OBJECT}ram,id=m1,size=1G -device nvdimm,memdev=m1",
)


@pytest.mark.parametrize(("memory", "name"), PRIVATE.items())
def test_private_memory_is_refused(memory: str, name: str) -> None:
    found = device(f"-nodefaults -M q35 {FS}", "fs0", memory=f"-M q35 {memory}")
    (verdict,) = found.verdicts
    assert found.private == name
    assert (verdict.driven_on_stock, verdict.driven.outcome) == (
        Outcome.UNSERVED,
        Outcome.REFUSED,
    )
    assert "share=on" in verdict.remedies[0]


@pytest.mark.parametrize("memory", REACHED)
def test_shared_memory_is_not(memory: str) -> None:
    found = device(f"-nodefaults -M q35 {FS}", "fs0", memory=memory)
    assert (found.private, {verdict.same for verdict in found.verdicts}) == ("", {True})


def test_device_in_qemu_does_not_mind() -> None:
    found = device("-nodefaults -M q35 -device virtio-rng-pci,id=d", "d", memory="")
    assert (found.private, found.verdicts[0].same) == ("", True)
