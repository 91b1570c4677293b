"""Prints what the server answers to GET /name: get.py NAME ADDRESS PORT CERTIFICATE, the only one to trust."""

import socket
import ssl
import sys

name, address, port, certificate = sys.argv[1:]
context = ssl.create_default_context(cafile=certificate)
with socket.create_connection((address, int(port)), timeout=15) as plain:
    with context.wrap_socket(plain, server_hostname=name) as tls:
        tls.sendall(f"GET /name HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: tls.recv(4096), b""))
print(answer.decode().partition("\r\n\r\n")[2])
