"""A Prefect server: the one that answers, or one that lasts as long as it is needed."""

import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from ssl import SSLContext, create_default_context
from threading import Thread
from urllib.parse import urlsplit

import httpx
from filelock import FileLock, Timeout
from prefect.logging.handlers import APILogHandler
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_SSL_CERT_FILE,
    PREFECT_API_TLS_INSECURE_SKIP_VERIFY,
    PREFECT_API_URL,
    PREFECT_HOME,
    temporary_settings,
)

from pipeline.errors import PipelineError
from pipeline.repository.processes import SupervisedProcess, subprocess_environment

DEFAULT_URL = "http://127.0.0.1:4200/api"
START_TIMEOUT = 180.0  # seconds; the first start creates the server's database
END_TIMEOUT = 30.0  # seconds; a server ends within some seconds, or is killed after ten
LOOPBACK = ("127.0.0.1", "localhost", "::1")


_is_temporary: ContextVar[bool] = ContextVar("is_temporary", default=False)


def ends_with_this_process() -> bool:
    """Whether the Prefect server in use is one that this process started for its run."""
    return _is_temporary.get()


@contextmanager
def server_at(url: str) -> Iterator[None]:
    """Have a Prefect server at `url`: the one that answers, or else, on loopback, a new one.

    The new one ends with the block and with this process. Raises PipelineError if none answers on
    another machine or behind a proxy, if the new one does not start, or as check_password does.
    """
    address = urlsplit(url)
    owner = FileLock(PREFECT_HOME.value() / f"mnist-server-{address.port or 4200}.lock")
    if is_healthy(url) and not is_ending(url, owner):
        check_password(url)
        yield
        return
    if address.hostname not in LOOPBACK or address.scheme != "http":
        raise PipelineError(
            f"no Prefect server answers at {url}; start it, or unset PREFECT_API_URL to have one"
            " here"
        )
    Path(owner.lock_file).parent.mkdir(parents=True, exist_ok=True)
    while not owner.is_locked:
        try:
            owner.acquire(timeout=1)
        except Timeout:  # another process is about to start one
            if is_healthy(url):
                yield
                return
    print(f"starting Prefect's server at {url}", flush=True)
    where = ["--host", str(address.hostname), "--port", str(address.port or 4200)]
    # its pages ask this address; without it, they would ask another port
    variables = subprocess_environment() | {"PREFECT_SERVER_UI_API_URL": url}
    command = ["prefect", "server", "start", *where]
    process = SupervisedProcess(command, Path.cwd(), variables)
    tail: deque[str] = deque(maxlen=5)
    reader = Thread(target=lambda: tail.extend(process.lines()), daemon=True)
    reader.start()
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while not is_healthy(url):
            if not reader.is_alive() or time.monotonic() > deadline:
                raise PipelineError("Prefect's server did not start:\n" + "\n".join(tail))
            time.sleep(0.2)
        check_password(url)
        yield
    finally:
        process.stop()
        process.wait()
        Path(owner.lock_file).unlink(missing_ok=True)
        owner.release()


def is_ending(url: str, owner: FileLock) -> bool:
    """Whether the server that answers was started by a process that is dead; wait until it is gone.

    Who starts a server holds the lock `owner` as long as it lives. If nobody does, and the file is
    there, the server is about to end; it would not answer for long.
    """
    if not Path(owner.lock_file).exists():
        return False
    try:
        with owner.acquire(blocking=False):
            deadline = time.monotonic() + END_TIMEOUT
            while is_healthy(url):
                if time.monotonic() > deadline:  # somebody else's, after all
                    return False
                time.sleep(0.2)
            return True
    except Timeout:
        return False


@contextmanager
def ensure_server() -> Iterator[None]:
    """Have the Prefect server of PREFECT_API_URL, or a new one on a free port.

    Prefect's own temporary server would outlive a run that is killed.
    """
    if url := PREFECT_API_URL.value():
        check_password(url)
        yield
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/api"
    token = _is_temporary.set(True)
    with server_at(url), temporary_settings({PREFECT_API_URL: url}):
        try:
            yield
        finally:
            APILogHandler().flush()  # while the server is there
            _is_temporary.reset(token)


def check_password(url: str) -> None:
    """Raise PipelineError if the server wants a password that this process does not have."""
    login = (PREFECT_API_AUTH_STRING.value() or "").partition(":")
    try:
        answer = ask(f"{url}/admin/version", auth=(login[0], login[2]))
    except httpx.HTTPError:  # what follows waits for it
        return
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        wanted = "another password" if login[0] else "a password"
        raise PipelineError(
            f"the Prefect server at {url} wants {wanted}; set PREFECT_API_AUTH_STRING to"
            " USER:PASSWORD"
        )


def is_healthy(url: str) -> bool:
    """Whether a Prefect server answers, and its database answers it."""
    try:
        answer = ask(f"{url}/ready")
        return answer.is_success and answer.json() == {"message": "OK"}
    except (httpx.HTTPError, ValueError):
        return False


def ask(url: str, auth: tuple[str, str] | None = None) -> httpx.Response:
    """Send a GET request that trusts whom Prefect's client does.

    Raises PipelineError if the file with the certificates cannot be used.
    """
    verify: SSLContext | bool = not PREFECT_API_TLS_INSECURE_SKIP_VERIFY.value()
    path = PREFECT_API_SSL_CERT_FILE.value()
    if verify and path:
        try:
            verify = create_default_context(cafile=path)
        except OSError as error:
            raise PipelineError(
                f"PREFECT_API_SSL_CERT_FILE is {path}, which holds no certificates that can be"
                f" read: {error.strerror or error}"
            ) from error
    return httpx.get(url, auth=auth, verify=verify, timeout=5)
