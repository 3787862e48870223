"""The verb explain: its options, its screen, its JSON, and its errors."""

import json
import socket
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from qap.cli.main import app
from qap.host.errors import UsageError
from qap.vhost_user.backends import backend

LINE = (
    "qemu-system-x86_64 -nodefaults -M q35,memory-backend=mem0 "
    "-object memory-backend-memfd,id=mem0,size=1G -device intel-iommu "
    "-chardev socket,id=c0,path={path} "
    "-device pcie-root-port,id=rp0 -device virtio-rng-pci,id=rng0 "
    "-device vhost-user-blk-pci,id=blk0,chardev=c0,bus=rp0,iommu_platform=on"
)


def explain(*words: str, text: str = "") -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, ["explain", *words], input=text)


def test_screen_is_no_wider_than_the_terminal() -> None:
    result = explain(text=LINE.format(path="/b"))
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert lines[0] == "q35 (x86_64), intel-iommu; from a shell line"
    assert "blk0: vhost-user-blk-pci on rp0 (PCI)" in lines
    assert "  translated  yes: its bus rp0 is behind intel-iommu" in lines
    shown = " ".join(result.output.split())
    assert shown.endswith("on stock QEMU and on the fork: rng0 (virtio-rng-pci)")


def test_results_as_json(tmp_path: Path) -> None:
    file, results = tmp_path / "line", tmp_path / "x.json"
    file.write_text(LINE.format(path="/b"))
    assert explain(str(file), "--backend", "blk0=none", "--json", str(results)).exit_code == 0
    document = json.loads(results.read_text())
    assert (document["verb"], document["ok"]) == ("explain", True)
    rng, blk = document["results"]
    assert (rng["id"], rng["verdicts"][0]["fork_plugs"]) == ("rng0", "works")
    assert blk["requested_by"] == "iommu_platform=on"
    (verdict,) = blk["verdicts"]
    assert verdict["fork"]["outcome"] == "refused"
    assert verdict["stock"]["error"] == "iommu_platform=true is not supported by the device"


def test_live_back_end_that_can_translate_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "b"
    with backend(path, "vhost-user-blk", access_platform=True):
        result = explain("--ask", text=LINE.format(path=path))
    assert result.exit_code == 0, result.output
    assert "blk0 (vhost-user-blk-pci)" in " ".join(result.output.split())
    assert "refused" not in result.output


def test_live_back_end_that_can_not_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "b"
    with backend(path, "vhost-user-blk", access_platform=False):
        result = explain("--ask", text=LINE.format(path=path))
    assert result.exit_code == 0, result.output
    assert "  fork        refused" in result.output.splitlines()
    assert "as told, it does not offer ACCESS_PLATFORM" in " ".join(result.output.split())


def test_back_end_that_is_not_there_is_said(tmp_path: Path) -> None:
    path = tmp_path / "b"
    result = explain("--ask", text=LINE.format(path=path))
    assert result.exit_code == 0
    assert f"not asked: {path}: No such file or directory" in result.stderr


def test_listener_that_is_no_back_end_is_said(tmp_path: Path) -> None:
    path = tmp_path / "b"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def leave() -> None:
            listener.accept()[0].close()

        thread = threading.Thread(target=leave)
        thread.start()
        result = explain("--ask", text=LINE.format(path=path))
        thread.join()
    assert result.exit_code == 0
    assert f"not asked: the back-end at {path}" in result.stderr


def test_file_that_is_not_there() -> None:
    error = explain("/nowhere/x").exception
    assert isinstance(error, UsageError)
    assert str(error) == "/nowhere/x: No such file or directory"


def test_error_text(tmp_path: Path) -> None:
    results = tmp_path / "x.json"
    result = explain(
        "--error", "device must provide VIRTIO_F_ACCESS_PLATFORM", "--json", str(results)
    )
    assert result.exit_code == 0, result.output
    assert "  must be     not served" in result.output.splitlines()
    (found,) = json.loads(results.read_text())["results"]
    assert (found["by"], found["exact"]) == ("linux", True)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--error", "hello, world of errors"), "no error text like that is known"),
        (("--error", "x", "--ask"), "--error stands alone"),
        (("--error", "x", "file"), "--error stands alone"),
        (("--error", "x", "--run"), "--error stands alone"),
    ],
)
def test_error_text_that_leads_nowhere(words: tuple[str, ...], error: str) -> None:
    found = explain(*words).exception
    assert isinstance(found, UsageError)
    assert str(found).startswith(error)
