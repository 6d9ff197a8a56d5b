"""Who is told of alerts: a web server for webhook and Slack, a mail server that wants STARTTLS and a password."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage
    from socketserver import TCPServer

    import trustme


@dataclass
class Receivers:
    """Ports of both servers, and what they were told.

    Attributes:
        web_port: Of the web server.
        mail_port: Of the mail server.
        posts: What was posted, by its path.
        mails: User, password, addresses and text of each mail.
    """

    web_port: int = 0
    mail_port: int = 0
    posts: dict[str, list[Any]] = field(default_factory=dict)
    mails: list[tuple[str, str, list[str], EmailMessage]] = field(default_factory=list)


@contextmanager
def receiving(certificate: trustme.LeafCert) -> Iterator[Receivers]:
    """Run both servers on loopback; the mail server shows this certificate."""
    found = Receivers()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), _web(found)) as web,
        ThreadingTCPServer(("127.0.0.1", 0), _mail(found, context)) as mail,
        _running(web),
        _running(mail),
    ):
        found.web_port, found.mail_port = web.server_address[1], mail.server_address[1]
        yield found


@contextmanager
def _running(server: TCPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


def _web(found: Receivers) -> type[BaseHTTPRequestHandler]:
    class Web(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.posts.setdefault(self.path, []).append(told)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_words: object) -> None:
            """Say nothing."""

    return Web


def _mail(found: Receivers, context: ssl.SSLContext) -> type[StreamRequestHandler]:
    class Mail(StreamRequestHandler):
        def handle(self) -> None:
            secret, who, to = False, ["", ""], []
            self._say("220 mail")
            while line := self.rfile.readline().decode().strip():
                verb = line.split()[0].upper()
                if verb == "EHLO":
                    self._say("250-mail", "250 AUTH PLAIN" if secret else "250 STARTTLS")
                elif verb == "STARTTLS":
                    self._say("220 go ahead")
                    self.request = context.wrap_socket(self.request, server_side=True)
                    self.rfile, secret = self.request.makefile("rb"), True
                elif not secret:
                    self._say("530 STARTTLS first")
                elif verb == "AUTH":
                    who = base64.b64decode(line.split()[2]).decode().split("\0")[1:]
                    self._say("235 welcome")
                elif verb == "DATA":
                    self._say("354 go ahead")
                    text = b"".join(iter(self.rfile.readline, b".\r\n"))
                    found.mails.append((who[0], who[1], to, message_from_bytes(text, policy=default)))
                    self._say("250 taken")
                elif verb == "QUIT":
                    self._say("221 bye")
                    return
                else:
                    to += [line.partition("<")[2].partition(">")[0]] if verb == "RCPT" else []
                    self._say("250 so be it")

        def _say(self, *lines: str) -> None:
            self.request.sendall("".join(f"{line}\r\n" for line in lines).encode())

    return Mail
