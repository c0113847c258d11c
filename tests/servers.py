"""Servers on loopback that a team has: for SSH, S3, PostgreSQL, Redis, and a proxy with TLS."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from pages import read_block
from prefect_api import free_port
from toy import execute, wait_until

BUCKET = "mnist"


class SshServer(NamedTuple):
    port: int
    key: Path  # of a user whom the server lets in
    known_hosts: Path
    stranger: Path  # a key that it refuses

    def url(self, path: Path) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{path}"

    def command(self) -> str:
        """What Git takes as GIT_SSH_COMMAND."""
        known = f"-o StrictHostKeyChecking=no -o UserKnownHostsFile={self.known_hosts}"
        return f"ssh -i {self.key} -o IdentitiesOnly=yes {known}"


@contextmanager
def running(
    command: list[str | Path],
    port: int,
    variables: Mapping[str, str] | None = None,
    user: str | None = None,
    end: signal.Signals = signal.SIGTERM,
) -> Iterator[None]:
    """Run a server until the block ends; end it with that signal."""
    process = subprocess.Popen(
        command,
        env=os.environ | dict(variables or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=user,
    )
    try:
        wait_until(lambda: is_open(port) or process.poll() is not None)
        assert process.poll() is None, f"{command[0]} has ended"
        yield
    finally:
        process.send_signal(end)
        process.wait()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """Start an SSH server whose files are in `folder`; skip the test if there is none here."""
    program = find_program("sshd", "openssh-server", Path("/usr/sbin"))
    for key in ("host", "user", "stranger"):
        execute(folder, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    shutil.copyfile(folder / "user.pub", folder / "authorized")
    port = free_port()
    Path("/run/sshd").mkdir(exist_ok=True)
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "authorized",
        "PidFile": folder / "sshd.pid",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "Subsystem": "sftp internal-sftp",
    }
    path = folder / "sshd_config"
    path.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    with running([program, "-D", "-e", "-f", path], port):
        yield SshServer(port, folder / "user", folder / "known", folder / "stranger")


@contextmanager
def s3_server(port: int | None = None, refuses: bool = False) -> Iterator[int]:
    """Start moto's server with an empty bucket; yield its port. It may refuse every key."""
    port = port or free_port()
    # How many requests it answers before it asks for a key that it knows: it knows none.
    variables = {"INITIAL_NO_AUTH_ACTION_COUNT": "1"} if refuses else {}
    command: list[str | Path] = [sys.executable, "-m", "moto.server", "--port", str(port)]
    with running(command, port, variables):
        httpx.put(f"http://127.0.0.1:{port}/{BUCKET}").raise_for_status()
        yield port


class Postgres:
    """A cluster of PostgreSQL with a database for Prefect, which can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self.data, self.port = folder / "data", free_port()
        self.user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
        self.url = f"postgresql+asyncpg://prefect:a-password@127.0.0.1:{self.port}/postgres"
        (folder / "password").write_text("a-password")
        if self.user:
            shutil.chown(folder, self.user)
        program = find_postgres("initdb")
        options = ["--username", "prefect", "--auth", "scram-sha-256", "--no-sync"]
        options += ["--pwfile", str(folder / "password")]
        subprocess.run(
            [program, *options, "--pgdata", self.data],
            check=True,
            stdout=subprocess.DEVNULL,
            user=self.user,
        )
        self.start()

    def start(self) -> None:
        command: list[str | Path] = [find_postgres("postgres"), "-D", self.data]
        command += ["-p", str(self.port), "-h", "127.0.0.1", "-k", ""]  # and no socket
        self._stack = ExitStack()
        # SIGQUIT: at once, as in a crash; at SIGTERM it would wait for its clients to leave
        self._stack.enter_context(running(command, self.port, user=self.user, end=signal.SIGQUIT))

    def stop(self) -> None:
        self._stack.close()


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Start a cluster; skip the test if there is no PostgreSQL here."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own is closed to other users
        cluster = Postgres(Path(name))
        try:
            yield cluster
        finally:
            cluster.stop()


def find_postgres(program: str) -> str:
    return find_program(program, "postgresql", *sorted(Path("/usr/lib/postgresql").glob("*/bin")))


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Start Redis; yield its address."""
    port = free_port()
    command: list[str | Path] = [find_program("redis-server", "redis-server"), "--save", ""]
    with running([*command, "--port", str(port), "--dir", folder], port):
        yield f"redis://127.0.0.1:{port}/0"


class TlsProxy(NamedTuple):
    url: str
    certificate: Path  # the proxy's own, which nobody else has signed


NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
{site}
}}
"""


@contextmanager
def tls_proxy(folder: Path, *servers: int) -> Iterator[TlsProxy]:
    """Start nginx as docs/team.md has it, with a certificate that it signs itself.

    `servers` are the ports of Prefect's servers.
    """
    nginx = find_program("nginx", "nginx-light", Path("/usr/sbin"))
    port, certificate = free_port(), folder / "prefect.crt"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=prefect"]
    request += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "prefect.key"]
    execute(folder, *request, "-out", certificate.name)
    upstream = "".join(f"server 127.0.0.1:{server};" for server in servers)
    site = read_block("docs/team.md", "nginx").replace("server 127.0.0.1:4200;", upstream)
    site = site.replace("listen 443", f"listen 127.0.0.1:{port}").replace("/etc/ssl", str(folder))
    path = folder / "nginx.conf"
    path.write_text(NGINX.format(folder=folder, site=site))
    with running([nginx, "-c", path, "-e", folder / "nginx.log"], port):
        yield TlsProxy(f"https://127.0.0.1:{port}/api", certificate)


def find_program(name: str, package: str, *folders: Path) -> str:
    """The path of a program that Debian may keep out of PATH; skip the test if there is none."""
    path = os.pathsep.join([os.environ["PATH"], *map(str, folders)])
    if not (found := shutil.which(name, path=path)):
        pytest.skip(f"there is no {name} here; Debian's is in the package {package}")
    return found
