"""What a function reaches of its host."""

import errno
import hashlib
import os
import socket
import threading
import urllib.error
import urllib.request

# Made while the function is initialised, and so before it is saved.
KEPT = socket.create_connection(("localhost", int(os.environ["KEPT_PORT"])), timeout=30)
KEPT.sendall(b"GET /kept HTTP/1.1\r\n\r\n")
KEPT_ANSWER = KEPT.recv(1000).decode()


def _cause(error):
    """The error number's name."""
    reason = getattr(error, "reason", error)
    number = getattr(reason, "errno", None)
    return errno.errorcode.get(number, repr(reason))


def _get(url):
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return f"{response.status} {response.read().decode()}"
    except OSError as error:
        return _cause(error)


def _connect(address):
    try:
        with socket.create_connection(tuple(address), timeout=5):
            return "connected"
    except OSError as error:
        return _cause(error)


def _listen(address):
    try:
        with socket.create_server(tuple(address)):
            return "listens"
    except OSError as error:
        return _cause(error)


def _swap(address, length):
    """Sends that many bytes while it receives what comes; says what both were."""
    data = bytes(range(256)) * (length // 256)
    received = hashlib.sha256()
    count = 0
    with socket.create_connection(tuple(address), timeout=60) as connection:

        def send():
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        while piece := connection.recv(1 << 16):
            received.update(piece)
            count += len(piece)
        sender.join()
    return {
        "sent": hashlib.sha256(data).hexdigest(),
        "received": received.hexdigest(),
        "count": count,
    }


def _kept():
    """What has become of the connection that was made while the function was initialised."""
    try:
        return KEPT.recv(1000).decode() or "closed"
    except OSError as error:
        return _cause(error)


def handler(event, context):
    with open("/etc/hosts") as hosts:
        alias = [line.split() for line in hosts if "host.costrel.internal" in line]
    return {
        "alias": alias,
        "init": KEPT_ANSWER.splitlines()[-1],
        "kept": _kept() if event.get("kept") else None,
        "urls": [_get(url) for url in event.get("urls", [])],
        "addresses": [_connect(address) for address in event.get("addresses", [])],
        "listen": [_listen(address) for address in event.get("listen", [])],
        "swap": _swap(*event["swap"]) if "swap" in event else None,
    }
