"""A backend of the gateway: it admits clients, answers their calls, and is told who comes and goes."""
import base64, hmac, json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ["BACKEND_SECRET"].encode()
USERS = {"token-of-ann": "ann", "token-of-bob": "bob"}  # a real backend has sessions or a database
online = {}  # for each connection its user, and the run of the gateway that has it
ended = set()  # runs of gateways that are over, with all their connections


def connect(question):
    user = USERS.get(question.get("token"))
    if user is None:
        return {"error": {"code": 1000, "message": "nobody has this token"}}
    return {"result": {"user": user, "data": {"hello": user}}}


def rpc(question):
    if question["method"] == "online":
        return {"result": {"data": sorted({user for user, _ in list(online.values())})}}
    return {"error": {"code": 1001, "message": "there is no such method"}}


def events(batch):  # an event may come twice: each of these changes nothing the second time
    for event in batch["events"]:
        if event["type"] == "connected" and event["run"] not in ended:
            online[event["client"]] = (event["user"], event["run"])
        elif event["type"] == "disconnected":
            online.pop(event["client"], None)
        elif event["type"] == "gateway_started":
            ended.add(event.get("previous_run"))
            for client in [client for client, (_, run) in online.items() if run in ended]:
                del online[client]
        print(event["type"], event.get("user", event["gateway"]), flush=True)


class Backend(BaseHTTPRequestHandler):
    def is_from_gateway(self, body):  # Standard Webhooks
        id, second, given = (self.headers.get("webhook-" + name, "") for name in ("id", "timestamp", "signature"))
        digest = hmac.digest(SECRET, f"{id}.{second}.".encode() + body, "sha256")
        is_signed = hmac.compare_digest("v1," + base64.b64encode(digest).decode(), given)
        return is_signed and abs(time.time() - int(second)) < 300

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        handler = {"/gateway/connect": connect, "/gateway/rpc": rpc, "/gateway": events}.get(self.path)
        if not self.is_from_gateway(body) or handler is None:
            return self.send_error(404 if handler is None else 401)
        answer = json.dumps(handler(json.loads(body))).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 9000), Backend)
print("listening on port", server.server_port, flush=True)
server.serve_forever()
