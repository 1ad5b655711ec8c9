"""A practice hub that remembers its requests and fails on request, and tells a repository's history."""

import asyncio
import re
from types import SimpleNamespace

from starlette.responses import JSONResponse

from utils.practice.hub import PracticeHub
from utils.practice.repositories import HubError


class FailingHub(PracticeHub):
    """A practice hub whose `requests` are `(method, path, status)` of every answer; status 0 if it was dropped."""

    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.requests, self._faults, self._app, self.app = [], [], self.app, self._answer

    def inject(self, path, status=None, drop=False, flip=False, times=1, method=None):
        """Make the next `times` requests whose unquoted path matches a regular expression fail; give one of three.

        `status` answers with it; `drop` closes the connection, of a download after half the file; `flip` flips one bit
        in the middle of a file on its way down or up.
        """
        assert (status is not None) + drop + flip == 1
        how = {"status": status, "drop": drop, "flip": flip, "times": times, "method": method}
        self._faults.append(SimpleNamespace(path=re.compile(path), **how))

    def accept(self, repo_id, user, repo_type="model"):
        """Let a user download the files of a gated repository."""
        with self.lock:
            repo = self.find(repo_id, repo_type)
            repo["accepted"] = sorted({*repo["accepted"], user})
            self.save(repo)

    def routes(self):
        """Serve the history too, which only tests ask for."""
        return [*super().routes(), self.route("/api/{kind}/{owner}/{name}/commits/{revision}", self._history)]

    def _history(self, request, body):
        repo, found = self.repository(request), []
        oid = self.resolve(repo, request.path_params["revision"])
        while oid:
            commit = repo["commits"][oid]
            about = {key: commit[key] for key in ("title", "message", "date")}
            found.append({"id": oid, "authors": [{"user": commit["user"]}], **about})
            oid = commit["parent"]
        return found

    def _fault(self, method, path, is_file):
        for fault in self._faults:
            meets = fault.method in (None, method) and fault.path.search(path)
            if meets and fault.times > 0 and (is_file or not fault.flip):
                fault.times -= 1
                return fault
        return SimpleNamespace(status=None, drop=False, flip=False)

    async def _answer(self, scope, receive, send):
        method, path = scope["method"], scope["path"]
        download, upload = method == "GET" and "/resolve/" in path, method == "PUT" and "/lfs/objects/" in path
        fault = self._fault(method, path, download or upload)
        if fault.status:
            error = HubError(fault.status, f"Injected fault: status {fault.status}")
            refusal = JSONResponse(error.body, error.status, error.headers)
            return await refusal(scope, receive, self._logged(scope, send))
        if fault.drop and not download:
            self.requests.append((method, path, 0))
            send.__self__.transport.abort()  # of uvicorn's own cycle of a request and its answer
            return await asyncio.sleep(0.01)
        if fault.flip and upload:
            receive = _spoil(receive, _length(scope["headers"]))
        send = self._logged(scope, send)
        if fault.flip and download:
            send = _spoil_answer(send)
        if fault.drop:
            send = _drop_half(send)
        await self._app(scope, receive, send)

    def _logged(self, scope, send):
        async def logged(message):
            if message["type"] == "http.response.start":
                self.requests.append((scope["method"], scope["path"], message["status"]))
            await send(message)

        return logged


def _flip_bit(data, position):
    if 0 <= position < len(data):
        data = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
    return data


def _length(headers):
    return int(dict(headers)[b"content-length"])


def _spoil(receive, length):
    """Flip the bit in the middle of what a request brings."""
    seen = 0

    async def spoilt():
        nonlocal seen
        message = await receive()
        body = message.get("body", b"")
        seen += len(body)
        return message | {"body": _flip_bit(body, length // 2 - seen + len(body))} if body else message

    return spoilt


def _spoil_answer(send):
    """Flip the bit in the middle of what an answer brings."""
    position = -1

    async def spoilt(message):
        nonlocal position
        if message["type"] == "http.response.start":
            position = _length(message["headers"]) // 2
        elif body := message.get("body", b""):
            message = message | {"body": _flip_bit(body, position)}
            position -= len(body)
        await send(message)

    return spoilt


def _drop_half(send):
    """Let half of an answer pass; uvicorn then closes the connection, because an error ends the answer early."""
    left = 0

    async def half(message):
        nonlocal left
        if message["type"] == "http.response.start":
            left = _length(message["headers"]) // 2
            return await send(message)
        body = message["body"][:left]
        left -= len(body)
        await send({"type": "http.response.body", "body": body, "more_body": True})
        if not left:
            raise ConnectionAbortedError

    return half
