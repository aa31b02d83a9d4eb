"""As much of a client of Redis as the backend and the worker need."""
import os, socket


class Redis:
    def __init__(self):
        port = int(os.environ.get("REDIS_PORT", "6379"))
        self.stream = socket.create_connection(("127.0.0.1", port)).makefile("rwb")

    def __call__(self, *words):
        words = [str(word).encode() for word in words]
        self.stream.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
        self.stream.flush()
        return self.reply()

    def reply(self):
        line = self.stream.readline()
        if not line:
            raise ConnectionError("Redis has closed the connection")
        kind, text = line[:1], line[1:-2].decode()
        if kind == b"-":
            raise RuntimeError(text)
        if kind == b"+":
            return text
        if kind == b":" or text == "-1":
            return int(text) if kind == b":" else None
        if kind == b"$":
            return self.stream.read(int(text) + 2)[:-2].decode()
        return [self.reply() for _ in range(int(text))]
