#!/usr/bin/env python3
"""A path with a delay, a backend at its end, and a client that measures. Run inside a network namespace of its own.

    slow_path.py DELAY_MS CLIENTS HELLO

Makes the interface slow0 with 10.9.0.1/24. Whatever is sent to 10.9.0.2 comes back after DELAY_MS with source and
destination swapped, so that 10.9.0.2 is this host itself, a round trip of twice that away (swapping addresses leaves
all checksums right). A backend listens on 10.9.0.1:1001, to be reached as 10.9.0.2:1001. Prints "ready", waits for a
line, then connects CLIENTS times to 127.0.0.1:443, one after the other, sends HELLO, and prints the milliseconds from
there to the first byte of each answer, one per line.
"""

import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000


def reflect(tun, delay):
    """Returns every packet after its delay, in order."""
    queue, lock = [], threading.Condition()

    def send():
        while True:
            with lock:
                while not queue:
                    lock.wait()
                due, packet = queue.pop(0)
            time.sleep(max(0.0, due - time.monotonic()))
            os.write(tun, packet)

    threading.Thread(target=send, daemon=True).start()
    while True:
        packet = os.read(tun, 65536)
        if packet[0] >> 4 == 4:
            packet = packet[:12] + packet[16:20] + packet[12:16] + packet[20:]
            with lock:
                queue.append((time.monotonic() + delay, packet))
                lock.notify()


def serve(listener):
    def answer(stream):
        if stream.recv(65536):
            stream.sendall(b"x" * 100)
        while stream.recv(65536):
            pass
        stream.close()

    while True:
        stream, _ = listener.accept()
        threading.Thread(target=answer, args=(stream,), daemon=True).start()


def main():
    delay, clients, hello = float(sys.argv[1]) / 1000, int(sys.argv[2]), open(sys.argv[3], "rb").read()
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", b"slow0", IFF_TUN | IFF_NO_PI))
    for command in ["ip addr add 10.9.0.1/24 dev slow0", "ip link set slow0 up", "ip link set lo up"]:
        subprocess.run(command.split(), check=True)
    threading.Thread(target=reflect, args=(tun, delay), daemon=True).start()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 64)
    listener.bind(("10.9.0.1", 1001))
    listener.listen(64)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(clients):
        stream = socket.create_connection(("127.0.0.1", 443), timeout=10)
        begun = time.monotonic()
        stream.sendall(hello)
        assert stream.recv(100)
        print(f"{(time.monotonic() - begun) * 1000:.3f}", flush=True)
        stream.close()
        # Ready connections are brought meanwhile.
        time.sleep(4 * delay + 0.02)


main()
