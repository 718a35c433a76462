"""A gRPC client in a process of its own: load with a seed, every token stamped when it arrives. Answers commands as a Side (side.py).

    quiet TENANT SECONDS PROMPT ANSWER SEED   one request after another, a short pause between; answers what each saw
    flood TENANT REQUESTS PROMPT ANSWER SEED  keeps so many in flight from now on; answers at once
    stop                                      ends the flood; answers what became of it

Stamps are of CLOCK_MONOTONIC, which all processes of a machine share. Each request has a thread that does nothing but wait and stamp.
"""
import json
import os
import pathlib
import random
import sys
import threading
import time

import grpc

sys.path.append(str(pathlib.Path(os.path.abspath(__file__)).parents[1] / "clients"))  # not resolved: in runfiles files are links
from sphericald import Server  # noqa: E402  it lies in another folder

REQUEST_SECONDS_MAX = 600
PAUSE_SECONDS = (0.01, 0.15)  # between a quiet tenant's requests: they meet the flood's steps at any point
TEXT_BYTES = 200_000          # of the text are enough: 40,000 tokens


class Client:
    def __init__(self, server, text):
        self._server = server
        part = text.encode()[:TEXT_BYTES].decode(errors="ignore")
        self._tokens = list(server.call("Tokenize", server.message("TokenizeRequest")(text=part)).token_ids)
        self._lock = threading.Lock()
        self._flood, self._calls, self._stopping, self._ended = [], set(), False, {}

    def serve(self, tenant, prompt, answer, draw):
        """One request: {"sent", "tokens": [when each came], "rate_bits", "queue_s", "error"}"""
        start = draw.randrange(len(self._tokens) - prompt)
        seen = {"sent": time.monotonic(), "tokens": [], "error": None}
        call = self._server.start(REQUEST_SECONDS_MAX, tenant, token_ids={"ids": self._tokens[start:start + prompt]}, max_tokens=answer,
                                  ignore_eos=True, sampling={"seed": draw.randrange(2**32)})
        with self._lock:
            self._calls.add(call)
        try:
            for response in call:
                now = time.monotonic()
                if response.WhichOneof("event") == "chunk":
                    seen["tokens"] += [now] * len(response.chunk.token_ids)
                elif response.WhichOneof("event") == "finished":
                    seen["rate_bits"] = response.finished.usage.rate_bits
                    seen["queue_s"] = response.finished.usage.queue_time.ToNanoseconds() / 1e9
        except grpc.RpcError as error:
            seen["error"] = error.code().name
            seen["details"] = error.details()
        finally:
            with self._lock:
                self._calls.discard(call)
        return seen

    def quiet(self, tenant, seconds, prompt, answer, seed):
        draw = random.Random(int(seed))
        until = time.monotonic() + float(seconds)
        requests = []

        def one():  # in a thread, so that stamps do not wait for this one's commands
            while time.monotonic() < until:
                requests.append(self.serve(tenant, int(prompt), int(answer), draw))
                time.sleep(draw.uniform(*PAUSE_SECONDS))

        thread = threading.Thread(target=one)
        thread.start()
        thread.join()
        return {"requests": requests}

    def flood(self, tenant, requests, prompt, answer, seed):
        self._stopping, self._ended = False, {}

        def keep(draw):
            while not self._stopping:
                seen = self.serve(tenant, int(prompt), int(answer), draw)
                end = seen["error"] or "OK"
                with self._lock:
                    self._ended[end] = self._ended.get(end, 0) + 1
                    self._ended["tokens"] = self._ended.get("tokens", 0) + len(seen["tokens"])
                if seen["error"] and not self._stopping:
                    time.sleep(0.2)

        self._flood = [threading.Thread(target=keep, args=(random.Random(int(seed) * 1000 + i),)) for i in range(int(requests))]
        for thread in self._flood:
            thread.start()
        return {}

    def stop(self):
        self._stopping = True
        while any(thread.is_alive() for thread in self._flood):
            with self._lock:
                calls = list(self._calls)
            for call in calls:
                call.cancel()
            time.sleep(0.01)
        return {"ended": self._ended}


def main():
    address, text, nice = sys.argv[1:]
    os.nice(int(nice))
    start = time.monotonic()
    client = Client(Server(address), pathlib.Path(text).read_text())
    answer = {"load_s": time.monotonic() - start}
    commands = {"quiet": client.quiet, "flood": client.flood, "stop": client.stop}
    print(json.dumps(answer), flush=True)
    for line in sys.stdin:
        name, *arguments = line.split()
        print(json.dumps(commands[name](*arguments)), flush=True)


if __name__ == "__main__":
    main()
