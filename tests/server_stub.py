"""A server on loopback that speaks OpenAI's protocol, and breaks it as it is told to."""

import json
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from waiting import wait_until

KEY = "sk-0123456789-a-secret"


def reason(thought, answer, key="reasoning_content"):
    """The choice of a server that thinks.

    Args:
        thought: before the answer.
        answer: the text, or None where the tokens ran out in the thought.
        key: what a server with a reasoning parser calls the thought (`reasoning_content` or
            `reasoning`); None for a server without one, that sends tags and all.
    """
    if key is None:
        closed = "" if answer is None else f"\n</think>\n\n{answer}"
        message = {"content": f"<think>\n{thought}{closed}"}
    else:
        message = {"content": answer, key: thought}
    return {"message": message, "finish_reason": "length" if answer is None else "stop"}


def call_tools(*calls, content=None):
    """The choice of a server that calls tools: (name, arguments as text) of each."""
    made = [
        {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": text}}
        for n, (name, text) in enumerate(calls)
    ]
    return {
        "message": {"content": content, "tool_calls": made},
        "finish_reason": "tool_calls",
    }


class Server:
    """Answers chats by `reply`; before that it spends its `faults`, one a request.

    Attributes:
        asked: (seconds, headers, body) of every request.
        most: requests that were in flight at the same time, at most.
        gathers: answers nobody before so many have been in flight at the same time.
    """

    def __init__(self, reply=None):
        self.reply = reply or (lambda body: f"answer {body['seed'] % 97} to {body['messages'][-1]}")
        self.faults = deque()
        self.key = self.usage = None
        self.asked, self.most, self._now, self.gathers = [], 0, 0, 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                server.handle(self)

            def log_message(self, *args):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def close(self):
        self._http.shutdown()
        self._http.server_close()

    def handle(self, request):
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        with self._lock:
            self.asked.append((time.monotonic(), dict(request.headers), body))
            fault = self.faults.popleft() if self.faults else None
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            wait_until(lambda: self.most >= self.gathers)
            time.sleep(0.005)
            self._answer(request, body, fault)
        finally:
            with self._lock:
                self._now -= 1

    def _answer(self, request, body, fault):
        if fault == "reset":
            request.connection.close()
            request.close_connection = True
            return
        if fault == "hang":
            request.connection.recv(1)  # until the client has had enough
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            message = f"Incorrect API key provided: {request.headers.get('Authorization')}"
            self._send(request, 401, {"error": {"message": message}})
        elif isinstance(fault, tuple):
            status, headers, *said = fault
            message = said[0] if said else f"told to fail, {request.headers.get('Authorization')}"
            self._send(request, status, {"error": {"message": message}}, headers)
        elif isinstance(fault, dict):
            self._send(request, 200, fault)
        elif fault == "page":
            self._send(request, 200, b"<html>hello</html>", {"Content-Type": "text/html"})
        elif fault == "garbage":
            self._send(request, 200, b"<html>no json</html>")
        elif fault == "no choice":
            self._send(request, 200, self._completion(body, []))
        else:
            self._send(request, 200, self._completion(body, [self._choice(body, fault)]))

    def _choice(self, body, fault):
        made = self.reply(body)
        choice = made if isinstance(made, dict) else {"message": {"content": made}}
        reason = fault if fault in ("content_filter", "length") else "stop"
        message = {"role": "assistant"} | choice["message"]
        if fault == "no text":
            message["content"] = None
        if fault == "surrogate":
            message["content"] = "\ud83d"
        return {"index": 0, "finish_reason": reason} | choice | {"message": message}

    def _completion(self, body, choices):
        usage = self.usage or {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        return {
            "id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": choices, "usage": usage,
        }  # fmt: skip

    def _send(self, request, status, content, headers=None):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        request.send_response(status)
        told = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        for name, value in (told | (headers or {})).items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data)
