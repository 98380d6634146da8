"""An engine that fails on purpose: `faulty.py PORT`. Its models say how.

`busy` answers each third request and the others with 503; `breaks` breaks off in the middle of its
answer, without a last chunk.
"""

import itertools
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ASKED = itertools.count(1)

BEGINNINGS = {
    "/v1/chat/completions": 'data: {"id":"1","object":"chat.completion.chunk","created":1,'
    '"model":"breaks","choices":[{"index":0,"delta":{"role":"assistant","content":"one"},'
    '"finish_reason":null}]}\n\n',
    "/v1/messages": 'event: ping\ndata: {"type":"ping"}\n\n',
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, {"status": "ok"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        request = json.loads(body)
        if request["model"] == "breaks":
            self.break_off(request.get("stream", False))
        elif next(ASKED) % 3 == 0:
            message = {"role": "assistant", "content": "at last"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
            answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "busy"}
            self.answer(200, answer | {"choices": [choice], "usage": usage})
        else:
            error = {"message": "busy", "type": "unavailable_error", "code": 503}
            self.answer(503, {"error": error}, {"retry-after": "1"})

    def answer(self, status, value, headers=None):
        body = json.dumps(value).encode()
        self.send_response(status)
        headers = {"content-type": "application/json"} | (headers or {})
        for name, text in (headers | {"content-length": str(len(body))}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def break_off(self, stream):
        kind, piece = "application/json", '{"id":"1",'
        if stream:
            kind, piece = "text/event-stream", BEGINNINGS[self.path]
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.wfile.write(f"{len(piece):x}\r\n{piece}\r\n".encode())
        self.close_connection = True

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
