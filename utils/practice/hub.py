"""A small Hugging Face Hub on 127.0.0.1, for practice and for tests.

The real clients (huggingface_hub, transformers, peft, datasets) upload to it and download from it through
`HF_ENDPOINT`: real bytes, commits, tags, tokens and error codes, and faults on request. `practice_repositories` keeps
what they send.

Files come and go as plain HTTP (Git LFS), or through Xet where `hf_xet` is installed and `HF_HUB_DISABLE_XET` is not
set; `practice_storage` keeps their chunks. A file that Xet never brought is served as plain HTTP only.

It leaves out pull requests, search, telemetry, Spaces that run, and repositories without a namespace, such as `gpt2`.
"""

import argparse
import contextlib
import json
import re
import socket
import threading
import time
import weakref
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote, urlsplit

from utils.practice.repositories import (
    CHUNK,
    KINDS,
    REFS,
    HubError,
    Repositories,
    check_writer,
    commit_history,
    parse_card,
    read_chunks,
    repo_info,
    tree_rows,
    upload_mode,
)
from utils.practice.storage import XetStorage

DEFAULT_TOKENS = {"practice-write": ("learner", "write"), "practice-read": ("learner", "read")}
XET_HEADERS = {"casUrl": "X-Xet-Cas-Url", "accessToken": "X-Xet-Access-Token", "exp": "X-Xet-Token-Expiration"}


