"""The stand-in of the W&B server that also takes what `wandb sync` uploads: rows, configuration, files and artifacts.

It refuses what would lose something: a file whose MD5 is not the one that was announced, rows that leave a gap, and an
artifact of which a file is missing. Left out: resuming and deleting, references and files in several parts, versions
and aliases of artifacts, and every feature that a server need not have.
"""

import base64
import hashlib
import json
import re
from types import SimpleNamespace

from support.wandb_api import USER, WandbAPI, _Handler

MANIFEST = "wandb_manifest.json"


class WandbUploads(WandbAPI):
    """Take runs, which become those of the key's user, and serve them.

    `artifacts` by id have `name`, `type`, `state` and `files` (bytes by name); `files` are bytes by run and name;
    `streams` are lines by run and name, such as "output.log"; `uploads` are `(files, name, md5)` by path.
    """

    def __init__(self):
        super().__init__()
        self.artifacts, self.files, self.streams, self.uploads = {}, {}, {}, {}

    def start(self) -> "WandbUploads":
        super().start()
        self._server.RequestHandlerClass = _UploadHandler
        return self

    def answer(self, operation: str, variables: dict) -> dict:
        if "serverInfo" in operation:
            return {"serverInfo": {"features": []}}
        mutation = re.match(r"\s*mutation (\w+)", operation)
        if not mutation:
            return super().answer(operation, variables)
        name = mutation[1]
        given = variables.get("input") or variables  # wandb 0.28 has some of them one level higher than 0.31
        return {name[0].lower() + name[1:]: getattr(self, f"_answer_{name}")(given)}

    def stream(self, entity: str, project: str, run_id: str, body: dict) -> None:
        """Take lines of a run, each file's from an offset on, and its end."""
        run, streams = self._runs[entity, project, run_id], self.streams.setdefault(run_id, {})
        for name, chunk in body.get("files", {}).items():
            lines = streams.setdefault(name, [])
            if chunk["offset"] > len(lines):
                raise ValueError(f"{name} has a gap before line {chunk['offset']}")
            lines[chunk["offset"] :] = chunk["content"]
        run.rows = [json.loads(line) for line in streams.get("wandb-history.jsonl", [])]
        if body.get("complete"):
            run.state = "failed" if body["exitcode"] else "finished"

    def _answer_UpsertBucket(self, given: dict) -> dict:
        project, run_id = given["project"], given["name"]
        place = (USER["entity"], project, run_id)
        inserted = place not in self._runs
        if inserted:
            self.add_run(*place, given["displayName"], "running", {}, [], given["groupName"])
        config = json.loads(given["config"])
        self._runs[place].config = {key: item["value"] for key, item in config.items() if key != "_wandb"}
        bucket = {"id": run_id, "name": run_id, "displayName": self._runs[place].name, "historyLineCount": 0}
        bucket["project"] = {"id": project, "name": project, "entity": {"id": "1", "name": USER["entity"]}}
        return {"bucket": bucket, "inserted": inserted}

    def _answer_CreateRunFiles(self, given: dict) -> dict:
        place = self.files.setdefault(given["run"], {})
        files = [{"name": name, "uploadUrl": self._upload_url(place, name)} for name in given["files"]]
        return {"runID": given["run"], "uploadHeaders": [], "files": files}

    def _answer_CreateArtifact(self, given: dict) -> dict:
        name, kind, state = given["artifactCollectionName"], given["artifactTypeName"], "PENDING"
        artifact_id = base64.b64encode(f"{kind}:{name}".encode()).decode()
        self.artifacts[artifact_id] = SimpleNamespace(name=name, type=kind, state=state, files={})
        return {"artifact": {"id": artifact_id, "state": state, "artifactSequence": {"latestArtifact": None}}}

    def _answer_CreateArtifactManifest(self, given: dict) -> dict:
        file = {"id": "1", "name": MANIFEST, "displayName": MANIFEST}
        if given["includeUpload"]:
            place = self.artifacts[given["artifactID"]].files
            file |= {"uploadUrl": self._upload_url(place, MANIFEST, given["digest"]), "uploadHeaders": []}
        return {"artifactManifest": {"id": "1", "file": file}}

    def _answer_CreateArtifactFiles(self, given: dict) -> dict:
        edges = []
        for it in given["artifactFiles"]:
            url = self._upload_url(self.artifacts[it["artifactID"]].files, it["name"], it["md5"])
            node = {"artifact": {"id": it["artifactID"]}, "name": it["name"], "storagePath": url, "uploadUrl": url}
            edges.append({"node": node | {"id": it["name"], "uploadHeaders": [], "uploadMultipartUrls": None}})
        return {"files": {"edges": edges}}

    def _answer_CommitArtifact(self, given: dict) -> dict:
        artifact = self.artifacts[given["artifactID"]]
        if missing := json.loads(artifact.files[MANIFEST])["contents"].keys() - artifact.files.keys():
            raise ValueError(f"{artifact.name} has no {missing}")
        artifact.state = "COMMITTED"
        return {"artifact": {"id": given["artifactID"], "digest": ""}}

    def _upload_url(self, files: dict[str, bytes], name: str, md5: str | None = None) -> str:
        path = f"/storage/{len(self.uploads)}/{hashlib.md5(name.encode()).hexdigest()}"
        self.uploads[path] = (files, name, md5)
        return self.url + path


class _UploadHandler(_Handler):
    def do_POST(self):
        try:
            if not self.path.endswith("/file_stream"):
                return super().do_POST()
            self.server.api.stream(*self.path.split("/")[2:5], json.loads(self._body()))
            self._send(200, {})
        except (AttributeError, KeyError, ValueError) as error:  # of an upload that this server does not understand
            self._send(400, {"errors": [{"message": repr(error)}]})

    def do_PUT(self):
        files, name, md5 = self.server.api.uploads[self.path]
        data = self._body()
        whole = md5 in (None, base64.b64encode(hashlib.md5(data).digest()).decode())
        if whole:
            files[name] = data
        self._send(200 if whole else 400, b"")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))
