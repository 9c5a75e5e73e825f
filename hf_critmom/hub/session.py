"""Requests to the Hub: each has a time limit, and is retried if the Hub neither accepts nor refuses it."""

import importlib
import math
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import constants, get_session
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.utils import hf_raise_for_status
from transformers.utils import logging

from hf_critmom.hub.errors import HubError

logger = logging.get_logger(__name__)

# huggingface_hub moved from httpx to httpx2: the module of its errors says which one it uses.
_httpx = importlib.import_module(HTTPError.__module__.partition(".")[0])
TimeoutException: type[Exception] = _httpx.TimeoutException
InvalidURL: type[Exception] = _httpx.InvalidURL

TRANSIENT = {408, 412, 429, 500, 502, 503, 504}
"""Statuses that neither accept nor refuse a request. 412: another commit came in between."""

RETRY_WAITS = (1.0, 3.0, 9.0)
"""Seconds before each retry of a request that was neither accepted nor refused."""
UNANSWERED_ATTEMPTS = 2
"""Number of attempts if the Hub cannot be reached or does not answer."""
LONGEST_WAIT = 60.0
"""Longest wait in seconds that the Hub may request before a retry (``Retry-After``)."""
REQUEST_TIMEOUT = 15.0
"""Seconds of silence after which a request has failed; ``HF_CRITMOM_HUB_TIMEOUT`` overrides it."""
UPLOAD_TIMEOUT = 60.0
"""The same limit for requests that carry files: uploads and the commit."""
WHOLE_REQUEST = 4.0
"""Largest duration of a whole request as a multiple of its time limit, even if data comes; uploads have more."""
SLOWEST_UPLOAD = 16 * 1024
"""Bytes per second below which an upload has failed."""

_CONFLICT = "another conflicting operation is in progress"  # on which create_repo would retry for ever


class RetriesExhausted(Exception):
    """All attempts of a request have failed; the cause is the error of the last one."""


@contextmanager
def patient_session() -> Iterator[None]:
    """Within the context, every request of huggingface_hub has a time limit, and is retried if that may help.

    huggingface_hub itself has no time limit for most requests, and retries only some. Commits are not retried here,
    because one whose answer was lost must not be made twice. Files are uploaded by Git LFS: Xet's client makes requests
    of its own, which hang silently for many minutes if the storage does not answer.

    Raises:
        HubError: If ``HF_CRITMOM_HUB_TIMEOUT`` is not a positive number.
    """
    if isinstance(getattr(get_session().send, "__self__", None), _Sender):  # entered already
        yield
        return
    limit = _configured_timeout()
    client = get_session()
    sender = _Sender(client.send, limit or REQUEST_TIMEOUT, limit or UPLOAD_TIMEOUT)
    client.send = sender.send  # type: ignore[method-assign]
    without_xet = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = without_xet
        client.send = sender.send_once  # type: ignore[method-assign]


def _configured_timeout() -> float | None:
    given = os.environ.get("HF_CRITMOM_HUB_TIMEOUT")
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0.0 < seconds < math.inf:
        raise HubError(f"HF_CRITMOM_HUB_TIMEOUT is {given!r}: give a positive number of seconds, or unset it.")
    return seconds


@dataclass
class _Sender:
    """Sends the requests of one client.

    Attributes:
        send_once: Sends a request once.
        request_timeout: Time limit in seconds.
        upload_timeout: Time limit in seconds of requests that carry files.
        failures: Number of failures, by URL, of requests that only their caller can retry.
        lock: Guards ``failures``.
    """

    send_once: Callable[..., Any]
    request_timeout: float
    upload_timeout: float
    failures: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, request: Any, **kwargs: Any) -> Any:
        """Sends a request, and retries while that may help.

        Raises:
            RetriesExhausted: If no attempt succeeds.
        """
        is_commit = request.method == "POST" and "/commit/" in request.url.path
        is_stream = not isinstance(request.stream, _httpx.ByteStream)  # only its caller can rewind it
        limit = self.upload_timeout if is_commit or is_stream else self.request_timeout
        size = request.headers.get("Content-Length", "0")
        in_all = WHOLE_REQUEST * limit + (int(size) if size.isdecimal() else 0) / SLOWEST_UPLOAD
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), limit)
        request.extensions = {**request.extensions, "timeout": timeouts}
        failed = 0
        while True:
            response, error = self._attempt(request, kwargs, in_all)
            if isinstance(error, _TookTooLong):  # it may still be running, so it must not be retried
                raise RetriesExhausted from error
            if error is None or is_commit:
                if response is None:
                    raise error  # type: ignore[misc]
                return response
            if is_stream:
                with self.lock:
                    self.failures[str(request.url)] += 1
                    failed = self.failures[str(request.url)]
            else:
                failed += 1
            wait = seconds_to_wait(failed, error)
            if wait is None:
                raise RetriesExhausted from error
            if is_stream:  # http_backoff waits and retries
                if response is None:
                    raise _httpx.NetworkError(str(error), request=request) from error  # not ConnectError: see above
                return response
            announce_retry(request, error, wait)
            time.sleep(wait)

    def _attempt(self, request: Any, kwargs: dict[str, Any], in_all: float) -> tuple[Any, Exception | None]:
        """The response, and an error if it neither accepts nor refuses the request."""
        try:
            response = self._send_within(in_all, request, kwargs)
        except (_httpx.TimeoutException, _httpx.NetworkError, _httpx.RemoteProtocolError) as error:
            return None, error
        is_creation = request.url.path.endswith("/repos/create")
        is_conflict = is_creation and response.status_code == 409 and _CONFLICT in response.text
        if response.status_code not in TRANSIENT and not is_conflict:
            return response, None
        try:
            hf_raise_for_status(response)
        except HfHubHTTPError as error:
            return response, error
        return response, None

    def _send_within(self, seconds: float, request: Any, kwargs: dict[str, Any]) -> Any:
        """Sends a request from a thread that is abandoned after some seconds.

        The client's own limits restart with each byte, so a Hub that sends one now and then would block it.

        Raises:
            _TookTooLong: If there is no complete answer by then.
        """
        answer: list[Any] = []
        error: list[BaseException] = []

        def send() -> None:
            try:
                answer.append(self.send_once(request, **kwargs))
            except BaseException as caught:
                error.append(caught)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            raise _TookTooLong(f"no complete answer within {seconds:.0f} s", request=request)
        if error:
            raise error[0]
        return answer[0]


class _TookTooLong(TimeoutException):  # type: ignore[misc,valid-type]
    """A request without a complete answer within the limit for whole requests."""


def seconds_to_wait(failed: int, error: Exception) -> float | None:
    """Seconds to wait before the next attempt; None if there is to be none.

    Args:
        failed: Number of attempts that have failed.
        error: The error of the last one.
    """
    is_unanswered = isinstance(error, (TimeoutException, _httpx.ConnectError))
    if failed > len(RETRY_WAITS) or (is_unanswered and failed >= UNANSWERED_ATTEMPTS):
        return None
    response = getattr(error, "response", None)
    requested = "" if response is None else response.headers.get("Retry-After", "")
    wait = max(RETRY_WAITS[failed - 1], float(requested) if re.fullmatch(r"\d{1,9}", requested) else 0.0)
    return wait if wait <= LONGEST_WAIT else None


def announce_retry(request: Any, error: Exception, wait: float) -> None:
    """Announces a retry on a terminal; elsewhere, only a final error is reported."""
    if sys.stderr.isatty():
        logger.warning(f"{request.method} {request.url.path} failed ({type(error).__name__}): again in {wait:g} s.")
