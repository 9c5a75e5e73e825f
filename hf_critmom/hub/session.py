"""Requests to the Hub: each has a time limit, and is made again where its answer is neither yes nor no."""

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

# huggingface_hub went from httpx to httpx2: its own errors say which one it uses.
_httpx = importlib.import_module(HTTPError.__module__.partition(".")[0])
TimeoutException: type[Exception] = _httpx.TimeoutException
InvalidURL: type[Exception] = _httpx.InvalidURL

TRANSIENT = {408, 412, 429, 500, 502, 503, 504}
"""Statuses of answers that are neither yes nor no. 412: somebody else's commit came between."""

RETRY_WAITS = (1.0, 3.0, 9.0)
"""Seconds before each further attempt of a request that was answered neither with yes nor with no."""
UNANSWERED_ATTEMPTS = 2
"""How often a request is made where the Hub cannot be reached, or accepts it and does not answer."""
LONGEST_WAIT = 60.0
"""Seconds that the Hub may ask to wait before a request is made again (``Retry-After``)."""
REQUEST_TIMEOUT = 15.0
"""Seconds without a sign of the Hub after which a request has failed; ``HF_CRITMOM_HUB_TIMEOUT`` says otherwise."""
UPLOAD_TIMEOUT = 60.0
"""The same of requests that carry files: uploads and the commit."""
WHOLE_REQUEST = 4.0
"""Times its time limit that a request may take in all, whatever signs of the Hub come; uploads have more."""
SLOWEST_UPLOAD = 16 * 1024
"""Bytes per second below which an upload has failed."""

_CONFLICT = "another conflicting operation is in progress"  # upon which create_repo would repeat for ever


class RetriesExhausted(Exception):
    """A request has failed as often as it may; the error of the last attempt is its cause."""


@contextmanager
def patient_session() -> Iterator[None]:
    """While entered, every request of huggingface_hub has a time limit, and is repeated where that may help.

    huggingface_hub has no time limit of its own for most requests, and repeats some of them only. Commits are not
    repeated here, since one whose answer was lost must not be made twice. Files are uploaded by Git LFS: the client of
    Xet makes requests of its own, which a storage that does not answer holds for many minutes without a word.

    Raises:
        HubError: If ``HF_CRITMOM_HUB_TIMEOUT`` is no time.
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
        send_once: Sends a request.
        request_timeout: Time limit in seconds.
        upload_timeout: Time limit of requests that carry files.
        failures: How often requests have failed whose repetition is up to the caller, by URL.
    """

    send_once: Callable[..., Any]
    request_timeout: float
    upload_timeout: float
    failures: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, request: Any, **kwargs: Any) -> Any:
        """Sends a request, again and again while that may help.

        Raises:
            RetriesExhausted: If it does not.
        """
        is_commit = request.method == "POST" and "/commit/" in request.url.path
        is_stream = not isinstance(request.stream, _httpx.ByteStream)  # only its sender can begin it again
        limit = self.upload_timeout if is_commit or is_stream else self.request_timeout
        size = request.headers.get("Content-Length", "0")
        in_all = WHOLE_REQUEST * limit + (int(size) if size.isdecimal() else 0) / SLOWEST_UPLOAD
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), limit)
        request.extensions = {**request.extensions, "timeout": timeouts}
        failed = 0
        while True:
            response, error = self._attempt(request, kwargs, in_all)
            if isinstance(error, _TookTooLong):  # it may still be at it, so that it cannot be made again
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
            if is_stream:  # http_backoff waits, and sends it again
                if response is None:
                    raise _httpx.NetworkError(str(error), request=request) from error  # not ConnectError: see above
                return response
            announce_retry(request, error, wait)
            time.sleep(wait)

    def _attempt(self, request: Any, kwargs: dict[str, Any], in_all: float) -> tuple[Any, Exception | None]:
        """The answer, and what is wrong with it if it is neither yes nor no."""
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
        """Sends a request from a thread that is left alone after some seconds.

        The client's own limits begin again with each byte, so that a Hub which sends one now and then would hold it.

        Raises:
            _TookTooLong: If there is no whole answer by then.
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
            raise _TookTooLong(f"no whole answer within {seconds:.0f} s", request=request)
        if error:
            raise error[0]
        return answer[0]


class _TookTooLong(TimeoutException):  # type: ignore[misc,valid-type]
    """A request that has not been answered as a whole in the time that it may take in all."""


def seconds_to_wait(failed: int, error: Exception) -> float | None:
    """Seconds before the next attempt; None if there is none.

    Args:
        failed: How many attempts have failed.
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
    """Tells a person who waits; what ends in an error is one sentence for everybody else."""
    if sys.stderr.isatty():
        logger.warning(f"{request.method} {request.url.path} failed ({type(error).__name__}): again in {wait:g} s.")
