"""A small Hugging Face Hub on 127.0.0.1, for practice and for tests.

The real clients (huggingface_hub, transformers, peft, datasets) upload to it and download from it through
`HF_ENDPOINT`: real bytes, commits, tags, tokens and error codes. `repositories` keeps what they send.

Left out: Xet (set `HF_HUB_DISABLE_XET=1`), pull requests, search, and Spaces that run.
"""

import json
import socket
import threading
from urllib.parse import parse_qs

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from utils.practice import repositories as kept
from utils.practice.repositories import KINDS, HubError, Repositories

TOKENS = {"practice-write": ("learner", "write"), "practice-read": ("learner", "read")}


class PracticeHub(Repositories):
    """Serve models, datasets and Spaces from a folder on 127.0.0.1.

    `port` 0 takes a free one, and keeps it over `stop()` and `start()`; `tokens` maps a token to `(user, role)`, role
    "read" or "write".
    """

    def __init__(self, folder, port=0, tokens=TOKENS):
        super().__init__(folder)
        self.port, self.tokens, self._server = port, dict(tokens), None
        handlers = {HubError: _refusal, HTTPException: _not_served, Exception: _failure}
        self.app = Starlette(routes=self.routes(), exception_handlers=handlers)

    @property
    def url(self):
        """The address to set as `HF_ENDPOINT`."""
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        """Listen in a daemon thread, and return the hub."""
        self._socket = socket.create_server(("127.0.0.1", self.port), backlog=128)  # clients may connect from now on
        self.port = self._socket.getsockname()[1]
        options = {"interface": "asgi3", "lifespan": "off", "loop": "asyncio", "ws": "none"}
        options |= {"log_config": None, "log_level": "critical", "access_log": False}
        options |= {"timeout_keep_alive": 3600, "timeout_graceful_shutdown": 1}  # clients keep a connection for hours
        self._server = uvicorn.Server(uvicorn.Config(self.app, **options))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()
        return self

    def stop(self, *exception):
        """Stop listening and close every connection; what was committed stays in the folder."""
        if self._server is not None:
            self._server.should_exit = True
            self._thread.join()
            self._socket.close()
            self._server = None

    __enter__, __exit__ = start, stop

    def routes(self):
        """List what is served; `kind` is "models", "datasets" or "spaces"."""
        repo, lfs = "/api/{kind}/{owner}/{name}", "/{owner}/{name}.git/info/lfs/objects"
        routes = [
            self.route("/api/whoami-v2", self.whoami),
            self.route("/api/validate-yaml", self.validate_card, "POST"),
            self.route("/api/repos/create", self.create, "POST"),
            self.route(repo, self.info),
            self.route(repo + "/revision/{revision:path}", self.info),
            self.route(repo + "/auth-check", self.auth_check),
            self.route(repo + "/tree/{revision}", self.list_tree),
            self.route(repo + "/tree/{revision}/{folder:path}", self.list_tree),
            self.route(repo + "/paths-info/{revision}", self.paths_info, "POST"),
            self.route(repo + "/preupload/{revision}", self.preupload, "POST"),
            self.route(repo + "/commit/{revision}", self.take_commit, "POST"),
        ]
        for kind in ("", "/{kind}"):  # a model's files have no kind in their address
            routes.append(self.route(kind + "/{owner}/{name}/resolve/{revision}/{path:path}", self.send_file))
            routes.append(self.route(kind + lfs + "/batch", self.plan_upload, "POST"))
            routes.append(self.route(kind + lfs + "/{oid}", self.take_upload, "PUT"))
        return routes

    def route(self, path, endpoint, method="GET"):
        """Let `endpoint(request, body)` answer, with a response or with what becomes JSON, while the hub is locked."""

        async def answer(request):
            body = await request.body()
            with self.lock:
                found = endpoint(request, body)
            return found if isinstance(found, Response) else JSONResponse(found)

        return Route(path, answer, methods=[method])

    def account(self, request):
        """Return `(user, role)` of the token that a request carries."""
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.tokens.get(token, kept.ANYBODY)

    def repository(self, request, need="read"):
        """Return the repository that a request is about, or refuse it."""
        kind, owner, name = (request.path_params.get(part, "models") for part in ("kind", "owner", "name"))
        if kind not in KINDS:
            raise HTTPException(404)
        return self.find(f"{owner}/{name}", KINDS[kind], self.account(request), need)

    def whoami(self, request, body):
        user, role = self.account(request)
        if not user:
            raise HubError(401, "Invalid username or password.")
        token = {"displayName": f"{user}-{role}", "role": role}
        who = {"type": "user", "name": user, "fullname": user, "isPro": False, "orgs": []}
        return who | {"auth": {"type": "access_token", "accessToken": token}}

    def validate_card(self, request, body):
        kept.parse_card(json.loads(body)["content"])
        return {"errors": [], "warnings": []}

    def create(self, request, body):
        data, account = json.loads(body), self.account(request)
        owner, repo_type = data.get("organization") or account[0], data.get("type") or "model"
        repo_id = f"{owner}/{data['name']}"
        kept.check_writer(account, owner)
        self.add_repo(repo_id, repo_type, data.get("private") or data.get("visibility") == "private")
        return {"url": self.page(repo_id, repo_type), "name": repo_id}

    def info(self, request, body):
        repo = self.repository(request)
        revision = request.path_params.get("revision", "main")
        return kept.repo_info(repo, self.resolve(repo, revision), "blobs" in request.query_params)

    def auth_check(self, request, body):
        self.repository(request, "files")
        return {}

    def list_tree(self, request, body):
        revision, folder = request.path_params["revision"], request.path_params.get("folder", "")
        rows, below = kept.tree_rows(self.tree(self.repository(request), revision)), f"{folder}/" if folder else ""
        rows = {path: row for path, row in rows.items() if path.startswith(below)}
        if folder and not rows:
            raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        if request.query_params.get("recursive", "").lower() == "true":
            return list(rows.values())
        return [row for path, row in rows.items() if "/" not in path.removeprefix(below)]

    def paths_info(self, request, body):
        rows = kept.tree_rows(self.tree(self.repository(request), request.path_params["revision"]))
        is_json = "/json" in request.headers.get("Content-Type", "")
        asked = (json.loads(body) if is_json else parse_qs(body.decode()))["paths"]
        return [rows[path] for path in asked if path in rows]

    def preupload(self, request, body):
        files = self.tree(self.repository(request, "write"), request.path_params["revision"])
        return {"files": [kept.upload_mode(asked, files.get(asked["path"])) for asked in json.loads(body)["files"]]}

    def take_commit(self, request, body):
        repo, (user, _) = self.repository(request, "write"), self.account(request)
        if "create_pr" in request.query_params:
            raise HubError(400, "The practice hub has no pull requests: push without create_pr.")
        if (revision := request.path_params["revision"]) != "main":
            raise HubError(404, f"Invalid rev id: {revision} is not main", "RevisionNotFound")
        oid = self.apply_commit(repo, [json.loads(line) for line in body.splitlines() if line], user)
        return {"commitOid": oid, "commitUrl": f"{self.page(repo['id'], repo['type'])}/commit/{oid}"}

    def plan_upload(self, request, body):
        repo, objects = self.repository(request, "write"), []
        for asked in json.loads(body)["objects"]:
            item = {"oid": asked["oid"], "size": asked["size"]}
            if not self.object_path(item["oid"]).is_file():
                href = f"{self.page(repo['id'], repo['type'])}.git/info/lfs/objects/{item['oid']}"
                item["actions"] = {"upload": {"href": href}}
            objects.append(item)
        return {"transfer": "basic", "objects": objects}

    def take_upload(self, request, body):
        """Keep a large file; the client sends no token to the address that `plan_upload` gave."""
        self.store(body, expected=request.path_params["oid"])
        return {}

    def send_file(self, request, body):
        repo, path = self.repository(request, "files"), request.path_params["path"]
        commit = self.resolve(repo, request.path_params["revision"])
        headers, entry = {"X-Repo-Commit": commit}, self.tree(repo, commit).get(path)
        if entry is None:
            raise HubError(404, f"Entry not found: {path}", "EntryNotFound", headers)
        etag = f'"{entry["etag"]}"'
        headers |= {"ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(entry["size"])}
        return FileResponse(self.object_path(entry["sha256"]), headers=headers, media_type="application/octet-stream")


async def _refusal(request, error):
    return JSONResponse(error.body, error.status, error.headers)


async def _not_served(request, error):
    message = f"The practice hub does not serve {request.method} {request.url.path}"
    return JSONResponse({"error": message}, error.status_code)


async def _failure(request, error):
    message = f"The practice hub failed on {request.method} {request.url.path}: {error!r}"
    return JSONResponse({"error": message}, 500)
