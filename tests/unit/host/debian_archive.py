"""A Debian archive of a few packages, with a key of its own, and a mirror that can misbehave."""

import fnmatch
import hashlib
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

HOST = "archive.test"
URI = f"http://{HOST}/debian/"


def _run(*argv: str | Path, cwd: Path | None = None) -> str:
    return subprocess.run(
        [str(word) for word in argv], cwd=cwd, check=True, capture_output=True, text=True
    ).stdout


@dataclass(frozen=True)
class Archive:
    """The files of a Debian archive: suites, pools, indexes and their signatures.

    Args:
        root: the folder that a mirror serves as /debian.
        gnupg: gpg's home, for the key.
    """

    root: Path
    gnupg: Path

    @classmethod
    @contextmanager
    def make(cls, folder: Path) -> Iterator["Archive"]:
        """An archive without packages; the gpg-agent of its key ends with the context."""
        made = cls(folder / "debian", folder / "gnupg")
        made.root.mkdir()
        made.gnupg.mkdir(mode=0o700)
        made._gpg("--quick-gen-key", "archive@test", "ed25519", "sign", "never")
        made._gpg("--output", str(made.keyring), "--yes", "--export", "archive@test")
        try:
            yield made
        finally:
            _run("gpgconf", "--homedir", made.gnupg, "--kill", "all")

    @property
    def keyring(self) -> Path:
        return self.gnupg / "archive.gpg"

    def _gpg(self, *argv: str) -> None:
        _run("gpg", "--homedir", self.gnupg, "--batch", "--passphrase", "", *argv)

    def add(self, suite: str, name: str, version: str, architecture: str, needs: str = "") -> None:
        """Add a package whose only file, usr/share/NAME, holds its version."""
        tree = self.root.parent / "package"
        control = f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n"
        control += "Maintainer: Nobody <nobody@test>\nDescription: nothing\n"
        control += f"Depends: {needs}\n" if needs else ""
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(control)
        (tree / "usr/share").mkdir(parents=True)
        (tree / "usr/share" / name).write_text(f"{version}\n")
        pool = self.root / "pool" / suite
        pool.mkdir(parents=True, exist_ok=True)
        _run("dpkg-deb", "--build", "--root-owner-group", tree, pool)
        shutil.rmtree(tree)

    def add_source(self, suite: str, name: str, version: str) -> None:
        """Add a source package with a single file."""
        tree = self.root.parent / f"{name}-{version}"
        (tree / "debian/source").mkdir(parents=True)
        (tree / "debian/source/format").write_text("3.0 (native)\n")
        (tree / "debian/control").write_text(
            f"Source: {name}\nMaintainer: Nobody <nobody@test>\n\n"
            f"Package: {name}\nArchitecture: all\nDescription: nothing\n"
        )
        (tree / "debian/changelog").write_text(
            f"{name} ({version}) unstable; urgency=low\n\n  * Nothing.\n\n"
            " -- Nobody <nobody@test>  Wed, 01 Jan 2025 00:00:00 +0000\n"
        )
        pool = self.root / "pool" / suite
        pool.mkdir(parents=True, exist_ok=True)
        _run("dpkg-source", "--build", tree, cwd=pool)
        shutil.rmtree(tree)

    def publish(self, suite: str) -> None:
        """Write the suite's indexes and sign them."""
        pool = self.root / "pool" / suite
        pool.mkdir(parents=True, exist_ok=True)
        dists = self.root / "dists" / suite
        indexes = {
            "main/source/Sources": ["dpkg-scansources", f"pool/{suite}"],
            **{
                f"main/binary-{architecture}/Packages": [
                    "dpkg-scanpackages",
                    "-a",
                    architecture,
                    f"pool/{suite}",
                ]
                for architecture in ("amd64", "s390x")
            },
        }
        lines = []
        for name, argv in indexes.items():
            content = _run(*argv, cwd=self.root).encode()
            (dists / name).parent.mkdir(parents=True, exist_ok=True)
            (dists / name).write_bytes(content)
            lines.append(f" {hashlib.sha256(content).hexdigest()} {len(content)} {name}\n")
        (dists / "Release").write_text(
            f"Origin: Debian\nLabel: Debian\nSuite: {suite}\nCodename: {suite}\n"
            "Date: Wed, 01 Jan 2025 00:00:00 UTC\nArchitectures: amd64 s390x\n"
            f"Components: main\nSHA256:\n{''.join(lines)}"
        )
        signed = dists / "InRelease"
        self._gpg("--yes", "--output", str(signed), "--clearsign", str(dists / "Release"))
        (dists / "Release").unlink()


@dataclass
class Mirror:
    """An HTTP proxy between apt and an archive, which may misbehave for any file.

    The patterns are those of fnmatch, for the path below /debian/; each set may change while
    the mirror serves.

    Attributes:
        port: where it listens, on loopback.
        root: the folder it serves.
        statuses: files that it answers with an HTTP status instead.
        short: files of which it sends the first half, as if that were all.
        changed: files of which it sends the last byte changed.
        silent: files for which it sends nothing until it ends.
        stalled: files of which it sends the first half, and then nothing until it ends.
        asked: paths that were asked for.
    """

    port: int
    root: Path
    statuses: dict[str, int] = field(default_factory=dict)
    short: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    stalled: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def honest(self) -> None:
        """Stop misbehaving."""
        self.statuses.clear()
        for lies in (self.short, self.changed, self.silent, self.stalled):
            lies.clear()

    def lack(self, pattern: str) -> None:
        """Answer 404 for these files."""
        self.statuses[pattern] = 404

    def answer(self, path: str) -> tuple[int, bytes]:
        """The HTTP status and the content that the mirror sends for a file."""
        self.asked.append(path)
        if _listed(path, self.silent):
            self.ended.wait()
        file = self.root / path
        for pattern, status in self.statuses.items():
            if fnmatch.fnmatch(path, pattern):
                return status, b""
        if not file.is_file():
            return 404, b""
        content = file.read_bytes()
        if _listed(path, self.short):
            content = content[: len(content) // 2]
        if _listed(path, self.changed):
            content = content[:-1] + bytes([content[-1] ^ 1])
        return 200, content


def _listed(path: str, patterns: set[str]) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)


@contextmanager
def mirror(root: Path) -> Iterator[Mirror]:
    """A mirror that serves `root` until the context ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path).removeprefix("/debian/")
            status, content = made.answer(path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if _listed(path, made.stalled):
                self.wfile.write(content[: len(content) // 2])
                made.ended.wait()
            else:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Print nothing: apt closes the connection to a mirror that misbehaves."""

    with Server(("127.0.0.1", 0), Handler) as server:
        made = Mirror(server.server_address[1], root)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield made
        finally:
            made.ended.set()
            server.shutdown()
            thread.join()
