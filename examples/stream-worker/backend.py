"""The backend that the gateway asks: it admits clients, and turns each call into a job."""
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from resp import Redis

USERS = {"token-of-ann": "ann", "token-of-bob": "bob"}  # a real backend has sessions or a database


def connect(question):
    user = USERS.get(question.get("token"))
    if user is None:
        return {"error": {"code": 1000, "message": "nobody has this token"}}
    return {"result": {"user": user}}


def rpc(question):
    data = question.get("data")
    number = data.get("number") if isinstance(data, dict) else None
    if question["method"] != "factor" or not isinstance(number, int) or not 2 <= number <= 10**12:
        return {"error": {"code": 1001, "message": "expected factor with a number from 2 to 10^12"}}
    # `user` comes from the gateway: a client cannot order a job for somebody else.
    job = Redis()("XADD", "jobs", "MAXLEN", "~", 100000, "*", "user", question["user"], "number", number)
    return {"result": {"data": {"job": job}}}


class Backend(BaseHTTPRequestHandler):
    def do_POST(self):
        question = json.loads(self.rfile.read(int(self.headers["content-length"])))
        handler = {"/gateway/connect": connect, "/gateway/rpc": rpc}.get(self.path)
        if handler is None:
            return self.send_error(404)
        answer = json.dumps(handler(question)).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 9000), Backend)
print("listening on port", server.server_port, flush=True)
server.serve_forever()
