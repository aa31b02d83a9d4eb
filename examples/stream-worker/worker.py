"""Takes jobs from the stream `jobs`, and answers each to the user who ordered it. Run as many as you like."""
import json, os, socket

from resp import Redis

ABANDONED_MS = 60_000  # a job that a worker has had for so long goes to another one
redis, name = Redis(), f"{socket.gethostname()}-{os.getpid()}"


def factors(number):
    found, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return found + [number] if number > 1 else found


def next_jobs():
    abandoned = redis("XAUTOCLAIM", "jobs", "workers", name, ABANDONED_MS, "0-0", "COUNT", 1)[1]
    if abandoned:
        return abandoned
    new = redis("XREADGROUP", "GROUP", "workers", name, "COUNT", 1, "BLOCK", 5000, "STREAMS", "jobs", ">")
    return new[0][1] if new else []


try:
    redis("XGROUP", "CREATE", "jobs", "workers", "0", "MKSTREAM")
except RuntimeError as error:
    if "BUSYGROUP" not in str(error):  # another worker has made it
        raise
print("waiting for jobs", flush=True)
while True:
    for job, fields in next_jobs():
        order = dict(zip(fields[::2], fields[1::2]))
        result = {"job": job, "number": int(order["number"]), "factors": factors(int(order["number"]))}
        # If two workers have done the job, the gateway publishes one answer.
        answer = {"channel": f"inbox:#{order['user']}", "data": result, "idempotency_key": job}
        # The answer and the end of the job in one step: neither is there without the other.
        redis("MULTI")
        redis("XADD", "gateway:commands", "*", "method", "publish", "payload", json.dumps(answer))
        redis("XACK", "jobs", "workers", job)
        redis("EXEC")
        print("done", job, flush=True)