class PracticeHub(Repositories):
    """Serve models, datasets and Spaces from a folder on 127.0.0.1.

    Args:
        folder: Where objects and repositories are kept; made if it is not there.
        port: The port to listen on; 0 takes a free one and keeps it over `stop()` and `start()`.
        tokens: Maps each token to `(user, role)`, role "read" or "write"; default `DEFAULT_TOKENS`.

    Attributes:
        requests: `(method, path, status)` of every answer, the path unquoted and without its query; status 0
            when the connection was dropped instead.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, PracticeHub(folder) as hub:
        ...     hub.add_repo("learner/tiny")
        ...     list(hub.files("learner/tiny"))
        ['.gitattributes']
    """

    def __init__(self, folder, port=0, tokens=None):
        super().__init__(folder)
        self.xet = XetStorage(self.folder / "xet", self.store)
        self.port, self.tokens = port, dict(DEFAULT_TOKENS if tokens is None else tokens)
        self.requests, self._faults, self._server, self._connections = [], [], None, weakref.WeakSet()

    @property
    def url(self):
        """The address to set as `HF_ENDPOINT`."""
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        """Listen in a daemon thread, and return the hub."""
        if self._server is None:
            self._server = _Server(("127.0.0.1", self.port), _Handler)
            self._server.hub, self.port = self, self._server.server_port
            threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self, *exception):
        """Stop listening and cut every open connection; what was committed stays in the folder."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            for connection in list(self._connections):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._server = None

    __enter__, __exit__ = start, stop

    def inject(self, path, status=None, drop=False, flip=False, times=1, method=None):
        """Make the next requests that match fail, and those after them succeed.

        Args:
            path: A regular expression, searched in the unquoted path, such as `resolve/.*safetensors`.
            status: Answer this status and do nothing else.
            drop: Close the connection: a download after half the file, any other request before it is done.
            flip: Flip one bit in the middle of a file, on its way down (the client gets wrong bytes) or up
                (the sha256 is then wrong, so it is refused). Only downloads and uploads of files match; with Xet
                these are GET and POST of `/xorbs/`, and what is refused is the `/shards` that comes after.
            times: How many requests fail.
            method: Only requests with this method match, such as "PUT"; default all.

        Raises:
            ValueError: If it is not exactly one of status, drop and flip.
        """
        if (status is not None) + drop + flip != 1:
            raise ValueError(f"Give one of status, drop, flip, not {status=}, {drop=}, {flip=}.")
        fault = {"path": re.compile(path), "status": status, "drop": drop, "flip": flip}
        self._faults.append(SimpleNamespace(**fault, times=times, method=method))

    def take_fault(self, method, path, is_file):
        """Return the fault that this request meets, counted down, or one that does nothing."""
        with self.lock:
            for fault in self._faults:
                meets = fault.method in (None, method) and fault.path.search(path)
                if meets and fault.times > 0 and (is_file or not fault.flip):
                    fault.times -= 1
                    return fault
        return SimpleNamespace(status=None, drop=False, flip=False)


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def process_request(self, request, client_address):
        self.hub._connections.add(request)
        super().process_request(request, client_address)

    def handle_error(self, request, client_address):
        """Say nothing: a client that goes away is no error, and other exceptions were answered with 500."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True
    wbufsize = 1 << 16  # headers and a small body leave in one packet

    def log_message(self, *arguments):
        """Stay silent: `PracticeHub.requests` is the log."""

    def serve(self):
        self.hub, url = self.server.hub, urlsplit(self.path)
        self.name, self.query, self.body = unquote(url.path), parse_qs(url.query), self.read_body()
        download = self.command == "GET" and re.search("/resolve/|^/xet/.*/xorbs/", self.name)
        upload = re.match("PUT .*/lfs/objects/|POST /xet/.*/xorbs/", f"{self.command} {self.name}")
        self.fault = self.hub.take_fault(self.command, self.name, download or upload)
        self.scope, _, self.token = self.headers.get("Authorization", "").removeprefix("Bearer ").rpartition(":")
        self.account = self.hub.tokens.get(self.token, (None, None))
        try:
            if self.fault.status:
                raise HubError(self.fault.status, f"Injected fault: status {self.fault.status}")
            if self.fault.drop and not download:
                raise ConnectionAbortedError
            if self.token and self.token not in self.hub.tokens:
                raise HubError(401, "Invalid credentials in Authorization header")
            self.route([unquote(part) for part in url.path.strip("/").split("/")])
        except HubError as error:
            self.answer(error.status, error.body, error.headers)
        except ConnectionError:
            self.hub.requests.append((self.command, self.name, 0))
            self.close_connection = True
        except Exception as error:  # a request that no client sends, or a full disk
            self.answer(500, {"error": f"The practice hub failed on {self.command} {self.name}: {error!r}"})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def read_body(self):
        """Yield the request's body in pieces, whether its length is announced or it comes chunked."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        left = int(self.headers.get("Content-Length", 0))
        while left > 0:
            data = self.rfile.read(min(left, CHUNK))
            if not data:
                raise ConnectionAbortedError
            left -= len(data)
            yield data

    def answer(self, status, payload=None, headers=(), chunks=None):
        """Send JSON, or the chunks that the headers describe."""
        for _ in self.body:  # the rest of this request must not be taken for the next one
            pass
        data = json.dumps(payload, default=str).encode()
        self.hub.requests.append((self.command, self.name, status))
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": len(data), **dict(headers)}
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.writelines([data] if chunks is None else chunks)

    def route(self, parts):
        """Answer a request for the API, for a file, or for an upload to large file storage."""
        if parts[0] == "api":
            body = b"".join(self.body)
            with self.hub.lock:
                result = self.api(parts[1:], body)
            headers = {XET_HEADERS[key]: result[key] for key in XET_HEADERS if key in (result or ())}
            return self.answer(200, result, headers)
        if parts[:2] == ["xet", self.hub.xet.key]:
            return self.xet(parts[2:])
        repo_type = KINDS[parts.pop(0)] if parts[0] in KINDS else "model"
        repo_id = "/".join(parts[:2]).removesuffix(".git")
        match [self.command, *parts[2:]]:
            case ["GET" | "HEAD", "resolve", revision, *path]:
                self.send_file(repo_id, repo_type, revision, "/".join(path))
            case ["POST", "info", "lfs", "objects", "batch"]:
                self.hub.find(repo_id, repo_type, self.account, "write")
                asked = json.loads(b"".join(self.body))["objects"]
                objects = [{"oid": item["oid"], "size": item["size"]} for item in asked]
                for item in objects:
                    if not self.hub.object_path(item["oid"]).is_file():
                        href = f"{self.hub.page(repo_id, repo_type)}.git/info/lfs/objects/{item['oid']}"
                        item["actions"] = {"upload": {"href": href}}
                self.answer(200, {"transfer": "basic", "objects": objects})
            case ["PUT", "info", "lfs", "objects", oid]:
                # Nobody's token is asked for: the client sends none to an address that the batch gave it.
                middle = int(self.headers.get("Content-Length", 0)) // 2
                self.hub.store(_flip_bit(self.body, middle) if self.fault.flip else self.body, expected=oid)
                self.answer(200, {})
            case _:
                self.refuse()

    def refuse(self):
        raise HubError(404, f"The practice hub does not serve {self.command} {self.name}")

    def send_file(self, repo_id, repo_type, revision, path):
        """Send a file of a revision, or the range of it that was asked for."""
        with self.hub.lock:
            repo = self.hub.find(repo_id, repo_type, self.account, "files")
            commit = self.hub.resolve(repo, revision)
            entry = self.hub.tree(repo, commit).get(path)
        headers = {"X-Repo-Commit": commit}
        if entry is None:
            raise HubError(404, f"Entry not found: {path} at {revision}", "EntryNotFound", headers)
        etag, name = f'"{entry["etag"]}"', self.hub.xet.hashes.get(entry["sha256"])
        headers |= {"ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": entry["size"]}
        if name and entry["lfs"]:
            link = f"{self.hub.url}/api/{repo_type}s/{repo_id}/xet-read-token/{commit}"
            headers |= {"X-Xet-Hash": name, "Link": f'<{link}>; rel="xet-auth"'}
        self.send_bytes(self.hub.object_path(entry["sha256"]), headers)

    def wanted_range(self):
        """Return the first and the last byte that the request asks for, None for the end, or () for all."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        return (int(wanted[1]), int(wanted[2]) if wanted[2] else None) if wanted else ()

    def send_bytes(self, path, headers=()):
        """Send what lies at a path, or the range of it that was asked for."""
        size, headers = path.stat().st_size, {"Accept-Ranges": "bytes", **dict(headers)}
        status, first, last = 200, 0, size - 1
        if wanted := self.wanted_range():
            status, first, last = 206, wanted[0], last if wanted[1] is None else min(wanted[1], last)
            if first > last:
                raise HubError(416, f"There are {size} bytes", headers={"Content-Range": f"bytes */{size}"})
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        length = last - first + 1
        headers |= {"Content-Type": "application/octet-stream", "Content-Length": length}
        sent = length // 2 if self.fault.drop else length
        chunks = read_chunks(path, first, sent)
        self.answer(status, None, headers, _flip_bit(chunks, length // 2) if self.fault.flip else chunks)
        self.close_connection |= self.fault.drop

    @property
    def xet_url(self):
        return f"{self.hub.url}/xet/{self.hub.xet.key}"

    def xet(self, parts):
        """Answer a request to the Xet storage; the token is one that the repository's `xet-*-token` gave."""
        xet, url = self.hub.xet, f"{self.xet_url}/v1/xorbs/default/"
        match [self.command, *parts]:
            case ["GET", "v1", "xorbs", "default", xorb] if xet.xorb_path(xorb).is_file():
                return self.send_bytes(xet.xorb_path(xorb))  # as with LFS, nobody's token is asked for
            case _ if not self.scope:
                raise HubError(401, "A Xet token is needed")
            case ["POST", *_] if (self.scope, self.account[1]) != ("xet-write", "write"):
                raise HubError(403, "A Xet token that may write is needed")
            case ["POST", "v1", "xorbs", "default", xorb]:
                data = b"".join(self.body)
                data = b"".join(_flip_bit([data], len(data) // 2)) if self.fault.flip else data
                return self.answer(200, {"was_inserted": xet.add_xorb(xorb, data)})
            case ["POST", "v1" | "v2", "shards"]:
                xet.add_shard(b"".join(self.body))
                return self.answer(200, {"type": "result", "result": 1})  # what versions 2 and 1 each look for
            case ["GET", "v1" | "v2", "reconstructions", name]:
                return self.answer(200, xet.reconstruction(name, url, *self.wanted_range()))
            case ["GET", "v1", "chunks", _, chunk]:
                shard = xet.known_chunks(chunk)
                return self.answer(200, None, {"Content-Length": len(shard)}, [shard])
        self.refuse()

    def api(self, parts, body):
        """Return the JSON that answers a request below `/api`; called with the hub's lock held."""
        (user, role), hub = self.account, self.hub
        data = json.loads(body) if "/json" in self.headers.get("Content-Type", "") and body else {}
        repo_id = f"{data.get('organization') or user}/{data.get('name')}"
        repo_type = data.get("type") or "model"
        match [self.command, *parts]:
            case ["GET", "whoami-v2"] if user:
                token = {"displayName": f"{user}-{role}", "role": role}
                who = {"type": "user", "name": user, "fullname": user, "isPro": False, "orgs": []}
                return who | {"auth": {"type": "access_token", "accessToken": token}}
            case ["GET", "whoami-v2"]:
                raise HubError(401, "Invalid username or password.")
            case ["POST", "validate-yaml"]:
                parse_card(data["content"])
                return {"errors": [], "warnings": []}
            case ["POST", "repos", "create"]:
                check_writer(self.account, repo_id.split("/")[0])
                hub.add_repo(repo_id, repo_type, data.get("private") or data.get("visibility") == "private")
                return {"url": hub.page(repo_id, repo_type), "name": repo_id}
            case ["DELETE", "repos", "delete"]:
                return hub.save(hub.find(repo_id, repo_type, self.account, "write"), delete=True)
            case [_, kind, owner, name, *action] if kind in KINDS:
                need = "read" if self.command == "GET" or action[:1] == ["paths-info"] else "write"
                repo = hub.find(f"{owner}/{name}", KINDS[kind], self.account, need)
                return self.repo_api(repo, action, data, body)
        self.refuse()

    def repo_api(self, repo, action, data, body):
        """Return the JSON that answers a request about one repository."""
        hub = self.hub
        match [self.command, *action]:
            case ["GET"] | ["GET", "revision", _]:
                return repo_info(repo, hub.resolve(repo, action[1] if action else "main"), "blobs" in self.query)
            case ["GET", "auth-check", *write]:
                hub.find(repo["id"], repo["type"], self.account, "write" if write else "files")
                return {}
            case ["GET", "xet-read-token" | "xet-write-token" as kind, revision]:
                scope = kind.removesuffix("-token")
                hub.find(repo["id"], repo["type"], self.account, "write" if scope == "xet-write" else "files")
                hub.resolve(repo, revision)
                token = f"{scope}:{self.token}"  # so that it still holds after a restart
                return {"casUrl": self.xet_url, "accessToken": token, "exp": int(time.time()) + 3600}
            case ["GET", "refs"]:
                listing, names = {"converts": [], "pullRequests": []}, ("name", "ref", "targetCommit")
                for refs, folder in (("branches", "heads"), ("tags", "tags")):
                    pairs = [(name, f"refs/{folder}/{name}", oid) for name, oid in repo[refs].items()]
                    listing[refs] = [dict(zip(names, pair, strict=True)) for pair in pairs]
                return listing
            case ["GET", "commits", revision]:
                return list(commit_history(repo, hub.resolve(repo, revision)))
            case ["GET", "tree", revision, *folders]:
                under, deep = "".join(f"{part}/" for part in folders), self.query.get("recursive", [""])[0]
                rows = tree_rows(hub.tree(repo, revision), hub.xet.hashes)
                rows = {p: row for p, row in rows.items() if p.startswith(under)}
                if under and not rows:
                    raise HubError(404, f"{under} does not exist on {revision}", "EntryNotFound")
                return [rows[p] for p in rows if deep.lower() == "true" or "/" not in p.removeprefix(under)]
            case ["POST", "paths-info", revision]:
                rows = tree_rows(hub.tree(repo, revision), hub.xet.hashes)
                return [rows[path] for path in (data or parse_qs(body.decode()))["paths"] if path in rows]
            case ["POST", "preupload", revision]:
                files = hub.tree(repo, revision)
                return {"files": [upload_mode(asked, files.get(asked["path"])) for asked in data["files"]]}
            case ["POST", "commit", branch]:
                lines = [json.loads(line) for line in body.splitlines() if line]
                if "create_pr" in self.query:
                    raise HubError(400, "The practice hub has no pull requests: push without create_pr.")
                oid = hub.apply_commit(repo, branch, lines, self.account[0])
                return {"commitOid": oid, "commitUrl": f"{hub.page(repo['id'], repo['type'])}/commit/{oid}"}
            case ["POST", "branch", name]:
                start = data.get("startingPoint") or "main"
                return hub.add_ref(repo, "branch", name, hub.resolve(repo, start))
            case ["POST", "tag", revision]:
                return hub.add_ref(repo, "tag", data["tag"], hub.resolve(repo, revision))
            case ["DELETE", "branch" | "tag" as kind, name]:
                if name == "main" or not repo[REFS[kind]].pop(name, None):
                    raise HubError(404, f"No {kind} to delete: {name}", "RevisionNotFound")
                return hub.save(repo)
            case ["PUT", "settings"]:
                repo["private"] = data["visibility"] == "private" if "visibility" in data else repo["private"]
                repo["gated"] = data.get("gated", repo["gated"])
                return hub.save(repo)
        self.refuse()


def _flip_bit(chunks, position):
    """Yield the chunks with the lowest bit of one byte flipped."""
    for chunk in chunks:
        if 0 <= position < len(chunk):
            chunk = chunk[:position] + bytes([chunk[position] ^ 1]) + chunk[position + 1 :]
        position -= len(chunk)
        yield chunk


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve a practice Hub from a folder until Ctrl-C.")
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, default=8080)
    with PracticeHub(**vars(parser.parse_args())) as hub, contextlib.suppress(KeyboardInterrupt):
        print(f"export HF_ENDPOINT={hub.url} HF_HUB_DISABLE_XET=1 HF_TOKEN=practice-write", flush=True)
        threading.Event().wait()
