"""A stand-in of the W&B server on 127.0.0.1, with what the real client asks to read runs, and faults on request.

Point the client at it with WANDB_BASE_URL and give it `KEY`. A run's rows are JSON lines by page, as the server hands
out those it has not exported yet, and parquet files for those that it has. It leaves out writing, and every query that
`wandb.Api().run(...)` and `scan_history` do not send.
"""

import base64
import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

KEY = "practice" * 5  # 40 letters, which the client insists on
START, RUN = -2, -1
USER = {"id": "VXNlcjox", "entity": "you", "username": "you", "name": "You", "email": "you@example.com", "admin": False}


class WandbAPI:
    """Serve runs, in threads of its own; `queries` are `(operation, variables)` of every query so far.

    `key` is the only API key that is accepted. `fault` happens instead of an answer: "status 500" (or another, with a
    message that repeats the key), "drop" (half an answer) or "silence" (until `stop`), from `fault_from` on: the
    `START`, the `RUN` (after the check of the key), or a step of the history. `text_numbers` says whether NaN and the
    infinities come as texts, as strict JSON has them, or bare, as uploaded.
    """

    def __init__(self):
        self.key, self.fault, self.fault_from, self.text_numbers, self.queries = KEY, None, START, True, []
        self._runs, self._files, self._server, self._stopped = {}, {}, None, threading.Event()

    @property
    def url(self) -> str:
        """The address to set as WANDB_BASE_URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def start(self) -> "WandbAPI":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.api = self
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def stop(self) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def add_run(self, entity, project, run_id, name, state, config, rows, group=None, exports=(), live_from=0):
        """Keep a run of these rows; `exports` are parquet files, as bytes, of those before step `live_from`."""
        rows = [{"_step": step} | row for step, row in enumerate(rows)]
        urls = [f"/exports/{run_id}/{number}.parquet" for number in range(len(exports))]
        self._files |= dict(zip(urls, exports, strict=True))
        self._runs[entity, project, run_id] = SimpleNamespace(
            rows=rows, urls=urls, live_from=live_from, name=name, state=state, config=config, group=group
        )

    def answer(self, operation: str, variables: dict) -> dict:
        if "viewer" in operation:
            return {"viewer": USER | {"flags": "{}", "teams": {"edges": []}}}
        run_id = variables.get("name") or variables.get("run") or variables.get("runName")
        run = self._runs.get((variables["entity"], variables["project"], run_id))
        if run is None:
            return {"project": None}
        if "parquetHistory" in operation:
            live = [{"_step": row["_step"]} for row in run.rows if row["_step"] >= run.live_from]
            found = {"parquetHistory": {"parquetUrls": [self.url + path for path in run.urls], "liveData": live}}
        elif "history(" in operation:
            first, stop = variables["minStep"], variables["maxStep"]
            page = [row for row in run.rows if first <= row["_step"] < stop][: variables["pageSize"]]
            found = {"history": [json.dumps(_as_text(row) if self.text_numbers else row) for row in page]}
        else:
            found = self._fields(run, run_id)
        return {"project": {"run": found}}

    def _fields(self, run: SimpleNamespace, run_id: str) -> dict:
        config = {key: {"desc": None, "value": value} for key, value in run.config.items()}
        config["_wandb"] = {"desc": None, "value": {"cli_version": "0"}}
        last = {"lastStep": max(row["_step"] for row in run.rows), "sets": [], "keys": {}} if run.rows else None
        nothing = dict.fromkeys(("sweepName", "jobType", "commit", "description", "notes"))
        times = dict.fromkeys(("createdAt", "heartbeatAt"), "2026-01-01T00:00:00Z")
        numbers = {"projectId": "1", "historyLineCount": len(run.rows), "historyKeys": last}
        named = {"id": "UnVuOjE=", "name": run_id, "displayName": run.name, "state": run.state, "group": run.group}
        rest = {"tags": [], "readOnly": False, "user": USER, "systemMetrics": "{}", "summaryMetrics": "{}"}
        return nothing | times | numbers | named | rest | {"config": json.dumps(config)}


def _as_text(value):
    """Make texts of the numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        api, body = self.server.api, self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/graphql":  # the client's telemetry
            return self._send(404, b"")
        query = json.loads(body)
        variables = query.get("variables") or {}
        api.queries.append((query["query"], variables))
        if api.fault and api.fault_from <= variables.get("minStep", RUN if "project(" in query["query"] else START):
            self._misbehave(api)
        elif self.headers.get("Authorization") != "Basic " + base64.b64encode(f"api:{api.key}".encode()).decode():
            self._send(401, {"errors": [{"message": "user is not logged in"}]})
        else:
            self._send(200, {"data": api.answer(query["query"], variables)})

    def do_GET(self):
        data = self.server.api._files.get(self.path)
        self._send(404 if data is None else 200, data or b"")

    def _misbehave(self, api):
        kind, _, status = api.fault.partition(" ")
        if kind == "silence":
            api._stopped.wait()
        elif kind == "status":
            return self._send(int(status), {"errors": [{"message": f"something broke for {KEY}"}]})
        else:
            self._send(200, b'{"data": {"project"', missing=1000)
        self.close_connection = True

    def _send(self, status, body, missing=0):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) + missing))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
