"""A runtime of its own that streams its responses: in pieces, with trailers where they fail."""

import base64
import json
import os
import socket
import sys

HOST, PORT = os.environ["AWS_LAMBDA_RUNTIME_API"].split(":")
API = "/2018-06-01/runtime/invocation"


def receive(connection):
    """Some bytes; nobody sends none but at the end."""
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("the Runtime API has gone")
    return data


def call(request):
    """One call on a connection of its own; the head and the body of its answer."""
    with socket.create_connection((HOST, int(PORT))) as connection:
        connection.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += receive(connection)
        head, _, body = answer.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
        while len(body) < int(fields.get("content-length", 0)):
            body += receive(connection)
        return fields, body


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def main():
    while True:
        fields, event = call(f"GET {API}/next HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        event = json.loads(event)
        print("streams", flush=True)
        head = (
            f"POST {API}/{fields['lambda-runtime-aws-request-id']}/response HTTP/1.1\r\n"
            f"Host: {HOST}\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n"
            "Lambda-Runtime-Function-Response-Mode: streaming\r\n"
            "Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n\r\n"
        )
        body = b"".join(chunk(b"piece %d\n" % number) for number in range(event.get("pieces", 3)))
        trailers = ""
        if event.get("fail"):
            error = base64.b64encode(b'{"errorMessage":"midway"}').decode()
            trailers = (
                "Lambda-Runtime-Function-Error-Type: Function.Midway\r\n"
                f"Lambda-Runtime-Function-Error-Body: {error}\r\n"
            )
        call(head.encode() + body + b"0\r\n" + trailers.encode() + b"\r\n")


if __name__ == "__main__":
    sys.exit(main())
