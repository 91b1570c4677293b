"""Takes the place of the binary on disk and plays the new process of an upgrade as far as it is told.

MODE is written in front of this text by the test:
  ["die", STEP]      plays along and kills itself with SIGKILL at a step
  ["mute", STEP]     plays along and says nothing any more at a step
  ["refuse"]         refuses
  ["kill", PROGRAM, STEP, WHEN]
                     stands between both processes, and kills the new one, which is the real program, when a word of this name comes
                     from either: "before" it is passed on, or "after"
  ["other-version", PROGRAM, OLDEST, NEWEST]
                     stands between both processes, says other versions of the format to the new one, and puts fields into every
                     message of the old one that nobody knows yet
"""

import array
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

WORD, SESSIONS = 1, 2


class End:
    def __init__(self, stream):
        self.stream = stream

    def receive(self):
        room = socket.CMSG_SPACE(253 * 4)
        head, controls, _, _ = self.stream.recvmsg(12, room)
        if not head:
            return None
        fds = array.array("i")
        for _, _, data in controls:
            fds.frombytes(data[: len(data) - len(data) % 4])
        kind, length, count = struct.unpack("<III", head)
        assert count == len(fds), (count, len(fds))
        body = b""
        while len(body) < length:
            body += self.stream.recv(length - len(body))
        return kind, body, list(fds)

    def send(self, kind, body, fds=()):
        head = struct.pack("<III", kind, len(body), len(fds))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.stream.sendmsg([head], rights)
        self.stream.sendall(body)

    def say(self, word):
        self.send(WORD, json.dumps(word).encode())


def name_of(word):
    return word if isinstance(word, str) else next(iter(word))


def play(old, mode):
    def step(name):
        if mode[1] == name:
            if mode[0] == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(3600)

    step("start")
    seen = {}
    while message := old.receive():
        kind, body, fds = message
        for fd in fds:
            os.close(fd)
        if kind == SESSIONS:
            step("sessions")
            continue
        said = json.loads(body)
        word = name_of(said)
        seen[word] = seen.get(word, 0) + 1
        if word == "hello":
            newest = said["hello"]["newest"]
        if word == "state" and seen[word] == 1:
            step("first-state")
            old.say({"ready": {"format": newest, "version": "9.9"}})
            step("ready")
        elif word == "handed":
            step("handed")
            old.say("holding")
            step("holding")
        elif word == "go":
            step("go")
        else:
            step(word)


def with_strange_fields(value):
    if isinstance(value, dict) and len(value) > 1 and "nanos" not in value:
        return {"strange": [1, {"strange": None}]} | {key: with_strange_fields(one) for key, one in value.items()}
    if isinstance(value, dict):
        return {key: with_strange_fields(one) for key, one in value.items()}
    if isinstance(value, list):
        return [with_strange_fields(one) for one in value]
    return value


def kill_between(old, mode):
    _, program, step, when = mode
    here, there = socket.socketpair()
    child = subprocess.Popen([program, *sys.argv[1:]], stdin=there)
    there.close()
    new = End(here)
    seen = {}

    def strike():
        child.kill()
        child.wait()

    def pass_on(message, to):
        kind, body, fds = message
        name = "sessions" if kind == SESSIONS else name_of(json.loads(body))
        seen[name] = seen.get(name, 0) + 1
        numbered = name + str(seen[name]) if name == "state" else name
        if numbered == step and when == "before":
            strike()
            os._exit(1)
        to.send(kind, body, fds)
        for fd in fds:
            os.close(fd)
        if numbered == step:
            time.sleep(0.003)
            strike()
            os._exit(1)

    def answers():
        while message := new.receive():
            pass_on(message, old)

    threading.Thread(target=answers, daemon=True).start()
    while message := old.receive():
        pass_on(message, new)


def stand_between(old, mode):
    _, program, oldest, newest = mode
    here, there = socket.socketpair()
    subprocess.Popen([program, *sys.argv[1:]], stdin=there)
    there.close()
    new = End(here)

    def answers():
        while message := new.receive():
            old.send(*message)

    threading.Thread(target=answers, daemon=True).start()
    while message := old.receive():
        kind, body, fds = message
        if kind == WORD:
            word = json.loads(body)
            if name_of(word) == "hello":
                word["hello"]["oldest"], word["hello"]["newest"] = oldest, newest
            # Maps of names and texts that are not fields stay as they are.
            if name_of(word) in ("hello", "handed"):
                word = with_strange_fields(word)
            if name_of(word) == "state":
                state = word["state"]
                word["state"] = state | {"strange": 1, "heritage": state["heritage"] | {"strange": 2}}
                state["heritage"]["backends"] = with_strange_fields(state["heritage"]["backends"])
            body = json.dumps(word).encode()
        else:
            length = struct.unpack("<I", body[:4])[0]
            batch, rest = json.loads(body[4 : 4 + length]), body[4 + length :]
            for _, flow in batch["sessions"]:
                # Format 1 has a field that nobody has needed since.
                assert all(("credit" in flow[way]) == (newest == 1) for way in ("up", "down")), flow
            assert newest > 1 or "waiting" not in batch
            batch = json.dumps(with_strange_fields(batch)).encode()
            body = struct.pack("<I", len(batch)) + batch + rest
        new.send(kind, body, fds)
        for fd in fds:
            os.close(fd)
    new.stream.shutdown(socket.SHUT_WR)


end = End(socket.socket(fileno=0))
if MODE[0] == "refuse":
    end.say({"refused": {"why": "it does not want to"}})
elif MODE[0] == "kill":
    kill_between(end, MODE)
elif MODE[0] == "other-version":
    stand_between(end, MODE)
else:
    play(end, MODE)
